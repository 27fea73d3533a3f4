"""`loopwatch monitor`: options, logs, start and stop.

A setting that cannot work, a broker that cannot be reached and an address that is taken are said in one line on
stderr, with exit code 2: at start somebody is watching. A broker that goes away later is waited for.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import structlog

from loopwatch._version import __version__
from loopwatch.telemetry import catalogue
from loopwatch_monitor.guard import Guard
from loopwatch_monitor.hub import Hub
from loopwatch_monitor.intake.redis import RedisIntake
from loopwatch_monitor.intake.redis_address import is_redis
from loopwatch_monitor.intake.status import BrokerStatus, BrokerUnreachableError
from loopwatch_monitor.intake.thread import Intake
from loopwatch_monitor.intake.tls_options import redis_ssl
from loopwatch_monitor.listen import Address
from loopwatch_monitor.polls.start import make_polls
from loopwatch_monitor.server import ListenError, Server
from loopwatch_monitor.settings import (
    SettingError,
    Settings,
    parse_addresses,
    parse_buckets,
    parse_list,
    parse_options,
    parse_pairs,
)
from loopwatch_monitor.threads import in_thread
from loopwatch_monitor.webconfig import WebConfigError

__all__ = ["main", "make_intake", "spare_the_intake"]

logger = structlog.get_logger("loopwatch_monitor")

SWITCH_SECONDS = 0.001
"""For which a thread keeps the GIL: a page and the intake each wait that long for the other, instead of 5 ms."""
CLOSE_SECONDS = 0.3
"""How long the intake may take to end: SIGTERM is to be obeyed within a second."""
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _option(name: str, *short: str, **more: Any) -> Callable[[_Function], _Function]:
    """An option that is also ``LOOPWATCH_*`` and celery-exporter's ``CE_*``."""
    parameter = re.sub("[-.]", "_", name.removeprefix("--"))
    variable = parameter.upper()
    more.setdefault("show_default", "default" in more)
    return click.option(
        name, *short, parameter, envvar=[f"LOOPWATCH_{variable}", f"CE_{variable}"], show_envvar=True, **more
    )


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
@_option("--created-timestamps", is_flag=True, help="Expose _created; Prometheus stores each counter twice then.")
@_option(
    "--web.listen-address",
    multiple=True,
    metavar="ADDRESS",
    help="host:port, :port or unix:///path, instead of --host and --port; repeatable.",
)
@_option(
    "--web.config.file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TLS, passwords, headers and rate limit: exporter-toolkit's web configuration. Re-read when it changes.",
)
@_option("--web.open-health", is_flag=True, help="/health, /ready and /live answer without authentication.")
@_option(
    "--broker-transport-option",
    multiple=True,
    metavar="K=V",
    help="For kombu's transport, such as global_keyprefix=app: or master_name=main; lists as JSON; repeatable.",
)
@_option(
    "--broker-ssl-option",
    multiple=True,
    metavar="K=V",
    help="TLS to the broker: ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_cert_reqs; repeatable.",
)
@_option("--accept-content", default="json", help="The application's accept_content. Only JSON is ever read.")
@_option(
    "--retry-interval",
    type=float,
    default=0.0,
    help="Longest pause in seconds between two attempts to reach a broker that is lost; 0 = 15. It is never given up.",
)
@_option(
    "--generic-hostname-task-sent-metric",
    is_flag=True,
    help='hostname="generic" in the counter of tasks sent: there are as many senders as client processes.',
)
@_option(
    "--generic-hostname-worker-task-metric",
    is_flag=True,
    help='hostname="generic" in all other metrics of tasks, for fleets whose workers have new names each day.',
)
@_option(
    "--queues",
    "-Q",
    default="",
    metavar="A,B",
    help="Queues that are shown from the start. Others are learnt from events and from workers.",
)
@_option(
    "--no-slots", is_flag=True, help='slot="all": sums the slots of a worker (the highest of peaks), for large fleets.'
)
@_option(
    "--no-conflict-texts",
    is_flag=True,
    help="The log tells of conflicts without the text of their errors, which may hold users' data.",
)
def _command(
    web_listen_address: tuple[str, ...],
    buckets: str,
    queue_wait_buckets: str,
    static_label: tuple[str, ...],
    broker_transport_option: tuple[str, ...],
    broker_ssl_option: tuple[str, ...],
    accept_content: str,
    queues: str,
    no_slots: bool,
    no_conflict_texts: bool,
    **plain: Any,
) -> int:
    """Consume Celery's events and serve them as Prometheus metrics."""
    settings = Settings(
        web_listen_addresses=parse_addresses("--web.listen-address", web_listen_address),
        buckets=parse_buckets("--buckets", buckets),
        queue_wait_buckets=parse_buckets("--queue-wait-buckets", queue_wait_buckets),
        static_labels=parse_pairs("--static-label", static_label),
        broker_transport_options=parse_options("--broker-transport-option", broker_transport_option),
        broker_ssl_options=parse_pairs("--broker-ssl-option", broker_ssl_option),
        accept_content=parse_list(accept_content),
        queues=parse_list(queues),
        slots=not no_slots,
        conflict_texts=not no_conflict_texts,
        **plain,
    )
    _configure_logs(settings.log_level)
    try:
        asyncio.run(_serve(settings))
    except asyncio.CancelledError:
        _leave()
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
    _obey_signals()
    status = BrokerStatus()
    try:
        guard = Guard(settings.web_config_file)
    except WebConfigError as error:
        raise SettingError("--web.config.file", str(error)) from None
    hub = Hub(settings, status=status, version=__version__, reloaded=lambda: guard.reloaded)
    intake = make_intake(settings, hub, status)
    try:
        polls = make_polls(settings, hub)
    except ValueError as error:
        raise SettingError("--broker-transport-option", str(error)) from None
    try:
        await in_thread(intake.probe)
    except BrokerUnreachableError as error:
        raise BrokerUnreachableError(
            f"--broker-url (LOOPWATCH_BROKER_URL): cannot reach {error}. Start the broker or correct the URL."
        ) from None
    server = Server(
        pieces=hub.pieces,
        probe=intake.probe,
        status=status,
        version=__version__,
        guard=guard,
        open_health=settings.web_open_health,
    )
    bound = await _listen(server, settings)
    spare_the_intake()
    intake.start()
    for poll in polls:
        poll.start()
    if set(settings.accept_content) - {"json", "application/json"}:
        logger.warning("accept_content_ignored", fix="only JSON is read: event_serializer must be json")
    logger.info(
        "monitor_started",
        host=bound[0].host,
        port=bound[0].port,
        addresses=[str(address) for address in bound],
        version=__version__,
    )
    try:
        while True:
            hub.tick()
            await asyncio.sleep(1.0)
    finally:
        for poll in polls:
            poll.close()
        with suppress(TimeoutError):
            # Together: neither waits for the other.
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.gather(server.close(), in_thread(intake.close))
        logger.info("monitor_stopped")


