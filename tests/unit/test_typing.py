"""The types a reader sees are checked by mypy in `tests/typing/api.py`; this holds that nothing is left out there."""

from __future__ import annotations

import ast
from pathlib import Path

import loopwatch
import loopwatch.testing

API = Path(__file__).resolve().parents[1] / "typing" / "api.py"


def test_every_public_name_is_used_as_a_reader_would() -> None:
    nodes = ast.walk(ast.parse(API.read_text()))
    used = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
    wanted = {f"loopwatch.{name}" for name in loopwatch.__all__}
    wanted |= {f"loopwatch.testing.{name}" for name in loopwatch.testing.__all__}
    assert sorted(wanted - used) == []
