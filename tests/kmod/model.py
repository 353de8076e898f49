# SPDX-License-Identifier: MIT
"""What the module must do: uapi/fiber.h, executable.

A method a request, each returning (errno, value); the value is what the request gives back. Nothing
here knows how the kernel does it. Where several errors apply at once, they come in this order: who
calls, where the argument lies, what it says, the limit, and where the result is to go.

`slot` is a thread's number in the test. Thread ids come from the system.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from errno import (
    E2BIG,
    EAGAIN,
    EBUSY,
    EEXIST,
    EFAULT,
    EINTR,
    EINVAL,
    ENOTTY,
    EOWNERDEAD,
    EPERM,
    ESRCH,
)

VERSION = 2
SLOT_BITS = 20
NAME_SIZE = 64
FLS_MAX = 1024
STACK_MIN = 4096
FLAG_FPU = 1
ENGINE_KERNEL = 1
STATES = ("new", "running", "suspended", "finished")
WORD_MAX = (1 << 64) - 1
# Programs end here where the processor has four levels of page tables; the tests keep away from it.
USER_END = (1 << 47) - 4096

# In place of an errno: the request does not return yet.
WAITS = None


class Where(enum.Enum):
    """Where the argument of a request lies."""

    GOOD = enum.auto()
    READONLY = enum.auto()
    NOWHERE = enum.auto()
    KERNEL = enum.auto()

    @property
    def readable(self):
        return self in (Where.GOOD, Where.READONLY)

    @property
    def writable(self):
        return self is Where.GOOD


class Size(enum.Enum):
    """What a structure says of its size; the value is what the kernel says to that."""

    EXACT = (0, "this version's")
    LONGER = (0, "a later version's, whose additional fields are 0")
    NEWER = (E2BIG, "a later version's, whose additional fields are not")
    TOO_LARGE = (E2BIG, "more than any version's")
    SHORT = (EINVAL, "less than the first version's")
    NONE = (EINVAL, "0")

    @property
    def error(self):
        return self.value[0]


@dataclass(frozen=True)
class Words:
    """What each fiber has its own of, besides the general registers. Initially: a new fiber's."""

    mxcsr: int = 0x1F80
    fcw: int = 0x37F
    mask: int = 0


@dataclass(frozen=True)
class Create:
    """What struct fiber_create says."""

    entry: int
    arg: int
    stack_start: int
    stack_size: int
    flags: int = 0
    size: Size = Size.EXACT
    name: bytes = bytes(NAME_SIZE)


@dataclass(eq=False)
class Fiber:
    id: int
    parent: int  # the tid of the thread that made it
    words: Words  # while nobody runs it
    create: Create | None = None  # None: it is a root fiber
    thread: Thread | None = None  # that runs it
    started: bool = False
    finished: bool = False
    exit_pending: bool = False  # finished as soon as it is left
    activations: int = 0
    failed: int = 0
    name: bytes = b""
    fls: dict[int, int] = field(default_factory=dict)

    def __post_init__(self):
        self._first_words = self.words

    def reset(self):
        """Back to before its first instruction. Its name and counts stay."""
        self.words = self._first_words
        self.started = False
        self.fls = {}

    @property
    def state(self):
        if self.thread:
            return "running"
        if self.finished:
            return "finished"
        return "suspended" if self.started else "new"


@dataclass(eq=False)
class Thread:
    tid: int
    words: Words
    running: Fiber | None = None  # None: it is no fiber
    root: Fiber | None = None  # the fiber that it is itself; that may be deleted
    waits: bool = False  # in FIBER_IOC_RETIRE


