"""Label values as text: bounded, escaped, and rendered once when a series is born (a scrape only copies it)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["MAX_LENGTH", "Labels", "cut"]

MAX_LENGTH = 200
"""Characters. What comes from outside may be of any length (a class name of 5 MB was tried)."""

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def cut(value: str) -> str:
    """The value, shortened to `MAX_LENGTH` with an ellipsis when it is longer."""
    return value if len(value) <= MAX_LENGTH else f"{value[: MAX_LENGTH - 1]}…"


class Labels:
    """Renders label sets; ``static`` labels are appended to each."""

    def __init__(self, static: Mapping[str, str] | None = None) -> None:
        self._static = self._join(list(static or ()), list((static or {}).values()))

    def text(self, names: Sequence[str], values: Sequence[str]) -> str:
        """``a="1",b="2"``: what stands between the braces."""
        own = self._join(names, values)
        return f"{own},{self._static}" if own and self._static else own or self._static

    @staticmethod
    def _join(names: Sequence[str], values: Sequence[str]) -> str:
        return ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(names, values, strict=True))
