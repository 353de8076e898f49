# SPDX-License-Identifier: MIT
"""The programs that are compared, built from bench/peers/, and which of them are here."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("KFIBER_BUILD", ROOT / "build")) / "bench" / "peers"
# Where Debian's wine64 lies without the package that puts it into the path.
WINE = "/usr/lib/wine/wine64"
# A measurement takes a second or two; the first start of Wine some more.
LIMIT = 120.0


class PeerError(Exception):
    """A peer that does not run here; one line."""


@dataclass(frozen=True)
class Peer:
    """
    A program of bench/peers/.

    `program` is its name without `peer_`, `name` what people call it. `engine` is libfiber's, None
    for other libraries. `packages` are Debian's that it is built from and runs on; `most` the
    number of fibers that it can have; `share` the part of the switches and creations that the
    others do which gives it as much time.
    """

    program: str
    name: str = ""
    engine: str | None = None
    packages: tuple[str, ...] = ()
    most: int = 100_000
    share: float = 1.0

    @property
    def command(self) -> list[str]:
        """What starts it. PeerError: it is not here."""
        if self.program == "wine":
            loader = shutil.which("wine64") or WINE
            path = BUILD / "peer_wine.exe.so"
            if not Path(loader).exists():
                raise PeerError(f"no {loader}")
            command = [loader, str(path)]
        else:
            path = BUILD / f"peer_{self.program}"
            command = [str(path)]
        if not path.exists():
            raise PeerError(f"{path.name} is not built")
        return command

    def run(self, what: str, *numbers: int) -> list[float]:
        """The figures that measure.h says. PeerError: there are none, and why."""
        environment = {**os.environ, "WINEPREFIX": str(BUILD / "wine"), "WINEDEBUG": "-all"}
        if self.engine:
            environment["KFIBER_ENGINE"] = self.engine
        words = [*self.command, what, *map(str, numbers)]
        title = f"{self.name or self.program}{f' ({self.engine})' if self.engine else ''}, {what}"
        # Files and no pipes: Wine's server holds them open for some seconds more.
        with TemporaryFile("w+") as output, TemporaryFile("w+") as errors:
            try:
                done = subprocess.run(
                    words, env=environment, stdout=output, stderr=errors, timeout=LIMIT
                )
            except subprocess.TimeoutExpired:
                raise PeerError(f"{title}: not done after {LIMIT:g} s") from None
            output.seek(0)
            errors.seek(0)
            if done.returncode:
                lines = errors.read().strip().splitlines() or [f"status {done.returncode}"]
                raise PeerError(f"{title}: {lines[-1]}")
            return [float(word) for word in output.read().split()]


FULL = Peer("asm", "asm, same work")
FULL_HINT = Peer("asm_hint", "asm, same work, hint")
PLAIN = Peer("asm_plain", "asm, switch only")
BOOST = Peer("boost", "Boost fcontext", packages=("libboost-context-dev",))
BOOST_PROTECTED = Peer("boost_protected", "Boost protected", packages=("libboost-context-dev",))
# No package of Debian's: whoever has it where the compiler looks gets it compared.
LIBCO = Peer("libco", "libco")
# No package either, one header. A switch is a yield and a resume.
MINICORO = Peer("minicoro", "minicoro")
# Its mappings reach the kernel's limit beyond.
WINE_FIBERS = Peer(
    "wine", "Wine SwitchToFiber", packages=("wine64", "wine64-tools", "libwine-dev"),
    most=10_000, share=0.05,
)  # fmt: skip
SWAPCONTEXT = Peer("ucontext", "swapcontext", share=0.2)

PEERS = (
    FULL, FULL_HINT, PLAIN, BOOST, BOOST_PROTECTED, LIBCO, MINICORO, WINE_FIBERS, SWAPCONTEXT,
)  # fmt: skip


def missing() -> dict[Peer, str]:
    """Peers that are not here, each with the reason."""
    reasons = {}
    for peer in PEERS:
        try:
            _ = peer.command
        except PeerError as e:
            reasons[peer] = str(e)
    return reasons


def hints(reasons: dict[Peer, str]) -> list[str]:
    """Lines for people: what is left out, and what would bring it."""
    lines = [f"left out: {peer.name}: {reason}" for peer, reason in reasons.items()]
    packages = sorted({package for peer in reasons for package in peer.packages})
    if packages:
        lines.append(f"hint: apt-get install --no-install-recommends {' '.join(packages)}")
    if LIBCO in reasons:
        lines.append("hint: libco is no Debian package; libco.h and -lco where cc finds them do")
    if MINICORO in reasons:
        lines.append("hint: minicoro is no Debian package; CPATH=FOLDER with minicoro.h does")
    return lines
