"""Every error as JSON: ``{"error": {"message": ..., "field": ...}}``."""

from __future__ import annotations

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from sqlalchemy.exc import SQLAlchemyError

from app.api.requests import BadRequestError
from app.services.roadmap_service import ReviewRefusedError, UnavailableError

__all__ = ["errors_as_json"]

logger = structlog.get_logger(__name__)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns what a handler raises into an answer; nothing of an unexpected error's text leaves the process."""
    try:
        return await handler(request)
    except BadRequestError as error:
        return _answer(400, str(error), field=error.field)
    except ReviewRefusedError as error:
        return _answer(409, str(error))
    except UnavailableError as error:
        return _answer(503, str(error))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _answer(error.status, error.reason)
    except (SQLAlchemyError, OSError) as error:
        # OSError: asyncpg passes a refused connection on as it is.
        logger.error("database_not_reachable", path=request.path, error=str(error))
        return _answer(503, "the database is not reachable")
    except Exception:
        logger.exception("request_failed", path=request.path)
        return _answer(500, "internal error")


def _answer(status: int, message: str, **fields: str) -> web.Response:
    return web.json_response({"error": {"message": message, **fields}}, status=status)
