#!/bin/sh
# One role a process: api, celery_logs, celery_content, celery_workflow, monitor.
# The programs are those on PATH (the virtual environment's, or the image's). Settings: app/core/config.py; and
# CELERY_NODE_HOST, for a second worker of one role on a machine, as Celery wants a name of its own for each.
set -eu

role="${1:-}"

worker() { # node queue concurrency tasks-per-child time-limit soft-time-limit
    exec celery -A app.core.celery_app worker \
        --hostname="$1@${CELERY_NODE_HOST:-%h}" --queues="$2" --pool=prefork --concurrency="$3" --prefetch-multiplier=1 -E \
        --max-tasks-per-child="$4" --time-limit="$5" --soft-time-limit="$6" \
        --loglevel="${CELERY_LOG_LEVEL:-INFO}"
}

case "$role" in
api | celery_logs | celery_content | celery_workflow)
    # Exit code 2 and one line for what cannot work; afterwards an outage is survived.
    python -m app.check "$role"
    ;;
esac

case "$role" in
api)
    python -m app.db.create
    exec python -m app.api
    ;;
celery_logs) worker logs logs "${CELERY_LOGS_CONCURRENCY:-4}" 1000 300 270 ;;
celery_content) worker content content "${CELERY_CONTENT_CONCURRENCY:-6}" 50 1800 1740 ;;
celery_workflow) worker workflow roadmap_workflow "${CELERY_WORKFLOW_CONCURRENCY:-4}" 100 3600 3480 ;;
monitor)
    # By the environment: a broker's password on the command line is shown by `ps` to everybody.
    LOOPWATCH_BROKER_URL="${CELERY_BROKER_URL:-${REDIS_URL:-}}"
    export LOOPWATCH_BROKER_URL
    exec loopwatch monitor --host "${MONITOR_HOST:-127.0.0.1}" --port "${MONITOR_PORT:-9808}"
    ;;
*)
    echo "usage: entrypoint.sh api|celery_logs|celery_content|celery_workflow|monitor" >&2
    exit 2
    ;;
esac
