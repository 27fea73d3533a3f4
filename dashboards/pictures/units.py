"""Values as Grafana writes them: in the panel's unit, with three significant digits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["formatted"]

# The smallest multiple first; a value is written in the largest that it reaches.
TIMES = ((1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1, "s"), (60, "min"), (3600, "h"), (86400, "d"))
THOUSANDS = ((1, ""), (1e3, "K"), (1e6, "M"), (1e9, "G"))
BINARY = ((1, "B"), (2**10, "KiB"), (2**20, "MiB"), (2**30, "GiB"))
PARTS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def formatted(value: float, unit: str, decimals: int | None = None) -> str:
    """The value with its unit, and so many digits after the point; without ``decimals`` three in all.

    Raises:
        ValueError: a unit that no panel has had yet: say here how it is written.

    >>> formatted(0.0004378, "s"), formatted(0.125, "percentunit"), formatted(2.667, "ops"), formatted(1614, "short")
    ('438 µs', '12.5%', '2.67/s', '1.61 K')
    """
    if unit not in UNITS:
        raise ValueError(f"the unit {unit} is not known: write it into {__name__}")
    return UNITS[unit](value, decimals)


def _multiple(value: float, decimals: int | None, multiples: tuple[tuple[float, str], ...]) -> str:
    if not value:
        return "0"
    size, name = next((pair for pair in reversed(multiples) if abs(value) >= pair[0]), multiples[0])
    # Grafana rounds the multiple, too, so that 1460 is "1 K"; nobody would be told anything by that here.
    return f"{_digits(value / size, decimals if size == 1 else None)} {name}".strip()


def _digits(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:.{decimals}f}"
    # Not `g` alone, which would write 1000 as 1e+03.
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _duration(value: float, _: int | None) -> str:
    """The two largest parts of a duration."""
    rest, written = round(value), []
    for size, name in PARTS:
        number, rest = divmod(rest, size)
        if number:
            written.append(f"{number}{name}")
    return " ".join(written[:2]) or "0s"


def _in(multiples: tuple[tuple[float, str], ...], ending: str = "") -> Callable[[float, int | None], str]:
    return lambda value, decimals: _multiple(value, decimals, multiples) + ending


UNITS: Mapping[str, Callable[[float, int | None], str]] = {
    "none": _digits,
    "short": _in(THOUSANDS),
    "percentunit": lambda value, decimals: f"{_digits(value * 100, decimals)}%",
    "s": _in(TIMES),
    "dtdurations": _duration,
    "ops": _in(THOUSANDS, "/s"),
    "bytes": _in(BINARY),
    "decbytes": _in(THOUSANDS, "B"),
}
