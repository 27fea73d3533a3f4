"""What a scraper asks for, by its Accept headers: a text format, and whether to compress."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

__all__ = ["Format", "accepts_gzip", "choose_format"]


class Format(Enum):
    """An exposition format; the value is its content type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


_VERSIONS = {
    Format.TEXT: ("", "0.0.4"),
    # 0.0.1 is what Prometheus called the draft.
    Format.OPENMETRICS: ("", "0.0.1", "1.0.0"),
}


def choose_format(accept: str) -> Format:
    """The format that an ``Accept`` header likes best; the text format when it names none that we have.

    >>> choose_format("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2").name
    'OPENMETRICS'
    >>> choose_format("*/*").name
    'TEXT'
    """
    best, liked = Format.TEXT, 0.0
    for kind, parameters, weight in _ranges(accept):
        wanted = Format.OPENMETRICS if kind == "application/openmetrics-text" else Format.TEXT
        known = kind in ("application/openmetrics-text", "text/plain", "text/*", "*/*")
        if known and weight > liked and parameters.get("version", "") in _VERSIONS[wanted]:
            best, liked = wanted, weight
    return best


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an ``Accept-Encoding`` header takes gzip, and likes it no less than plain text.

    >>> accepts_gzip("gzip"), accepts_gzip("br, gzip;q=0"), accepts_gzip("")
    (True, False, False)
    """
    weights = {coding: weight for coding, _, weight in _ranges(accept_encoding)}
    gzip = weights.get("gzip", weights.get("*", 0.0))
    return gzip > 0 and gzip >= weights.get("identity", 0.0)


def _ranges(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Name, parameters and q-value of each part; what is malformed counts as not liked."""
    for part in header.split(","):
        name, *texts = (text.strip().lower() for text in part.split(";"))
        pairs = (text.partition("=") for text in texts)
        parameters = {key.strip(): value.strip().strip('"') for key, _, value in pairs}
        yield name, parameters, _weight(parameters.pop("q", "1"))


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0
