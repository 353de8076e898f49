# SPDX-License-Identifier: MIT
"""`kfiber export`: what Prometheus gets."""

import subprocess
import sys
import urllib.request

import pytest

pytest.importorskip("prometheus_client", reason="pip install 'kfiber[tools]'")
from prometheus_client.parser import text_string_to_metric_families

KFIBER = [sys.executable, "-m", "kfiber", "export"]
LIMIT = 120


def samples(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(found, metric, **labels):
    """The only value of that metric whose labels have these among them."""
    (value,) = (
        value
        for (name, *have), value in found.items()
        if name == metric and labels.items() <= dict(have).items()
    )
    return value


def test_what_is_served(program):
    with subprocess.Popen(
        [*KFIBER, "--listen", "127.0.0.1:0", str(program)], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            address = process.stderr.readline().strip()
            looks = []
            for _ in range(2):
                with urllib.request.urlopen(address, timeout=LIMIT) as answer:
                    looks.append(samples(answer.read().decode()))
        finally:
            process.terminate()
    first, second = looks
    assert of(first, "kfiber_run_seconds_total", name="spinner") > 0.4
    assert sum(
        value for (name, *labels), value in first.items()
        if name == "kfiber_fibers" and ("name", "nimble") in labels
    ) == 2  # fmt: skip
    assert of(first, "kfiber_longest_run_seconds_gcount", name="nimble") == 2
    assert all(second[key] >= first[key] for key in first if key[0].endswith("_total"))


def test_a_file_for_node_exporter(program, tmp_path):
    path = tmp_path / "kfiber.prom"
    subprocess.run(
        [*KFIBER, "--textfile", path, "--count", "1", "--top", "1", str(program)],
        check=True, timeout=LIMIT,
    )  # fmt: skip
    found = samples(path.read_text())
    names = {dict(labels)["name"] for _, *labels in found}
    assert names == {"spinner", "(rest)"}
    assert [each.name for each in tmp_path.iterdir()] == ["kfiber.prom"]


@pytest.mark.parametrize(
    "words",
    [
        ["--listen", "localhost"],
        ["--listen", "127.0.0.1:99999"],
        ["--top", "0"],
        ["--textfile", "/nowhere/at/all", "--count", "1"],
        ["--interval", "0"],
    ],
)
def test_what_cannot_be(command, words):
    done = command("export", *words)
    assert done.returncode in (1, 2)
    assert done.stderr.splitlines()[-1].startswith("kfiber")
    assert "Traceback" not in done.stderr
