"""The room that knows Celery: telemetry from every worker process, and tasks that are coroutines."""

from loopwatch.celery.instrument import instrument
from loopwatch.celery.task import AsyncTask

__all__ = ["AsyncTask", "instrument"]
