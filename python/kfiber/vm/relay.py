# SPDX-License-Identifier: MIT
"""Bytes between the guest's ports and descriptors of this process, with back pressure.

A port is a socket whose other end QEMU has. Each direction is a thread, so that one stream that
stands still holds up no other.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import termios
import threading
import tty
from collections.abc import Callable, Iterator

_CHUNK = 1 << 16
_ESCAPE = b"\x1d"


@contextlib.contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """The terminal in raw mode, and then as it was."""
    before = termios.tcgetattr(terminal)
    tty.setraw(terminal, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


class ToGuest(threading.Thread):
    """Copies from a descriptor into a port, then tells the guest of the end.

    None ends at once. With `terminal` the source is one: it is in raw mode for as long as the
    thread runs, so that every key goes to the guest, but for Ctrl-], which interrupts this process.
    """

    def __init__(self, source: int | None, port: socket.socket, terminal: bool = False) -> None:
        super().__init__(name="kfiber-to-guest", daemon=True)
        self._source = source
        self._port = port
        self._terminal = terminal
        self._wake_read, self._wake_write = os.pipe()

    def run(self) -> None:
        """The thread: copies until the source or the guest ends, or stop() is called."""
        if self._source is not None:
            raw = _raw(self._source) if self._terminal else contextlib.nullcontext()
            with raw, contextlib.suppress(OSError):
                self._copy(self._source)
        with contextlib.suppress(OSError):
            self._port.shutdown(socket.SHUT_WR)

    def _copy(self, source: int) -> None:
        while self._readable(source):
            data = os.read(source, _CHUNK)
            if self._terminal and _ESCAPE in data:
                os.kill(os.getpid(), signal.SIGINT)
                break
            if not data:
                break
            self._port.sendall(data)

    def stop(self) -> None:
        """End the thread without reading any more."""
        os.write(self._wake_write, b".")
        with contextlib.suppress(OSError):
            self._port.shutdown(socket.SHUT_RDWR)
        self.join()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _readable(self, source: int) -> bool:
        poll = select.poll()
        poll.register(source, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        return all(descriptor != self._wake_read for descriptor, _ in poll.poll())


class FromGuest(threading.Thread):
    """Copies from a port to a descriptor; None drops the bytes.

    Calls `on_broken`, in its own thread, if nobody reads the descriptor any more.
    """

    def __init__(
        self, port: socket.socket, sink: int | None, on_broken: Callable[[], None]
    ) -> None:
        super().__init__(name="kfiber-from-guest", daemon=True)
        self._port = port
        self._sink = sink
        self._on_broken = on_broken
        self._moved = threading.Condition()
        self._count = 0
        self._over = False

    def run(self) -> None:
        """The thread: copies until the guest ends or nobody reads."""
        with contextlib.suppress(OSError):
            while data := self._port.recv(_CHUNK):
                if not self._write(data):
                    self._on_broken()
                    break
                with self._moved:
                    self._count += len(data)
                    self._moved.notify()
        with self._moved:
            self._over = True
            self._moved.notify()

    def wait_for(self, count: int, seconds: float) -> bool:
        """Whether `count` bytes have passed, or no more will come, within `seconds`."""
        with self._moved:
            return self._moved.wait_for(lambda: self._count >= count or self._over, seconds)

    def _write(self, data: bytes) -> bool:
        rest = memoryview(data)
        while rest and self._sink is not None:
            try:
                rest = rest[os.write(self._sink, rest) :]
            except BlockingIOError:
                # The descriptor is shared with a program that set O_NONBLOCK on it.
                select.select([], [self._sink], [])
            except OSError:
                return False
        return True
