# SPDX-License-Identifier: MIT
"""Windows' fibers over libfiber: runs the C programs beside this file, a test a process.

The same programs, built with Windows' headers, run under Wine where it is installed, so that the
tests are held to a second implementation of Windows.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = Path(os.environ.get("KFIBER_BUILD", ROOT / "build"))
HEADERS = ROOT / "lib" / "include" / "windows"
PROGRAMS = ("fiber", "fls")
SKIPPED = 77

# Engine `local` needs no module, so its tests run here.
ENGINES = {"local": (), "mapped": (pytest.mark.guest,), "kernel": (pytest.mark.guest,)}
# In seconds. In the guest the processor is emulated.
LIMIT = 300 if "KFIBER_GUEST" in os.environ else 60

MINGW = shutil.which("x86_64-w64-mingw32-gcc")
# Where Debian's wine64 lies without the package that puts it into the path.
WINE = shutil.which("wine64") or "/usr/lib/wine/wine64"
NO_WINE = "needs Debian's packages gcc-mingw-w64-x86-64 and wine64"

# Where Wine differs from Windows, by the test's name, with the reason.
WINE_DIFFERS = {
    "the_current_fiber_of_a_thread_that_is_none": "Wine's GetCurrentFiber() gives NULL there",
    "back_from_no_fiber": "Wine's ConvertFiberToThread() succeeds there",
    "unknown_flags": "Wine ignores flags",
}


def named_in(program):
    text = (HERE / f"{program}.c").read_text()
    return re.findall(r"^TEST\((\w+)\)", text, re.MULTILINE)


def named_for_windows(program):
    """Those that the preprocessor leaves for Windows."""
    text = (HERE / f"{program}.c").read_text()
    text = re.sub(r"^#ifndef _WIN32\n.*?^#endif\n", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^TEST\((\w+)\)", text, re.MULTILINE)


def collect():
    for program in PROGRAMS:
        for engine, marks in ENGINES.items():
            for name in named_in(program):
                yield pytest.param(
                    engine, program, name, id=f"{engine}-{program}-{name}", marks=marks
                )


def run(words, **environment):
    done = subprocess.run(
        [str(word) for word in words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, **environment},
    )
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(("engine", "program", "name"), list(collect()))
def test(engine, program, name):
    run([BUILD / "tests" / "windows" / f"windows_{program}", name], KFIBER_ENGINE=engine)


@pytest.fixture(scope="module")
def on_wine(tmp_path_factory):
    """Runs a Windows program that it builds; its output."""
    if MINGW is None or not Path(WINE).exists():
        pytest.skip(NO_WINE)
    folder = tmp_path_factory.mktemp("wine")
    environment = {"WINEPREFIX": str(folder / "prefix"), "WINEDEBUG": "-all"}

    def run_on_wine(program, *arguments, sources=None):
        path = folder / f"{program}.exe"
        if not path.exists():
            paths = sources or [
                HERE / f"{program}.c",
                HERE / "harness.c",
                HERE.parent / "registry.c",
            ]
            # Its headers read the thread block at address 0.
            run([MINGW, "-O2", "-Wall", "-Werror", "-Wno-array-bounds", "-o", path, *paths])
        output = folder / "output"
        # A file and no pipe: Wine's server holds it open for some seconds more.
        with output.open("w") as file:
            done = subprocess.run(
                [WINE, path, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=LIMIT,
                env={**os.environ, **environment},
            )
        text = output.read_text()
        assert done.returncode == 0, f"status {done.returncode}\n{text}"
        return text

    return run_on_wine


@pytest.mark.parametrize(
    ("program", "name"),
    [(program, name) for program in PROGRAMS for name in named_for_windows(program)],
)
def test_on_wine(on_wine, program, name):
    if name in WINE_DIFFERS:
        pytest.skip(WINE_DIFFERS[name])
    on_wine(program, name)


EXAMPLE = """\
1
5
14
30
55
sum took 5 steps
squares took 5 steps
numbers took 5 steps
a thread again
"""


@pytest.mark.parametrize(
    "engine", [pytest.param(engine, marks=marks) for engine, marks in ENGINES.items()]
)
def test_the_example(engine):
    assert run([BUILD / "tests" / "windows" / "windows_example"], KFIBER_ENGINE=engine) == EXAMPLE


def test_the_example_on_wine(on_wine):
    output = on_wine("example", sources=[ROOT / "examples" / "windows.c"])
    assert output.replace("\r\n", "\n") == EXAMPLE


WARNINGS = ("-Wall", "-Wextra", "-pedantic", "-Wconversion", "-Werror", "-fsyntax-only")

STYLES = """\
#include <windows.h>

static VOID CALLBACK by_callback(LPVOID parameter)
{
	SwitchToFiber(*(LPVOID *)parameter);
}

static void WINAPI by_winapi(void *parameter)
{
	SwitchToFiber(*(void **)parameter);
}

