"""The committed dashboards: generated from the code, laid out without holes, and leading to each other."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.builders import dashboard as sdk

from dashboards import rules
from dashboards.__main__ import DASHBOARDS, DIRECTORY, main, render
from dashboards.alerts.alert import Alert
from dashboards.building import new_dashboard, numbered
from dashboards.links import RUNBOOK
from dashboards.pace import Pace
from tests.unit.dashboards.linter import Json, panels

COMMITTED: dict[str, Json] = {path.name: json.loads(path.read_text()) for path in sorted(DIRECTORY.glob("*.json"))}
UIDS = {f"loopwatch-{name}" for name in ("overview", "loop-conflicts", "pools", "tasks", "monitor", "runbook")}
COLUMNS = 24

every_dashboard = pytest.mark.parametrize("dashboard", COMMITTED.values(), ids=COMMITTED)


def _every_panel(*types: str) -> Iterator[Any]:
    for name, dashboard in COMMITTED.items():
        for panel in panels(dashboard):
            if not types or panel["type"] in types:
                yield pytest.param(panel, id=f"{name}: {panel['title']}")


every_panel = pytest.mark.parametrize("panel", list(_every_panel()))
every_table = pytest.mark.parametrize("panel", list(_every_panel("table")))


@pytest.fixture(autouse=True)
def usual_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METRIC_PREFIX", raising=False)


def test_no_dashboard_is_missing_or_left_over() -> None:
    assert set(COMMITTED) == set(DASHBOARDS)
    assert {dashboard["uid"] for dashboard in COMMITTED.values()} == UIDS


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_committed_json_is_what_the_code_makes(name: str) -> None:
    assert (DIRECTORY / name).read_text() == render(name), "run `make dashboards` and commit the result"


def test_the_generator_writes_all(tmp_path: Path) -> None:
    main(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(DASHBOARDS)


@every_dashboard
def test_the_frame(dashboard: Json) -> None:
    assert dashboard["title"].startswith("loopwatch / ")
    assert dashboard["description"].endswith((".", "?"))
    assert dashboard["schemaVersion"] == 39, "Grafana 11.0's"
    assert dashboard["tags"] == ["loopwatch"]
    (others,) = dashboard["links"]
    assert (others["type"], others["tags"], others["keepTime"], others["includeVars"]) == (
        "dashboards",
        ["loopwatch"],
        True,
        True,
    )
    assert [one["name"] for one in dashboard["annotations"]["list"]] == ["Worker starts", "Firing alerts"]
    variables = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert variables == ["datasource", "job", "instance", "queue", "worker", "pool"]
    assert all(variable["multi"] for variable in dashboard["templating"]["list"][1:])


@every_dashboard
def test_a_dashboard_can_be_imported_anywhere(dashboard: Json) -> None:
    sources = re.findall(r'"uid": ("[^"]*")', json.dumps(dashboard))
    assert set(sources) <= {'"${datasource}"', f'"{dashboard["uid"]}"'}
    assert not {"id", "__inputs", "version"} & set(dashboard)


def _layout_faults(dashboard: Json) -> list[str]:
    """Cells of the grid that two panels share, that none has, or that lie outside of it."""
    cells = Counter[tuple[int, int]]()
    for panel in dashboard["panels"]:
        x, y, width, height = (panel["gridPos"][key] for key in "xywh")
        cells.update((column, row) for column in range(x, x + width) for row in range(y, y + height))
    depth = max(row for _, row in cells) + 1
    faults = [f"{cell} is taken {count} times" for cell, count in cells.items() if count > 1]
    faults += [f"{cell} is outside" for cell in cells if cell[0] >= COLUMNS]
    return faults + [f"{(x, y)} is empty" for x in range(COLUMNS) for y in range(depth) if (x, y) not in cells]


@every_dashboard
def test_the_layout_has_no_overlaps_and_no_holes(dashboard: Json) -> None:
    assert _layout_faults(dashboard) == []
    assert dashboard["panels"][0]["type"] == "row"


@pytest.mark.parametrize(
    ("change", "fault"),
    [({"w": 5}, "taken 2 times"), ({"w": 3}, "is empty"), ({"x": 22}, "is outside"), ({"h": 3}, "is empty")],
)
def test_faults_of_the_layout_are_found(change: dict[str, int], fault: str) -> None:
    spoiled = copy.deepcopy(COMMITTED["overview.json"])
    next(panels(spoiled))["gridPos"].update(change)
    assert any(fault in found for found in _layout_faults(spoiled))


@every_dashboard
def test_titles_are_unique_and_numbers_come_from_them(dashboard: Json) -> None:
    assert len({panel["title"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_a_panels_number_outlives_one_that_is_put_before_it() -> None:
    def build(*titles: str) -> dict[str | None, int | None]:
        frame = new_dashboard("Test", uid="test", description="A test.")
        for title in titles:
            frame.with_panel(sdk.Panel().title(title))
        return {panel.title: getattr(panel, "id_val", None) for panel in numbered(frame).panels or []}

    assert build("second")["second"] == build("first", "second")["second"]
    with pytest.raises(ValueError, match="one title"):
        build("first", "first")


@every_panel
def test_the_panel_says_what_good_looks_like(panel: Json) -> None:
    description = panel["description"]
    assert description.endswith(".")
    assert "Good" in description or "Bad" in description
    if "Good: none" in description:
        assert panel["fieldConfig"]["defaults"].get("noValue"), "where nothing is good, an empty panel says so"


@every_panel
def test_a_title_fits_its_panel(panel: Json) -> None:
    # At 1600 pixels a column has 66, a letter 7, and the marks of description and links take 60.
    assert len(panel["title"]) * 7 <= panel["gridPos"]["w"] * 66 - 60


@every_panel
def test_the_targets_are_told_apart(panel: Json) -> None:
    references = [target["refId"] for target in panel["targets"]]
    assert len(set(references)) == len(references)
    legends = [target["legendFormat"] for target in panel["targets"]]
    assert panel["type"] == "table" or (all(legends) and len(set(legends)) == len(legends))


@every_table
def test_a_table_names_its_columns(panel: Json) -> None:
    # Grafana calls a value "Value", and "Value #A" where there are several queries.
    several = len(panel["targets"]) > 1
    values = [f"Value #{target['refId']}" if several else "Value" for target in panel["targets"]]
    assert all((one["format"], one["instant"], one["legendFormat"]) == ("table", True, "") for one in panel["targets"])
    steps = {one["id"]: one["options"] for one in panel["transformations"]}
    assert list(steps) == (["merge", "organize"] if several else ["organize"])
    names = steps["organize"]["renameByName"]
    hidden = set(steps["organize"]["excludeByName"])
    assert set(values) <= set(names) | hidden
    assert not set(names) & hidden
    assert set(steps["organize"]["indexByName"]) == set(names)
    headings = {sort["displayName"] for sort in panel["options"]["sortBy"]}
    headings |= {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
    assert headings <= set(names.values())
    overrides = [(one["matcher"]["options"], one["properties"]) for one in panel["fieldConfig"]["overrides"]]
    for label in set(names) - set(values):
        # A label that looks like a number, such as a release, is none.
        assert (names[label], [{"id": "unit", "value": "string"}]) in overrides
        assert any(re.search(rf"\b{label}\b", target["expr"]) for target in panel["targets"]), label


@every_dashboard
def test_links_lead_to_dashboards_that_exist(dashboard: Json) -> None:
    text = json.dumps(dashboard)
    urls = re.findall(r'"url": "([^"]*)"', text)
    assert {re.sub(r"^/d/([\w-]+)\?.*", r"\1", url) for url in urls} <= UIDS
    assert all(url.endswith("${__url_time_range}&${__all_variables}") for url in urls)


def test_each_number_of_the_overview_leads_to_its_dashboard() -> None:
    for panel in panels(COMMITTED["overview.json"]):
        if panel["type"] in ("stat", "gauge", "bargauge"):
            assert panel["links"][:1] == panel["fieldConfig"]["defaults"]["links"]
            assert panel["links"][0]["url"].startswith("/d/loopwatch-")


def test_an_alert_leads_to_its_place_in_the_runbook() -> None:
    (table,) = [one for one in panels(COMMITTED["overview.json"]) if one["title"] == "Firing alerts"]
    columns = [one for one in table["fieldConfig"]["overrides"] if one["matcher"]["options"] == "Runbook"]
    properties = {one["id"]: one["value"] for column in columns for one in column["properties"]}
    (mapping,) = properties["mappings"]
    numbers = {alert: int(result["text"]) for alert, result in mapping["options"].items()}
    pages = {one["title"]: one["id"] for one in COMMITTED["runbook.json"]["panels"] if one["type"] == "text"}
    assert numbers == pages
    assert properties["links"][0]["url"].startswith("/d/loopwatch-runbook?viewPanel=${__value.text}&")


@pytest.mark.parametrize("alert", rules.alerts(Pace(1)), ids=lambda alert: alert.name)
def test_an_alerts_panel_leads_to_the_alerts_place_in_the_runbook(alert: Alert) -> None:
    uid, title = alert.panel
    (board,) = [one for one in COMMITTED.values() if one["uid"] == uid]
    (panel,) = [one for one in panels(board) if one["title"] == title]
    (link,) = [one for one in panel["links"] if one["title"] == f"What to do when Loopwatch{alert.name} fires"]
    (page,) = [one for one in COMMITTED["runbook.json"]["panels"] if one["title"] == f"Loopwatch{alert.name}"]
    assert f"/d/loopwatch-runbook?viewPanel={page['id']}&" in link["url"]


def test_the_runbook_dashboard_is_the_runbook() -> None:
    text = RUNBOOK.read_text()
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    pages = [one for one in COMMITTED["runbook.json"]["panels"] if one["type"] == "text"]
    assert [(page["title"], page["id"]) for page in pages] == [(name, place) for place, name in enumerate(headings, 1)]
    assert all(re.fullmatch(r"Loopwatch\w+", heading) for heading in headings)
    for page in pages:
        assert f"## {page['title']}\n\n{page['options']['content']}" in text


# ----------------------------------------------------------------------------------------------------- the shares
NO_SHARES = {"Conflicts per task, worst queue", "Conflicts per task, by queue"}
"""In percent, and may be above all: a task may meet several."""


@every_panel
def test_a_share_of_rates_is_never_more_than_all(panel: Json) -> None:
    """Both sides of it count in windows of their own: a series is born later, a try of one fails in the next."""
    if panel["fieldConfig"]["defaults"].get("unit") == "percentunit" and panel["title"] not in NO_SHARES:
        for target in panel["targets"]:
            if " / " in target["expr"] and re.search(r":rate\w+|\b(rate|increase)\(", target["expr"]):
                assert re.search(r"clamp_max\(.* / .*, 1\)", target["expr"])
