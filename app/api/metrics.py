"""``GET /metrics``: this process's loopwatch metrics, where nothing else reports them (``APP_METRICS=direct``)."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

import loopwatch

__all__ = ["metrics_routes"]


def metrics_routes() -> web.RouteTableDef:
    """The route, with a registry of its own: `loopwatch.Collector` and nothing else."""
    registry = CollectorRegistry(auto_describe=True)
    registry.register(loopwatch.Collector())
    routes = web.RouteTableDef()

    @routes.get("/metrics")
    async def metrics(request: web.Request) -> web.Response:
        encoder, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encoder(registry), headers={"Content-Type": content_type})

    return routes
