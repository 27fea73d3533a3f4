"""The Celery tasks, a module a kind; `app.core.celery_app` says which queue each module goes to."""