static VOID WINAPI destroy(PVOID value)
{
	(void)value;
}

static void __stdcall by_stdcall(void *parameter)
{
	SwitchToFiber(*(void **)parameter);
}

int main(void)
{
	LPFIBER_START_ROUTINE start = by_callback;
	PFIBER_START_ROUTINE other = by_winapi, third = by_stdcall;
	PFLS_CALLBACK_FUNCTION callback = destroy;
	LPVOID (WINAPI *create)(SIZE_T, LPFIBER_START_ROUTINE, LPVOID) = CreateFiber;
	LPVOID home = ConvertThreadToFiberEx(NULL, FIBER_FLAG_FLOAT_SWITCH);
	DWORD index = FlsAlloc(callback);
	LPVOID fiber = create(0, start, &home);

	if (!home || index == FLS_OUT_OF_INDEXES || !fiber || GetLastError() == ERROR_ALREADY_FIBER)
		return 1;
	SwitchToFiber(fiber);
	DeleteFiber(fiber);
	fiber = CreateFiberEx(0, 0, 0, other, &home);
	SwitchToFiber(fiber);
	DeleteFiber(fiber);
	fiber = CreateFiberEx(0, 0, 0, third, &home);
	SwitchToFiber(fiber);
	DeleteFiber(fiber);
	return FlsFree(index) == TRUE && ConvertFiberToThread() ? 0 : 1;
}
"""


@pytest.mark.parametrize("unicode", [(), ("-DUNICODE", "-D_UNICODE")], ids=["", "unicode"])
@pytest.mark.parametrize("standard", ["c90", "c11", "c2x", "c++98", "c++17", "c++20"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_both_calling_styles_compile(tmp_path, compiler, standard, unicode):
    language = "c++" if "++" in standard else "c"
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    source = tmp_path / f"styles.{language}"
    source.write_text(STYLES)
    flags = [f"-std={standard}", f"-I{HEADERS}", *unicode, *WARNINGS]
    run([compiler, "-x", language, *flags, source])
    # Each header by itself.
    for header in sorted(HEADERS.glob("*.h")):
        source.write_text(f"#include <{header.name}>\nint not_empty;\n")
        run([compiler, "-x", language, *flags, source])


def test_exports_what_the_headers_declare_and_nothing_else():
    text = "".join(path.read_text() for path in HEADERS.glob("*.h"))
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    declared = set(re.findall(r"^\w+ (?:WINAPI )?(\w+)\([^;{]*\);", text, re.MULTILINE))
    library = BUILD / "lib" / "windows" / "libfiber-windows.so"
    listing = run(["nm", "-D", "--defined-only", library])
    assert {line.split()[-1] for line in listing.splitlines()} == declared
    assert len(declared) == 16


def test_values_are_those_of_windows(on_wine, tmp_path):
    """Every constant that Windows' headers have too has the same value there."""
    names = set()
    for path in HEADERS.glob("*.h"):
        names |= set(re.findall(r"^#\s*define (\w+)[ \t]+\S", path.read_text(), re.MULTILINE))
    names -= {"WINAPI", "CALLBACK", "APIENTRY", "NTAPI", "VOID", "CONST"}
    lines = "".join(
        f'\tprintf("{name} %#llx\\n", (long long)({name}));\n' for name in sorted(names)
    )
    text = (
        f"#include <windows.h>\n#include <stdio.h>\n\nint main(void)\n{{\n{lines}\treturn 0;\n}}\n"
    )
    source = tmp_path / "constants.c"
    # Debian's headers are of before Windows 10 1903, which has more indices.
    source.write_text(
        text.replace(
            "#include <stdio.h>",
            "#include <stdio.h>\n#undef FLS_MAXIMUM_AVAILABLE\n#define FLS_MAXIMUM_AVAILABLE 4080",
        )
    )
    there = on_wine("constants", sources=[source])
    source.write_text(text)
    here = tmp_path / "constants"
    run(["gcc", f"-I{HEADERS}", source, "-o", here])
    assert run([here]) == there


