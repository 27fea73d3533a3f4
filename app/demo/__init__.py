"""The demo: the whole product at work on one machine, without Docker (``python -m app.demo``)."""
