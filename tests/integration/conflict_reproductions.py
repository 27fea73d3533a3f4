"""Each measured failure, made with the real library, in a process of its own.

A process of its own, because that is what these failures need: they leave sockets and coroutines behind that nobody can
end. ``python -m tests.integration.conflict_reproductions NAME URL`` prints what was raised and how it is classified.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from loopwatch.conflicts import Conflict, classify

Use = Callable[[], Coroutine[Any, Any, Any]]
Reproduction = Callable[[str], None]
REPRODUCTIONS: dict[str, Reproduction] = {}


def reproduction(function: Reproduction) -> Reproduction:
    REPRODUCTIONS[function.__name__] = function
    return function


def on_loops(use: Use, loops: int = 2, run: Callable[..., Any] = asyncio.run) -> None:
    """What most teams do: one global client, a loop a task."""
    for _ in range(loops):
        run(use())


async def _select(engine: Any) -> None:
    from sqlalchemy import text

    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))


@reproduction
def sqlalchemy_engine(url: str) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(url)
    on_loops(lambda: _select(engine))


@reproduction
def sqlalchemy_engine_with_pre_ping(url: str) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(url, pool_pre_ping=True)
    on_loops(lambda: _select(engine))


@reproduction
def sqlalchemy_pool_exhausted(url: str) -> None:
    """A waiter of the first loop binds the pool's queue to it."""
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(url, pool_size=1, max_overflow=0, pool_timeout=0.2)

    async def wait() -> None:
        connections = [await engine.connect()]
        with suppress(Exception):
            await engine.connect()
        kept.append(connections)

    kept: list[Any] = []
    with asyncio.Runner() as owner:
        owner.run(wait())
        asyncio.run(_select(engine))


@reproduction
def sqlalchemy_pool_exhausted_without_a_waiter(url: str) -> None:
    """All connections are held by a loop that is idle: a wait, and a timeout, for ever."""
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(url, pool_size=1, max_overflow=0, pool_timeout=0.2)
    with asyncio.Runner() as owner:
        kept = owner.run(_connected(engine))
        asyncio.run(_select(engine))
    del kept


async def _connected(engine: Any) -> Any:
    return await engine.connect()


@reproduction
def sqlalchemy_engine_of_a_loop_that_lives(url: str) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(url)
    with asyncio.Runner() as owner:
        owner.run(_select(engine))
        asyncio.run(_select(engine))


@reproduction
def sqlalchemy_connection_of_another_loop(url: str) -> None:
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine

    with asyncio.Runner() as owner:
        connection = owner.run(_connected(create_async_engine(url)))
        asyncio.run(connection.execute(text("SELECT 1")))


@reproduction
def sqlalchemy_null_pool(url: str) -> None:
    """Works: a connection each time."""
    from sqlalchemy import NullPool
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(url, poolclass=NullPool)
    on_loops(lambda: _select(engine))


@reproduction
def asyncpg_connection(url: str) -> None:
    import asyncpg

    kept: list[Any] = []

    async def use() -> None:
        if not kept:
            kept.append(await asyncpg.connect(url.replace("+asyncpg", "")))
        await kept[0].fetchval("SELECT 1")

    on_loops(use)


@reproduction
def asyncpg_pool(url: str) -> None:
    import asyncpg

    kept: list[Any] = []

    async def use() -> None:
        if not kept:
            kept.append(await asyncpg.create_pool(url.replace("+asyncpg", ""), min_size=1, max_size=1))
        await kept[0].fetchval("SELECT 1")

    on_loops(use)


@reproduction
def asyncpg_pool_of_a_loop_that_lives(url: str) -> None:
    import asyncpg

    async def make() -> Any:
        return await asyncpg.create_pool(url.replace("+asyncpg", ""), min_size=1, max_size=1)

    with asyncio.Runner() as owner:
        pool = owner.run(make())
        asyncio.run(pool.fetchval("SELECT 1"))


@reproduction
def asyncpg_connection_forked(url: str) -> None:
    """The child uses it in a new loop; it hands its error on to the parent by raising it as itself."""
    import asyncpg

    async def open_one() -> Any:
        return await asyncpg.connect(url.replace("+asyncpg", ""))

    async def use() -> None:
        await connection.fetchval("SELECT 1")

    runner = asyncio.Runner()
    connection = runner.run(open_one())
    parent = os.fork()
    if parent:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(parent, 0)[1]))
    asyncio.run(use())


