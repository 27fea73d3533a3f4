"""The product as its operators run it: docker-compose.yml on this machine, small and quick.

@pytest.fixture(scope="module")
def stack() -> Iterator[Compose]:
    with operations() as stack:
        yield stack
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import pytest

from tests.acceptance.compose import Change, Compose

__all__ = ["SMALL", "every_second", "operations", "waiting_less"]

SMALL = {
    "WEB_CONCURRENCY": "1",
    "CELERY_LOGS_CONCURRENCY": "1",
    "CELERY_CONTENT_CONCURRENCY": "2",
    "CELERY_WORKFLOW_CONCURRENCY": "1",
}
"""Few processes, as a machine that runs other tests has two cores."""
PROGRAMS = {
    "redis-server": "redis-server",
    "prometheus": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
}
"""Debian's package by program."""


@contextmanager
def operations(
    *,
    profiles: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
    files: Mapping[str, Change] | None = None,
) -> Iterator[Compose]:
    """Every service but Grafana, healthy; Prometheus scrapes and evaluates each second. Arguments: `Compose.up`'s.

    A program that is missing skips the test on a laptop and fails it where ``CI`` is set.
    """
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"not installed: apt-get install {' '.join(missing)}")
    quick: dict[str, Change] = {"./dashboards/prometheus/prometheus.yml": every_second}
    with Compose.up(
        profiles=profiles, environment=SMALL | dict(environment or {}), files=quick | dict(files or {})
    ) as stack:
        yield stack


def every_second(configuration: str) -> str:
    """Prometheus' configuration with intervals of one second."""
    text, changes = re.subn(r"(scrape|evaluation)_interval: \w+", r"\1_interval: 1s", configuration)
    assert changes == 2
    return text


def waiting_less(rules: str) -> str:
    """Rules that are fifteen times faster, and tasks have to wait for a connection 10 seconds rather than 40."""
    text, changes = re.subn(r"(alert: LoopwatchPoolWaiters\n.*?\n *for: )40s", r"\g<1>10s", rules, flags=re.DOTALL)
    assert changes == 1
    return text
