# SPDX-License-Identifier: MIT
"""The Pythons that judge, and servers of this machine's distribution."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from interpreters import VERSIONS, environment
from judged import SHORT, Judged, free, serving, until

if SHORT:
    VERSIONS = (f"{sys.version_info.major}.{sys.version_info.minor}",)

# greenlet's own tests are a part of its package: `greenlet.tests` is looked for there too.
SITE = """\
import sys
ours = sys.modules.get("kfiber.greenlet")
if ours:
    import sysconfig
    ours.__path__.append(sysconfig.get_path("platlib") + "/greenlet")
"""


@pytest.fixture(scope="session", params=VERSIONS)
def judged(request, tmp_path_factory):
    """Each Python that is here; with KFIBER_JUDGES=short this one."""
    python = environment(request.param)
    if python is None:
        pytest.skip(f"no Python {request.param} with its headers and ensurepip here")
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(SITE)
    return Judged(request.param, python, site)


@pytest.fixture
def port():
    return free()


@pytest.fixture(scope="session")
def redis(tmp_path_factory):
    """The address of a Redis."""
    if not shutil.which("redis-server"):
        pytest.skip("no redis-server here; hint: apt install redis-server")
    port = free()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", port, "--save", ""]
    with serving(port, command, cwd=tmp_path_factory.mktemp("redis")):
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture(scope="session")
def postgres():
    """User, host, port and database of a PostgreSQL, ready for SQLAlchemy's tests."""
    folders = [*Path("/usr/lib/postgresql").glob("*/bin"), *map(Path, os.get_exec_path())]
    programs = next((each for each in folders if (each / "initdb").exists()), None)
    if not programs or not (programs / "postgres").exists():
        pytest.skip("no PostgreSQL server here; hint: apt install postgresql")
    # The server refuses to be root.
    options = {"user": "postgres", "cwd": "/"} if not os.geteuid() else {}
    port = free()
    # pytest's own folders are closed to others.
    with tempfile.TemporaryDirectory() as folder:
        if options:
            shutil.chown(folder, "postgres")
        data = Path(folder, "data")
        words = [programs / "initdb", "-N", "-A", "trust", "-U", "tester", "-E", "UTF8", data]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, **options)
        command = [programs / "postgres", "-D", data, "-p", port, "-k", folder, "-h", "127.0.0.1"]
        with serving(port, [*command, "-c", "fsync=off"], **options):
            address = ["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "tester", "-q"]
            until(
                lambda: not subprocess.run([*address, "-c", "select 1", "postgres"]).returncode,
                lambda: "PostgreSQL does not answer",
            )
            subprocess.run([*address, "-c", "create database test", "postgres"], check=True)
            schemas = "create schema test_schema; create schema test_schema_2"
            subprocess.run([*address, "-c", schemas, "test"], check=True)
            yield f"tester@127.0.0.1:{port}/test"
