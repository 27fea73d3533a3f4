"""The sidecar: consumes Celery's events and serves what they tell as Prometheus metrics (`loopwatch monitor`)."""
