"""The examples in docstrings run, and print what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "loopwatch.celery.instrument",
        "loopwatch.conflicts",
        "loopwatch.errors",
        "loopwatch.redact",
        "loopwatch.telemetry.reporter",
        "loopwatch.tolerate",
    ],
)
def test_the_examples_of_a_module(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
