"""The README's pictures: the dashboards' panels, drawn from what a real Prometheus says about a real run.

``python -m dashboards.pictures`` (``make pictures``) lets the application run, first as it should be and then with the
disease, asks Prometheus what the panels ask, and draws. What Prometheus said is kept, so that drawing can be repeated.
"""
