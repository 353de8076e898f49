# SPDX-License-Identifier: MIT
"""Builds the extension, with libfiber inside, so that one shared object is all it needs.

Everything else about the package is in pyproject.toml.
"""

import platform
import runpy
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

NATIVE = Path("python/native")
LIBRARY = Path("lib")
EXPORTS = NATIVE / "exports.map"
STUB = Path("python/kfiber/_native.pyi")
DOCSTRINGS = NATIVE / "docstrings.py"
START = Path("python/kfiber/greenlet/kfiber-greenlet.pth")


def files(folder: Path, pattern: str) -> list[str]:
    return sorted(str(path) for path in folder.glob(pattern))


def need(present: bool, problem: str) -> None:
    """Ends the program with one line if something is not there."""
    if not present:
        sys.exit(f"kfiber: cannot build the extension: {problem}")


class BuildExt(build_ext):
    """Knows assembly, and makes the docstrings from the stub."""

    def build_extensions(self) -> None:
        need(
            (sys.platform, platform.machine()) == ("linux", "x86_64"),
            f"this is {sys.platform} on {platform.machine()}; hint: use Linux on x86-64",
        )
        compiler = self.compiler.compiler[0]
        need(
            shutil.which(compiler) is not None,
            f"there is no C compiler {compiler}; hint: apt-get install gcc libc6-dev",
        )
        version = ".".join(map(str, sys.version_info[:2]))
        need(
            Path(sysconfig.get_path("include"), "Python.h").exists(),
            f"this Python has no headers; hint: apt-get install python{version}-dev",
        )
        self.compiler.src_extensions.append(".S")
        # The interpreter has loaded the libraries; its builder's folders mean nothing elsewhere.
        self.compiler.linker_so = [
            word for word in self.compiler.linker_so if not word.startswith("-Wl,-rpath")
        ]
        made = Path(self.build_temp, "docstrings.h")
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(runpy.run_path(str(DOCSTRINGS))["header"](STUB), encoding="utf-8")
        for extension in self.extensions:
            extension.include_dirs.append(self.build_temp)
        super().build_extensions()


class BuildPy(build_py):
    """Puts what the interpreter reads when it starts beside the package."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self.copy_file(str(START), self.build_lib)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), str(Path(self.build_lib, START.name))]


extension = Extension(
    "kfiber._native",
    sources=files(NATIVE, "*.c")
    + files(NATIVE / "integrate", "*.c")
    + files(LIBRARY, "*.c")
    + files(LIBRARY / "user", "*.c")
    + files(LIBRARY, "*.S"),
    depends=["setup.py", "uapi/fiber.h", str(EXPORTS), str(STUB), str(DOCSTRINGS)]
    + [
        header
        for folder in (NATIVE, LIBRARY, LIBRARY / "user", LIBRARY / "include")
        for header in files(folder, "*.h")
    ],
    include_dirs=[".", "lib", "lib/include", str(NATIVE)],
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

# The dialect is the one that readers of the variable prefer: lib/otel.h. Older compilers do not
# know it, and all else works without.
pointer = Extension(
    "kfiber._otel",
    optional=True,
    sources=["python/kfiber/_otel.c"],
    extra_compile_args=["-std=gnu11", "-O2", "-g", "-fvisibility=hidden", "-mtls-dialect=gnu2"],
)

setup(ext_modules=[extension, pointer], cmdclass={"build_ext": BuildExt, "build_py": BuildPy})
