# SPDX-License-Identifier: MIT
"""`make report`, the command: what it promises, and what it leaves if something goes wrong."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from bench.report_sample import sample

from kfiber_bench import charts, data, page, peers, report

ROOT = Path(__file__).resolve().parents[2]
needs_extras = pytest.mark.skipif(
    find_spec("scipy") is None or find_spec("matplotlib") is None,
    reason="no scipy or matplotlib; make report has them",
)


@pytest.fixture(autouse=True)
def nothing_in_the_checkout_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "MEASURED", tmp_path / "measured.json")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Writes the shell script that stands for `kfiber`, and so for the virtual machine."""

    def write(script):
        folder = tmp_path / "bin"
        folder.mkdir()
        program = folder / "kfiber"
        # kfiber vm run ... --channel NUMBER -- ...
        program.write_text(
            '#!/bin/bash\nwhile [ "$1" != --channel ]; do shift; done; channel=$2\n' + script
        )
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(folder / "python"))

    return write


def run(words, capsys):
    """Exit status, and what was said."""
    status = report.main(words)
    output, errors = capsys.readouterr()
    return status, output, errors.splitlines()


def error(errors):
    """The line that says what is wrong, which is the last one."""
    assert errors[-1].startswith("kfiber-bench: ")
    assert "; hint: " in errors[-1]
    return errors[-1]


def test_the_examples_of_help_are_understood():
    examples = re.findall(r'make (?:-s )?report(?: REPORT="([^"]*)")?', report.EXAMPLES)
    assert len(examples) >= 5
    for words in examples:
        report.parser().parse_args(words.split())


def test_help_explains_every_option_and_is_not_cut():
    parser = report.parser()
    assert all(action.help for action in parser._actions)
    text = parser.format_help()
    assert report.__doc__.strip() in text
    assert "instructions are counted at 30 calls" in " ".join(text.split())


@pytest.mark.parametrize("words", [["--quick"], ["--here"], []])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(
    monkeypatch, capsys, words
):
    monkeypatch.setattr(report, "need", lambda _: None)
    monkeypatch.setattr(report, "measure", lambda *_: pytest.fail("it measured"))
    status, _, errors = run([*words, "--output", "/proc/nosuch"], capsys)
    assert status == 1
    assert error(errors).startswith("kfiber-bench: cannot write to /proc/nosuch: ")


