"""The monitor's ``/metrics``, read as Prometheus reads it: every number that the demo shows comes from here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

__all__ = ["Page", "QueueNumbers", "numbers_by_queue"]

Labels = dict[str, str]
Where = Callable[[Labels], bool]
NodeFilter = Callable[[str], bool]


class Page:
    """One scrape. Raises `ValueError` when it is not in Prometheus' text format."""

    def __init__(self, text: str) -> None:
        self._samples: dict[str, list[Sample]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._samples.setdefault(sample.name, []).append(sample)

    def labels(self, name: str) -> Iterable[Labels]:
        """The label sets of this name."""
        return [sample.labels for sample in self._samples.get(name, [])]

    def total(self, name: str, where: Where) -> int:
        """The sum over the samples that are asked for; 0 when there are none."""
        return round(sum(sample.value for sample in self._samples.get(name, []) if where(sample.labels)))

    def highest(self, name: str, where: Where) -> float:
        """The highest of the samples that are asked for; 0 when there are none."""
        return max((sample.value for sample in self._samples.get(name, []) if where(sample.labels)), default=0.0)


@dataclass(frozen=True)
class QueueNumbers:
    """What the workers of one queue have done and hold now."""

    queue: str
    done: int
    failed: int
    engines: int
    connections_used: int
    connections_max: int
    conflicts: int
    notification_failures: int


def numbers_by_queue(page: Page, queues: Iterable[str], *, of_node: NodeFilter) -> list[QueueNumbers]:
    """One row a queue, of the workers whose node names pass the filter.

    Engines and connections are those of the pools to a database, by the workers that consume the queue; connections
    used are the peak of the last minute, as at any one moment most are back in their pools.
    """
    return [_numbers(page, queue, of_node) for queue in queues]


def _numbers(page: Page, queue: str, of_node: NodeFilter) -> QueueNumbers:
    consumers = {
        labels["hostname"]
        for labels in page.labels("loopwatch_worker_queue")
        if labels["queue_name"] == queue and of_node(labels["hostname"])
    }
    databases = {
        (labels["hostname"], labels["pool"])
        for labels in page.labels("loopwatch_pool_info")
        if labels["hostname"] in consumers and labels["resource"] == "sqlalchemy"
    }

    def of_queue(labels: Labels) -> bool:
        return labels["queue_name"] == queue and of_node(labels["hostname"])

    def of_database(labels: Labels) -> bool:
        return (labels["hostname"], labels["pool"]) in databases

    return QueueNumbers(
        queue=queue,
        done=page.total("celery_task_succeeded_total", of_queue),
        failed=page.total("celery_task_failed_total", of_queue),
        engines=page.total("loopwatch_engines", of_database),
        connections_used=page.total("loopwatch_pool_connections_peak", of_database),
        connections_max=page.total("loopwatch_pool_connections_max", of_database),
        conflicts=page.total("loopwatch_loop_conflicts_total", of_queue),
        notification_failures=page.total("loopwatch_notification_failures_total", of_queue),
    )
