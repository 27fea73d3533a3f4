"""What stands in for ``celery_`` in the metrics of Celery: the monitor's ``--metric-prefix``.

``make dashboards`` takes it from the environment, ``METRIC_PREFIX``: dashboards, rules and runbook then ask for those
names, and what is recorded of them is called so, too.
"""

from __future__ import annotations

import os
import re

from loopwatch.telemetry import catalogue

__all__ = ["with_prefix"]

_CELERYS = [
    metric.name.removeprefix(catalogue.CELERY_PREFIX)
    for metric in catalogue.METRICS
    if metric.name.startswith(catalogue.CELERY_PREFIX)
]
# A metric; all of them, as a text says it; one that is recorded (queue:celery_queue_length:max). Not `celery_version`,
# which is a label.
_NAMED = re.compile(rf"{catalogue.CELERY_PREFIX}(?={'|'.join(_CELERYS)}|\*)|(?<=:){catalogue.CELERY_PREFIX}")
_PREFIX = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)?")


def with_prefix(text: str) -> str:
    """A dashboard or rules, with the fleet's own prefix.

    >>> import os
    >>> os.environ["METRIC_PREFIX"] = "acme_"
    >>> with_prefix("max(celery_queue_length), queue:celery_queue_length:max, loopwatch_loops")
    'max(acme_queue_length), queue:acme_queue_length:max, loopwatch_loops'
    >>> del os.environ["METRIC_PREFIX"]

    Raises:
        ValueError: no metric's name can begin so.
    """
    prefix = os.environ.get("METRIC_PREFIX", catalogue.CELERY_PREFIX)
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(f"METRIC_PREFIX: {prefix!r} cannot begin a metric's name; write it like acme_")
    return _NAMED.sub(lambda _: prefix, text)