def test_a_package_that_is_not_installed_is_said_before_anything_is_measured(
    monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(report, "NEEDED", ("json", "no_such_package"))
    monkeypatch.setattr(report, "measure", lambda *_: pytest.fail("it measured"))
    status, _, errors = run(["--quick", "--output", str(tmp_path / "new")], capsys)
    assert status == 1
    assert "no no_such_package; hint: .venv/bin/pip install" in error(errors)


def published(folder):
    """A folder with an older report, a chart that is drawn no more, and somebody's own picture."""
    (folder / "report").mkdir(parents=True)
    for name in ("report.md", "report/data.json", "report/rate-7.svg", "report/drawing.svg"):
        (folder / name).write_text("older\n")
    return folder


def unchanged(folder):
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {"report.md", "report/data.json", "report/rate-7.svg", "report/drawing.svg"}
    return all((folder / name).read_text() == "older\n" for name in names)


@needs_extras
def test_a_machine_that_does_not_start_is_a_failure_and_nothing_is_replaced(
    machine, capsys, tmp_path, monkeypatch
):
    machine("echo 'kfiber: no qemu-system-x86_64; hint: apt-get install it' >&2; exit 3\n")
    monkeypatch.setattr(peers, "BUILD", tmp_path)
    folder = published(tmp_path / "docs")
    status, output, errors = run(["--output", str(folder)], capsys)
    assert status == 1
    assert output == ""
    assert re.search("guest.*: no qemu-system-x86_64; hint: apt-get install it$", error(errors))
    assert any(line.startswith(f"report: what was measured is in {tmp_path}") for line in errors)
    assert unchanged(folder)
    kept = json.loads(report.MEASURED.read_text())
    assert kept["about"]["counted_calls"] == 30
    # The hint names the packages of programs that are not here.
    assert any(
        line.startswith("report: hint: apt-get install") and "libboost-context-dev" in line
        for line in errors
    )


@needs_extras
def test_a_workload_that_fails_in_the_machine_is_a_failure(machine, capsys, tmp_path):
    machine(
        """echo '{"failed": "mapped, 512 fibers", "why": "no memory"}' >&$channel\n"""
        """echo '{"failed": "local, 512 fibers", "why": "no memory"}' >&$channel\n"""
        # The machine ends in the middle of a line.
        """printf '{"matr' >&$channel\n"""
    )
    status, _, errors = run(["--quick", "--output", str(tmp_path / "docs")], capsys)
    assert status == 1
    assert "mapped, 512 fibers (guest): no memory (and 1 more)" in error(errors)
    assert not list((tmp_path / "docs" / "report").iterdir())


def test_what_a_machine_does_not_offer_is_no_failure():
    collection = report.Collection(report.Progress())
    for _ in range(2):
        collection.take("here", {"missing": "mapped", "why": "the module is not loaded here"})
    collection.check()
    assert collection.data["missing"] == [
        {"what": "mapped (here)", "why": "the module is not loaded here"}
    ]


def test_programs_of_others_alone_are_no_report(monkeypatch):
    other = {"case": "switch", "engine": None, "peer": "swapcontext"}
    monkeypatch.setattr(report.native, "measure", lambda *_: ({}, [other]))
    with pytest.raises(report.ReportError, match="user level: switch: libfiber's program did not"):
        report.natively(report.Collection(report.Progress()), report.MODES["quick"])


@needs_extras
def test_only_charts_of_the_report_are_replaced(tmp_path):
    folder = published(tmp_path / "docs")
    report.publish(sample(), folder)
    names = {path.name for path in (folder / "report").iterdir()}
    assert names == {"data.json", "drawing.svg", *charts.draw(sample())}
    assert (folder / "report" / "drawing.svg").read_text() == "older\n"
    assert (folder / "report.md").read_text() == page.render(sample())
    assert data.load(folder / "report" / "data.json") == sample()


@needs_extras
@pytest.mark.parametrize("what", [(charts, "draw"), (page, "render")])
def test_what_cannot_be_drawn_or_written_replaces_nothing(monkeypatch, capsys, tmp_path, what):
    def fail(_):
        raise KeyError("guest")

    monkeypatch.setattr(*what, fail)
    monkeypatch.delenv("KFIBER_TRACEBACK", raising=False)
    monkeypatch.setattr(report, "measured", lambda *_: sample())
    folder = published(tmp_path / "docs")
    status, _, errors = run(["--output", str(folder)], capsys)
    assert status == 1
    assert "cannot make a page of the data: KeyError: 'guest'" in error(errors)
    assert unchanged(folder)


@needs_extras
def test_json_prints_the_data(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(report, "measured", lambda *_: sample())
    words = ["--quick", "--output", str(tmp_path / "docs")]
    assert run([*words, "--json"], capsys)[:2] == (0, json.dumps(sample()) + "\n")
    assert run(words, capsys)[1] == (
        f"report: {tmp_path}/docs/report.md, from {tmp_path}/docs/report/data.json\n"
    )


@needs_extras
def test_a_page_of_data_that_are_there(capsys, tmp_path):
    data.save(sample(), tmp_path / "report" / "data.json")
    assert run(["--page", "--output", str(tmp_path)], capsys)[0] == 0
    assert (tmp_path / "report.md").read_text() == page.render(sample())


def without(*path):
    """The committed data, without what is at this path."""
    found = data.load()
    each = found
    for key in path[:-1]:
        each = each[key]
    del each[path[-1]]
    return json.dumps(found)


@pytest.mark.skipif(not data.FILE.exists(), reason="no report was made yet")
@pytest.mark.parametrize(
    ("text", "why"),
    [
        (lambda: data.FILE.read_text()[:1000], "Expecting"),
        (lambda: "", "Expecting value"),
        (lambda: "[1, 2]", "it is no object"),
        (lambda: without("about"), "it has no 'about'"),
        (lambda: without("about", "minutes"), "about has no 'minutes'"),
        (lambda: without("machines", "second"), "names a machine that is not described"),
        (lambda: without("machines", "guest", "emulated"), "machine guest has no 'emulated'"),
        (lambda: without("matrix", 3, "active"), "record 3 of matrix has no 'active'"),
        (lambda: without("switching", 0, "ns", "low"), "ns of record 0 of switching has no 'low'"),
        (lambda: json.dumps({**data.load(), "matrix": {}}), "'matrix' of it is a dict"),
        (lambda: json.dumps({**data.load(), "others": ["x"]}), "record 0 of others is no object"),
    ],
)
def test_a_page_of_other_data_is_refused(monkeypatch, capsys, tmp_path, text, why):
    monkeypatch.setattr(report, "need", lambda _: None)
    path = tmp_path / "report" / "data.json"
    path.parent.mkdir()
    path.write_text(text())
    status, _, errors = run(["--page", "--output", str(tmp_path)], capsys)
    assert status == 1
    (line,) = errors
    assert why in error([line])
    assert [each.name for each in tmp_path.rglob("*") if each.is_file()] == ["data.json"]


def test_a_page_of_no_data_is_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(report, "need", lambda _: None)
    status, _, errors = run(["--page", "--output", str(tmp_path)], capsys)
    assert status == 1
    assert "report/data.json: No such file or directory" in error(errors)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "data.json"
    path.write_text("older")
    with pytest.raises(UnicodeEncodeError):
        data.write(path, "x" * 100_000 + "\ud800")
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


def running(pid):
    """Whether the process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(os.path.exists("/sys/module/fiber"), reason="the module is loaded")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_goes_on_after_the_report_was_ended(tmp_path, number):
    pids = tmp_path / "pids"
    workload = tmp_path / "bench" / "cells"
    workload.parent.mkdir()
    workload.write_text(f"#!/bin/sh\necho $PPID $$ > {pids}.new\nmv {pids}.new {pids}\n"
                        "exec sleep 1000\n")  # fmt: skip
    workload.chmod(0o755)
    program = (
        "from pathlib import Path\n"
        "from kfiber_bench import __main__, report\n"
        "import sys\n"
        f"report.MEASURED = Path({str(report.MEASURED)!r})\n"
        "report.NEEDED = ()\n"
        f"sys.argv = ['', 'report', '--here', '--quick', '--output', {str(tmp_path)!r}]\n"
        "__main__.main()\n"
    )
    environment = {
        **os.environ, "KFIBER_BUILD": str(tmp_path),
        "PYTHONPATH": f"{ROOT / 'bench'}:{ROOT / 'tools'}",
    }  # fmt: skip
    environment.pop("KFIBER_GUEST", None)
    process = subprocess.Popen(
        [sys.executable, "-c", program], env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(pids.exists)
        process.send_signal(number)
        assert process.wait(120) != 0
        wait_until(lambda: not any(map(running, pids.read_text().split())))
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("target", ["report", "bench"])
def test_libraries_that_were_installed_since_are_looked_for(target):
    done = subprocess.run(
        ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
    )  # fmt: skip
    before, found, after = done.stdout.partition("meson setup --reconfigure --clearcache build")
    assert found
    assert "ninja -C build" in after
    assert f"kfiber_bench {target}" in after
    assert f"kfiber_bench {target}" not in before
