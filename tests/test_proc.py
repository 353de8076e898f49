# SPDX-License-Identifier: MIT
"""kfiber.proc on files written here; what the kernel writes is tested in tests/kmod."""

import pytest

from kfiber import proc
from kfiber.errors import KfiberError
from kfiber.info import FiberInfo
from samples import FIBER_FILE


@pytest.fixture
def tree(tmp_path):
    """A /proc with process 6526, which has fibers 1 and 2, and process 7, which has none."""
    directory = tmp_path / "6526" / "fiber"
    directory.mkdir(parents=True)
    (tmp_path / "7").mkdir()
    for fiber_id in (2, 1):
        (directory / str(fiber_id)).write_text(FIBER_FILE)
    return tmp_path


def test_each_line_of_a_file_has_its_field():
    assert proc.parse(6526, 3, FIBER_FILE) == FiberInfo(
        pid=6526,
        id=3,
        name="cell 17",
        state="suspended",
        running=False,
        thread_id=0,
        parent_thread_id=6526,
        activations=7,
        failed_activations=2,
        cpu_time_ns=546123456,
        run_time_ns=None,
        longest_run_ns=123,
        last_switch_ns_ago=456,
        entry=0x560CFF3D06A0,
        instruction_pointer=0x401AD8,
        stack_pointer=0x7FE64F19AFE8,
        stack_start=0x7FE64F18B000,
        stack_size=65536,
        engine="kernel",
    )


def test_unknown_keys_are_passed_over():
    assert proc.parse(1, 1, FIBER_FILE + "Colour: blue: green\n") == proc.parse(1, 1, FIBER_FILE)


def test_a_missing_key_is_named():
    with pytest.raises(KfiberError, match=r"no line 'Stack size' .*hint: kfiber doctor"):
        proc.parse(1, 1, FIBER_FILE.replace("Stack size: 65536\n", ""))


def test_an_empty_name_is_empty():
    assert proc.parse(1, 1, FIBER_FILE.replace("Name: cell 17", "Name: ")).name == ""


@pytest.mark.parametrize(
    ("escaped", "name"),
    [
        (r"a\012b", "a\nb"),
        (r"\134", "\\"),
        (r"\134012", r"\012"),
        (r"\033[31m", "\x1b[31m"),
        ("Zelle äö", "Zelle äö"),
        ("\udcff", "\ufffd"),
    ],
)
def test_names_are_unescaped(escaped, name):
    assert proc.unescape(escaped) == name


def test_fibers_come_by_id(tree):
    assert [fiber.id for fiber in proc.fibers(6526, proc=tree)] == [1, 2]


def test_a_process_without_fibers_has_none(tree):
    assert proc.fibers(7, proc=tree) == []


def test_a_process_that_is_not_there_is_an_error(tree):
    with pytest.raises(KfiberError, match="process 8: there is none; hint: "):
        proc.fibers(8, proc=tree)


def test_a_fiber_that_vanishes_is_left_out(tree, monkeypatch):
    read = proc._read

    def vanish(path):
        if path.name == "1":
            raise ProcessLookupError
        return read(path)

    monkeypatch.setattr(proc, "_read", vanish)
    assert [fiber.id for fiber in proc.fibers(6526, proc=tree)] == [2]


def test_processes_are_those_with_fibers(tree):
    assert proc.processes(proc=tree) == [6526]


def test_a_process_that_ends_meanwhile_is_left_out(tree, monkeypatch):
    monkeypatch.setattr(proc, "processes", lambda proc: [8, 6526])
    assert [fiber.pid for fiber in proc.all_fibers(pytest.fail, proc=tree)] == [6526, 6526]


@pytest.fixture
def hidden(tree, monkeypatch):
    """Process 9, in which this user may look at nothing, as with hidepid. Also if it is root."""

    def refuse(call):
        def refusing(path):
            if path == tree / "9" / "fiber":
                raise PermissionError(1, "Operation not permitted")
            return call(path)

        return refusing

    (tree / "9").mkdir()
    for name in ("iterdir", "is_dir"):
        monkeypatch.setattr(proc.Path, name, refuse(getattr(proc.Path, name)))
    return tree


def test_a_hidden_process_is_not_listed(hidden):
    assert [fiber.pid for fiber in proc.all_fibers(pytest.fail, proc=hidden)] == [6526, 6526]


def test_a_hidden_process_asked_for_is_an_error(hidden):
    with pytest.raises(KfiberError, match=r"hidden.*hint: "):
        proc.fibers(9, proc=hidden)


def test_the_fallback_is_read_where_it_is_in_use(tmp_path):
    (tmp_path / "fiber").write_text(
        f"Process: 42\nFiber: 2\n{FIBER_FILE}\n"
        f"Process: 42\nFiber: 1048579\n{FIBER_FILE}\n"
        f"Process: 43\nFiber: 1\n{FIBER_FILE}\n"
    )
    assert proc.processes(proc=tmp_path) == [42, 43]
    assert [fiber.id for fiber in proc.fibers(42, proc=tmp_path)] == [2, 1048579]
    assert [fiber.id for fiber in proc.fibers(43, proc=tmp_path)] == [1]
