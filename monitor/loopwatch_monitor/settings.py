"""The monitor's options, validated at start. What is wrong is said in one line that names the option and the fix."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

from loopwatch.telemetry import catalogue
from loopwatch_monitor.addresses import Address, AddressError, parse_address
from loopwatch_monitor.intake.redis_address import is_redis, make_tls
from loopwatch_monitor.intake.tls_options import kombu_ssl, redis_ssl
from loopwatch_monitor.logs import LEVELS

__all__ = ["SettingError", "Settings", "parse_addresses", "parse_buckets", "parse_list", "parse_options", "parse_pairs"]

_METRIC_PREFIX = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)?")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
MIN_BUFFER_BYTES = 1024 * 1024
_OWN_LABELS = {label for metric in catalogue.METRICS for label in metric.labels} | {"le"}


class SettingError(ValueError):
    """An option that cannot work. ``option`` is its name; the message says what is wrong and what to write."""

    def __init__(self, option: str, problem: str) -> None:
        variable = re.sub("[-.]", "_", option.removeprefix("--")).upper()
        super().__init__(f"{option} (LOOPWATCH_{variable}): {problem}")
        self.option = option


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """All options; the names are those of the command line. Raises `SettingError`.

    Attributes:
        broker_url: kombu's URL of the broker; several, to be tried in turn, are joined by ``;``.
        host, port: where the pages are served; port 0 takes any free one.
        web_listen_addresses: where the pages are served instead of at host and port, when there are any.
        web_config_file: exporter-toolkit's web configuration.
        web_open_health: whether the probes answer without authentication.
        created_timestamps: whether ``_created`` is exposed for counters and histograms.
        log_level: the least severe level that is logged.
        worker_timeout: seconds of silence after which a worker is down; 0 = never.
        purge_offline_worker_metrics: seconds of silence after which a worker's series go; 0 = never.
        buckets, queue_wait_buckets: upper bounds, seconds, of the runtime and of the queue wait.
        default_queue_name: Celery's default queue, for tasks that were sent to no named one.
        metric_prefix: stands in for ``celery_``.
        static_labels: added to every series.
        broker_transport_options: the broker's kombu transport options.
        broker_ssl_options: TLS to the broker.
        accept_content: Celery's ``accept_content``; whatever it holds, only JSON is read.
        retry_interval: the longest pause, seconds, between two attempts to connect; 0 = 15.
        generic_hostname_task_sent_metric: whether ``hostname`` is ``generic`` in the counter of tasks sent.
        generic_hostname_worker_task_metric: the same in all other metrics of tasks.
        queues: queues that are known before anybody mentions them.
        slots: whether the slots of a worker are told apart.
        conflict_texts: whether the text of a conflict's error is logged.
        event_exchange: Celery's ``event_exchange``.
        event_buffer_bytes: what is kept at most when events come faster than they can be taken in.
    """

    broker_url: str
    host: str = "0.0.0.0"  # noqa: S104  # celery-exporter's default: a sidecar is scraped from outside
    port: int = 9808
    created_timestamps: bool = False
    web_listen_addresses: tuple[Address, ...] = ()
    web_config_file: Path | None = None
    web_open_health: bool = False
    log_level: str = "INFO"
    worker_timeout: float = 300.0
    purge_offline_worker_metrics: float = 600.0
    buckets: tuple[float, ...] = catalogue.TASK_RUNTIME.buckets
    queue_wait_buckets: tuple[float, ...] = catalogue.TASK_QUEUE_WAIT.buckets
    default_queue_name: str = "celery"
    metric_prefix: str = catalogue.CELERY_PREFIX
    static_labels: Mapping[str, str] = field(default_factory=dict)
    broker_transport_options: Mapping[str, object] = field(default_factory=dict)
    broker_ssl_options: Mapping[str, object] = field(default_factory=dict, repr=False)
    accept_content: tuple[str, ...] = ("json",)
    retry_interval: float = 0.0
    generic_hostname_task_sent_metric: bool = False
    generic_hostname_worker_task_metric: bool = False
    queues: tuple[str, ...] = ()
    slots: bool = True
    conflict_texts: bool = True
    event_exchange: str = "celeryev"
    event_buffer_bytes: int = 256 * 1024 * 1024

    def __post_init__(self) -> None:
        _check_broker_url(self.broker_url)
        if not self.host:
            raise SettingError("--host", "is empty; give the address to listen on, such as 0.0.0.0")
        if not 0 <= self.port <= 65535:
            raise SettingError("--port", f"must be from 0 to 65535, not {self.port}")
        if self.log_level.upper() not in LEVELS:
            raise SettingError(
                "--log-level", f"must be DEBUG, INFO, WARNING, ERROR or CRITICAL, not {self.log_level!r}"
            )
        for option, seconds in (
            ("--worker-timeout", self.worker_timeout),
            ("--purge-offline-worker-metrics", self.purge_offline_worker_metrics),
            ("--retry-interval", self.retry_interval),
        ):
            if not 0 <= seconds < math.inf:
                raise SettingError(option, f"must be a number of seconds, or 0, not {seconds}")
        if not self.default_queue_name:
            raise SettingError("--default-queue-name", "is empty; give the application's task_default_queue")
        if not self.event_exchange:
            raise SettingError("--event-exchange", "is empty; give the application's event_exchange")
        if self.event_buffer_bytes < MIN_BUFFER_BYTES:
            raise SettingError(
                "--event-buffer-bytes", f"must be {MIN_BUFFER_BYTES} at least, not {self.event_buffer_bytes}"
            )
        if not _METRIC_PREFIX.fullmatch(self.metric_prefix):
            raise SettingError(
                "--metric-prefix", f"{self.metric_prefix!r} cannot begin a metric's name; write it like celery_"
            )
        for label in self.static_labels:
            if not _LABEL.fullmatch(label) or label in _OWN_LABELS:
                raise SettingError(
                    "--static-label", f"{label!r} is no label name that is free; write it like env=production"
                )
        self._check_broker_options()

    def _check_broker_options(self) -> None:
        if not {"json", "application/json"} & set(self.accept_content):
            raise SettingError("--accept-content", "must hold json: events in anything else are not read")
        try:
            kombu_ssl(self.broker_url, self.broker_ssl_options)
            if self.broker_ssl_options and is_redis(self.broker_url):
                make_tls(redis_ssl(self.broker_ssl_options))
        except ValueError as error:
            raise SettingError("--broker-ssl-option", str(error)) from None


def parse_list(text: str) -> tuple[str, ...]:
    """Names from ``a, b``; each once.

    >>> parse_list("logs, content,")
    ('logs', 'content')
    """
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def parse_buckets(option: str, text: str) -> tuple[float, ...]:
    """Upper bounds from ``0.1,0.5,1``; ``+Inf`` is understood and implied."""
    try:
        bounds = tuple(float(part) for part in text.split(","))
    except ValueError:
        bounds = ()
    bounds = bounds[:-1] if bounds and bounds[-1] == math.inf else bounds
    rising = all(low < high for low, high in pairwise(bounds))
    if not bounds or not rising or not all(map(math.isfinite, bounds)):
        raise SettingError(option, f"must be rising numbers joined by commas, such as 0.1,0.5,1, not {text!r}")
    return bounds


def parse_pairs(option: str, texts: tuple[str, ...]) -> dict[str, str]:
    """A dictionary from ``key=value`` texts."""
    pairs = {}
    for number, text in enumerate(texts, 1):
        key, equals, value = text.partition("=")
        if not key or not equals:
            # None of it is shown: it may be the rest of a password, where a variable's value holds a space.
            raise SettingError(
                option,
                f"must be written as KEY=VALUE; {number} of {len(texts)} is not "
                "(in the variable spaces part them: a value can hold none there)",
            )
        pairs[key] = value
    return pairs


def parse_addresses(option: str, texts: tuple[str, ...]) -> tuple[Address, ...]:
    """Addresses to listen on, from ``host:port``, ``:port`` or ``unix:///path``."""
    try:
        return tuple(parse_address(text) for text in texts)
    except AddressError as error:
        raise SettingError(option, str(error)) from None


