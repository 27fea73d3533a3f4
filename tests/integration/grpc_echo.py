"""A gRPC server, and a channel a loop. Imported only where it is used: gRPC's threads survive no fork."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio

from loopwatch import PerLoop


class _Echo(grpc.GenericRpcHandler):  # type: ignore[misc]  # untyped
    def service(self, _: object) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, _: request + request)


_grpc_servers: list[Any] = []


def serve_grpc() -> str:
    """The address of a gRPC server in this process, which lives as long as it; it says everything twice."""
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((_Echo(),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    _grpc_servers.append(server)
    return address


def make_channels(address: str) -> PerLoop[grpc.aio.Channel]:
    return PerLoop(lambda: grpc.aio.insecure_channel(address), dispose=lambda one: one.close(), name="grpc")


async def echo(channels: PerLoop[grpc.aio.Channel]) -> bytes:
    answer: bytes = await channels.get().unary_unary("/echo/echo")(b"x")
    return answer