class Model:
    """A process. It starts with one thread, which is no fiber."""

    def __init__(self, limit, tid, words):
        self.limit = limit
        self.threads = {0: Thread(tid, words)}
        self.fibers = {}
        self.deletions = 0

    # Threads

    def start(self, by, slot, tid):
        """A new thread inherits the control words and the mask."""
        self.threads[slot] = Thread(tid, self.threads[by].words)

    def end(self, slot):
        """The thread ends, in the middle of whatever it runs."""
        thread = self.threads.pop(slot)
        fiber = thread.running
        if not fiber:
            return
        fiber.thread = None
        self._finish_root(thread)
        if fiber.create:
            fiber.reset()
        else:
            fiber.finished = True

    # Requests

    def convert(self, slot, flags, size, where):
        """ConvertThreadToFiberEx; ERROR_ALREADY_FIBER is EEXIST."""
        thread = self.threads[slot]
        if thread.running:
            return EEXIST, None
        if not where.readable:
            return EFAULT, None
        if size.error:
            return size.error, None
        if flags & ~FLAG_FPU:
            return EINVAL, None
        if err := self._no_room(where):
            return err, None
        fiber = Fiber(self._new_id(), thread.tid, thread.words, thread=thread, started=True)
        self.fibers[fiber.id] = fiber
        thread.running = thread.root = fiber
        return 0, fiber.id

    def create(self, slot, create, where):
        """CreateFiberEx."""
        thread = self.threads[slot]
        if not thread.running:
            return EPERM, None
        if not where.readable:
            return EFAULT, None
        if err := self._wrong(create):
            return err, None
        if err := self._no_room(where):
            return err, None
        words = Words(mask=thread.words.mask)
        name = create.name.split(b"\0")[0]
        fiber = Fiber(self._new_id(), thread.tid, words, create, name=name)
        self.fibers[fiber.id] = fiber
        return 0, fiber.id

    @staticmethod
    def _wrong(create):
        if create.size.error:
            return create.size.error
        if create.flags & ~FLAG_FPU or 0 not in create.name:
            return EINVAL
        if not 0 < create.entry < USER_END:
            return EFAULT
        end = create.stack_start + create.stack_size
        if create.stack_size < STACK_MIN or end > WORD_MAX:
            return EINVAL
        if create.stack_start == 0 or end > USER_END:
            return EFAULT
        return 0

    def _no_room(self, where):
        if len(self.fibers) == self.limit:
            return EAGAIN
        return 0 if where.writable else EFAULT

    def _new_id(self):
        """More than is promised: the lowest free place, and the deletions so far."""
        taken = {id & ((1 << SLOT_BITS) - 1) for id in self.fibers}
        place = next(place for place in range(1, self.limit + 1) if place not in taken)
        return self.deletions << SLOT_BITS | place

    def switch(self, slot, id, alternate=False):
        """SwitchToFiber. Value: the argument of a fiber that starts, None for others' return."""
        thread = self.threads[slot]
        if not thread.running:
            return EPERM, None
        if alternate:
            return EINVAL, None
        if id not in self.fibers:
            return ESRCH, None
        fiber = self.fibers[id]
        if fiber.finished:
            return EOWNERDEAD, None
        if fiber.thread:
            fiber.failed += 1
            return (EINVAL if fiber.thread is thread else EBUSY), None
        self._leave(thread.running, thread.words)
        fiber.thread, thread.running, thread.words = thread, fiber, fiber.words
        fiber.activations += 1
        starts = not fiber.started
        fiber.started = True
        return 0, fiber.create.arg if starts else None

    @staticmethod
    def _leave(fiber, words):
        fiber.thread = None
        fiber.words = words
        fiber.finished = fiber.exit_pending

    def delete(self, slot, id):
        """DeleteFiber, which on Windows ends the thread that runs the fiber."""
        if id not in self.fibers:
            return ESRCH, None
        fiber = self.fibers[id]
        if fiber.thread:
            return EBUSY, None
        if fiber.create is None and not fiber.finished:
            return EPERM, None
        self._remove(fiber)
        return 0, None

    def _remove(self, fiber):
        del self.fibers[fiber.id]
        self.deletions += 1

    def revert(self, slot):
        """ConvertFiberToThread."""
        thread = self.threads[slot]
        if not thread.running:
            return EPERM, None
        if thread.running is not thread.root:
            return EINVAL, None
        self._remove(thread.root)
        thread.running = thread.root = None
        return 0, None

    def retire(self, slot):
        """Waits: until released() or interrupt()."""
        thread = self.threads[slot]
        if not thread.running:
            return EPERM, None
        if thread.running is thread.root:
            return EINVAL, None
        self._finish_root(thread)
        thread.waits = not thread.root.finished
        return (WAITS if thread.waits else 0), None

    @staticmethod
    def _finish_root(thread):
        if thread.root.thread:
            thread.root.exit_pending = True
        else:
            thread.root.finished = True

    def interrupt(self, slot):
        """A signal reaches a thread that waits; its exit stays pending."""
        self.threads[slot].waits = False
        return EINTR, None

    def released(self):
        """The slots of those whose waiting is over, each once."""
        slots = [
            slot for slot, thread in self.threads.items() if thread.waits and thread.root.finished
        ]
        for slot in slots:
            self.threads[slot].waits = False
        return slots

    def set_name(self, slot, id, name, where):
        if not where.readable:
            return EFAULT, None
        if 0 not in name:
            return EINVAL, None
        if id == 0:
            fiber = self.threads[slot].running
            if not fiber:
                return EPERM, None
        else:
            fiber = self.fibers.get(id)
            if not fiber:
                return ESRCH, None
        fiber.name = name.split(b"\0")[0]
        return 0, None

    def self_(self, slot, where):
        """GetCurrentFiber."""
        fiber = self.threads[slot].running
        if not fiber:
            return EPERM, None
        return (0, fiber.id) if where.writable else (EFAULT, None)

    def stat(self, slot, id, size, where):
        """Value: the fields that are certain, by name."""
        if not where.readable:
            return EFAULT, None
        if size.error:
            return size.error, None
        if id == 0:
            fiber = self.threads[slot].running
            if not fiber:
                return EPERM, None
        else:
            fiber = self.fibers.get(id)
            if not fiber:
                return ESRCH, None
        if not where.writable:
            return EFAULT, None
        create = fiber.create
        return 0, {
            "state": STATES.index(fiber.state),
            "id": fiber.id,
            "activations": fiber.activations,
            "failed": fiber.failed,
            "stack_start": create.stack_start if create else 0,
            "stack_size": create.stack_size if create else 0,
            "thread": fiber.thread.tid if fiber.thread else 0,
            "parent": fiber.parent,
            "engine": ENGINE_KERNEL,
            "name": fiber.name,
        }

    def fls_alloc(self, slot, times, where):
        """FlsAlloc, so many times or until it fails; the last one's outcome."""
        fiber = self.threads[slot].running
        if not fiber:
            return EPERM, None
        for _ in range(times):
            index = next((i for i in range(FLS_MAX) if i not in fiber.fls), None)
            if index is None:
                return EAGAIN, None
            if not where.writable:
                return EFAULT, None
            fiber.fls[index] = 0
        return 0, index

    def fls_free(self, slot, index):
        """FlsFree."""
        fiber = self.threads[slot].running
        if not fiber:
            return EPERM, None
        if index not in fiber.fls:
            return EINVAL, None
        del fiber.fls[index]
        return 0, None

    def fls_set(self, slot, index, value, where):
        """FlsSetValue."""
        fiber = self.threads[slot].running
        if not fiber:
            return EPERM, None
        if not where.readable:
            return EFAULT, None
        if index not in fiber.fls:
            return EINVAL, None
        fiber.fls[index] = value
        return 0, None

    def fls_get(self, slot, index, where):
        """FlsGetValue."""
        fiber = self.threads[slot].running
        if not fiber:
            return EPERM, None
        if not where.readable:
            return EFAULT, None
        if index not in fiber.fls:
            return EINVAL, None
        return (0, fiber.fls[index]) if where.writable else (EFAULT, None)

    def version(self, slot):
        return 0, VERSION

    def unknown(self, slot, number):
        """A number that is no request's. Not even the caller matters."""
        return ENOTTY, None

    # No request: the program itself changes them

    def set_words(self, slot, words):
        self.threads[slot].words = words
        return 0, None

    # What can be seen

    def place(self, slot):
        """Where the thread is: its tid, the id of its fiber or 0, and its words."""
        thread = self.threads[slot]
        return thread.tid, thread.running.id if thread.running else 0, thread.words

    def file(self, id):
        """The lines of /proc/PID/fiber/ID that are certain."""
        fiber = self.fibers[id]
        create = fiber.create
        lines = {
            "Running": "yes" if fiber.thread else "no",
            "Parent thread id": str(fiber.parent),
            "Number of activations": str(fiber.activations),
            "Number of failed activations": str(fiber.failed),
            "Name": escaped(fiber.name),
            "State": fiber.state,
            "Thread id": str(fiber.thread.tid if fiber.thread else 0),
            "Stack start": address(create.stack_start if create else 0),
            "Stack size": str(create.stack_size if create else 0),
            "Engine": "kernel",
        }
        if create:
            lines["Initial entry point"] = address(create.entry)
        if fiber.thread:
            lines["Saved instruction pointer"] = lines["Saved stack pointer"] = address(0)
        elif fiber.state == "new":
            top = create.stack_start + create.stack_size
            lines["Saved instruction pointer"] = address(create.entry)
            lines["Saved stack pointer"] = address((top & ~15) - 8)
        return lines


def address(number):
    return f"0x{number:016x}"


def escaped(name):
    """A name on one line: control characters (also those of UTF-8) and the backslash in octal."""
    text = re.sub(
        rb"\xc2[\x80-\x9f]|[\x00-\x1f\x7f\\]",
        lambda match: "".join(f"\\{byte:03o}" for byte in match[0]).encode(),
        name,
    )
    return text.decode("latin-1")