def parse_options(option: str, texts: tuple[str, ...]) -> dict[str, object]:
    """The same, with values that look like numbers, truth values, or JSON lists and objects read as such."""
    return {key: _literal(value) for key, value in parse_pairs(option, texts).items()}


def _literal(text: str) -> object:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    kinds = (json.loads,) if text[:1] in ("[", "{") else (int, float)
    for kind in kinds:
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _check_broker_url(url: str) -> None:
    """Refuses what cannot be a broker's URL. The message never repeats the URL: it may hold a password."""
    example = "give it as redis://host:6379/0 or amqp://user:password@host:5672//"
    encoded = f"{example}, a password's / ? # as %2F %3F %23"
    if not url:
        raise SettingError("--broker-url", f"is missing; {example}")
    for part in url.split(";"):
        try:
            parsed = urlsplit(part)
            parsed.port  # noqa: B018  # reading it is what validates it
        except ValueError:
            raise SettingError("--broker-url", f"has no valid host and port; {encoded}") from None
        if not parsed.scheme or "://" not in part:
            raise SettingError("--broker-url", f"has no scheme; {example}")
        if parsed.netloc and "@" not in parsed.netloc and "@" in parsed.path + parsed.fragment:
            # Half of a password would be taken for the port, the other half for a path that is shown.
            raise SettingError("--broker-url", f"has an @ behind its host and port; {encoded}, @ as %40")
        if is_redis(part):
            continue
        # Only now: a monitor on Redis does without kombu.
        from kombu.transport import get_transport_cls

        try:
            get_transport_cls(parsed.scheme.partition("+")[0])
        except KeyError:
            raise SettingError("--broker-url", f"{parsed.scheme!r} is no transport of kombu's; {example}") from None
        except Exception as error:  # noqa: BLE001  # kafka's raises a NameError where its package is missing
            raise SettingError(
                "--broker-url", f"the transport {parsed.scheme!r} needs a package that is missing: {error}"
            ) from None
