"""The bucket of tokens."""

from __future__ import annotations

from loopwatch_monitor.rate_limit import RateLimit, TokenBucket


def test_a_bucket_fills_up_to_its_burst() -> None:
    now = [0.0]
    bucket = TokenBucket(RateLimit(interval=2.0, burst=3), lambda: now[0])
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    now[0] = 2.0
    assert [bucket.take() for _ in range(2)] == [True, False]
    now[0] = 100.0
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
