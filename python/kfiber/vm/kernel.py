# SPDX-License-Identifier: MIT
"""A kernel that can be booted and built against."""

from __future__ import annotations

import lzma
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kernel:
    """A kernel that can be booted and built against.

    `image` is what QEMU is given, `modules` the directory that has `kernel/` with the modules, and
    `build` the tree for `make -C`.
    """

    release: str
    image: Path
    modules: Path
    build: Path


def unpack_image(image: bytes) -> bytes:
    """The ELF kernel inside a bzImage, which QEMU can start as well; `image` itself if not known.

    Emulated, a kernel takes more than two seconds to unpack itself.
    """
    # Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
    if image[0x202:0x206] != b"HdrS":
        return image
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[(sectors + 1) * 512 + offset :][:length]
    # Four bytes behind the compressed stream tell its size; both decompressors stop before them.
    try:
        if payload.startswith(b"\xfd7zXZ\0"):
            kernel = lzma.LZMADecompressor().decompress(payload)
        elif payload.startswith(b"\x1f\x8b"):
            kernel = zlib.decompressobj(wbits=31).decompress(payload)
        else:
            return image
    except (lzma.LZMAError, zlib.error):
        return image
    return kernel if kernel.startswith(b"\x7fELF") else image
