# SPDX-License-Identifier: MIT
"""The speed of this processor's time stamp counter, which an emulated guest sees as its own."""

from __future__ import annotations

import ctypes
import mmap
import platform
import time

_SECONDS = 0.05
# rdtsc; shl rdx, 32; or rax, rdx; ret
_READ = b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3"


def tsc_khz() -> int | None:
    """Ticks a millisecond, measured for a twentieth of a second; None where that cannot be known.

    A guest that measures it by itself does so against emulated timers. On a busy host it can be
    wrong by a factor of a hundred, and with it every clock and every time limit in the guest.
    """
    if platform.machine() != "x86_64":
        return None
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        # Forbidden by a security policy.
        return None
    page.write(_READ)
    # The buffer must go before the page can be closed; both go with this function's frame.
    code = ctypes.c_char.from_buffer(page)
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(code))

    def sample() -> tuple[int, int]:
        # Of a few tries the one least disturbed.
        best = (1 << 62, 0, 0)
        for _ in range(10):
            before = time.monotonic_ns()
            ticks = read()
            after = time.monotonic_ns()
            best = min(best, (after - before, (before + after) // 2, ticks))
        return best[1], best[2]

    start, first = sample()
    time.sleep(_SECONDS)
    end, last = sample()
    return round((last - first) * 1_000_000 / (end - start))
