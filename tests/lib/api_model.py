# SPDX-License-Identifier: MIT
"""What libfiber must do: fiber.h, executable, for each engine.

A method a call, each returning (errno, value) as the calling thread sees it when it runs again.
`slot` is a thread's number in the test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from errno import EAGAIN, EBUSY, EEXIST, EINVAL, EOWNERDEAD, EPERM, ESRCH

FPU, RETURNS = 1, 2
STATES = ("new", "running", "suspended", "finished")
FLS_MAX = 1024
STARTS = -1  # in place of an errno: the fiber's function begins, with its argument as the value


@dataclass(frozen=True)
class Engine:
    """What differs."""

    mask_travels: bool  # the signal mask belongs to the fiber


ENGINES = {
    "local": Engine(mask_travels=False),
    "mapped": Engine(mask_travels=False),
    "kernel": Engine(mask_travels=True),
}


@dataclass(eq=False)
class Fiber:
    id: int
    mask: int  # while it is suspended, where the mask travels
    root: Thread | None = None
    returns: bool = False
    arg: int = 0
    thread: Thread | None = None
    started: bool = False
    finished: bool = False  # a root fiber on which another thread has ended
    resumer: int = 0
    received: int = 0
    activations: int = 0
    failed: int = 0
    name: str = "-"
    data: int | None = None
    value: int = 0
    fls: dict[int, int] = field(default_factory=dict)

    def __post_init__(self):
        self.first_mask = self.mask

    @property
    def state(self):
        if self.finished:
            return "finished"
        return "running" if self.thread else "suspended" if self.started else "new"


@dataclass(eq=False)
class Thread:
    tid: int
    mask: int = 0
    running: Fiber | None = None
    root: Fiber | None = None


class Model:
    def __init__(self, engine, tid):
        self.engine = ENGINES[engine]
        self.threads = {0: Thread(tid)}
        self.fibers = {}

    # Threads

    def start(self, by, slot, tid):
        self.threads[slot] = Thread(tid, self.threads[by].mask)

    def may_end(self, slot):
        """Whether the thread could end at once: no other one runs its root fiber."""
        root = self.threads[slot].root
        return slot != 0 and (root is None or root.thread in (None, self.threads[slot]))

    def exit(self, slot):
        """pthread_exit(). A created fiber starts again when it is resumed; a root fiber cannot."""
        thread = self.threads.pop(slot)
        fiber = thread.running
        if thread.root:
            self.fibers.pop(thread.root.id, None)
        if fiber and fiber is not thread.root:
            fiber.thread, fiber.value = None, 0
            if fiber.root:
                fiber.finished = True
            else:
                fiber.started, fiber.mask, fiber.fls = False, fiber.first_mask, {}

    def may_return(self, slot):
        """In the function of a created fiber whose end needs no waiting."""
        fiber = self.threads[slot].running
        if not fiber or fiber.root:
            return False
        return self.may_end(slot) or (fiber.returns and bool(self._next(slot)[0]))

    def _next(self, slot):
        """Who is resumed when the calling fiber ends, and who refuses before."""
        thread, refuse = self.threads[slot], []
        for id in (thread.running.resumer, thread.root.id):
            fiber = self.fibers.get(id)
            if fiber and not fiber.thread and not fiber.finished:
                return fiber, refuse
            if fiber and fiber.thread:
                refuse.append(fiber)
        return None, refuse

    def return_(self, slot):
        """The fiber's function returns. None: the thread ends."""
        thread = self.threads[slot]
        fiber = thread.running
        if not fiber.returns:
            self.exit(slot)
            return None
        target, refuse = self._next(slot)
        for each in refuse:
            each.failed += 1
        fiber.value = 0
        if not target:
            self.exit(slot)
            del self.fibers[fiber.id]
            return None
        outcome = self._resume(thread, target, 0, yields=True)
        del self.fibers[fiber.id]
        return outcome

    # Calls

    def convert(self, slot, flags):
        thread = self.threads[slot]
        if flags & ~FPU:
            return EINVAL, None
        if thread.running:
            return EEXIST, None
        fiber = Fiber(0, thread.mask, root=thread, thread=thread, started=True)
        thread.running = thread.root = fiber
        return 0, fiber

    def revert(self, slot):
        thread = self.threads[slot]
        if not thread.running:
            return EPERM, 0
        if thread.running is not thread.root:
            return EINVAL, 0
        del self.fibers[thread.root.id]
        thread.running = thread.root = None
        return 0, 0

    def create(self, slot, flags, arg):
        if flags & ~(FPU | RETURNS):
            return EINVAL, None
        return 0, Fiber(0, self.threads[slot].mask, returns=bool(flags & RETURNS), arg=arg)

    def switch(self, slot, id, value=None, yields=False):
        thread = self.threads[slot]
        if not thread.running:
            return EPERM, 0
        fiber = self.fibers.get(id)
        if not fiber:
            return ESRCH, 0
        if fiber.finished:
            return EOWNERDEAD, 0
        if fiber.thread:
            fiber.failed += 1
            return (EINVAL if fiber.thread is thread else EBUSY), 0
        return self._resume(thread, fiber, value, yields)

    def _resume(self, thread, fiber, value, yields):
        before = thread.running
        before.thread = None
        if self.engine.mask_travels:
            before.mask, thread.mask = thread.mask, fiber.mask
        fiber.thread, thread.running = thread, fiber
        fiber.activations += 1
        if not yields:
            fiber.resumer = before.id
        if value is not None:
            fiber.received = value
        starts, fiber.started = not fiber.started, True
        return (STARTS, fiber.arg) if starts else (0, 0)

    def transfer(self, slot, id, value):
        return self.switch(slot, id, value)

    def yield_(self, slot, value):
        err, id = self.resumer(slot)
        return (err, 0) if err else self.switch(slot, id, value, yields=True)

    def delete(self, slot, id):
        """Of another fiber; or of the root fiber that the thread runs."""
        fiber = self.fibers.get(id)
        if not fiber:
            return ESRCH, 0
        if fiber.thread:
            return (EPERM if fiber.thread is self.threads[slot] else EBUSY), 0
        if fiber.root and not fiber.finished:
            return EPERM, 0
        del self.fibers[id]
        return 0, 0

    def self_(self, slot):
        fiber = self.threads[slot].running
        return (0, fiber.id) if fiber else (EPERM, 0)

    def resumer(self, slot):
        fiber = self.threads[slot].running
        if not fiber:
            return EPERM, 0
        return (0, fiber.resumer) if fiber.resumer else (ESRCH, 0)

    def received(self, slot):
        fiber = self.threads[slot].running
        return 0, fiber.received if fiber else 0

    def _named(self, slot, id):
        fiber = self.fibers.get(id) if id else self.threads[slot].running
        return (0 if fiber else ESRCH if id else EPERM), fiber

    def set_name(self, slot, id, name):
        if len(name) > 63:
            return EINVAL, 0
        err, fiber = self._named(slot, id)
        if fiber:
            fiber.name = name
        return err, 0

    def set_data(self, slot, id, data):
        err, fiber = self._named(slot, id)
        if fiber:
            fiber.data = data
        return err, 0

    def get_data(self, slot, id):
        err, fiber = self._named(slot, id)
        if err:
            return err, 0
        return 0, fiber.arg if fiber.data is None else fiber.data

    def key_set(self, slot, value):
        fiber = self.threads[slot].running
        if fiber:
            fiber.value = value
        return (0 if fiber else EPERM), 0

    def key_get(self, slot):
        fiber = self.threads[slot].running
        return (0, fiber.value) if fiber else (EPERM, 0)

    def fls_alloc(self, slot):
        fiber = self.threads[slot].running
        if not fiber:
            return EPERM, 0
        index = next((i for i in range(FLS_MAX) if i not in fiber.fls), None)
        if index is None:
            return EAGAIN, 0
        fiber.fls[index] = 0
        return 0, index

    def _position(self, slot, index):
        fiber = self.threads[slot].running
        if not fiber:
            return EPERM, None
        return (0 if index in fiber.fls else EINVAL), fiber.fls

    def fls_free(self, slot, index):
        err, fls = self._position(slot, index)
        if not err:
            del fls[index]
        return err, 0

    def fls_set(self, slot, index, value):
        err, fls = self._position(slot, index)
        if not err:
            fls[index] = value
        return err, 0

    def fls_get(self, slot, index):
        err, fls = self._position(slot, index)
        return err, 0 if err else fls[index]

    def mask(self, slot, mask):
        self.threads[slot].mask = mask
        return 0, mask

    # Snapshots

    def stat(self, id):
        fiber = self.fibers[id]
        tid = fiber.thread.tid if fiber.thread else 0
        counts = fiber.activations, fiber.failed
        return [id, STATES.index(fiber.state), tid, *counts, fiber.name]
