# SPDX-License-Identifier: MIT
"""`kfiber vm`: a command in a virtual machine that has the module loaded."""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TextIO

from kfiber import module
from kfiber.cli import options
from kfiber.cli.module import parameter
from kfiber.errors import KfiberError
from kfiber.vm import kernels, klog, qemu
from kfiber.vm.errors import KERNEL_PROBLEM, MISSING, NO_GUEST, TIMEOUT, VmError
from kfiber.vm.guest import CHANNEL
from kfiber.vm.run import run

EXAMPLES = """\
examples:
  kfiber vm run -- kfiber module status
  kfiber vm run --kernel 6.12 --cpus 1 -- ./demo
  kfiber vm run --append 'log_buf_len=16M' --timeout 60 -- ./stress
"""

EPILOG = f"""\
{EXAMPLES}
The guest's root is this machine's, read-only, under a layer in memory: what
COMMAND writes is lost. /tmp is empty but for entries that COMMAND or PATH name.
Of the environment COMMAND sees HOME, PATH, LANG, LC_*, TERM, TZ, VIRTUAL_ENV
and KFIBER_*; KFIBER_GUEST is 1, KFIBER_MODULE the path of the module. It runs
as root. On a terminal it gets a terminal, and Ctrl-] ends the machine.

Every user in the guest may open /dev/fiber. If COMMAND loads the module again,
the device is root's until COMMAND does: chmod 666 /dev/fiber

The guest's kernel panics on an oops and on a warning, which ends the machine at
once. Seconds after another report of a problem the machine is ended, too.

exit status:
  COMMAND's own, or 128+N if signal N ended it; but
  {MISSING}   something is missing here: QEMU, busybox, a kernel package
  {KERNEL_PROBLEM}   the guest's kernel reported a problem, printed on standard error
  {NO_GUEST}   the guest did not come up, or died
  {TIMEOUT}  COMMAND ran longer than --timeout
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        "vm",
        help="run a command in a virtual machine with the module loaded",
        description="Virtual machines with Debian's kernels, under QEMU.",
        epilog=EXAMPLES + "\n`kfiber vm run --help` says what COMMAND sees, and the exit status.\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    run = actions.add_parser(
        "run",
        help="run a command",
        usage="kfiber vm run [OPTION ...] -- COMMAND [ARGUMENT ...]",
        description="Boots a kernel, loads the module, and runs COMMAND. Options for kfiber go\n"
        "before --, the command and its own options behind it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_kernel(run)
    run.add_argument(
        "--cpus", type=options.number(1, 255), metavar="N",
        help="processors (default: 2; with --icount 1)",
    )  # fmt: skip
    run.add_argument(
        "--memory", type=_memory, default=2048, metavar="MB", help="memory (default: 2048)"
    )
    run.add_argument(
        "--timeout", type=options.seconds, metavar="TIME", help="time that COMMAND may take"
    )
    run.add_argument(
        "--icount",
        action="store_true",
        help="count instructions: one takes one nanosecond; one processor",
    )
    run.add_argument(
        "--append", default="", metavar="ARGS", help="more parameters for the guest's kernel"
    )
    run.add_argument(
        "--accel",
        choices=("auto", "kvm", "tcg"),
        default="auto",
        help="how the guest is run (default: kvm if a trial shows that it works, else tcg)",
    )
    run.add_argument("--log", type=Path, metavar="FILE", help="keep the guest's kernel log")
    run.add_argument(
        "--show",
        type=_path,
        action="append",
        default=[],
        metavar="PATH",
        help="a path below /tmp that the guest is to see as well",
    )
    run.add_argument(
        "--channel",
        type=_descriptor,
        metavar="FD",
        help=f"a descriptor that gets what the guest writes to {CHANNEL}",
    )
    run.add_argument(
        "--parameter",
        action="append",
        default=[],
        type=parameter,
        metavar="NAME=VALUE",
        help="a parameter of the module; may be given again",
    )
    run.add_argument("--no-module", action="store_true", help="do not load the module")
    run.add_argument("command", nargs="+", metavar="COMMAND")
    run.set_defaults(main=lambda args: run_main(run, args))

    fetch = actions.add_parser(
        "fetch",
        help="get a kernel into the cache",
        description="Fetches a kernel, unless it is in the cache, and prints where its build is.",
    )
    _add_kernel(fetch)
    fetch.set_defaults(main=fetch_main)


def _add_kernel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kernel", choices=kernels.NAMES, help="series (default: this distribution's own)"
    )


def _memory(text: str) -> int:
    """A size in MB that a kernel starts with, and that this machine has."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return options.number(128, pages >> 20)(text)


def _path(text: str) -> Path:
    """A path that exists."""
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"there is no {text}")
    return path


def _descriptor(text: str) -> int:
    """An open descriptor that can be written to."""
    descriptor = options.number(0, 2**31 - 1)(text)
    try:
        access = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
    except OSError:
        raise argparse.ArgumentTypeError(f"descriptor {descriptor} is not open") from None
    if access == os.O_RDONLY:
        raise argparse.ArgumentTypeError(f"descriptor {descriptor} is open for reading only")
    return descriptor


def run_main(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """Runs the command and returns its status, or one of those above."""
    if args.icount and args.accel == "kvm":
        parser.error("--icount counts emulated instructions, KVM has none; hint: leave --accel out")
    if args.icount and args.cpus not in (None, 1):
        parser.error("--icount is for one processor; hint: leave --cpus out")
    _end_orderly()
    # Before anything is fetched or booted for it.
    qemu.qemu()
    if args.log is None:
        return _run(args, None)
    with _writable(args.log) as log:
        return _run(args, log)


def _writable(path: Path) -> TextIO:
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise KfiberError(
            f"cannot write the log {path}: {error.strerror}; hint: choose another --log FILE"
        ) from None


def _run(args: argparse.Namespace, log: TextIO | None) -> int:
    kernel = kernels.get(args.kernel)
    if args.accel == "kvm":
        qemu.require_kvm(kernel)
    cpus = args.cpus or (1 if args.icount else 2)
    machine = qemu.Machine(
        kernel, cpus, args.memory, args.icount, append=args.append, accel=args.accel
    )
    fiber = None if args.no_module else module.build(kernel.build, kernel.release)
    if fiber is not None:
        module.check_parameters(fiber, dict(args.parameter))
    try:
        outcome = run(
            args.command,
            machine,
            module=fiber,
            parameters=[f"{name}={value}" for name, value in args.parameter],
            timeout=args.timeout,
            channel=args.channel,
            show=args.show,
            terminal=os.isatty(0) and os.isatty(1),
        )
    except VmError as error:
        _keep(log, error.log)
        if report := klog.problems(error.log):
            _complain(report, f"and {error}")
            return KERNEL_PROBLEM
        if error.log and error.status == NO_GUEST:
            print(klog.tail(error.log), file=sys.stderr)
        raise
    _keep(log, outcome.log)
    if outcome.problems:
        _complain(outcome.problems, f"the command itself ended with {outcome.status}")
        return KERNEL_PROBLEM
    return outcome.status


def fetch_main(args: argparse.Namespace) -> int:
    """Prints the build directory."""
    _end_orderly()
    print(kernels.get(args.kernel).build)
    return 0


def _end_orderly() -> None:
    """Makes the signals that end a program an exception: whatever is half done gets undone."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _keep(file: TextIO | None, log: str) -> None:
    if file is not None:
        file.write(log)
        file.flush()


def _complain(report: str, aside: str) -> None:
    print(report, file=sys.stderr)
    print(f"kfiber: the guest's kernel reported a problem, see above; {aside}", file=sys.stderr)
