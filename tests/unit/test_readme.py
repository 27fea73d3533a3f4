"""What the README says: its code runs, its names, targets and links exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import loopwatch

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = sorted(path for path in (*ROOT.glob("*.md"), *(ROOT / "dashboards").glob("*.md")) if path.is_file())


def test_its_code_runs_as_it_stands() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    for code in blocks:
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_names_targets_and_links_of_a_page_exist(page: Path) -> None:
    text = page.read_text()
    names = set(re.findall(r"(?<![./\w])loopwatch\.(\w+)\(", text))
    assert names <= set(loopwatch.__all__)
    targets = set(re.findall(r"\bmake ([a-z]+)\b(?=[^.\n]*$|`| {2,}|\s+#|\s+[A-Z_]+=)", text, re.MULTILINE))
    assert targets <= set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("http")]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_it_begins_with_what_it_is_for_and_the_two_commands() -> None:
    beginning = README[:2500]
    assert "different loop" in beginning
    assert "make demo" in beginning
    assert "make test" in beginning