def test_pkg_config(tmp_path):
    meson = shutil.which("meson", path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")
    assert meson, "meson is not beside this Python"
    run([meson, "install", "-C", BUILD, "--no-rebuild", "--destdir", tmp_path])
    (package,) = tmp_path.rglob("kfiber-windows.pc")
    found = {
        "PKG_CONFIG_PATH": str(package.parent),
        "PKG_CONFIG_SYSROOT_DIR": str(tmp_path),
    }
    flags = run(["pkg-config", "--cflags", "--libs", "kfiber-windows"], **found).split()
    source = tmp_path / "styles.c"
    source.write_text(STYLES)
    run(["gcc", source, "-o", tmp_path / "styles", *flags])
    run(
        [tmp_path / "styles"],
        LD_LIBRARY_PATH=str(package.parents[1]),
        KFIBER_ENGINE="local",
    )
    # Only who asks for it gets a windows.h.
    plain = run(["pkg-config", "--cflags", "libfiber"], **found)
    assert "kfiber-windows" not in plain


EARLY = """\
#include <windows.h>
#include <pthread.h>

static LPVOID home;
static DWORD key;
static int called;

static VOID CALLBACK count(PVOID unused)
{
	(void)unused;
	called++;
}

__attribute__((constructor)) static void convert(void)
{
	key = FlsAlloc(count);
	home = ConvertThreadToFiber(&key);
}

static VOID CALLBACK return_with_a_value(LPVOID unused)
{
	FlsSetValue(key, &unused);
}

static void *run(void *unused)
{
	ConvertThreadToFiber(NULL);
	SwitchToFiber(CreateFiber(0, return_with_a_value, NULL));
	return unused;
}

int main(void)
{
	pthread_t thread;

	if (!home || GetCurrentFiber() != home || GetFiberData() != &key)
		return 1;
	if (pthread_create(&thread, NULL, run, NULL) || pthread_join(thread, NULL))
		return 2;
	return called == 1 && ConvertFiberToThread() ? 0 : 3;
}
"""


def test_archives_are_ready_before_the_programs_constructors(tmp_path):
    source = tmp_path / "early.c"
    source.write_text(EARLY)
    archives = [BUILD / "lib" / "windows" / "libfiber-windows.a", BUILD / "lib" / "libfiber.a"]
    run(["gcc", f"-I{HEADERS}", source, "-o", tmp_path / "early", *archives, "-pthread"])
    run([tmp_path / "early"], KFIBER_ENGINE="local")


LISTED = """\
#include <windows.h>
#include <unistd.h>

static VOID CALLBACK parse_requests(LPVOID unused)
{
	(void)unused;
	write(1, "x", 1);
	pause();
}

int main(void)
{
	ConvertThreadToFiber(NULL);
	SwitchToFiber(CreateFiber(0, parse_requests, NULL));
	return 0;
}
"""


def test_ps_shows_the_entry_points_symbol(tmp_path):
    source = tmp_path / "listed.c"
    source.write_text(LISTED)
    libraries = [BUILD / "lib" / "windows", BUILD / "lib"]
    run(["gcc", "-w", f"-I{HEADERS}", source, "-o", tmp_path / "listed",
         *(f"-L{path}" for path in libraries), "-lfiber-windows", "-lfiber"])  # fmt: skip
    environment = {
        **os.environ, "KFIBER_ENGINE": "local", "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
    }  # fmt: skip
    with subprocess.Popen(
        [tmp_path / "listed"], stdout=subprocess.PIPE, env=environment
    ) as process:
        try:
            assert process.stdout.read(1) == b"x"
            listed = json.loads(run([sys.executable, "-m", "kfiber", "ps", "--json", process.pid]))
            table = run([sys.executable, "-m", "kfiber", "ps", process.pid])
        finally:
            process.kill()
    assert [each["name"] for each in listed] == ["", "parse_requests"]
    assert re.search(r" running .* parse_requests$", table, re.MULTILINE)


FATAL = """\
#include <windows.h>
#include <string.h>

static VOID CALLBACK idle(LPVOID unused)
{
	(void)unused;
}

int main(int argc, char **argv)
{
	LPVOID fiber = CreateFiber(0, idle, NULL);

	if (argc == 1)
		SwitchToFiber(fiber);
	if (!strcmp(argv[1], "switch")) {
		ConvertThreadToFiber(NULL);
		SwitchToFiber(&(LPVOID[64]){ 0 });
	} else {
		DeleteFiber(fiber);
		DeleteFiber(fiber);
	}
	return 0;
}
"""


@pytest.mark.parametrize(
    ("words", "function", "reason"),
    [
        ([], "SwitchToFiber", "the calling thread is no fiber"),
        (["switch"], "SwitchToFiber", "there is no such fiber, or it was deleted"),
        (["delete"], "DeleteFiber", "there is no such fiber, or it was deleted"),
    ],
)
def test_what_cannot_be_done_says_why_and_aborts(tmp_path, words, function, reason):
    source = tmp_path / "fatal.c"
    source.write_text(FATAL)
    libraries = [BUILD / "lib" / "windows", BUILD / "lib"]
    run(["gcc", f"-I{HEADERS}", source, "-o", tmp_path / "fatal",
         *(f"-L{path}" for path in libraries), "-lfiber-windows", "-lfiber"])  # fmt: skip
    done = subprocess.run(
        [tmp_path / "fatal", *words],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "KFIBER_ENGINE": "local",
             "LD_LIBRARY_PATH": ":".join(map(str, libraries))},
    )  # fmt: skip
    assert done.returncode == -6
    assert re.fullmatch(
        rf"libfiber-windows: {function}\(0x\w+\): {reason} \(error \d+\)\n", done.stderr
    )
