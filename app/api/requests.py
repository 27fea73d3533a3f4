"""What clients may send, and how they are told what was wrong: the field and the reason, as JSON."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar
from uuid import UUID

from aiohttp import web
from pydantic import AfterValidator, BaseModel, ConfigDict, StrictBool, StringConstraints, ValidationError

__all__ = ["BadRequestError", "ReviewRequest", "RoadmapRequest", "parse", "read", "task_id_of"]

MAX_QUERY = 500
MAX_FEEDBACK = 2000


def _storable(value: str) -> str:
    if "\x00" in value:
        raise ValueError("a NUL character cannot be stored")
    return value


Text = Annotated[str, AfterValidator(_storable)]


class RoadmapRequest(BaseModel):
    """``POST /api/v1/generation/roadmap``."""

    model_config = ConfigDict(strict=True, str_strip_whitespace=True)

    query: Annotated[Text, StringConstraints(min_length=1, max_length=MAX_QUERY)]


class ReviewRequest(BaseModel):
    """``POST /api/v1/tasks/{id}/review``."""

    model_config = ConfigDict(strict=True, str_strip_whitespace=True)

    approved: StrictBool
    feedback: Annotated[Text, StringConstraints(max_length=MAX_FEEDBACK)] | None = None


class BadRequestError(ValueError):
    """A body that cannot be used.

    Attributes:
        field: the field's name; ``body`` when it is the whole.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


Request = TypeVar("Request", bound=BaseModel)


def parse(model: type[Request], body: bytes) -> Request:
    """Reads a body; raises `BadRequestError` with the first thing that is wrong."""
    try:
        fields: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequestError("body", "the body is not JSON") from None
    if not isinstance(fields, dict):
        raise BadRequestError("body", "the body is not a JSON object")
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BadRequestError(str(first["loc"][0]), first["msg"].removeprefix("Value error, ")) from None


async def read(model: type[Request], request: web.Request) -> Request:
    """The request's body as ``model``; raises `BadRequestError`."""
    return parse(model, await request.read())


def task_id_of(request: web.Request) -> UUID:
    """The task's id in the path; an id that cannot be one is a task that is not there."""
    try:
        return UUID(request.match_info["task_id"])
    except ValueError:
        raise web.HTTPNotFound(reason="there is no such task") from None
