"""What Prometheus said about one run: all that the pictures are drawn from, kept as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dashboards.reading import Window

__all__ = ["Mark", "Phase", "Recording", "Series", "asked"]


@dataclass(frozen=True)
class Series:
    """One time series: a value for each step of the window (None where it has none), or one for an instant."""

    labels: Mapping[str, str]
    values: Sequence[float | None]

    @property
    def last(self) -> float | None:
        """The last value there is."""
        return next((value for value in reversed(self.values) if value is not None), None)


@dataclass(frozen=True)
class Phase:
    """A part of the run: one setting of ``APP_RESOURCES``, from and to when."""

    setting: str
    start: float
    end: float


@dataclass(frozen=True)
class Mark:
    """A point of an annotation."""

    name: str
    title: str
    colour: str
    time: float


@dataclass(frozen=True)
class Recording:
    """Everything about one run.

    Attributes:
        window: the time that the pictures show.
        phases: the settings, in order.
        boards: the dashboards by file name without ``.json``, as they were then.
        answers: what was said over the window, by `asked`.
        instants: what was said at the window's end to each expression, its variables filled in.
        marks: the points of the annotations by dashboard.
    """

    window: Window
    phases: Sequence[Phase]
    boards: Mapping[str, Mapping[str, Any]]
    answers: dict[str, Sequence[Series]] = field(repr=False)
    instants: dict[str, Sequence[Series]] = field(repr=False)
    marks: dict[str, list[Mark]] = field(repr=False)

    def write(self, path: Path) -> None:
        """Writes it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), separators=(",", ":"), allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Recording:
        """Reads what `write` wrote.

        Raises:
            ValueError: the file is not a recording.
        """
        try:
            raw = json.loads(path.read_text())
            return cls(
                Window(**raw["window"]),
                [Phase(**phase) for phase in raw["phases"]],
                raw["boards"],
                _answers(raw["answers"]),
                _answers(raw["instants"]),
                {board: [Mark(**mark) for mark in marks] for board, marks in raw["marks"].items()},
            )
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is no recording of `python -m dashboards.pictures`: {error!r}") from error


def asked(expression: str, window: Window) -> str:
    """What was asked: two panels may ask the same, and want their points differently far apart."""
    return f"{expression} each {window.step:g} s"


def _answers(raw: Mapping[str, Any]) -> dict[str, Sequence[Series]]:
    return {expression: [Series(**one) for one in said] for expression, said in raw.items()}
