"""What a run has found, as JSON (`results.json`) and as the tables of `docs/benchmarks.md`."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from benchmarks.harness import Comparison

__all__ = ["BEGIN", "END", "as_json", "as_markdown", "machine", "replace_between"]

BEGIN = "<!-- `make bench` writes from here -->"
END = "<!-- to here -->"
LIBRARIES = ("sqlalchemy", "asyncpg", "celery", "redis", "prometheus-client", "flower")


def machine() -> dict[str, Any]:
    """When and where it was measured."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        # Before the run: above the number of CPUs the machine has other work, and the figures are high.
        "load": round(os.getloadavg()[0], 1),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def as_json(comparisons: Iterable[Comparison], where: Mapping[str, Any]) -> dict[str, Any]:
    """All of a run, in microseconds."""
    return {
        "machine": dict(where),
        "comparisons": [
            {
                "title": one.title,
                "ways": [
                    {"name": name, "microseconds": round(seconds * 1e6, 3), "ratio": round(one.ratios[name], 3)}
                    | ({"lost": one.lost[name]} if one.lost else {})
                    for name, seconds in one.medians.items()
                ],
                "targets": [
                    {
                        "what": target.what,
                        "measured": round(target.measured, 3),
                        "limit": target.limit,
                        "unit": target.unit,
                        "reached": target.reached,
                    }
                    for target in one.targets
                ],
            }
            for one in comparisons
        ],
    }


def as_markdown(results: Mapping[str, Any]) -> str:
    """The tables: first the targets, then each comparison."""
    return "\n".join(_lines(results)) + "\n"


def _lines(results: Mapping[str, Any]) -> Iterator[str]:
    where = results["machine"]
    libraries = ", ".join(f"{name} {number}" for name, number in where["libraries"].items())
    what = f"Python {where['python']}, {where['system']}, {where['cpus']} CPUs (load {where['load']}), {libraries}"
    yield f"Measured on {where['date']}: {what}."
    yield from ("", "| target | limit | measured | |", "| --- | ---: | ---: | --- |")
    for one in results["comparisons"]:
        for target in one["targets"]:
            measured, limit = (_amount(target[key], target["unit"]) for key in ("measured", "limit"))
            yield f"| {target['what']} | {limit} | {measured} | {'ok' if target['reached'] else '**missed**'} |"
    for one in results["comparisons"]:
        if one["ways"]:
            yield from _table(one)


def _table(comparison: Mapping[str, Any]) -> Iterator[str]:
    ways = comparison["ways"]
    lost = "lost" in ways[0]
    yield from ("", f"### {comparison['title']}", "")
    yield from ("| | median | ratio |" + " lost |" * lost, "| --- | ---: | ---: |" + " ---: |" * lost)
    for way in ways:
        row = f"| {way['name']} | {_amount(way['microseconds'], 'us')} | {way['ratio']:.2f} |"
        yield row + (f" {way['lost']:,} |" if lost else "")


def _amount(number: float, unit: str) -> str:
    if unit == "bytes":
        return f"{number:,.0f} bytes"
    if unit == "us":
        return f"{number:,.2f} µs" if number < 100 else f"{number:,.0f} µs"
    return f"{number:.4g}{unit}"


def replace_between(text: str, new: str) -> str:
    """``text`` with ``new`` between the two markers.

    Raises:
        ValueError: a marker is missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{new}\n{END}{after}"
