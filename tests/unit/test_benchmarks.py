"""The benchmarks' arithmetic and their page; how fast anything is, is no test's business."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from benchmarks.harness import Comparison, Target, compare, summarise
from benchmarks.results import BEGIN, END, as_json, as_markdown, machine, replace_between

ROOT = Path(__file__).resolve().parents[2]


def test_medians_and_ratios_are_of_the_rounds_after_the_first() -> None:
    seconds = iter([9.0, 1.0, 2.0, 3.0])
    doubled = iter([9.0, 2.0, 6.0, 6.0])
    found = compare("x", {"base": lambda: next(seconds), "other": lambda: next(doubled)}, calls=1, rounds=3)
    assert found.medians == {"base": 2.0, "other": 6.0}
    assert found.ratios == {"base": 1.0, "other": 2.0}  # of 2, 3 and 2: round by round, not of the medians


def test_a_way_that_does_not_time_itself_is_timed_by_the_call() -> None:
    calls = count()
    found = compare("x", {"base": lambda: next(calls)}, calls=5, rounds=2)
    assert next(calls) == 15
    assert found.medians["base"] > 0


FOUND = replace(
    summarise("Do it", {"base": [1e-6], "ours": [2e-6]}),
    targets=(Target("fast", 2.0, 3, "us"), Target("small", 5000, 4096, "bytes"), Target("near", 1.005, 1.01, "x")),
)
LOSING = replace(summarise("Take it in", {"ours": [1e-6], "theirs": [4e-6]}), lost={"ours": 0, "theirs": 65_000})
TARGETS_ALONE = Comparison("Keep it", {}, {}, (Target("events lost", 0, 0, ""),))
WHERE = {
    "date": "2026-01-01",
    "python": "3.11.2",
    "system": "Linux",
    "cpus": 2,
    "load": 0.1,
    "libraries": {"sqlalchemy": "2.1"},
}


def test_results_as_json_and_as_tables() -> None:
    results = as_json([FOUND, LOSING, TARGETS_ALONE], WHERE)
    assert json.loads(json.dumps(results)) == results
    assert [target["reached"] for target in results["comparisons"][0]["targets"]] == [True, False, True]
    lines = as_markdown(results).splitlines()
    assert lines[0] == "Measured on 2026-01-01: Python 3.11.2, Linux, 2 CPUs (load 0.1), sqlalchemy 2.1."
    assert "| fast | 3.00 µs | 2.00 µs | ok |" in lines
    assert "| small | 4,096 bytes | 5,000 bytes | **missed** |" in lines
    assert "| near | 1.01x | 1.005x | ok |" in lines
    assert "| ours | 2.00 µs | 2.00 |" in lines
    assert lines[-5:] == [
        "",
        "| | median | ratio | lost |",
        "| --- | ---: | ---: | ---: |",
        "| ours | 1.00 µs | 1.00 | 0 |",
        "| theirs | 4.00 µs | 4.00 | 65,000 |",
    ]
    assert "| events lost | 0 | 0 | ok |" in lines
    assert "### Keep it" not in lines


def test_the_machine_is_named() -> None:
    assert set(machine()) == set(WHERE)
    assert Comparison("x", {}, {}).targets == ()


def test_only_what_is_between_the_markers_is_replaced() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert replace_between(page, "new\n") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    with pytest.raises(ValueError, match="the page needs the lines"):
        replace_between("no markers", "new")


def test_the_page_shows_the_results_of_the_last_run() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    assert replace_between(page, as_markdown(results)) == page
