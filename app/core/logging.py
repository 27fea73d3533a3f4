"""Logs as JSON, one object a line on standard error, for structlog and for every library's standard logging alike."""

from __future__ import annotations

import logging.config
from typing import Any

import structlog

__all__ = ["configure_logging", "logging_config"]

SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def logging_config(level: str = "INFO") -> dict[str, Any]:
    """A `logging.config.dictConfig` of one JSON handler on the root logger."""
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        # `extra=` is how the standard library's callers attach facts: loopwatch and celery among them.
        "foreign_pre_chain": [*SHARED, structlog.stdlib.ExtraAdder()],
        "processors": [
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
        ],
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": formatter},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"level": level, "handlers": ["stderr"]},
        # A line a request of the LLM client would say no more than the task's own line.
        "loggers": {name: {"level": "WARNING"} for name in ("httpx", "httpx2", "openai", "aiohttp.access")},
    }


def configure_logging(level: str = "INFO") -> None:
    """Sends structlog's and the standard library's records through the one handler."""
    logging.config.dictConfig(logging_config(level))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *SHARED,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
