"""The rules for Prometheus: recording rules and alerts, made of the catalogue and the thresholds.

``python -m dashboards`` writes `RULES`, and the PrometheusRule of it.
"""

from __future__ import annotations

import yaml

from dashboards.alerts import loops, monitor, pools, tasks, workers
from dashboards.alerts.alert import Alert, Given
from dashboards.pace import Pace
from dashboards.prefix import with_prefix
from dashboards.prometheus_rule import RULES as DIRECTORY
from dashboards.recording import Recordings
from dashboards.thresholds import THRESHOLDS, Thresholds

__all__ = ["RULES", "alerts", "render"]

RULES = DIRECTORY / "loopwatch.yml"

INTERVAL_SECONDS = 15

HEAD = """\
# Made by `make dashboards` of dashboards/recording.py, alerts/ and thresholds.py: change those.
#
# For Prometheus (`rule_files`). What several monitors of one broker say counts once (`max without (instance, pod)`).
# GRAFANA_URL and RUNBOOK_URL, set for `make dashboards`, are where the links lead to; METRIC_PREFIX is the monitor's.
# Each alert has its tests in ../tests and its heading in ../../runbook.md.
"""


def alerts(pace: Pace, thresholds: Thresholds = THRESHOLDS) -> list[Alert]:
    """All alerts."""
    given = Given(pace, thresholds, Recordings(pace))
    return [alert for theme in (loops, pools, tasks, workers, monitor) for alert in theme.alerts(given)]


def render(pace: float = 1, thresholds: Thresholds = THRESHOLDS) -> str:
    """The file, as YAML.

    Args:
        pace: how much faster time passes: windows, ``for`` and the interval of evaluation are divided by it, and so is
            how long a conflict is recent. Not so the limits of what is measured, such as the age of a checkout.
        thresholds: the limits.
    """
    faster = Pace(pace)
    interval = faster(INTERVAL_SECONDS)
    recording = [{"record": name, "expr": expression} for name, expression in Recordings(faster)]
    alerting = [alert.rule(faster) for alert in alerts(faster, thresholds)]
    groups = [
        {"name": "loopwatch.rules", "interval": interval, "rules": recording},
        {"name": "loopwatch.alerts", "interval": interval, "rules": alerting},
    ]
    return HEAD + with_prefix(yaml.safe_dump({"groups": groups}, sort_keys=False, width=116, allow_unicode=True))
