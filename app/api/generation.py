"""``POST /api/v1/generation/roadmap``: begins a roadmap."""

from __future__ import annotations

from aiohttp import web

from app.api.requests import RoadmapRequest, read
from app.services import roadmap_service
from app.services.states import State

__all__ = ["routes"]

routes = web.RouteTableDef()


@routes.post("/api/v1/generation/roadmap")
async def begin_roadmap(request: web.Request) -> web.Response:
    """202 with the task's id; 400 for a body that cannot be used; 503 without a broker or database."""
    wanted = await read(RoadmapRequest, request)
    task_id = await roadmap_service.begin(wanted.query)
    location = f"/api/v1/tasks/{task_id}"
    return web.json_response(
        {"task_id": str(task_id), "state": State.PENDING}, status=202, headers={"Location": location}
    )
