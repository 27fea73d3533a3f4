"""The alert rules as the Prometheus operator wants them: the same text inside a PrometheusRule."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

__all__ = ["RULE", "RULES", "render"]

ROOT = Path(__file__).resolve().parents[1]
RULES = ROOT / "dashboards" / "prometheus" / "rules"
RULE = ROOT / "monitor" / "kubernetes" / "prometheusrule.yaml"
HEAD = """\
# Made by `make dashboards` of dashboards/prometheus/rules: change those.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: loopwatch
  labels:
    app.kubernetes.io/name: loopwatch-monitor
    app.kubernetes.io/part-of: loopwatch
spec:
  groups:
"""


def render() -> str:
    """The manifest: the groups of all rule files, comments and all."""
    bodies = (path.read_text().partition("\ngroups:\n")[2] for path in sorted(RULES.glob("*.yml")))
    return HEAD + "".join(indent(body, "  ") for body in bodies)
