"""Pages: what a compressor makes of them is the page again, whichever there is."""

from __future__ import annotations

import gzip
import random

import pytest

from loopwatch_monitor import scrape
from loopwatch_monitor.scrape import Variant, render


@pytest.mark.parametrize("module", ["zlib", "isal.isal_zlib"])
def test_a_compressed_page_is_the_page(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "compressobj", pytest.importorskip(module).compressobj)
    texts = [f'celery_task_sent_total{{name="{random.random()}"}} {number}\n'.encode() for number in range(20_000)]
    (page,) = render(lambda form, names: iter(texts), Variant(gzip=True))
    assert gzip.decompress(page) == b"".join(texts)
    assert len(page) < len(b"".join(texts)) / 2
    assert b"".join(render(lambda form, names: iter(texts), Variant())) == b"".join(texts)
