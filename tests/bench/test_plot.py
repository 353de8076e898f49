# SPDX-License-Identifier: MIT
"""The picture, made from sample rows."""

import sys
from xml.etree import ElementTree

import pytest

from kfiber_bench import plot
from kfiber_bench.row import row

ROWS = [
    row("switch", 13.0 * scale, "ns", engine=engine, peer=peer, fibers=fibers, spread=0.5)
    for engine, peer, scale in (("local", "", 1), (None, "asm", 0.9))
    for fibers in (2, 512, 100_000)
]


def test_picture(tmp_path):
    pytest.importorskip("matplotlib", reason="no matplotlib")
    path = tmp_path / "switch.svg"
    assert plot.draw(ROWS, "a title", path)
    root = ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    # Each line's name stands in a comment before its glyphs.
    text = path.read_text()
    for word in ("a title", "kfiber local", "asm", "fibers", "ns a switch"):
        assert f"<!-- {word} -->" in text


def test_no_picture_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    path = tmp_path / "switch.svg"
    assert not plot.draw(ROWS, "a title", path)
    assert not path.exists()
