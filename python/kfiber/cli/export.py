# SPDX-License-Identifier: MIT
"""`kfiber export`: metrics for Prometheus."""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import sys
import time
from pathlib import Path

from kfiber import proc
from kfiber.cli import options
from kfiber.errors import KfiberError
from kfiber.info import FiberInfo

EPILOG = """\
metrics, labelled by pid, command and name:
  kfiber_cpu_seconds_total, kfiber_run_seconds_total, kfiber_activations_total,
  kfiber_failed_activations_total    of all fibers seen, ended ones included
  kfiber_fibers                      by state
  kfiber_longest_run_seconds         histogram over the living fibers

Of each process the N names that used most time first have series of their own;
the rest is added up under the name "(rest)".

examples:
  kfiber export                      serves http://127.0.0.1:9477/metrics
  kfiber export --listen 127.0.0.1:9500 --top 50 6526
  kfiber export --textfile /var/lib/node_exporter/kfiber.prom --interval 15s
"""


def _address(text: str) -> tuple[str, int]:
    found = re.fullmatch(r"\[?([0-9a-fA-F.:]+?)\]?:(\d{1,5})", text)
    try:
        if found and 0 <= int(found[2]) <= 65535:
            return str(ipaddress.ip_address(found[1])), int(found[2])
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is no ADDRESS:PORT, such as 127.0.0.1:9477")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        "export",
        help="serve metrics for Prometheus",
        description="Serves metrics of fibers for Prometheus, or writes them into a file.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_pids(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--listen", type=_address, default=("127.0.0.1", 9477), metavar="ADDRESS:PORT",
        help="default: 127.0.0.1:9477; port 0: any, which is printed",
    )  # fmt: skip
    where.add_argument(
        "--textfile", type=Path, metavar="FILE", help="for node_exporter's textfile collector"
    )
    parser.add_argument(
        "--top", type=options.count, default=20, metavar="N",
        help="names per process that have series of their own (default: 20)",
    )  # fmt: skip
    options.add_interval(parser, "1s")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Serves or writes until it is ended, or `--count` looks."""
    try:
        import prometheus_client
        from prometheus_client import CollectorRegistry

        from kfiber import metrics
    except ImportError:
        raise KfiberError(
            "cannot export: prometheus-client is not installed; hint: pip install 'kfiber[tools]'"
        ) from None
    pids = options.pids(args)
    collector = metrics.Collector(lambda: _look(pids), args.top)
    registry = CollectorRegistry()
    registry.register(collector)
    if args.textfile is None:
        address, port = args.listen
        try:
            server, _ = prometheus_client.start_http_server(port, address, registry)
        except OSError as error:
            raise KfiberError(
                f"cannot listen at {address}:{port}: {error.strerror}; hint: --listen ADDRESS:PORT"
            ) from None
        host = f"[{address}]" if ":" in address else address
        print(f"http://{host}:{server.server_port}/metrics", file=sys.stderr, flush=True)
    left = args.count
    while left is None or left > 0:
        if args.textfile is None:
            collector.look()
        else:
            _write(args.textfile, prometheus_client.generate_latest(registry))
        if left is not None:
            left -= 1
        if left != 0:
            time.sleep(args.interval)
    return 0


def _look(pids: list[int]) -> list[FiberInfo]:
    """The fibers of those processes that there still are, or of all."""
    if not pids:
        return proc.all_fibers(lambda error: None)
    found = []
    for pid in pids:
        try:
            found += proc.fibers(pid)
        except proc.NoProcessError:
            continue
    return found


def _write(path: Path, text: bytes) -> None:
    """At once: a reader finds the old text or the new one."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_bytes(text)
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise KfiberError(
            f"cannot write {path}: {error.strerror}; hint: choose another --textfile FILE"
        ) from None
