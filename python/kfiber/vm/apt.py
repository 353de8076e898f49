# SPDX-License-Identifier: MIT
"""Debian packages from the machine's own mirrors, without touching the machine's own apt.

Everything that apt writes goes to a private directory, so this needs no root and neither reads nor
changes the system's package lists.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kfiber.vm.errors import MISSING, VmError
from kfiber.vm.process import run
from kfiber.vm.progress import say

_UPDATE_SECONDS = 300
_DOWNLOAD_SECONDS = 1800
_UNPACK_SECONDS = 300

# What of a source entry decides whether apt trusts it. The rest of it is ours to choose.
_TRUST_FIELDS = ("Signed-By", "Trusted", "Check-Valid-Until", "Check-Date", "By-Hash")


@dataclass(frozen=True)
class Source:
    """One suite of one archive, as an apt source entry names it.

    `options` are its deb822 fields about trust, `types` what is fetched: deb, deb-src, or both.
    """

    uri: str
    suite: str
    components: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    types: str = "deb"

    def deb822(self) -> str:
        """The entry as a stanza of a .sources file."""
        fields = {
            "Types": self.types,
            "URIs": self.uri,
            "Suites": self.suite,
            "Components": " ".join(self.components),
            **self.options,
        }
        return "".join(f"{name}: {value}\n" for name, value in fields.items())


def parse_list(text: str) -> list[Source]:
    """The `deb` entries of a one-line-style sources.list."""
    sources = []
    for line in text.splitlines():
        entry = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s*)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if entry is None:
            continue
        options = {}
        for word in (entry[1] or "").split():
            name, _, value = word.partition("=")
            for known in _TRUST_FIELDS:
                if name.rstrip("+-").lower() == known.lower():
                    options[known] = value.replace(",", " ")
        sources.append(Source(entry[2], entry[3], tuple(entry[4].split()), options))
    return sources


def parse_deb822(text: str) -> list[Source]:
    """The enabled `deb` entries of a deb822-style .sources file, one for each URI and suite."""
    sources = []
    for stanza in _stanzas(text):
        if stanza.get("enabled", "yes").lower() in ("no", "false", "0", "off"):
            continue
        if "deb" not in stanza.get("types", "").split():
            continue
        components = tuple(stanza.get("components", "").split())
        options = {name: stanza[name.lower()] for name in _TRUST_FIELDS if name.lower() in stanza}
        for uri in stanza.get("uris", "").split():
            for suite in stanza.get("suites", "").split():
                sources.append(Source(uri, suite, components, options))
    return sources


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    """The stanzas of a deb822 text, names in lower case; values keep their continuation lines."""
    stanza: dict[str, str] = {}
    name = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if stanza:
                yield stanza
            stanza, name = {}, ""
        elif line[0] in " \t":
            if name:
                stanza[name] += "\n" + line.rstrip()
        else:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            stanza[name] = value.strip()


def machine_sources(etc: Path = Path("/etc/apt")) -> list[Source]:
    """Every `deb` entry of this machine's apt configuration, third parties' included."""
    sources = []
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if path.suffix == ".list":
                sources += parse_list(path.read_text())
            elif path.suffix == ".sources":
                sources += parse_deb822(path.read_text())
    return sources


def debian_sources(sources: Sequence[Source], codename: str, suite: str) -> list[Source]:
    """Those of `sources` that are Debian's own archive and offer `suite`.

    The machine runs the release `codename`. For this release these are its entries, updates and
    security included. For another suite it is that suite on the mirror, and with the keys, that
    the machine uses for its own.

    Raises VmError if no entry is Debian's main archive.
    """
    own = {}
    for release in (codename, "stable", "oldstable", "testing"):
        for suffix in ("", "-updates", "-security"):
            own[release + suffix] = codename + suffix
    found = [
        replace(source, suite=own[source.suite], components=("main",))
        for source in sources
        if source.suite in own and "main" in source.components and _is_debian(source)
    ]
    mirrors = [source for source in found if source.suite == codename]
    if not mirrors:
        raise VmError(
            f"no archive of Debian {codename} in /etc/apt, so no kernel can be fetched; "
            "hint: add Debian's `main` to /etc/apt/sources.list.d",
            status=MISSING,
        )
    if suite == codename:
        return found
    return [replace(mirrors[0], suite=suite)]


def _is_debian(source: Source) -> bool:
    # A third party may name its suite and component as Debian does. It cannot sign with Debian's
    # key, and one that is trusted through the global key ring at least has another path.
    if "debian-archive" in source.options.get("Signed-By", ""):
        return True
    return re.search(r"(^|[^a-z])debian(-security)?([^a-z]|$)", source.uri) is not None


class Apt:
    """apt with all its state in the directory `home`, knowing `sources` only.

    Raises VmError where apt-get or dpkg is missing.
    """

    def __init__(self, home: Path, sources: Sequence[Source]) -> None:
        for tool in ("apt-get", "apt-cache", "apt-config", "dpkg"):
            if shutil.which(tool) is None:
                raise VmError(
                    f"no {tool}, and kernels come from Debian packages; hint: use Debian 12 or 13",
                    status=MISSING,
                )
        self.sources = tuple(sources)
        self._home = home.resolve()
        for name in ("state/lists/partial", "cache/archives/partial", "sources", "log"):
            (self._home / name).mkdir(parents=True, exist_ok=True)
        (self._home / "status").touch()
        stanzas = "\n".join(source.deb822() for source in sources)
        (self._home / "sources/debian.sources").write_text(stanzas)
        self._config = self._home / "apt.conf"
        self._config.write_text(self._configuration())

    def _configuration(self) -> str:
        # The machine's own way to the network (proxies, certificates) is kept. Its hooks are not:
        # they clean up the system's directories, and fail without root.
        done = subprocess.run(
            ["apt-config", "dump"], capture_output=True, text=True, errors="replace"
        )
        if done.returncode:
            raise VmError(
                f"apt's configuration cannot be read: {_complaint(done.stderr)}; "
                "hint: correct what `apt-config dump` complains about",
                status=MISSING,
            )
        machine = done.stdout
        kept = [
            line
            for line in machine.splitlines()
            if line.startswith("Acquire::") and '"";' not in line
        ]
        ours = {
            "Dir::State": self._home / "state",
            "Dir::State::status": self._home / "status",
            "Dir::Cache": self._home / "cache",
            "Dir::Log": self._home / "log",
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": self._home / "sources",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            # apt gives up root for the user _apt, who may not enter our private directory.
            "APT::Sandbox::User": "root",
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
            "Acquire::PDiffs": "false",
            "Acquire::GzipIndexes": "true",
            "Acquire::Retries": "2",
            "Acquire::http::Timeout": "30",
            "Acquire::https::Timeout": "30",
        }
        lines = [f'{name} "{value}";' for name, value in ours.items()]
        return "\n".join([*kept, *lines, ""])

    def update(self) -> None:
        """Fetch the package lists. Raises VmError if a mirror cannot be reached."""
        where = ", ".join(dict.fromkeys(source.suite for source in self.sources))
        say(f"reading Debian's package lists ({where})")
        self._run(["apt-get", "-q", "update"], _UPDATE_SECONDS)

    def show(self, package: str) -> dict[str, str]:
        """The control fields of the newest version of `package`, names in lower case.

        Raises VmError if there is none.
        """
        done = self._run(["apt-cache", "show", "--no-all-versions", package], 60, missing_ok=True)
        for stanza in _stanzas(done):
            return stanza
        suites = ", ".join(dict.fromkeys(source.suite for source in self.sources))
        raise VmError(
            f"the mirror has no package {package} in {suites}; hint: choose another with --kernel",
            status=MISSING,
        )

    def closure(self, packages: Sequence[str], followed: re.Pattern[str]) -> list[str]:
        """`packages` and all that they depend on, as far as the names match `followed`.

        Of alternatives the first counts. Raises VmError if one of them is missing.
        """
        found: list[str] = []
        todo = list(packages)
        while todo:
            package = todo.pop(0)
            if package in found:
                continue
            found.append(package)
            for group in self.show(package).get("depends", "").split(","):
                name = re.match(r"\s*([a-z0-9.+-]+)", group)
                if name and followed.fullmatch(name[1]):
                    todo.append(name[1])
        return found

    def download(self, packages: Sequence[str], into: Path) -> list[Path]:
        """Fetch the .deb files of `packages` into the directory `into`, with progress.

        Raises VmError if that fails.
        """
        into.mkdir(parents=True, exist_ok=True)
        sizes = [int(self.show(package).get("size", "0")) for package in packages]
        say(f"fetching {', '.join(packages)} ({sum(sizes) / 1e6:.0f} MB)")
        self._run(
            ["apt-get", "-q", "download", *packages],
            _DOWNLOAD_SECONDS,
            cwd=into,
            expected=sum(sizes),
        )
        return sorted(into.glob("*.deb"))

    def download_source(self, package: str, into: Path) -> Path:
        """Fetch the newest source package `package`, of sources whose types have deb-src.

        Returns its .dsc file in the directory `into`. Raises VmError if that fails.
        """
        into.mkdir(parents=True, exist_ok=True)
        say(f"fetching the source of {package}")
        self._run(
            ["apt-get", "-q", "source", "--download-only", "--only-source", package],
            _DOWNLOAD_SECONDS,
            cwd=into,
        )
        for found in into.glob("*.dsc"):
            return found
        raise VmError(f"apt-get fetched no source of {package}; hint: run again", status=MISSING)

    def unpack(self, package: Path, into: Path) -> None:
        """Unpack the file `package` into the directory `into`. Raises VmError if that fails."""
        self._run(["dpkg", "-x", str(package), str(into)], _UNPACK_SECONDS)

    def _run(
        self,
        argv: Sequence[str],
        seconds: float,
        *,
        cwd: Path | None = None,
        expected: int = 0,
        missing_ok: bool = False,
    ) -> str:
        """The standard output of `argv`, which is ended after `seconds`.

        Shows progress if `expected` bytes are to come into `cwd`.
        """
        environment = {**os.environ, "APT_CONFIG": str(self._config), "LC_ALL": "C.UTF-8"}
        out, error = self._home / "out", self._home / "error"

        def progress() -> str:
            if not expected or cwd is None:
                return ""
            have = sum(path.stat().st_size for path in cwd.rglob("*") if path.is_file())
            return f"{have / 1e6:.0f} of {expected / 1e6:.0f} MB"

        try:
            status = run(
                argv, seconds, out=out, error=error, cwd=cwd, env=environment, progress=progress
            )
        except subprocess.TimeoutExpired:
            raise VmError(
                f"`{shlex.join(argv[:3])}` did not end within {seconds:.0f} s, the mirror may "
                "be down; hint: check the network, then run again",
                status=MISSING,
            ) from None
        if status != 0 and not missing_ok:
            said = error.read_text(errors="replace")
            full = "No space left on device" in said or "enough free space" in said
            advice = (
                f"free some space for {self._home}, or set XDG_CACHE_HOME"
                if full
                else "check the network and `apt-get update`, then run again"
            )
            raise VmError(
                f"Debian's packages cannot be had: {_complaint(said)}; hint: {advice}",
                status=MISSING,
            )
        return out.read_text(errors="replace")


def _complaint(text: str) -> str:
    """The most telling line of apt's standard error: the first error, else the first warning."""
    for prefix in ("E: ", "W: ", ""):
        for line in text.splitlines():
            if line.startswith(prefix) and line.strip():
                return line[len(prefix) :].strip()
    return "apt failed without saying why"
