"""A picture in pixels: boxes, text that fits, and a plot inside a box. Everything else draws on it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image, ImageColor

from dashboards.pictures.layout import Box
from dashboards.pictures.theme import Theme

__all__ = ["Canvas"]

DPI = 100
SHARPNESS = 2
"""Pixels of the file for each pixel of the layout: displays have them, too."""
FONT = "DejaVu Sans"
"""It comes with matplotlib: a picture looks the same wherever it is made."""
POINT = 72 / DPI
COLOURS = 128
"""Of the file: it needs no more, and is a third of its size."""
ALIKE = 4
"""Two colours that differ by no more than this are one."""


class Canvas:
    """A picture of so many pixels; positions are pixels from its top left corner."""

    def __init__(self, width: float, height: float, theme: Theme) -> None:
        self.theme = theme
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI * SHARPNESS, facecolor=theme.page)
        # Any: what matplotlib's canvases do has no types.
        make_agg: Any = FigureCanvasAgg
        self._agg = make_agg(self.figure)
        self._renderer = self._agg.get_renderer()

    def box(self, box: Box, colour: str, *, edge: str | None = None) -> None:
        """A filled rectangle."""
        patch = Rectangle(
            (box.left / self.width, 1 - box.bottom / self.height),
            box.width / self.width,
            box.height / self.height,
            transform=self.figure.transFigure,
            facecolor=colour,
            edgecolor=edge or colour,
            linewidth=0.8 if edge else 0,
            zorder=-1,  # below the plots
        )
        self.figure.add_artist(patch)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 11,
        colour: str | None = None,
        bold: bool = False,
        align: str = "left",
        vertical: str = "top",
    ) -> Text:
        """Text, ``size`` pixels high."""
        return self.figure.text(
            x / self.width,
            1 - y / self.height,
            text,
            fontsize=size * POINT,
            color=colour or self.theme.text,
            fontweight="bold" if bold else "normal",
            fontfamily=FONT,
            horizontalalignment=align,
            verticalalignment=vertical,
            parse_math=False,
        )

    def line(self, x: float, y: float, length: float, colour: str, *, width: float = 3) -> None:
        """A horizontal stroke, for legends."""
        self.box(Box(x, y - width / 2, length, width), colour)

    def width_of(self, text: str, size: float, *, bold: bool = False) -> float:
        """How many pixels wide the text would be."""
        font = FontProperties(family=FONT, size=size * POINT, weight="bold" if bold else "normal")
        widths = [self._renderer.get_text_width_height_descent(line, font, False)[0] for line in text.split("\n")]
        return float(max(widths)) / SHARPNESS

    def fitting(self, text: str, size: float, width: float, *, bold: bool = False) -> str:
        """The text, or as much of it as fits, with an ellipsis: of a dotted name the end."""
        short = text
        dotted = "." in text and " " not in text
        while len(short) > 1 and self.width_of(short, size, bold=bold) > width:
            kept = len(short) - 2 if short != text else len(text) - 1
            short = f"…{text[-kept:]}" if dotted else f"{text[:kept].rstrip()}…"
        return short

    def wrapped(self, text: str, size: float, width: float, *, bold: bool = False) -> str:
        """The text in as few lines as its words need."""
        characters = len(text)
        while characters > 8:
            lines = textwrap.fill(text, characters, break_long_words=False, break_on_hyphens=False)
            if self.width_of(lines, size, bold=bold) <= width:
                return lines
            characters -= 1
        return text

    def axes(self, box: Box) -> Axes:
        """A plot that fills the box, without its frame."""
        bounds = (
            box.left / self.width,
            1 - box.bottom / self.height,
            box.width / self.width,
            box.height / self.height,
        )
        axes = self.figure.add_axes(bounds)
        axes.set_facecolor("none")
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.tick_params(length=0, colors=self.theme.faint, labelsize=9.5 * POINT, labelfontfamily=FONT, pad=3)
        return axes

    def write(self, path: Path) -> None:
        """Writes it as a PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._agg.draw()
        pixels = np.asarray(self._agg.buffer_rgba())[:, :, :3]
        _with_few_colours(pixels, self.theme.colours()).save(path, optimize=True)


def _with_few_colours(pixels: np.ndarray, first: Sequence[str]) -> Image.Image:
    """The pixels in these colours and in their own most frequent ones; those in between become the nearest.

    Not by Pillow's own choice of a palette: it mixes colours that must stay what they are, such as the page's.
    """
    codes = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.int32)
    found, inverse, counts = np.unique(codes.ravel(), return_inverse=True, return_counts=True)
    colours = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1)
    chosen = [np.array(ImageColor.getrgb(colour)) for colour in first]
    for colour in colours[np.argsort(-counts)]:
        if len(chosen) == COLOURS:
            break
        if np.abs(np.array(chosen) - colour).max(axis=1).min() > ALIKE:
            chosen.append(colour)
    palette = np.array(chosen)
    nearest = np.array([np.square(palette - colour).sum(axis=1).argmin() for colour in colours], dtype=np.uint8)
    image = Image.fromarray(nearest[inverse].reshape(codes.shape))
    image.putpalette(palette.astype(np.uint8).tobytes())
    return image


def nice_top(highest: float) -> float:
    """The end of an axis that starts at 0: a little above the highest value, so that a full line is seen."""
    return highest * 1.08 if highest and math.isfinite(highest) else 1.0
