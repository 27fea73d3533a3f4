"""The README's pictures: what they are made of, and that what is committed is whole."""

from __future__ import annotations

import doctest
import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

from dashboards.__main__ import DIRECTORY as BOARDS
from dashboards.pictures import run, units
from dashboards.pictures.__main__ import DIRECTORY, draw_all
from dashboards.pictures.chosen import PICTURES, boards_of
from dashboards.pictures.content import Content, Named, steps_in
from dashboards.pictures.draw import Picture, draw
from dashboards.pictures.graph import Colours
from dashboards.pictures.heat import buckets_of
from dashboards.pictures.layout import COLUMN, COLUMNS, arranged
from dashboards.pictures.numbers import word_of
from dashboards.pictures.recording import Phase, Recording, Series, asked
from dashboards.pictures.run import configuration
from dashboards.pictures.table import Cell, rows_of
from dashboards.pictures.theme import THEMES
from dashboards.pictures.units import formatted
from dashboards.reading import Panel, Window, panels_of

ROOT = Path(__file__).resolve().parents[3]
RECORDING = DIRECTORY / "recording.json"
LARGEST = 150_000

WINDOW = Window(0, 10, 10, 2)

modes = pytest.mark.parametrize("mode", sorted(THEMES))


@pytest.fixture(scope="module")
def recording() -> Recording:
    return Recording.read(RECORDING)


# ------------------------------------------------------------ what is committed


def test_every_picture_is_there_in_both_modes_and_no_other() -> None:
    wanted = {f"{name}-{mode}.png" for name in PICTURES for mode in THEMES}
    assert {path.name for path in DIRECTORY.glob("*.png")} == wanted, "run `make pictures`"
    assert len(wanted) == 2 * len(PICTURES) > 0
    for name in wanted:
        assert (DIRECTORY / name).stat().st_size < LARGEST


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_a_page_shows_a_picture_in_both_modes(page: Path) -> None:
    shown = set(re.findall(r"pictures/([\w-]+)-(light|dark)\.png", page.read_text()))
    assert shown or page.name != "README.md"
    for name, mode in shown:
        assert (DIRECTORY / f"{name}-{mode}.png").exists()
        assert {(name, "light"), (name, "dark")} <= shown


def test_a_picture_is_twice_as_wide_as_it_is_shown() -> None:
    for path in DIRECTORY.glob("*.png"):
        with Image.open(path) as image:
            assert image.width == 2 * COLUMNS * COLUMN, path


def test_the_chosen_panels_are_on_the_dashboards() -> None:
    boards = {path.stem: json.loads(path.read_text()) for path in BOARDS.glob("*.json")}
    kept = boards_of(boards)
    for picture in PICTURES.values():
        assert [panel["title"] for panel in kept[picture.board]["panels"]] == list(picture.titles)


def test_the_pictures_show_what_the_dashboards_ask(recording: Recording) -> None:
    now = boards_of({path.stem: json.loads(path.read_text()) for path in BOARDS.glob("*.json")})
    for name, board in recording.boards.items():
        assert _asked(board) == _asked(now[name]), "run `make pictures` and commit the result"


def _asked(board: Mapping[str, Any]) -> dict[str, list[str]]:
    return {panel.title: [target.expression for target in panel.targets] for panel in panels_of(board)}


def test_the_run_shows_the_disease_and_the_cure(recording: Recording) -> None:
    healthy, sick = recording.phases
    assert (healthy.setting, sick.setting) == ("loop_aware", "global")
    content = Content(recording, "loop-conflicts")
    panel = _of_kind(recording, "loop-conflicts", "timeseries")
    begin = math.floor((sick.start - recording.window.start) / recording.window.of(panel).step)
    values = [one.series.values for one in content.named(panel)]
    assert values
    assert not any(value for one in values for value in one[:begin])
    assert any(value for one in values for value in one[begin:])


def test_no_panel_of_the_pictures_is_empty(recording: Recording) -> None:
    for picture in PICTURES.values():
        content = Content(recording, picture.board)
        for panel in panels_of(recording.boards[picture.board]):
            assert content.named(panel), panel.title


# ------------------------------------------------------------ drawing


