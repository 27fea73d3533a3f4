"""`loopwatch monitor`: options, logs, start and stop.

A setting that cannot work, a broker that cannot be reached and an address that is taken are said in one line on
stderr, with exit code 2: at start somebody is watching. A broker that goes away later is waited for.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import click
import structlog

from loopwatch._version import __version__
from loopwatch.telemetry import catalogue
from loopwatch_monitor.hub import Hub
from loopwatch_monitor.intake.redis import RedisIntake
from loopwatch_monitor.intake.redis_address import is_redis
from loopwatch_monitor.intake.status import BrokerStatus, BrokerUnreachableError
from loopwatch_monitor.intake.thread import Intake
from loopwatch_monitor.server import Server
from loopwatch_monitor.settings import SettingError, Settings, parse_buckets, parse_options, parse_pairs

__all__ = ["main", "make_intake", "spare_the_intake"]

logger = structlog.get_logger("loopwatch_monitor")
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _option(name: str, **more: Any) -> Callable[[_Function], _Function]:
    """An option that is also ``LOOPWATCH_*`` and celery-exporter's ``CE_*``."""
    variable = name.removeprefix("--").replace("-", "_").upper()
    more.setdefault("show_default", "default" in more)
    return click.option(name, envvar=[f"LOOPWATCH_{variable}", f"CE_{variable}"], show_envvar=True, **more)


def _joined(buckets: tuple[float, ...]) -> str:
    return ",".join(f"{bound:g}" for bound in buckets)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@_option("--broker-url", default="", show_default=False, help="The broker, such as redis://host:6379/0. Required.")
@_option("--host", default="0.0.0.0", help="Address to listen on.")  # noqa: S104  # a sidecar is scraped from outside
@_option("--port", type=int, default=9808, help="Port to listen on; 0 takes a free one.")
@_option("--log-level", default="INFO", help="DEBUG, INFO, WARNING, ERROR or CRITICAL.")
@_option("--worker-timeout", type=float, default=300.0, help="Seconds of silence until a worker is down; 0 = never.")
@_option(
    "--purge-offline-worker-metrics",
    type=float,
    default=600.0,
    help="Seconds of silence until a worker's series go; 0 = never.",
)
@_option("--buckets", default=_joined(catalogue.TASK_RUNTIME.buckets), help="Of task runtimes, in seconds.")
@_option("--queue-wait-buckets", default=_joined(catalogue.TASK_QUEUE_WAIT.buckets), help="Of queue waits, in seconds.")
@_option("--default-queue-name", default="celery", help="Queue of tasks that were sent to no named one.")
@_option("--metric-prefix", default=catalogue.CELERY_PREFIX, help="Stands in for celery_ in Celery's own metrics.")
@_option("--static-label", multiple=True, metavar="K=V", help="Label on every series; repeatable.")
@_option("--event-exchange", default="celeryev", help="The application's event_exchange.")
@_option(
    "--event-buffer-bytes",
    type=int,
    default=256 * 1024 * 1024,
    help="What is kept at most when events come faster than they can be taken in.",
)
@_option("--broker-transport-option", multiple=True, metavar="K=V", help="For kombu's transport; repeatable.")
def _command(
    buckets: str,
    queue_wait_buckets: str,
    static_label: tuple[str, ...],
    broker_transport_option: tuple[str, ...],
    **plain: Any,
) -> int:
    """Consume Celery's events and serve them as Prometheus metrics."""
    settings = Settings(
        buckets=parse_buckets("--buckets", buckets),
        queue_wait_buckets=parse_buckets("--queue-wait-buckets", queue_wait_buckets),
        static_labels=parse_pairs("--static-label", static_label),
        broker_transport_options=parse_options("--broker-transport-option", broker_transport_option),
        **plain,
    )
    _configure_logs(settings.log_level)
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(settings))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Runs the monitor until SIGTERM or SIGINT; returns the exit code."""
    try:
        result = _command.main(args=argv, prog_name="loopwatch monitor", standalone_mode=False)
    except click.ClickException as error:
        return _refuse(f"{error.format_message()} Run it with --help to see the options.")
    except (SettingError, BrokerUnreachableError) as error:
        return _refuse(str(error))
    return int(result or 0)


def _refuse(problem: str) -> int:
    sys.stderr.write(f"loopwatch monitor: {' '.join(problem.split())}\n")
    return 2


async def _serve(settings: Settings) -> None:
    status = BrokerStatus()
    hub = Hub(settings, status=status, version=__version__)
    intake = make_intake(settings, hub, status)
    try:
        await asyncio.to_thread(intake.probe)
    except BrokerUnreachableError as error:
        raise BrokerUnreachableError(
            f"--broker-url (LOOPWATCH_BROKER_URL): cannot reach {error}. Start the broker or correct the URL."
        ) from None
    server = Server(page=hub.page, probe=intake.probe, status=status, version=__version__)
    try:
        port = await server.start(settings.host, settings.port)
    except OSError as error:
        raise SettingError(
            "--port", f"cannot listen on {settings.host}:{settings.port}: {_words(error)}; choose another"
        ) from None
    spare_the_intake()
    intake.start()
    logger.info("monitor_started", host=settings.host, port=port, version=__version__)
    try:
        await _until_stopped(hub)
    finally:
        await server.close()
        intake.close()
        logger.info("monitor_stopped")


def make_intake(settings: Settings, hub: Hub, status: BrokerStatus) -> Intake:
    """Our own intake where the broker is Redis, kombu's anywhere else."""
    url = settings.broker_url
    common: dict[str, Any] = {
        "sink": hub.receive,
        "status": status,
        "exchange": settings.event_exchange,
        "options": settings.broker_transport_options,
    }
    if not is_redis(url):
        # Only now: Celery and kombu's transports are a third of our memory.
        from loopwatch_monitor.intake.kombu import KombuIntake

        return KombuIntake(url, **common)
    try:
        return RedisIntake(url, buffer_bytes=settings.event_buffer_bytes, **common)
    except ValueError as error:
        raise SettingError("--broker-url", str(error)) from None


def spare_the_intake() -> None:
    """What keeps its thread from reading is what loses events: the other threads' turns are made short, and the garbage
    collector, which stops all threads, is kept from what is here for good and comes less often."""
    sys.setswitchinterval(0.001)
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def _words(error: OSError) -> str:
    # asyncio's own text repeats the address.
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


async def _until_stopped(hub: Hub) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    while not stopped.is_set():
        hub.tick()
        with suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), timeout=1.0)


def _configure_logs(level: str) -> None:
    """JSON, one object a line, on stdout; the libraries' own messages too."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # What kombu cannot read it logs as a whole: an event's arguments are the users' data.
    logging.getLogger("kombu.transport.redis").setLevel(logging.ERROR)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
