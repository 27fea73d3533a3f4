"""What a PromQL expression names: its metrics with the labels that select them, and the labels that it groups by.

A reader of words, not a parser: Prometheus itself says elsewhere that the expressions are PromQL.

>>> names = named('sum by (queue_name) (rate(x_total{job=~"$job"}[5m])) / on (job) group_left () y offset 5m')
>>> names.selectors
[('x_total', ('job',)), ('y', ())]
>>> sorted(names.labels)
['job', 'queue_name']
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

__all__ = ["Names", "named"]

TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`)|(?P<comment>\#[^\n]*)|(?P<range>\[[^\]]*\])
    |(?P<variable>\$\w+|\$\{\w+\})|(?P<number>\d[\w.]*(?:[eE][+-]?\d+)?)|(?P<word>[A-Za-z_:][\w:]*)|(?P<sign>[^\s])""",
    re.VERBOSE,
)
GROUPING = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
KEYWORDS = frozenset({"and", "or", "unless", "bool", "offset", "atan2", "inf", "nan"})


@dataclass
class Names:
    """What an expression names.

    Attributes:
        selectors: each metric, and the labels that its selector matches.
        labels: the labels of ``by``, ``on`` and the like.
        made: labels that the expression makes itself, by ``label_replace`` or ``label_join``.
    """

    selectors: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)

    @property
    def metrics(self) -> set[str]:
        """The metrics alone."""
        return {metric for metric, _ in self.selectors}


def named(expression: str) -> Names:
    """What the expression names; Grafana's variables may still be in it."""
    tokens = [
        (match.lastgroup or "", match[0])
        for match in TOKEN.finditer(expression)
        if match.lastgroup not in ("comment", "range", "variable", "number")
    ]
    found = Names()
    place = 0
    while place < len(tokens):
        kind, text = tokens[place]
        following = tokens[place + 1][1] if place + 1 < len(tokens) else ""
        place += 1
        if kind != "word" and text != "{":
            continue
        if text.lower() in GROUPING and following == "(":
            inside, place = _until(tokens, place + 1, ")")
            found.labels |= _words(inside)
        elif text in ("label_replace", "label_join"):
            found.made.add(_made_label(tokens, place))
        elif text == "{" or following == "{":
            inside, place = _until(tokens, place + (text != "{"), "}")
            found.selectors.append(_selector("" if text == "{" else text, inside))
        elif following != "(" and following not in ("by", "without") and text.lower() not in KEYWORDS | GROUPING:
            found.selectors.append((text, ()))
    return found


Tokens = list[tuple[str, str]]


def _until(tokens: Tokens, place: int, end: str) -> tuple[Tokens, int]:
    """The tokens up to ``end``, and the place behind it."""
    last = next(number for number in range(place, len(tokens)) if tokens[number][1] == end)
    return tokens[place:last], last + 1


def _words(tokens: Tokens) -> set[str]:
    return {text for kind, text in tokens if kind == "word"}


def _selector(metric: str, inside: Tokens) -> tuple[str, tuple[str, ...]]:
    """The metric, which may also be told by the label ``__name__``, and the other labels."""
    labels = [text for kind, text in inside if kind == "word"]
    if "__name__" in labels:
        place = next(number for number, (_, text) in enumerate(inside) if text == "__name__")
        metric = next(text for kind, text in inside[place:] if kind == "string")[1:-1]
        labels.remove("__name__")
    return metric, tuple(labels)


def _made_label(tokens: Tokens, place: int) -> str:
    """The first string at the call's own level that stands after its first argument: the label it makes."""
    depth = 0
    for kind, text in tokens[place:]:
        depth += (text in "({") - (text in ")}") if kind == "sign" else 0
        if kind == "string" and depth == 1:
            return text[1:-1]
    raise ValueError("a label_replace or label_join without a label")