@modes
def test_a_picture_is_drawn_from_a_recording(recording: Recording, tmp_path: Path, mode: str) -> None:
    theme = THEMES[mode]
    panels = [_of_kind(recording, "loop-conflicts", kind) for kind in ("stat", "timeseries", "table")]
    canvas, counts = draw(recording, Picture("loop-conflicts", *(panel.title for panel in panels)), theme)
    content = Content(recording, "loop-conflicts")
    assert counts == {panel.title: len(content.named(panel)) for panel in panels}
    assert all(counts.values())
    canvas.write(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as image:
        assert image.size == (round(2 * canvas.width), round(2 * canvas.height))
        picture = image.convert("RGB")
    assert picture.getpixel((0, 0)) == ImageColor.getrgb(theme.page)
    # The tile, the lines, and what is behind the second half.
    for colour in (theme.words["red"], theme.cycle[0], theme.shade):
        assert _pixels_like(picture, colour) > 500, colour


def test_heat_maps_dials_and_levels_are_drawn(recording: Recording, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    canvas, counts = draw(recording, Picture("pools", _of_kind(recording, "pools", "heatmap").title), THEMES["light"])
    assert all(counts.values())
    canvas.write(path)
    with Image.open(path) as image:
        red, _, blue = np.asarray(image.convert("RGB"), dtype=int).transpose(2, 0, 1)
        assert ((red - blue) > 60).sum() > 1000, "orange"
    shares = Picture("overview", *(_of_kind(recording, "overview", kind).title for kind in ("gauge", "bargauge")))
    canvas, counts = draw(recording, shares, THEMES["light"])
    assert all(counts.values())
    canvas.write(path)
    with Image.open(path) as image:
        for colour in (THEMES["light"].border, THEMES["light"].words["green"]):
            assert _pixels_like(image.convert("RGB"), colour) > 500, colour


def test_an_empty_panel_says_so_and_a_strange_one_is_refused() -> None:
    graph = _raw("graph", targets=[{"refId": "A", "expr": "x"}])
    odd = _raw("odd", type="piechart")
    recording = _recorded({"board": {"title": "Board", "panels": [graph, odd]}}, answers={asked("x", WINDOW): []})
    _, counts = draw(recording, Picture("board", "graph"), THEMES["light"])
    assert counts == {"graph": 0}
    with pytest.raises(ValueError, match="piechart cannot be drawn: odd"):
        draw(recording, Picture("board", "odd"), THEMES["light"])
    with pytest.raises(ValueError, match=r"board has no panel absent\. It has: graph; odd"):
        draw(recording, Picture("board", "absent"), THEMES["light"])


def test_all_are_written(recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dashboards.pictures.__main__.PICTURES", {"small": Picture("pools", _of_kind(recording, "pools", "stat").title)}
    )
    assert draw_all(recording, tmp_path) == [tmp_path / "small-light.png", tmp_path / "small-dark.png"]
    assert {path.name for path in tmp_path.iterdir()} == {"small-light.png", "small-dark.png"}


def _of_kind(recording: Recording, board: str, kind: str) -> Panel:
    return next(panel for panel in panels_of(recording.boards[board]) if panel.kind == kind)


def _pixels_like(image: Image.Image, colour: str) -> int:
    """Pixels of nearly this colour: a palette has room for so many."""
    distance = np.abs(np.asarray(image, dtype=np.int16) - np.array(ImageColor.getrgb(colour), dtype=np.int16))
    return int((distance.max(axis=2) <= 6).sum())


# ------------------------------------------------------------ parts


@pytest.mark.parametrize("module", [units, run])
def test_the_examples_run(module: ModuleType) -> None:
    done = doctest.testmod(module)
    assert (done.failed, done.attempted > 0) == (0, True)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "short", "0"),
        (713.05, "short", "713"),
        (1614, "short", "1.61 K"),
        (0.5, "short", "0.5"),
        (999.7, "short", "1000"),
        (0.9, "percentunit", "90%"),
        (0.0094, "percentunit", "0.94%"),
        (0.0523, "s", "52.3 ms"),
        (90, "s", "1.5 min"),
        (0, "s", "0"),
        (-2, "s", "-2 s"),
        (146, "dtdurations", "2m 26s"),
        (90061, "dtdurations", "1d 1h"),
        (0.2, "dtdurations", "0s"),
        (0, "ops", "0/s"),
        (2048, "bytes", "2 KiB"),
        (60e6, "decbytes", "60 MB"),
        (12.345, "none", "12.3"),
    ],
)
def test_a_value_has_its_unit(value: float, unit: str, text: str) -> None:
    assert formatted(value, unit) == text


def test_a_panel_may_say_how_many_decimals() -> None:
    assert [formatted(54.7, "short", 0), formatted(1980, "short", 0), formatted(0.1234, "percentunit", 1)] == [
        "55",
        "1.98 K",
        "12.3%",
    ]


def test_an_unknown_unit_is_said() -> None:
    with pytest.raises(ValueError, match="furlongs"):
        formatted(1, "furlongs")


def test_panels_stand_as_on_the_dashboard_without_gaps() -> None:
    sizes = [(4, 4)] * 6 + [(16, 8), (8, 8), (12, 8), (24, 8)]
    placed = arranged([_panel(_raw(str(number), width=w, height=h)) for number, (w, h) in enumerate(sizes)], top=50)
    boxes = [one.box for one in placed]
    tops = sorted({box.top for box in boxes})
    assert [sum(box.top == top for box in boxes) for top in tops] == [6, 2, 1, 1]
    assert boxes[0].top >= 50
    for top in tops:
        line = [box for box in boxes if box.top == top]
        assert line[0].left < 5
        assert line[-1].right > COLUMNS * COLUMN - 5, "each line is as wide as the picture"
        assert all(one.right <= other.left for one, other in pairwise(line))
    assert boxes[6].width > 1.9 * boxes[7].width
    assert boxes[0].bottom <= boxes[6].top