@reproduction
def asyncpg_statement_of_somebody_else(url: str) -> None:
    """A fork on the inherited loop, or a pooler: two clients on one session number their statements alike."""
    import asyncpg

    async def use() -> None:
        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        await connection.execute("PREPARE __asyncpg_stmt_a__ AS SELECT 1")
        await connection.prepare("SELECT 1", name="__asyncpg_stmt_a__")

    asyncio.run(use())


@reproduction
def asyncpg_transaction_of_somebody_else(url: str) -> None:
    import asyncpg

    async def use() -> None:
        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        await connection.execute("BEGIN")
        async with connection.transaction():
            pass

    asyncio.run(use())


@reproduction
def sqlalchemy_transaction_of_somebody_else(url: str) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    async def use() -> None:
        async with create_async_engine(url).connect() as connection:
            raw = await connection.get_raw_connection()
            driver: Any = raw.driver_connection
            await driver.execute("BEGIN")
            await connection.exec_driver_sql("SELECT 1")

    asyncio.run(use())


@reproduction
def redis_client(url: str) -> None:
    import redis.asyncio as redis

    client: Any = redis.Redis.from_url(url)
    on_loops(lambda: client.execute_command("PING"))


@reproduction
def redis_client_on_uvloop(url: str) -> None:
    import redis.asyncio as redis
    import uvloop

    client: Any = redis.Redis.from_url(url)
    on_loops(lambda: client.execute_command("PING"), run=uvloop.run)


@reproduction
def redis_client_of_a_loop_that_lives(url: str) -> None:
    import redis.asyncio as redis

    client: Any = redis.Redis.from_url(url)
    with asyncio.Runner() as owner:
        owner.run(client.execute_command("PING"))
        asyncio.run(client.execute_command("PING"))


@reproduction
def redis_pubsub(url: str) -> None:
    import redis.asyncio as redis

    pubsub: Any = redis.Redis.from_url(url).pubsub()

    async def use() -> None:
        await pubsub.subscribe("channel")
        await pubsub.get_message(timeout=1)
        await pubsub.get_message(timeout=1)

    on_loops(use)


@reproduction
def redis_pubsub_in_the_middle_of_a_read(url: str) -> None:
    """Its owner waits for a message: for this one it looks like concurrent use."""
    import redis.asyncio as redis

    pubsub: Any = redis.Redis.from_url(url).pubsub()
    tasks: list[Any] = []

    async def read() -> None:
        await pubsub.subscribe("channel")
        await pubsub.get_message(timeout=1)
        tasks.append(asyncio.create_task(pubsub.get_message(timeout=None)))
        await asyncio.sleep(0.1)

    with asyncio.Runner() as owner:
        owner.run(read())
        asyncio.run(pubsub.get_message(timeout=1))


@reproduction
def httpx_client(url: str) -> None:
    import httpx

    client = httpx.AsyncClient(timeout=60)
    on_loops(lambda: client.get(url))


@reproduction
def httpx2_client(url: str) -> None:
    import httpx2

    client = httpx2.AsyncClient(timeout=60)
    on_loops(lambda: client.get(url))


@reproduction
def httpx_limit_reached(url: str) -> None:
    import httpx

    client = httpx.AsyncClient(limits=httpx.Limits(max_connections=1), timeout=60)

    async def two() -> None:
        await asyncio.gather(client.get(f"{url}/slow"), client.get(f"{url}/slow"))

    with asyncio.Runner() as owner:
        owner.run(two())
        asyncio.run(two())


@reproduction
def httpx_limit_reached_without_a_waiter(url: str) -> None:
    import httpx

    client = httpx.AsyncClient(limits=httpx.Limits(max_connections=1), timeout=httpx.Timeout(60, pool=0.2))

    async def begin() -> Any:
        return await client.send(client.build_request("GET", url), stream=True)

    with asyncio.Runner() as owner:
        response = owner.run(begin())
        asyncio.run(client.get(url))
    del response


@reproduction
def chat_openai(url: str) -> None:
    """A new object each time: LangChain keeps its HTTP client for the whole process."""
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    async def use() -> None:
        llm = ChatOpenAI(model="local", base_url=f"{url}/v1", api_key=SecretStr("none"), max_retries=0)
        await llm.ainvoke("Say hello")

    on_loops(use)


def _grpc_use(kept: list[Any]) -> Use:
    """A call of a server that is in this process, on a channel that is made once."""
    import grpc.aio

    from tests.integration.grpc_echo import serve_grpc

    address = serve_grpc()

    async def use() -> None:
        if not kept:
            kept.append(grpc.aio.insecure_channel(address))
        await kept[0].unary_unary("/echo/echo")(b"x")

    return use


