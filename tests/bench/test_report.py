# SPDX-License-Identifier: MIT
"""The report: its page and pictures come from its data, and what it claims is in it."""

import re
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench.report_sample import sample

from kfiber_bench import charts, data, page, reference, report

ROOT = Path(__file__).resolve().parents[2]
needs_scipy = pytest.mark.skipif(find_spec("scipy") is None, reason="no scipy; make report has it")
needs_plots = pytest.mark.skipif(find_spec("matplotlib") is None, reason="no matplotlib")
committed = pytest.mark.skipif(not data.FILE.exists(), reason="no report was made yet")


@committed
def test_the_page_is_what_the_data_gives():
    assert data.PAGE.read_text() == page.render(data.load())


@committed
def test_the_readme_has_the_sentence_that_the_data_gives():
    readme = (ROOT / "README.md").read_text()
    assert page.SUMMARY.search(readme)
    assert readme == page.with_summary(readme, data.load())


@committed
def test_the_pictures_are_those_of_the_data():
    found = data.load()
    stamp = f"<!-- data: {data.digest(found)} -->"
    expected = {picture.name for picture in charts.pictures(found)}
    assert {path.stem for path in data.FOLDER.glob("*.svg")} == expected
    for name in expected:
        assert stamp in (data.FOLDER / f"{name}.svg").read_text()


@committed
def test_the_committed_report_is_a_whole_one():
    found = data.load()
    assert found["about"]["command"].startswith("make report")
    assert all(found[name] for name in data.LISTS if name != "missing")
    assert all(
        len(each["work"]["samples"]) == (1 if each["machine"] == "counted" else 5)
        for each in found["matrix"]
    )
    functions = {each["function"] for each in found["functions"]}
    assert "fiber_switch" in functions
    assert "fiber_convert" not in functions


@committed
def test_what_the_texts_say_is_so():
    found = data.load()
    for lookup, grows in (("scan", True), ("hash", False), ("direct", False)):
        _, slope = data.line(charts.laps(found, lookup))
        assert (slope > 1) == grows
        assert grows or abs(slope) < 0.05
    ratios = [
        data.record(
            found, "matrix", machine="counted", variant="version2", fibers=fibers, processes=1
        )["ratio"]["low"]
        for fibers in (512, 1024)
    ]
    assert 2 < ratios[0] < ratios[1]
    for threads in (1, 2):
        for variant in ("mapped", "local"):
            ns = [
                data.record(found, "switching", variant=each, threads=threads, fibers=1024)["ns"][
                    "median"
                ]
                for each in (variant, "direct", "swapcontext")
            ]
            assert ns[0] == min(ns)


@committed
def test_each_caption_says_where_and_how():
    found = data.load()
    text = data.PAGE.read_text()
    captions = re.findall(r"^\*[^*\n].*\*$", text, re.MULTILINE)
    tables = len(re.findall(r"^\| ---", text.split("## Discussion")[0], re.MULTILINE))
    pictures = text.count("![")
    # The four tables of a matrix have one in common; those of machines and of ratios have none.
    assert len(captions) == pictures + tables - 2 - 2 * 3
    for each in captions:
        assert each.endswith(f"`{found['about']['command']}`*")
        assert re.search(r"Linux \d", each), each
        assert "emulated" in each, each
        assert re.search("ranges|instructions, the same|quartiles|no spread", each), each


@committed
def test_what_a_fiber_does_is_said_in_one_way():
    text = " ".join(data.PAGE.read_text().split())
    first = text.split("## The matrix on another kernel")[0]
    (reads,) = set(re.findall(r"reads its storage ([\d,]+ to [\d,]+) times", text))
    assert f"reads storage {reads} times" in text
    (switches,) = re.findall(r"and switches ([\d,]+ to [\d,]+) times", first)
    assert f"it switches {switches} times here" in text


@committed
def test_the_reads_explain_what_the_discussion_says_they_explain():
    figures = page.figures(data.load())
    for size in (512, 1024):
        reads, work = float(figures[f"gets_{size}"]), float(figures[f"grows_{size}"])
        assert abs(reads - work) < data.BUCKETS * work


@committed
def test_the_safety_page_has_the_reports_figures():
    figures = page.figures(data.load())
    text = " ".join((ROOT / "docs/safety.md").read_text().split())
    assert (
        f"about {figures['fibers_add']} instructions there, {figures['attached_adds']} for those "
        "with engine `mapped`"
    ) in text
    assert f"pay {figures['loaded_adds']} as long as the module is loaded" in text
    assert int(figures["switch_all"]) < 800
    assert "under 800 instructions" in text


def test_one_pass_has_no_spread_and_says_so():
    found = {"about": {"command": "make report"}, "native": {}}
    environment = {"kernel": "6.18.0", "machine": "a processor, 1 passes"}
    one = page.native_caption(found, environment)
    assert "a processor, one pass; no spread" in one
    more = page.native_caption(found, {**environment, "machine": "a processor, 11 passes"})
    assert "11 passes; medians of the passes" in more


def test_the_references_ratios():
    assert page.times(reference.ratio("physical", (512, 1))) == "5.78"
    assert page.times(reference.ratio("physical", (1024, 1))) == "13.7"


