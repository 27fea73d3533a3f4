"""A real run: the demo's application in both settings of ``APP_RESOURCES``, and a Prometheus that watches it."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp

from app.demo.environment import demo_environment
from app.demo.phases import SETTINGS, Demo, DemoError
from app.demo.prometheus import start_prometheus
from app.demo.summary import make_console
from dashboards.pictures.asking import Prometheus, record
from dashboards.pictures.recording import Phase, Recording
from dashboards.reading import Window

__all__ = ["configuration", "run", "window_of"]

RULES = Path(__file__).resolve().parents[1] / "prometheus" / "rules"
SCRAPE_INTERVAL = 2
STEPS = 130
"""Points of a line, about: as many as can be told apart in a picture."""
STARTED = 'sum(celery_task_received_total{hostname%s".+@global[.].+"}) > 0'


def run(boards: Mapping[str, Mapping[str, Any]], seconds: float) -> Recording:
    """Half of the seconds with each setting; what Prometheus then says to the queries of the boards.

    Raises:
        ServerError, FleetError, DemoError: the run did not come to its end, or did not show what it should.
    """
    with ExitStack() as stack:
        environment = demo_environment(stack, os.environ)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loopwatch-pictures-")))
        monitor = f"127.0.0.1:{environment['MONITOR_PORT']}"
        prometheus = start_prometheus(directory, configuration(monitor, host=socket.gethostname()))
        stack.callback(prometheus.close)
        demo = Demo(directory, environment, make_console())
        stack.callback(demo.close)
        return asyncio.run(_recorded(boards, demo, prometheus.url, seconds))


def configuration(monitor: str, *, host: str) -> dict[str, Any]:
    """Prometheus' configuration, with the shipped rules; ``host`` is called "host".

    A picture is for everybody: a machine's name has no place in it.
    """
    relabel = {
        "source_labels": ["hostname"],
        "regex": f"(.*){re.escape(host)}",
        "target_label": "hostname",
        "replacement": "${1}host",
    }
    job = {
        "job_name": "loopwatch",
        "honor_labels": True,
        "static_configs": [{"targets": [monitor]}],
        "metric_relabel_configs": [relabel],
    }
    return {
        "global": {"scrape_interval": f"{SCRAPE_INTERVAL}s", "evaluation_interval": f"{SCRAPE_INTERVAL}s"},
        "rule_files": [str(RULES / "*.yml")],
        "scrape_configs": [job],
    }


def window_of(healthy: float, sick: float, ended: float, seconds: float) -> Window:
    """What the pictures show of a run: from the first task of the one setting to the end of the other's traffic.

    All in seconds, the first three since the epoch: when the first task of each setting came, and when all was over.

    >>> window_of(1000, 1500, 2100, seconds=960)
    Window(start=1000, end=1980, step=8, scrape_interval=2)
    """
    end = min(sick + seconds / 2, ended)
    # Whole seconds, as Grafana's.
    return Window(healthy, round(end), max(SCRAPE_INTERVAL, round((end - healthy) / STEPS)), SCRAPE_INTERVAL)


async def _recorded(boards: Mapping[str, Mapping[str, Any]], demo: Demo, url: str, seconds: float) -> Recording:
    began = time.time()
    if await demo.both_settings(seconds):
        raise DemoError("the run did not show the disease and the cure")
    async with aiohttp.ClientSession() as session:
        prometheus = Prometheus(session, url)
        whole = Window(began, time.time(), 1, SCRAPE_INTERVAL)
        healthy, sick = [await _first(prometheus, STARTED % matcher, whole) for matcher in ("!~", "=~")]
        window = window_of(healthy, sick, whole.end, seconds)
        phases = [Phase(SETTINGS[0], window.start, sick), Phase(SETTINGS[1], sick, window.end)]
        return await record(boards, prometheus, window, phases)


async def _first(prometheus: Prometheus, expression: str, window: Window) -> float:
    """When the expression had a value for the first time."""
    [series] = await prometheus.over(expression, window)
    time_of_first: float = series["values"][0][0]
    return time_of_first
