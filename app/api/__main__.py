"""``python -m app.api``: serves the API: gunicorn's aiohttp workers, or plain aiohttp where there is one process."""

from __future__ import annotations

import os
import sys

from aiohttp import web

from app.core.config import get_settings
from app.core.logging import configure_logging

FACTORY = "app.api.application:create_app"


def main() -> None:
    """Serves until it is told to stop; never returns where gunicorn takes the process over."""
    settings = get_settings()
    if settings.web_concurrency > 1:
        gunicorn = [sys.executable, "-m", "gunicorn", "--config", "python:app.api.gunicorn_config", FACTORY]
        os.execv(sys.executable, gunicorn)  # noqa: S606  # fixed arguments, no shell
    configure_logging(settings.celery_log_level)
    from app.api.application import create_app

    web.run_app(create_app(), host=settings.api_host, port=settings.api_port, print=None, shutdown_timeout=10)


if __name__ == "__main__":
    main()