@needs_scipy
def test_a_series_has_the_median_and_an_interval_around_it():
    found = data.series([1.0, 2.0, 3.0, 4.0, 100.0])
    assert found["median"] == 3
    assert 1 <= found["low"] < 3 < found["high"] <= 100
    assert found == data.series([1.0, 2.0, 3.0, 4.0, 100.0])
    assert data.series([5.0, 5.0])["low"] == data.series([5.0, 5.0])["high"] == 5


@needs_scipy
def test_ratios_are_those_within_a_repeat():
    found = sample()
    own = data.record(found, "matrix", variant="version2", fibers=1024, processes=3)
    # The host's noise is in both.
    assert own["ratio"] == {"samples": [12.0] * 5, "median": 12.0, "low": 12.0, "high": 12.0}


@needs_scipy
def test_data_survives_its_file(tmp_path):
    found = sample()
    data.save(found, tmp_path / "report" / "data.json")
    assert data.load(tmp_path / "report" / "data.json") == found


@needs_scipy
def test_runs_that_agree_and_runs_that_do_not():
    assert data.disagreements(sample(), sample())[0] == []
    wrong, compared = data.disagreements(sample(), sample(scale=2.0))
    # Version 2 in each cell of the matrices, and of the switches.
    assert len(wrong) == 4 + 4 + 2 + 8
    assert compared == 5 * len(wrong)
    assert data.inexact(sample(), sample()) == []
    other = sample()
    for each in other["operations"]:
        if each["operation"] == "switch":
            # A secret key chooses the buckets of tables; nothing else may differ.
            each["instructions"] += {"direct": 1, "hash": 80, "scan": 400}[each["lookup"]]
    other["others"].pop()
    wrong = data.inexact(sample(), other)
    assert len(wrong) == 5 + 1
    assert all("direct" in line or "fibers" in line for line in wrong)


@needs_scipy
def test_every_section_is_there_and_every_figure_is_known():
    text = page.render(sample())
    for head in ("matrix", "rate of switches", "Requests", "function by function", "others pay"):
        assert re.search(rf"^## .*{head}", text, re.MULTILINE)
    assert "What is missing" in text
    assert "| libco | peer_libco is not built |" in text
    assert "4,400 + 5.5 N instructions" in text
    assert "`make report`" in text


@needs_scipy
def test_without_a_part_there_is_no_discussion_of_it():
    found = sample()
    found["others"] = []
    text = page.render(found)
    assert "Threads without fibers" not in text
    assert "in this run some are missing" in text


@committed
@needs_scipy
def test_the_data_has_what_its_samples_give():
    for table in ("matrix", "switching"):
        for each in data.load()[table]:
            for name, found in each.items():
                if isinstance(found, dict):
                    assert found == data.series(found["samples"]), (table, name, each)


@committed
def test_the_discussion_has_no_figure_of_its_own():
    text = page.DISCUSSION.read_text().split("-->\n", 1)[1]
    names = set(re.findall(r"\{(\w+)\}", text))
    assert names <= page.figures(data.load()).keys()
    # Sizes, version numbers, and what the reference report itself says.
    allowed = {"1", "2", "3", "7", "33", "512", "896", "1,024", "4,096", "10,000", "100,000"}
    allowed |= {"15,000", "90,000"}
    assert set(re.findall(r"\d[\d,.]*\d|\d", re.sub(r"\{\w+\}", "", text))) <= allowed


@needs_scipy
@needs_plots
def test_pictures_need_no_font_and_follow_the_page():
    drawn = charts.draw(sample())
    assert {f"{chart}-{machine}.svg" for chart in ("init", "work")
            for machine in ("physical", "virtual")} <= drawn.keys()  # fmt: skip
    assert {"rate-1.svg", "rate-2.svg", "requests.svg"} <= drawn.keys()
    for name, text in drawn.items():
        assert charts.OWN.fullmatch(name)
        root = ElementTree.fromstring(text)
        tags = {each.tag.partition("}")[2] for each in root.iter()}
        assert "path" in tags
        assert not tags & {"text", "image", "font"}
        assert "prefers-color-scheme: dark" in text
        # Each colour is one that turns round, hatches and their ground included.
        assert not re.search(r'(fill|stroke)="#', text)
        assert "var(--ink" in text
        # Black, white and grey only.
        colours = set(re.findall(r"#[0-9a-f]{6}\b", text))
        assert colours <= {*charts.DARK, *charts.DARK.values()}, name
    assert "<pattern" in drawn["work-physical.svg"]


@needs_scipy
@needs_plots
def test_the_same_data_gives_the_same_pictures():
    assert charts.draw(sample()) == charts.draw(sample())


@committed
def test_the_committed_pictures_have_names_of_ours():
    for path in data.FOLDER.glob("*.svg"):
        assert charts.OWN.fullmatch(path.name)


@pytest.mark.parametrize(
    "words", [["--quick", "--full"], ["--nonsense"], ["--second-kernel"], ["left over"]]
)
def test_usage_errors(words):
    with pytest.raises(SystemExit) as stop:
        report.main(words)
    assert stop.value.code == 2
