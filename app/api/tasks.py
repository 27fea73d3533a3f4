"""``/api/v1/tasks/{id}``: a task's state, and its review."""

from __future__ import annotations

from aiohttp import web

from app.api.requests import ReviewRequest, read, task_id_of
from app.services import roadmap_service
from app.services.states import State

__all__ = ["routes"]

routes = web.RouteTableDef()


@routes.get("/api/v1/tasks/{task_id}")
async def show_task(request: web.Request) -> web.Response:
    """The task with its roadmap; 404 when there is none."""
    task = await roadmap_service.show(task_id_of(request))
    if task is None:
        raise web.HTTPNotFound(reason="there is no such task")
    return web.json_response(task)


@routes.post("/api/v1/tasks/{task_id}/review")
async def review_task(request: web.Request) -> web.Response:
    """202 when the review counts; 409 when the task is not waiting for one, as when it was reviewed already."""
    task_id = task_id_of(request)
    given = await read(ReviewRequest, request)
    if not await roadmap_service.review(task_id, approved=given.approved, feedback=given.feedback):
        raise web.HTTPNotFound(reason="there is no such task")
    return web.json_response({"task_id": str(task_id), "state": State.RESUMING}, status=202)
