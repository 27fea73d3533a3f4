"""What every part of the application shares: settings, logging, the Celery application."""
