"""gunicorn's configuration, from the application's settings. The names are gunicorn's."""

from __future__ import annotations

from app.core.config import get_settings
from app.core.logging import logging_config

_settings = get_settings()

bind = f"{_settings.api_host}:{_settings.api_port}"
workers = _settings.web_concurrency
worker_class = "aiohttp.GunicornWebWorker"
graceful_timeout = 10
# A command socket in the home directory would be a file that two APIs on one machine fight for.
control_socket_disable = True
logconfig_dict = {
    **logging_config(_settings.celery_log_level),
    "loggers": {"gunicorn.error": {"level": "INFO", "handlers": [], "propagate": True}},
}
