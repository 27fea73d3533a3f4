"""The reference application: a learning-roadmap generator with one API and three Celery queues.

It uses the library just as a reader would, through `loopwatch`'s public names alone. Where to look first:
``db/session.py`` (the engine), ``services/notification_service.py`` (Redis), ``services/llm.py`` (the LLM's client)
and ``tasks/run.py`` (how a task runs its coroutine). Each of the four shows both settings of ``APP_RESOURCES``:
the disease (``global``) and the cure (``loop_aware``).
"""