def test_one_name_has_one_colour() -> None:
    colours = Colours(("a", "b", "c"))
    assert colours.of(["logs", "content"]) == {"logs": "a", "content": "b"}
    assert colours.of(["new", "content"]) == {"new": "a", "content": "b"}
    assert colours.of(["content", "logs"]) == {"logs": "a", "content": "b"}
    many = colours.of([str(number) for number in range(4)])
    assert set(many.values()) == {"a", "b", "c"}


def test_thresholds_have_words() -> None:
    steps = steps_in({"thresholds": {"steps": [{"value": None, "color": "green"}, {"value": 0.7, "color": "red"}]}})
    assert steps == [(-math.inf, "green"), (0.7, "red")]
    assert [word_of(value, steps) for value in (0, 0.69, 0.7, 5)] == ["green", "green", "red", "red"]
    assert steps_in({}) == []


def test_buckets_are_told_apart() -> None:
    said: dict[str, list[float | None]] = {"0.1": [1.0, 2.0], "+Inf": [5.0, 2.0], "0.5": [3.0, None]}
    bounds, counts = buckets_of([Named(le, "A", Series({"le": le}, values)) for le, values in said.items()])
    assert bounds == [0.1, 0.5, math.inf]
    assert counts[:, 0].tolist() == [1, 2, 2]
    assert counts[0, 1] == 2
    assert buckets_of([])[0] == []


def test_a_table_is_merged_renamed_sorted_and_coloured() -> None:
    organize = {
        "excludeByName": {"Time": True, "job": True},
        "indexByName": {"name": 0, "Value #A": 1, "Value #B": 2},
        "renameByName": {"name": "Task", "Value #A": "Wait", "Value #B": "Uses"},
    }
    steps = [{"value": None, "color": "transparent"}, {"value": 0.5, "color": "red"}]
    panel = _panel(
        _raw(
            "table",
            targets=[{"refId": "A", "expr": "a"}, {"refId": "B", "expr": "b"}],
            transformations=[{"id": "merge", "options": {}}, {"id": "organize", "options": organize}],
            options={"sortBy": [{"displayName": "Wait", "desc": True}]},
            fieldConfig={
                "defaults": {"unit": "s"},
                "overrides": [
                    _override("Uses", {"id": "unit", "value": "short"}),
                    _override("Wait", {"id": "thresholds", "value": {"steps": steps}}),
                    _override("Task", {"id": "mappings", "value": [_mapping("y", "why", "blue")]}),
                ],
            },
        )
    )
    rows = rows_of(
        panel,
        [
            Named("", "A", Series({"name": "x", "job": "j"}, [0.1])),
            Named("", "A", Series({"name": "y", "job": "j"}, [2.0])),
            Named("", "B", Series({"name": "x", "job": "j"}, [1500.0])),
        ],
    )
    assert [list(row) for row in rows] == [["Task", "Wait", "Uses"]] * 2
    assert rows[0] == {"Task": Cell("why", "blue"), "Wait": Cell("2 s", "red", True), "Uses": Cell("")}
    assert rows[1] == {"Task": Cell("x"), "Wait": Cell("100 ms", "", True), "Uses": Cell("1.5 K", "", True)}


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = _recorded({"board": {"panels": []}}, answers={"x": [Series({"a": "b"}, [1.0, None])]})
    written.write(tmp_path / "recording.json")
    assert Recording.read(tmp_path / "recording.json") == written
    for text in ("{}", "[]", "nonsense"):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ValueError, match=r"other.json is no recording"):
            Recording.read(tmp_path / "other.json")


def test_prometheus_is_set_up_as_in_production() -> None:
    written = configuration("127.0.0.1:9808", host="a.b")
    [job] = written["scrape_configs"]
    assert job["honor_labels"] is True
    [rules] = written["rule_files"]
    assert list(Path("/").glob(rules.removeprefix("/")))
    [relabel] = job["metric_relabel_configs"]
    assert re.fullmatch(relabel["regex"], "logs@global.a.b")
    assert not re.fullmatch(relabel["regex"], "logs@global.aXb")


# ------------------------------------------------------------ made here


def _raw(title: str, *, width: int = 12, height: int = 8, **more: Any) -> dict[str, Any]:
    grid = {"x": 0, "y": 0, "w": width, "h": height}
    return {"id": 1, "type": "timeseries", "title": title, "gridPos": grid, **more}


def _panel(raw: dict[str, Any]) -> Panel:
    [panel] = panels_of({"panels": [raw]})
    return panel


def _override(field: str, option: dict[str, Any]) -> dict[str, Any]:
    return {"matcher": {"id": "byName", "options": field}, "properties": [option]}


def _mapping(value: str, text: str, colour: str) -> dict[str, Any]:
    return {"type": "value", "options": {value: {"text": text, "color": colour}}}


def _recorded(boards: dict[str, dict[str, Any]], *, answers: dict[str, Sequence[Series]]) -> Recording:
    whole = {name: {"templating": {"list": []}, **board} for name, board in boards.items()}
    phases = [Phase("loop_aware", 0, 5), Phase("global", 5, 10)]
    return Recording(WINDOW, phases, whole, answers, {}, {name: [] for name in boards})
