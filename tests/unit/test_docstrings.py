"""Every public name has an example that runs in its docstring: ``>>>`` by doctest, a ``::`` block as code."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import loopwatch
import loopwatch.testing

NAMES = [("loopwatch", name) for name in loopwatch.__all__ if name != "__version__"]
NAMES += [("loopwatch.testing", name) for name in loopwatch.testing.__all__]
PACKAGE = Path(loopwatch.__file__).parent
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>>" in path.read_text() and path.name != "__init__.py"
]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.FAIL_FAST


def _blocks(text: str) -> list[str]:
    """The indented blocks after a line that ends in ``::``."""
    return [
        textwrap.dedent(block)
        for block in re.findall(r"::\n\n((?:[ ]{4,}.*\n|\n)+)", text + "\n")
        if not block.lstrip().startswith(">>>")
    ]


def _parts(value: object) -> Iterator[object]:
    """The name itself, and a class's public methods."""
    yield value
    if inspect.isclass(value):
        yield from (part for name, part in vars(value).items() if not name.startswith("_") and callable(part))


def _run_doctests(value: object, name: str, module: object) -> int:
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner(optionflags=OPTIONS)
    said: list[str] = []
    for test in finder.find(value, name, module=False, globs={**vars(module)}):
        runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)
    return runner.tries


@pytest.mark.parametrize(("module", "name"), NAMES, ids=lambda part: str(part))
def test_it_has_an_example_that_runs(module: str, name: str) -> None:
    value: Callable[..., object] = getattr(importlib.import_module(module), name)
    home = importlib.import_module(value.__module__)
    examples = 0
    for part in _parts(value):
        blocks = _blocks(inspect.getdoc(part) or "") if part.__doc__ else []
        for block in blocks:
            exec(compile(block, f"<docstring of {name}>", "exec"), {**vars(home)})
        examples += len(blocks) + _run_doctests(part, name, home)
    assert examples, f"{module}.{name} has no example: write `>>>` lines into its docstring"


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_that_are_nobodys_public_name_run(module: str) -> None:
    home = importlib.import_module(module)
    for test in doctest.DocTestFinder(exclude_empty=True).find(home, module):
        runner, said = doctest.DocTestRunner(optionflags=OPTIONS), list[str]()
        runner.run(test, out=said.append)
        assert runner.failures == 0, "".join(said)


def test_a_block_is_found_and_its_end() -> None:
    assert _blocks("Like this::\n\n    one()\n\n    two()\n\nAnd so on.\n") == ["one()\n\ntwo()\n\n"]
