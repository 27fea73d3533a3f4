"""How the unit tests run: the files that take longest first."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent

# A test process takes a file at a time: one of these, begun last, would keep the others waiting.
LONGEST_FIRST = (
    "test_loop_lag.py",
    "test_soft_limit.py",
    "test_readme.py",
    "test_pictures.py",
    "test_wire.py",
    "test_cli.py",
    "test_channel.py",
    "test_render.py",
    "test_fold_fuzz.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Only the order of the unit tests among each other changes."""
    places = [place for place, item in enumerate(items) if item.path.is_relative_to(HERE)]
    rank = {name: number for number, name in enumerate(LONGEST_FIRST)}
    ordered = sorted((items[place] for place in places), key=lambda item: rank.get(item.path.name, len(rank)))
    for place, item in zip(places, ordered, strict=True):
        items[place] = item