async def _listen(server: Server, settings: Settings) -> list[Address]:
    addresses = settings.web_listen_addresses or (Address(settings.host, settings.port),)
    try:
        return await server.start(addresses)
    except ListenError as error:
        own = "--port" if error.error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
        option = "--web.listen-address" if settings.web_listen_addresses else own
        raise SettingError(option, f"{error}: {_words(error.error)}; choose another") from None


def make_intake(settings: Settings, hub: Hub, status: BrokerStatus) -> Intake:
    """Our own intake where the broker is Redis, kombu's anywhere else."""
    url = settings.broker_url
    common: dict[str, Any] = {
        "sink": hub.receive,
        "status": status,
        "exchange": settings.event_exchange,
        "options": settings.broker_transport_options,
    }
    tls = settings.broker_ssl_options
    intake: Intake
    if not is_redis(url):
        # Only now: Celery and kombu's transports are a third of our memory.
        from loopwatch_monitor.intake.kombu import KombuIntake

        intake = KombuIntake(url, ssl_options=tls, **common)
    else:
        try:
            intake = RedisIntake(url, buffer_bytes=settings.event_buffer_bytes, ssl_options=redis_ssl(tls), **common)
        except ValueError as error:
            raise SettingError("--broker-url", str(error)) from None
    intake.retry_seconds = settings.retry_interval
    return intake


def spare_the_intake() -> None:
    """What keeps its thread from reading is what loses events: the other threads' turns are made short, and the garbage
    collector, which stops all threads, is kept from what is here for good and comes less often."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def _words(error: OSError) -> str:
    # asyncio's own text repeats the address.
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


def _obey_signals() -> None:
    """From the start: to process 1 of a container, what it does not ask for is not sent, and the broker may hang."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)


def _leave() -> NoReturn:
    """Ends the process. To take half a million tasks apart, as Python does, takes seconds, and nobody needs it done."""
    logging.shutdown()
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(0)


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
