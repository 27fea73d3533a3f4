"""Colours for a light page and for a dark one.

The series' first colours are Okabe's and Ito's, lighter on the dark page. The first six of each mode can be told apart
with deuteranopia and protanopia, too: they differ by 24 at least in CIELAB, changed as Machado's matrices change them.
Grafana's words for what is good and bad (green, yellow, red) are teal, amber and vermilion for the same reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["THEMES", "Theme"]


@dataclass(frozen=True)
class Theme:
    """The colours of one mode.

    Attributes:
        page, card, border: behind everything, behind a panel, and around it.
        text, faint: of titles and values, and of what matters less.
        shade: behind the part of the run that has the disease.
        cycle: of the series, in order.
        words: what a threshold's colour looks like.
        on_word: the text on such a colour.
    """

    page: str
    card: str
    border: str
    text: str
    faint: str
    grid: str
    shade: str
    cycle: tuple[str, ...]
    words: Mapping[str, str] = field(repr=False)
    on_word: Mapping[str, str] = field(repr=False)
    heat: tuple[str, ...] = field(repr=False)

    def colours(self) -> list[str]:
        """All of them, each once."""
        single = (self.page, self.card, self.border, self.text, self.faint, self.grid, self.shade)
        return list(dict.fromkeys([*single, *self.cycle, *self.words.values(), *self.on_word.values(), *self.heat]))


ON_WORD = {"green": "#ffffff", "yellow": "#1f2328", "orange": "#1f2328", "red": "#ffffff", "blue": "#ffffff"}

THEMES: Mapping[str, Theme] = {
    "light": Theme(
        page="#ffffff",
        card="#ffffff",
        border="#d5dae1",
        text="#1f2328",
        faint="#59636e",
        grid="#e2e6eb",
        shade="#fbe6de",
        cycle=("#0072b2", "#d55e00", "#009e73", "#444c56", "#d896c8", "#332288", "#7cc4f0", "#882255"),
        words={"green": "#1a8272", "yellow": "#e8b01e", "orange": "#e8871e", "red": "#c8371f", "blue": "#0072b2"},
        on_word=ON_WORD,
        heat=("#fdd5a9", "#fbb877", "#f79649", "#d55e00", "#7a2e00"),
    ),
    "dark": Theme(
        page="#0d1117",
        card="#161b22",
        border="#30363d",
        text="#e6edf3",
        faint="#9aa5b1",
        grid="#262c36",
        shade="#38221f",
        cycle=("#56b4e9", "#f0763a", "#2bc59a", "#f0e442", "#ffffff", "#3d8bfd", "#e58fc0", "#b794f4"),
        words={"green": "#1f8a79", "yellow": "#e0ab26", "orange": "#ea8d30", "red": "#d0452d", "blue": "#58a6ff"},
        on_word=ON_WORD,
        heat=("#5f3715", "#7d420f", "#b4560f", "#f0763a", "#ffe3c2"),
    ),
}
