"""Just enough of PromQL to see what an expression selects; whether it parses, promtool says."""

from __future__ import annotations

import re
from typing import NamedTuple

_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
_CLAUSE = re.compile(r'"[^"]*"|\[[^]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)')
_CALL = re.compile(r"[a-zA-Z_]\w*\s*\(")
_WORDS = {"and", "or", "unless", "bool", "offset", "Inf", "NaN"}


class Selector(NamedTuple):
    """A metric's name, its matchers (label, operator, value), and the function that it is handed to at once."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]
    function: str
    window: str


def selectors(expression: str) -> list[Selector]:
    """Every vector that the expression selects."""
    found = []
    for match in _SELECTOR.finditer(expression):
        around = re.search(r"(\w+)\($", expression[: match.start()])
        window = re.match(r"\[([^]]*)]", expression[match.end() :])
        matchers = tuple((label, operator, value) for label, operator, value in _MATCHER.findall(match[2]))
        found.append(Selector(match[1], matchers, around[1] if around else "", window[1] if window else ""))
    rest = _CALL.sub(" ", _CLAUSE.sub(" ", _SELECTOR.sub(" ", expression)))
    bare = [name for name in re.findall(r"(?<![\w$.])[a-zA-Z_:][\w:]*", rest) if name not in _WORDS]
    return found + [Selector(name, (), "", "") for name in bare]


def labels_named(expression: str) -> set[str]:
    """The labels that it groups, joins or drops by."""
    lists = re.findall(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)", expression)
    return {label for inside in lists for label in re.findall(r"\w+", inside)}


def labels_made(expression: str) -> set[str]:
    """The labels that it makes itself, by ``label_replace`` and ``label_join``."""
    return set(re.findall(r'\blabel_(?:replace|join)\s*\([^"]*?,\s*"(\w+)"', _SELECTOR.sub(r"\1", expression)))
