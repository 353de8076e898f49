# SPDX-License-Identifier: MIT
"""Runs the tests marked `guest` in one virtual machine, as part of the session here.

    pytest (here)                                     pytest (guest, same files, same node ids)
      other tests
      the first guest test  -- kfiber vm run ----->   starts with the list of all guest tests
      each one's reports   <---- JSON lines -------   runs them in this order
      the last one          <---- end, kernel log --

A test of the guest that gives no report fails here: nothing is skipped by being lost. In the guest
(KFIBER_GUEST=1) tests run where they are.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from kfiber import module
from kfiber.cache import cache
from kfiber.errors import KfiberError
from kfiber.vm import kernels
from kfiber.vm.guest import CHANNEL

IN_GUEST = os.environ.get("KFIBER_GUEST") == "1"
# From the start of `kfiber vm run` to the first word of the guest's pytest, in seconds.
START_LIMIT = 1200.0
# A test's limit is the guest's to keep; this much later the guest itself must be stuck.
GRACE = 60.0
NO_LIMIT = 1800.0
# After the last test a kernel that checks itself looks for leaks.
END_LIMIT = 900.0

guest_key = pytest.StashKey["Guest"]()
limit_key = pytest.StashKey[float]()


def pytest_addoption(parser):
    group = parser.getgroup("guest", "tests in the virtual machine")
    group.addoption("--guest-kernel", choices=kernels.NAMES, help="default: this distribution's")
    group.addoption("--guest-cpus", type=int, default=2, metavar="N", help="default: 2")
    group.addoption("--guest-memory", type=int, default=2048, metavar="MB", help="default: 2048")
    group.addoption("--guest-append", default="", metavar="ARGS", help="for the guest's kernel")
    group.addoption(
        "--guest-parameter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="for the module; may be given again",
    )
    group.addoption(
        "--guest-stress",
        action="store_true",
        help="sets KFIBER_STRESS=1, for which tests run longer, here and in the guest",
    )


def pytest_configure(config):
    if config.getoption("guest_stress"):
        os.environ["KFIBER_STRESS"] = "1"
    if path := os.environ.get("KFIBER_GUEST_TESTS"):
        config.pluginmanager.register(Reporter(config, Path(path)), "kfiber-reporter")


def is_guest(item):
    return not IN_GUEST and item.get_closest_marker("guest") is not None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if not IN_GUEST:
        # Last, so that the machine is up for as short as can be.
        items.sort(key=is_guest)


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_set_timer(item, settings):
    """pytest-timeout is about to start the clock: for a guest test its twin in the guest does."""
    if not is_guest(item):
        return None
    item.stash[limit_key] = (settings.timeout or NO_LIMIT) + GRACE
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    if not is_guest(item):
        return None
    config = item.config
    guest = config.stash.get(guest_key, None)
    if guest is None:
        tests = [each.nodeid for each in item.session.items if is_guest(each)]
        guest = config.stash[guest_key] = Guest(config, tests)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in guest.reports(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    if nextitem is None and (complaint := guest.finish()):
        report = failure("guest", ("guest", 0, "guest"), complaint)
        config.hook.pytest_runtest_logreport(report=report)
    return True


def pytest_sessionfinish(session):
    if guest := session.config.stash.get(guest_key, None):
        guest.kill()


def pytest_report_header(config):
    if IN_GUEST:
        return None
    series = config.getoption("guest_kernel") or "this distribution's kernel"
    return f"guest: {series}, {config.getoption('guest_cpus')} processors"


def failure(nodeid, location, text, when="setup"):
    """A report of what went wrong around a test."""
    return pytest.TestReport(
        nodeid=nodeid, location=location, keywords={}, outcome="failed", longrepr=text, when=when
    )


def end_with_parent():
    """In a new process: SIGTERM when the parent dies, however it does (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


class Guest:
    """The machine that runs `tests` and sends their reports."""

    def __init__(self, config, tests):
        self._config = config
        self._received = b""
        self._over = None
        self._process = None
        self._cleanup = contextlib.ExitStack()
        scratch = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="kfiber-")))
        self._output = scratch / "output"
        self._errors = scratch / "errors"
        list_file = scratch / "tests"
        list_file.write_text("".join(f"{test}\n" for test in tests))
        try:
            kernel = self._prepare()
        except KfiberError as error:
            self._over = str(error)
            return
        self.log = cache() / "log" / f"pytest-{kernel.release}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._channel, theirs = os.pipe()
        self._cleanup.callback(os.close, self._channel)
        series = config.getoption("guest_kernel")
        command = [
            *(sys.executable, "-m", "kfiber", "vm", "run"),
            *(["--kernel", series] if series else []),
            *("--cpus", str(config.getoption("guest_cpus"))),
            *("--memory", str(config.getoption("guest_memory"))),
            *(f"--append={words}" for words in [config.getoption("guest_append")] if words),
            *(f"--parameter={each}" for each in config.getoption("guest_parameter")),
            *("--channel", str(theirs), "--show", str(scratch), "--log", str(self.log), "--"),
            *self._pytest(tests),
        ]
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=config.rootpath,
                env={**os.environ, "KFIBER_GUEST_TESTS": str(list_file)},
                stdin=subprocess.DEVNULL,
                stdout=None if config.getoption("capture") == "no" else output,
                stderr=errors,
                pass_fds=[theirs],
                preexec_fn=end_with_parent,
            )
        os.close(theirs)
        self._start = self._line(START_LIMIT)

    def _prepare(self):
        # Here, for its progress to be seen; the machine finds both in the cache.
        capture = self._config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            kernel = kernels.get(self._config.getoption("guest_kernel"))
            module.build(kernel.build, kernel.release)
            return kernel

    def _pytest(self, tests):
        """The command line of the guest's pytest. Which tests it runs is in the list."""
        config = self._config
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no"]
        # What cannot be imported there fails its tests only.
        command += ["--continue-on-collection-errors"]
        command += ["--rootdir", str(config.rootpath), "--capture", config.getoption("capture")]
        if config.inipath is not None:
            command += ["-c", str(config.inipath)]
        for name in ("showlocals", "runxfail"):
            if config.getoption(name):
                command.append(f"--{name}")
        command += [f"--tb={config.getoption('tbstyle')}"]
        command += [f"--override-ini={each}" for each in config.getoption("override_ini") or ()]
        if limit := config.getoption("timeout", None):
            command.append(f"--timeout={limit}")
        files = dict.fromkeys(test.partition("::")[0] for test in tests)
        return [*command, *files]

    def reports(self, item):
        """The reports of `item` as they come. If they do not, one that says why."""
        deadline = time.monotonic() + item.stash.get(limit_key, NO_LIMIT)
        if self._over is not None:
            yield failure(item.nodeid, item.location, f"not run: {self._over}")
            return
        if item.nodeid in self._start["missing"]:
            text = f"the guest's pytest does not find this test\n{self._start['errors']}"
            yield failure(item.nodeid, item.location, text)
            return
        while True:
            message = self._line(deadline - time.monotonic())
            if message is None:
                text = f"the guest died while running {item.nodeid}: {self._over}"
                yield failure(item.nodeid, item.location, text, "call")
                return
            if "finish" in message:
                # Of this test: the order is the same there.
                return
            data = message["report"]
            # JSON knows no tuples, pytest asks for them.
            for name in ("location", "longrepr"):
                if isinstance(data[name], list):
                    data[name] = tuple(data[name])
            data["user_properties"] = [tuple(each) for each in data["user_properties"]]
            yield self._config.hook.pytest_report_from_serializable(config=self._config, data=data)

    def finish(self):
        """End the machine after its last test: what is wrong with how it ended, or None."""
        if self._process is None:
            return None
        try:
            status = self._process.wait(END_LIMIT)
        except subprocess.TimeoutExpired:
            self.kill()
            return f"the guest did not end after its last test; its kernel log is {self.log}"
        # pytest's own: all passed, some failed.
        if status in (0, 1) or self._over is not None:
            return None
        return f"{self._said()}\nstatus {status}; the guest's whole kernel log is {self.log}"

    def kill(self):
        """End the machine now, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._cleanup.close()

    def _line(self, seconds):
        """The next message, or None if the guest is over; `_over` says why."""
        deadline = time.monotonic() + seconds
        while self._over is None and b"\n" not in self._received:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._channel], [], [], left)[0]:
                self._end(f"nothing was heard of it for {seconds:.0f} s")
            elif data := os.read(self._channel, 1 << 16):
                self._received += data
            else:
                self._process.wait()
                self._end(f"status {self._process.returncode}")
        if self._over is not None:
            return None
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

    def _end(self, why):
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
        self._over = f"{why}\n{self._said()}\nthe guest's whole kernel log is {self.log}"

    def _said(self):
        """The end of what the machine and the guest's pytest wrote."""
        parts = []
        for path in (self._output, self._errors):
            lines = path.read_text(errors="replace").splitlines()
            parts += lines[-100:]
        return "\n".join(parts)


class Reporter:
    """In the guest: runs the tests that are listed, and sends their reports."""

    def __init__(self, config, list_file):
        self._config = config
        self._wanted = list_file.read_text().splitlines()
        self._errors = []
        self._channel = open(CHANNEL, "w", buffering=1)  # noqa: SIM115 - as long as pytest

    def _send(self, message):
        self._channel.write(json.dumps(message) + "\n")

    def pytest_collectreport(self, report):
        if report.failed:
            self._errors.append(report.longreprtext)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        found = {item.nodeid: item for item in items}
        items[:] = [found[test] for test in self._wanted if test in found]
        missing = [test for test in self._wanted if test not in found]
        self._send({"missing": missing, "errors": "\n".join(self._errors)})

    def pytest_runtest_logreport(self, report):
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._send({"report": data})

    def pytest_runtest_logfinish(self, nodeid):
        self._send({"finish": nodeid})
