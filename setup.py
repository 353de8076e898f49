# SPDX-License-Identifier: MIT
"""Builds the extension, with libfiber inside, so that one shared object is all it needs.

Everything else about the package is in pyproject.toml.
"""

import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = Path("python/kfiber/_native")
LIBRARY = Path("lib")
EXPORTS = NATIVE / "exports.map"


def files(folder: Path, pattern: str) -> list[str]:
    return sorted(str(path) for path in folder.glob(pattern))


class BuildExt(build_ext):
    """Knows assembly."""

    def build_extensions(self) -> None:
        self.compiler.src_extensions.append(".S")
        super().build_extensions()


extension = Extension(
    "kfiber._native",
    sources=files(NATIVE, "*.c") + files(LIBRARY, "*.c") + files(LIBRARY, "*.S"),
    depends=["setup.py", "uapi/fiber.h", str(EXPORTS)]
    + [
        header
        for folder in (NATIVE, LIBRARY, LIBRARY / "include")
        for header in files(folder, "*.h")
    ],
    include_dirs=[".", "lib", "lib/include"],
    define_macros=[("_GNU_SOURCE", None)],
    extra_compile_args=[
        *("-std=gnu11", "-O2", "-g", "-fno-strict-aliasing", "-fno-plt", "-fvisibility=hidden"),
        # No -Werror: a new compiler's warning must not keep users from installing.
        *("-fasynchronous-unwind-tables", "-Wall", "-Wextra", "-Wno-missing-field-initializers"),
        # The interpreter's own headers do not pass these warnings.
        *("-isystem", f"{sysconfig.get_path('include')}/internal"),
    ],
    # Why now and nodelete: lib/meson.build.
    extra_link_args=["-Wl,-z,now", "-Wl,-z,nodelete", f"-Wl,--version-script,{EXPORTS}"],
)

setup(ext_modules=[extension], cmdclass={"build_ext": BuildExt})
