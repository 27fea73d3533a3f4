"""The Celery application: three queues, JSON and nothing else, watched by loopwatch.

Run with ``celery -A app.core.celery_app worker -Q logs ...``; ``scripts/entrypoint.sh`` has each role's options.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.signals import setup_logging
from kombu import Queue

import loopwatch
from app.core.config import get_settings
from app.core.logging import configure_logging

__all__ = ["QUEUES", "celery_app"]

QUEUES = ("logs", "content", "roadmap_workflow")

settings = get_settings()

celery_app = Celery(
    "app",
    broker=settings.broker_url,
    backend=settings.result_backend,
    include=[
        "app.tasks.log_tasks",
        "app.tasks.content_tasks",
        "app.tasks.workflow_tasks",
        "app.tasks.workflow_resume_tasks",
    ],
)
celery_app.conf.update(
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    result_accept_content=["json"],
    task_queues=[Queue(name) for name in QUEUES],
    task_default_queue="logs",
    task_routes={
        "app.tasks.log_tasks.*": {"queue": "logs"},
        "app.tasks.content_tasks.*": {"queue": "content"},
        "app.tasks.workflow_tasks.*": {"queue": "roadmap_workflow"},
        "app.tasks.workflow_resume_tasks.*": {"queue": "roadmap_workflow"},
    },
    task_send_sent_event=True,
    worker_send_task_events=True,
    task_track_started=True,
    # The queue and the worker beside each result: `celery inspect` and the tests read them.
    result_extended=True,
    result_expires=3600,
    result_backend_transport_options={"retry_policy": {"timeout": 5.0}},
    redis_socket_timeout=30,
    redis_socket_connect_timeout=5,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    # A task that waits for its acknowledgement longer than this is delivered again: above the longest time limit.
    # The timeouts keep a publisher from waiting for ever on a broker that has stopped answering.
    broker_transport_options={"visibility_timeout": 7200, "socket_timeout": 30, "socket_connect_timeout": 5},
    task_publish_retry_policy={"max_retries": 2, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5},
)

loopwatch.instrument(celery_app)


@setup_logging.connect(weak=False)
def _setup_logging(loglevel: int | str | None = None, **_: Any) -> None:
    """Keeps Celery from installing handlers of its own: its records leave as JSON like all others."""
    configure_logging(settings.celery_log_level)