@reproduction
def grpc_channel(url: str) -> None:
    on_loops(_grpc_use([]))


@reproduction
def grpc_channel_of_a_loop_that_lives(url: str) -> None:
    use = _grpc_use([])
    with asyncio.Runner() as owner:
        owner.run(use())
        asyncio.run(use())


@reproduction
def aiohttp_session(url: str) -> None:
    import aiohttp

    kept: list[aiohttp.ClientSession] = []

    async def use() -> None:
        if not kept:
            kept.append(aiohttp.ClientSession())
        async with kept[0].get(url) as response:
            await response.text()

    on_loops(use)


@reproduction
def aiohttp_session_of_a_loop_that_lives(url: str) -> None:
    import aiohttp

    kept: list[aiohttp.ClientSession] = []

    async def use() -> None:
        if not kept:
            kept.append(aiohttp.ClientSession())
        async with kept[0].get(url) as response:
            await response.text()

    with asyncio.Runner() as owner:
        owner.run(use())
        asyncio.run(use())


@reproduction
def asyncio_event(_: str) -> None:
    """A waiter of the first loop has bound it."""
    event = asyncio.Event()

    async def wait() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), 0.01)

    on_loops(wait)


@reproduction
def asyncio_queue(_: str) -> None:
    queue: asyncio.Queue[None] = asyncio.Queue()

    async def wait() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(queue.get(), 0.01)

    on_loops(wait)


@reproduction
def asyncio_lock_that_nobody_waited_for(_: str) -> None:
    """Nothing has bound it to a loop: a silent hang. Only a timeout ends it, and nothing tells its cause."""
    lock = asyncio.Lock()

    async def wait() -> None:
        await asyncio.wait_for(lock.acquire(), 0.2)

    on_loops(wait)


@reproduction
def asyncio_wait_for_a_foreign_future(_: str) -> None:
    """Never completes, silently, although the future is done: whom it calls back runs on its own loop."""
    future = asyncio.new_event_loop().create_future()

    async def wait() -> None:
        waiting = asyncio.create_task(asyncio.wait([future]))
        await asyncio.sleep(0)
        future.set_result(None)
        await asyncio.wait_for(waiting, 0.2)

    asyncio.run(wait())


@reproduction
def asyncio_lock(_: str) -> None:
    """The conflict is a member of an exception group."""
    lock = asyncio.Lock()

    async def hold() -> None:
        async with lock:
            await asyncio.sleep(0)

    async def two() -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(2):
                tasks.create_task(hold())

    on_loops(two)


@reproduction
def asyncio_gather_of_foreign_futures(_: str) -> None:
    first, second = asyncio.new_event_loop().create_future(), asyncio.new_event_loop().create_future()

    async def use() -> None:
        await asyncio.gather(first, second)

    asyncio.run(use())


@reproduction
def asyncio_future(_: str) -> None:
    future = asyncio.new_event_loop().create_future()

    async def use() -> None:
        await future

    asyncio.run(use())


@reproduction
def asyncio_wrap_future_of_another_loop(_: str) -> None:
    future = asyncio.new_event_loop().create_future()
    asyncio.ensure_future(future, loop=asyncio.new_event_loop())  # noqa: RUF006  # it raises


@reproduction
def asyncio_call_from_another_thread(_: str) -> None:
    async def use() -> None:
        await asyncio.to_thread(asyncio.get_running_loop().call_soon, print)

    asyncio.run(use(), debug=True)


@reproduction
def uvloop_transport(url: str) -> None:
    import uvloop

    kept: list[asyncio.StreamWriter] = []

    async def use() -> None:
        if not kept:
            host, _, port = url.removeprefix("http://").partition(":")
            kept.append((await asyncio.open_connection(host, int(port)))[1])
        else:
            kept[0].transport.write(b"x")

    on_loops(use, run=uvloop.run)


def _told(conflict: Conflict | None) -> list[str] | None:
    return None if conflict is None else [conflict.kind, conflict.resource]


def main(name: str, url: str) -> None:
    try:
        REPRODUCTIONS[name](url)
        print(json.dumps({"error": "", "exception": None, "traceback": None, "repr": None}), flush=True)
    except Exception as error:  # noqa: BLE001  # whatever it raises is the result
        text = "".join(traceback.format_exception(error))
        result = {
            "error": repr(error)[:2000],
            "exception": _told(classify(error)),
            "traceback": _told(classify(text)),
            "repr": _told(classify(repr(error))),
        }
        print(json.dumps(result), flush=True)
    # Not sys.exit: there is nothing left here that could be tidied up.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
