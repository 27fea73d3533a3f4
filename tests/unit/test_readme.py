"""What the README and the other pages say: their code runs, their names, targets and links exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import loopwatch

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = sorted(
    path for folder in (".", "dashboards", "docs") for path in (ROOT / folder).glob("*.md") if path.is_file()
)
RUN = ROOT / "docs" / "adopting.md"


def _blocks(text: str) -> list[str]:
    """The Python of a page, and what each of its diffs leads to."""
    found = []
    for language, code in re.findall(r"```(python|diff)\n(.*?)```", text, re.DOTALL):
        found.append(code if language == "python" else _side(code, "+"))
    return found


def _side(diff: str, sign: str) -> str:
    return "".join(f"{line[1:]}\n" for line in diff.splitlines() if not line or line[0] in f" {sign}")


def test_the_code_of_the_readme_and_of_how_to_adopt_it_runs_as_it_stands() -> None:
    readme, page = re.findall(r"```python\n(.*?)```", README, re.DOTALL), _blocks(RUN.read_text())
    assert (len(readme), len(page)) == (2, 10)
    # In one process, each in a namespace of its own: importing what they use is what takes time.
    program = "import ast, sys\nfor code in ast.literal_eval(sys.stdin.read()): exec(code, {'__name__': 'page'})"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        input=repr([*readme, *page]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_code_of_every_page_is_python(page: Path) -> None:
    text = page.read_text()
    before = [_side(diff, "-") for diff in re.findall(r"```diff\n(.*?)```", text, re.DOTALL)]
    for code in [*_blocks(text), *before]:
        compile(code, page.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


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
