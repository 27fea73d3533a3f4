"""A recording is made of what a real Prometheus answers."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.demo.prometheus import start_prometheus
from app.demo.servers import ServerError, ServerMissingError
from dashboards.pictures.asking import Prometheus, record
from dashboards.pictures.recording import Phase, Recording, asked
from dashboards.reading import Window

pytestmark = pytest.mark.timeout(300)

DEADLINE = 120
ITSELF: dict[str, Any] = {
    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
    "scrape_configs": [{"job_name": "itself", "static_configs": [{"targets": ["127.0.0.1:1"]}]}],
}
"""It scrapes what is not there: ``up`` is 0."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    try:
        server = start_prometheus(tmp_path_factory.mktemp("prometheus"), ITSELF)
    except ServerMissingError as missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(missing))
    yield server.url
    server.close()


def _board(*targets: dict[str, Any], **more: Any) -> dict[str, Any]:
    panel = {"id": 1, "type": "timeseries", "title": "T", "gridPos": {"x": 0, "y": 0, "w": 12, "h": 8}}
    job = {"name": "job", "type": "query", "allValue": ".+", "current": {"value": ["$__all"]}}
    return {"panels": [{**panel, "targets": list(targets)}], "templating": {"list": [job]}, **more}


async def _recorded(url: str, board: dict[str, Any]) -> Recording:
    """The seconds until its first scrape, once there is one."""
    async with aiohttp.ClientSession() as session:
        prometheus = Prometheus(session, url)
        deadline = time.monotonic() + DEADLINE
        while not (there := await prometheus.at("up[1h]", time.time())):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        scraped = float(there[0]["values"][0][0])
        window = Window(scraped - 10, scraped, 1, 1)
        return await record({"board": board}, prometheus, window, [Phase("only", window.start, window.end)])


async def test_the_answers_are_kept_with_their_gaps(url: str, tmp_path: Path) -> None:
    up = 'up{job=~"$job"}'
    targets: list[dict[str, Any]] = [
        {"refId": "A", "expr": up, "legendFormat": "{{job}}"},
        {"refId": "B", "expr": f"{up} + 41.123456789", "instant": True},
        {"refId": "C", "expr": f"{up} / 0"},
    ]
    mark = {"name": "Downs", "expr": f"{up} == 0", "titleFormat": "{{job}} is down", "iconColor": "red"}
    timed = {"name": "Times", "expr": "timestamp(up) * 1000", "useValueForTime": True}
    recording = await _recorded(url, _board(*targets, annotations={"list": [mark, timed]}))
    filled_in = 'up{job=~".+"}'
    [series] = recording.answers[asked(filled_in, recording.window)]
    assert series.labels["job"] == "itself"
    assert len(series.values) == 11
    assert (series.values[0], series.values[-1]) == (None, 0.0), "it had not begun ten seconds before its first scrape"
    [instant] = recording.instants[f"{filled_in} + 41.123456789"]
    assert instant.last == 41.123456789
    [undefined] = recording.answers[asked(f"{filled_in} / 0", recording.window)]
    assert set(undefined.values) == {None}
    marks = {one.name: one for one in recording.marks["board"]}
    assert (marks["Downs"].title, marks["Downs"].colour) == ("itself is down", "red")
    for one in marks.values():
        assert recording.window.start < one.time <= recording.window.end
    recording.write(tmp_path / "recording.json")
    assert Recording.read(tmp_path / "recording.json") == recording


async def test_a_wrong_expression_is_said(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ValueError, match=r"parse error.*: up\{"):
            await Prometheus(session, url).at("up{", 0)


def test_a_wrong_configuration_is_said(url: str, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="not a valid duration"):
        start_prometheus(tmp_path, {"global": {"scrape_interval": "soon"}})
