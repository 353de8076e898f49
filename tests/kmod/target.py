# SPDX-License-Identifier: MIT
"""What the tests in Python share: a process with fibers, other users' eyes, the module itself."""

import contextlib
import ctypes
import errno
import os
import pickle
import signal
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).parent
PROGRAMS = Path(os.environ.get("KFIBER_BUILD", HERE.parents[1] / "build")) / "tests" / "kmod"
MODULE = Path("/sys/module/fiber")
STRANGER = 12345

# A fiber's lines, in order.
KEYS = [
    # The report's, unchanged in wording and order.
    "Running",
    "Initial entry point",
    "Parent thread id",
    "Number of activations",
    "Number of failed activations",
    "Total execution time",
    # Ours; new ones are only ever appended.
    "Name",
    "State",
    "Thread id",
    "CPU time ns",
    "Longest run ns",
    "Last switch ns ago",
    "Saved instruction pointer",
    "Saved stack pointer",
    "Stack start",
    "Stack size",
    "Engine",
]

_libc = ctypes.CDLL(None, use_errno=True)


def wait_for(condition, what, seconds=30.0):
    """Polls until `condition()` is true, and returns what it was."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.005)
    return value


@contextlib.contextmanager
def started(program, *arguments, **streams):
    """A process of the program, in a session of its own, of which nothing is left in the end.

    A case that fails leaves its children behind, and these hold the module.
    """
    process = subprocess.Popen(
        [PROGRAMS / f"kmod_{program}", *arguments],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        **streams,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Target:
    """A process of the program `target`, which does what it is told."""

    def __init__(self, *prefix):
        self._process = subprocess.Popen(
            [*prefix, PROGRAMS / "kmod_target", "obey"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        # As it sees itself; `prefix` may be a program in front of it.
        (self.pid,) = self.do("pid")
        self.outer_pid = self._process.pid

    def ask(self, *words):
        """The answer as it is: "ok" or "error", and numbers."""
        self._process.stdin.write(" ".join(str(word) for word in words) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the target has ended"
        verdict, *numbers = line.split()
        return verdict, [int(number) for number in numbers]

    def do(self, *words):
        """The numbers of an answer that must be "ok"."""
        verdict, numbers = self.ask(*words)
        assert verdict == "ok", f"{words}: {verdict} {numbers}"
        return numbers

    def refused(self, *words):
        """The errno of an answer that must be an error."""
        verdict, numbers = self.ask(*words)
        assert verdict == "error", f"{words}: {verdict} {numbers}"
        return numbers[0]

    def create(self, kind="bounce", name=b""):
        """A new fiber: its id, entry, stack's start, size and first rsp."""
        return self.do("create", kind, name.hex())

    def exec(self):
        """Calls execve(): the same process, another image without fibers."""
        self._process.stdin.write("exec\n")
        self._process.stdin.flush()
        # The first answer of the new image.
        assert self.do("pid") == [self.pid]

    @property
    def folder(self):
        return Path(f"/proc/{self.pid}/fiber")

    def file(self, fiber):
        return self.folder / str(fiber)

    def end(self):
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self.status = self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def lines(path):
    """A fiber's file as pairs of key and value, in order."""
    text = Path(path).read_bytes().decode("ascii")
    assert text.endswith("\n")
    return [tuple(line.split(": ", 1)) for line in text[:-1].split("\n")]


def as_user(uid, function):
    """What `function()` returns, or raises, in a child process of that user."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            outcome = (True, function())
        except BaseException as error:
            outcome = (False, error)
        with contextlib.suppress(BaseException):
            os.write(writer, pickle.dumps(outcome))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        data = stream.read()
    os.waitpid(child, 0)
    good, value = pickle.loads(data)
    if not good:
        raise value
    return value


@contextlib.contextmanager
def child(function):
    """A child process in which `function()` has been called and which then waits to be ended."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            function()
            os.write(writer, b"x")
            signal.pause()
        os._exit(status)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as stream:
            assert stream.read(1) == b"x", "the child failed"
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def parameter(name):
    return (MODULE / "parameters" / name).read_text().strip()


def loaded():
    return MODULE.exists()


def module_file():
    """The module's file: the one that the guest has loaded."""
    return Path(os.environ.get("KFIBER_MODULE", "/run/kfiber/fiber.ko"))


@contextlib.contextmanager
def one_processor():
    """Takes all processors but the first off line meanwhile.

    Loading and unloading patch the scheduler's code. QEMU 7.2 with a thread a processor can execute
    a stale translation of what was patched, for ever: one guest in some thousand such changes hung,
    with both processors at preempt_notifier_key's NOP.
    """
    others = sorted(Path("/sys/devices/system/cpu").glob("cpu[0-9]*/online"))
    running = [online for online in others if online.read_text() == "1\n"]
    try:
        for online in running:
            online.write_text("0")
        yield
    finally:
        for online in running:
            online.write_text("1")


_SYS_DELETE_MODULE = 176
_SYS_FINIT_MODULE = 313


def _delete_module():
    if _libc.syscall(_SYS_DELETE_MODULE, b"fiber", os.O_NONBLOCK):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def unload():
    """Unloads the module. OSError: as the kernel says, without waiting."""
    with one_processor():
        _delete_module()


def unload_when_free():
    """Unloads it as soon as what has ended is freed."""

    def gone():
        try:
            _delete_module()
        except OSError as error:
            # In use: EWOULDBLOCK with O_NONBLOCK, which rmmod calls EBUSY.
            if error.errno not in (errno.EBUSY, errno.EWOULDBLOCK):
                raise
            return False
        return True

    with one_processor():
        wait_for(gone, "the module's last user leaves")


def load(parameters=""):
    """Loads the module and opens its device to all users. OSError: as the kernel says."""
    load_closed(parameters)
    Path("/dev/fiber").chmod(0o666)


def load_closed(parameters=""):
    """Loads the module and leaves its device as the kernel made it."""
    with module_file().open("rb") as file, one_processor():
        failed = _libc.syscall(_SYS_FINIT_MODULE, file.fileno(), parameters.encode(), 0)
        code = ctypes.get_errno()
    if failed:
        raise OSError(code, os.strerror(code))
    # The device comes by devtmpfs, a moment later.
    wait_for(lambda: Path("/dev/fiber").exists(), "/dev/fiber")
