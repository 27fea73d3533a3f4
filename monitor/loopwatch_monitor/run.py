"""The monitor's life: its parts are made and wired, started, kept going, and ended."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import signal
import sys
from contextlib import suppress
from typing import Any, NoReturn

import structlog

from loopwatch._version import __version__
from loopwatch_monitor.addresses import Address
from loopwatch_monitor.guard import Guard
from loopwatch_monitor.hub import Hub
from loopwatch_monitor.intake.redis import RedisIntake
from loopwatch_monitor.intake.redis_address import is_redis
from loopwatch_monitor.intake.status import BrokerStatus, BrokerUnreachableError
from loopwatch_monitor.intake.thread import Intake
from loopwatch_monitor.intake.tls_options import redis_ssl
from loopwatch_monitor.polls.start import make_polls
from loopwatch_monitor.polls.thread import Poll
from loopwatch_monitor.server import ListenError, Server
from loopwatch_monitor.settings import SettingError, Settings
from loopwatch_monitor.threads import in_thread
from loopwatch_monitor.webconfig import WebConfigError

__all__ = ["make_intake", "run", "spare_the_intake"]

logger = structlog.get_logger("loopwatch_monitor")

SWITCH_SECONDS = 0.001
"""For which a thread keeps the GIL: a page and the intake each wait that long for the other, instead of 5 ms."""
CLOSE_SECONDS = 0.3
"""How long the intake may take to end: SIGTERM is to be obeyed within a second."""


def run(settings: Settings) -> None:
    """Runs the monitor until SIGTERM or SIGINT, which end the process. Raises `SettingError` and
    `BrokerUnreachableError` while it starts."""
    try:
        asyncio.run(_serve(settings))
    except asyncio.CancelledError:
        _leave()


async def _serve(settings: Settings) -> None:
    _obey_signals()
    status = BrokerStatus()
    guard = _make_guard(settings)
    hub = Hub(settings, status=status, version=__version__, reloaded=lambda: guard.reloaded)
    intake = make_intake(settings, hub, status)
    polls = _make_polls(settings, hub)
    await _reach(intake)
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
    _tell(settings, bound)
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


def _make_guard(settings: Settings) -> Guard:
    try:
        return Guard(settings.web_config_file)
    except WebConfigError as error:
        raise SettingError("--web.config.file", str(error)) from None


def _make_polls(settings: Settings, hub: Hub) -> list[Poll]:
    try:
        return make_polls(settings, hub)
    except ValueError as error:
        raise SettingError("--broker-transport-option", str(error)) from None


async def _reach(intake: Intake) -> None:
    try:
        await in_thread(intake.probe)
    except BrokerUnreachableError as error:
        raise BrokerUnreachableError(
            f"--broker-url (LOOPWATCH_BROKER_URL): cannot reach {error}. Start the broker or correct the URL."
        ) from None


def _tell(settings: Settings, bound: list[Address]) -> None:
    if set(settings.accept_content) - {"json", "application/json"}:
        logger.warning("accept_content_ignored", fix="only JSON is read: event_serializer must be json")
    logger.info(
        "monitor_started",
        host=bound[0].host,
        port=bound[0].port,
        addresses=[str(address) for address in bound],
        version=__version__,
    )


async def _listen(server: Server, settings: Settings) -> list[Address]:
    # In brackets, too: celery-exporter takes an IPv6 address so.
    addresses = settings.web_listen_addresses or (Address(settings.host.strip("[]"), settings.port),)
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
