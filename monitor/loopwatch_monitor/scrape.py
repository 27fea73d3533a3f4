"""Pages made in threads: off the event loop, one at a time, and shared by the scrapers that come meanwhile.

There are four whole pages (two formats, compressed or not), and no end of parts of it: of those, some at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from zlib import DEFLATED

from loopwatch_monitor.negotiate import Format
from loopwatch_monitor.threads import in_thread

try:
    # ISA-L: a seventh of zlib's time for the same size, and zlib's was a third of a page's.
    from isal.isal_zlib import compressobj  # type: ignore[import-not-found,unused-ignore]
except ImportError:  # a machine that it has no wheel for
    from zlib import compressobj  # type: ignore[assignment,unused-ignore]

__all__ = ["Pieces", "Scraper", "TooManyPagesError", "Variant", "render"]

Pieces = Callable[[Format, frozenset[str]], Iterator[bytes]]
"""Makes a page: its format, and the families to be shown alone."""

# zlib's level 1 of 60 MB of text: 3 ms a MB and a seventeenth of its size. Level 6 takes twice the time for a fifth
# less. With less memory than zlib's own 8, its table stays in the processor's cache: a sixth less time, the same size.
_LEVEL, _GZIP_HEADER, _MEMORY = 1, 31, 6
_BLOCK = 256 * 1024
MAX_PAGES = 4
"""Pages that may be held for readers at once: one of a large fleet, not compressed, is 100 MB."""
MAX_PARTS = 4
"""Parts of the page, each of other families, that are made or wait to be made at once."""


class TooManyPagesError(Exception):
    """So many parts of the page are asked for that another one is not made."""


class Variant(NamedTuple):
    """What scrapers may differ in. Those who ask for the same get the same page."""

    form: Format = Format.TEXT
    gzip: bool = False
    names: frozenset[str] = frozenset()


def render(pieces: Pieces, variant: Variant) -> list[bytes]:
    """The page, compressed piece by piece where that is wanted: the plain text of a large fleet is 100 MB."""
    blocks = _blocks(pieces(variant.form, variant.names))
    if not variant.gzip:
        return [*blocks]
    packer = compressobj(_LEVEL, DEFLATED, _GZIP_HEADER, _MEMORY)
    return [b"".join([*map(packer.compress, blocks), packer.flush()])]


def _blocks(texts: Iterator[bytes]) -> Iterator[bytes]:
    """The same in fewer pieces: each is a write to the socket, or to the compressor, which lets go of the GIL (and gets
    it back from an intake that works a moment later)."""
    block: list[bytes] = []
    size = 0
    for text in texts:
        block.append(text)
        size += len(text)
        if size >= _BLOCK:
            yield b"".join(block)
            block, size = [], 0
    yield b"".join(block)


class Scraper:
    """Renders one page at a time, however many ask.

    Args:
        pieces: makes a page; called in a thread.
        reset: ends a reader's connection.
    """

    def __init__(self, pieces: Pieces, reset: Callable[[asyncio.BaseTransport], None]) -> None:
        self._pieces = pieces
        self._reset = reset
        self._readers: dict[int, set[asyncio.BaseTransport]] = {}
        self._turn = asyncio.Lock()
        self._running: dict[Variant, asyncio.Task[list[bytes]]] = {}

    async def page(self, variant: Variant) -> list[bytes]:
        """The page: one that is being made, if there is one. Giving up waiting does not cost the others theirs. A part
        that finds `MAX_PARTS` others is a `TooManyPagesError`."""
        task = self._running.get(variant)
        if task is None:
            if variant.names and sum(1 for other in self._running if other.names) >= MAX_PARTS:
                raise TooManyPagesError
            task = self._running[variant] = asyncio.create_task(self._render(variant))
        return await asyncio.shield(task)

    @contextmanager
    def reading(self, page: list[bytes], reader: asyncio.BaseTransport) -> Iterator[None]:
        """While a page is sent. Beyond `MAX_PAGES`, those who still read the oldest one have read too slowly."""
        readers = self._readers.setdefault(id(page), set())
        readers.add(reader)
        if len(self._readers) > MAX_PAGES:
            for slow in [*next(iter(self._readers.values()))]:
                self._reset(slow)
        try:
            yield
        finally:
            readers.discard(reader)
            if not readers:
                self._readers.pop(id(page), None)

    async def _render(self, variant: Variant) -> list[bytes]:
        try:
            async with self._turn:
                return await in_thread(lambda: render(self._pieces, variant))
        finally:
            del self._running[variant]
