"""The page of failures names a test in every line, and each of them exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import loopwatch

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "failures.md").read_text()
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
LINES = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| what "))]


@cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED.findall(PAGE)}))
def test_every_test_that_it_names_exists(file: str) -> None:
    named = {test for known, test in NAMED.findall(PAGE) if known == file}
    assert named - names_in(file) == set()


def test_every_line_names_its_proof() -> None:
    assert len(LINES) > 50
    assert [line for line in LINES if not NAMED.search(line.split(" | ")[-1])] == []
    # Written in another way, a name would not be looked for.
    assert PAGE.count("::") == len(NAMED.findall(PAGE))


def test_its_names_are_public() -> None:
    assert set(re.findall(r"`loopwatch\.(\w+)", PAGE)) <= set(loopwatch.__all__)
