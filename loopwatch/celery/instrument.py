"""`instrument`: telemetry from every process of a Celery worker, by Celery's signals alone.

Nothing starts before a worker does: `instrument` only connects receivers. In a worker, `Node` (the parent's part)
makes the channel before the pool forks and starts its threads when the worker is ready; each pool child sends its
snapshots; the task signals tell for which queue and task a fact is counted.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from celery import Celery, current_app, signals

from loopwatch.celery.identity import Queues, slot
from loopwatch.celery.node import Node
from loopwatch.celery.registry import check_async_tasks as check_tasks
from loopwatch.celery.running import RunningTasks
from loopwatch.celery.spawned import invitation
from loopwatch.conflicts import count_once
from loopwatch.errors import ConfigurationError
from loopwatch.event_loops import check_event_loop, use_event_loop
from loopwatch.per_loop import process_exits
from loopwatch.runner import close_loops
from loopwatch.stalls import STALLS, check_stall_threshold
from loopwatch.telemetry.channel import Writer
from loopwatch.telemetry.reporter import check_interval
from loopwatch.telemetry.stats import STATS

__all__ = ["instrument"]


@dataclass(frozen=True, slots=True)
class _Settings:
    interval: float
    release: str
    stall_threshold: float | None
    event_loop: str | None


class _Instrument:
    """One application's telemetry in this process, whatever the process is."""

    def __init__(self, settings: _Settings, queues: Queues) -> None:
        self.settings = settings
        self.queues = queues
        self.tasks = RunningTasks(queues)
        self.node: Node | None = None
        self.writer: Writer | None = None
        STATS.add_source(self.tasks.gauges)


_instruments: WeakKeyDictionary[Celery[Any], _Instrument] = WeakKeyDictionary()


def instrument(
    app: Celery[Any],
    *,
    interval: float = 5.0,
    release: str | None = None,
    event_loop: str | None = None,
    stall_threshold: float | None = 1.0,
    check_async_tasks: bool = True,
) -> None:
    """Has every worker of ``app`` report to the monitor: no port, no file, and no ``-E`` needed.

    Call it where the application is made; processes that are no workers are not affected. Calling it again with the
    same arguments changes nothing.

    >>> from celery import Celery
    >>> app = Celery("app", task_cls="loopwatch:AsyncTask", set_as_current=False)
    >>> instrument(app, release="1.4.2")

    Args:
        app: the Celery application.
        interval: seconds between a worker's events.
        release: the application's version, shown with the worker.
        event_loop: which loops `loopwatch.run_async` makes, in this process: ``"asyncio"`` (also by default: those of
            asyncio's policy) or ``"uvloop"``. Under gevent and eventlet they are asyncio's in any case.
        stall_threshold: seconds that an event loop may be blocked before a warning with the stack that blocks it is
            logged (``loopwatch``) and counted; ``None``: none is. On the threads pool, where all tasks share a loop,
            any stall is one. On prefork and solo a task has its loop to itself, and may compute as long as it likes:
            a stall is one while another asyncio task of the loop waits.
        check_async_tasks: refuse ``async def`` tasks that nobody awaits; false where something else awaits them, such
            as celery-aio-pool.

    Raises:
        ConfigurationError: the interval or the threshold is out of range, the event loop unknown or not installed, an
            ``async def`` task is not an `AsyncTask` (also raised later, when one is registered), or the application is
            instrumented with other arguments.
    """
    check_interval(interval)
    check_stall_threshold(stall_threshold)
    check_event_loop(event_loop)
    settings = _Settings(interval, release or "", stall_threshold, event_loop)
    known = _instruments.get(app)
    if known is not None:
        if known.settings != settings:
            raise ConfigurationError(
                f"instrument() was called twice for {app!r}, now with {settings}, before with {known.settings}: "
                "call it once, where the application is made"
            )
        return
    if check_async_tasks:
        check_tasks(app)
    if event_loop is not None:
        use_event_loop(event_loop)
    _instruments[app] = _Instrument(settings, Queues(app))
    _connect()


def _connect() -> None:
    for signal, receiver in (
        (signals.worker_init, _worker_init),
        (signals.worker_ready, _worker_ready),
        (signals.worker_process_init, _process_init),
        (signals.worker_process_shutdown, _process_shutdown),
        (signals.worker_shutdown, _worker_shutdown),
        (signals.task_prerun, _task_prerun),
        (signals.task_failure, _task_failure),
        (signals.task_retry, _task_retry),
        (signals.task_postrun, _task_postrun),
    ):
        signal.connect(receiver, dispatch_uid=f"loopwatch.{receiver.__name__}")


# ---------------------------------------------------------------- the worker's parent process
def _worker_init(sender: Any, **_: Any) -> None:
    one = _instruments.get(sender.app)
    if one is not None:
        settings = one.settings
        STALLS.configure(settings.stall_threshold)  # for forked children, too
        one.node = Node(sender, one.queues, interval=settings.interval, release=settings.release)


def _worker_ready(sender: Any, **_: Any) -> None:
    one = _instruments.get(sender.app)
    if one is not None and one.node is not None:
        one.node.start()


def _worker_shutdown(sender: Any, **_: Any) -> None:
    one = _instruments.get(sender.app)
    if one is None or one.node is None or not one.node.in_parent():
        return
    _end_loops()
    one.node.stop()
    one.node = None


# ---------------------------------------------------------------- a pool's child
def _process_init(**_: Any) -> None:
    if _instruments and all(one.node is None for one in _instruments.values()):
        _spawned()
    for one in _instruments.values():
        if one.node is not None and not one.node.in_parent():  # the solo pool sends this signal in the parent
            one.writer = one.node.channel.writer(slot())
            one.writer.start()


def _spawned() -> None:
    """In a fresh interpreter, where no worker began and no socket was inherited."""
    app: Celery[Any] = current_app._get_current_object()  # type: ignore[attr-defined]  # not in the stubs
    invited = invitation()
    sock = invited.connect() if invited is not None else None
    if invited is None or sock is None:
        return
    # Celery has unpickled this application: its tasks are here, but `instrument` was called for its module's own.
    alike = min(_instruments, key=lambda known: known.main != app.main)
    settings = _instruments[alike].settings
    one = _instruments[app] = _Instrument(settings, Queues(app))
    STALLS.configure(settings.stall_threshold)
    app.amqp.queues.select(invited.queues)
    one.writer = Writer(sock, slot())
    one.writer.start()


def _process_shutdown(**_: Any) -> None:
    # Disposals first: they count.
    _end_loops()
    for one in _instruments.values():
        if one.writer is not None:
            one.writer.finish()


def _end_loops() -> None:
    process_exits()
    close_loops()


# ---------------------------------------------------------------- tasks, in whatever process they run
def _task_prerun(task: Any, task_id: str, **_: Any) -> None:
    one = _instruments.get(task.app)
    if one is not None:
        one.tasks.begin(task, task_id)


def _task_postrun(task: Any, **_: Any) -> None:
    one = _instruments.get(task.app)
    if one is not None:
        one.tasks.end(task)
        if one.writer is not None:
            one.writer.task_ended()


def _task_failure(exception: BaseException, **_: Any) -> None:
    # The one that is being handled: Celery hands over a copy, without mark and chain, of one that cannot be pickled.
    count_once(sys.exc_info()[1] or exception, source="exception")


def _task_retry(reason: BaseException | None = None, **_: Any) -> None:
    # Celery's Retry, whose `exc` is what the task failed with; none where a cold shutdown has cancelled the task.
    if reason is not None:
        count_once(reason, source="exception")
