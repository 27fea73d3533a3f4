"""`loopwatch monitor`: its options.

A setting that cannot work, a broker that cannot be reached and an address that is taken are said in one line on
stderr, with exit code 2: at start somebody is watching. A broker that goes away later is waited for.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from loopwatch.telemetry import catalogue
from loopwatch_monitor.intake.status import BrokerUnreachableError
from loopwatch_monitor.logs import configure_logs
from loopwatch_monitor.run import run
from loopwatch_monitor.settings import (
    SettingError,
    Settings,
    parse_addresses,
    parse_buckets,
    parse_list,
    parse_options,
    parse_pairs,
)

__all__ = ["main"]

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
@_option(
    "--broker-url",
    default="",
    show_default=False,
    help="The broker, such as redis://host:6379/0. Its servers, to be tried in turn, are joined by ;. Required.",
)
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
    show_default=False,
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
    broker_url: str,
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
        broker_url=broker_url.strip(),  # a secret's file ends with a line's end
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
    configure_logs(settings.log_level)
    run(settings)
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
