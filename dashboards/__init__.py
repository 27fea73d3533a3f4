"""Dashboards as code, Prometheus rules, and what makes them known to Grafana and Prometheus.

``python -m dashboards`` (``make dashboards``) writes ``grafana/*.json`` and the rules anew.
"""
