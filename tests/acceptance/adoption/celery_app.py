"""What the applications of this directory share, whatever their style: the Celery application and where things are.

The one line that has them report, ``loopwatch.instrument(app)``, is the same for all and stands here. ``STYLES`` names
the modules, ``STAGE`` which of each: ``before`` or ``after``.
"""

from __future__ import annotations

import os

from celery import Celery

import loopwatch
from tests.acceptance.patience import be_patient

STAGE = os.environ["STAGE"]
REDIS_URL = os.environ["REDIS_URL"]
HTTP_URL = os.environ.get("HTTP_URL", "")

app = Celery("adoption", broker=REDIS_URL, backend=REDIS_URL)
app.conf.update(
    include=[f"tests.acceptance.adoption.{style}_{STAGE}" for style in os.environ["STYLES"].split(",")],
    broker_connection_retry_on_startup=True,
)
be_patient(app)
if STAGE == "after":
    loopwatch.instrument(app, interval=0.5)


def database(style: str, driver: str = "postgresql+asyncpg") -> str:
    """The URL of the style's own database."""
    server: str = os.environ["MYSQL_URL" if driver.startswith("mysql") else "POSTGRES_URL"]
    return f"{driver}://{server.partition('://')[2]}{style}"
