"""The figures of HTTP clients, and responses that outlive their request, on a real server; with httpx and httpx2."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import uvloop

import loopwatch
from loopwatch import LoopConflictError
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.catalogue import Metric
from loopwatch.telemetry.stats import STATS, TaskContext, current_task
from tests.integration.certificates import self_signed
from tests.integration.http_clients import PATIENCE, patient_client
from tests.integration.http_proxy import connect_proxy
from tests.integration.http_server import HTTPServer, serve

TASK = TaskContext("content", "app.generate", "1")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    gc.collect()  # clients of earlier tests that nobody has any more
    STATS.reset()
    token = current_task.set(TASK)
    yield
    current_task.reset(token)
    STATS.reset()


@pytest.fixture(scope="module")
def server() -> Iterator[HTTPServer]:
    with serve() as running:
        yield running


@pytest.fixture(params=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(str(request.param))


def value(metric: Metric, *labels: str) -> float:
    return STATS.value(metric, labels)


def gauge(metric: Metric, *labels: str) -> Any:
    return STATS.gauges().get(metric.wire_name, {}).get(labels)


async def until(condition: Callable[[], Any], deadline: float = 60) -> None:
    async with asyncio.timeout(deadline):
        while not condition():  # noqa: ASYNC110  # gauges are read, they tell nobody
            await asyncio.sleep(0.01)


def used() -> Any:
    return gauge(catalogue.POOL_CONNECTIONS, "llm", "used")


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_wait_use_and_creation_of_each_request(
    run: Callable[..., Any], library: ModuleType, server: HTTPServer
) -> None:
    client = patient_client(library=library, name="llm")

    async def three() -> None:
        for path in ("", "/a", "/slow"):
            (await client.get(server.url + path)).raise_for_status()
        assert used() == 0
        assert gauge(catalogue.POOL_CONNECTIONS, "llm", "idle") == 1

    run(three())
    assert value(catalogue.POOL_WAIT, "content", "llm") == 3
    assert value(catalogue.POOL_USE, "content", "llm") == 3
    assert value(catalogue.POOL_CREATE, "llm") == 1
    assert value(catalogue.TASK_POOL_USES, "content", "app.generate", "llm") == 3
    assert value(catalogue.POOL_TIMEOUTS, "content", "llm") == 0
    uses = STATS.counters()[catalogue.POOL_USE.wire_name]["content", "llm"]
    assert isinstance(uses, list)
    assert uses[-1] >= 0.5  # the answer of /slow


def test_a_response_holds_its_connection_until_it_is_closed(library: ModuleType, server: HTTPServer) -> None:
    client = patient_client(library=library, name="llm", limits=library.Limits(max_connections=3))

    async def hold() -> None:
        async with client.stream("GET", f"{server.url}/stream") as response:
            await anext(response.aiter_raw())
            assert used() == 1
            assert gauge(catalogue.POOL_CONNECTIONS_MAX, "llm") == 3
            assert gauge(catalogue.POOL_CHECKED_OUT, "content", "llm") == 1
            assert gauge(catalogue.POOL_OLDEST_CHECKOUT, "llm") > 0
            assert gauge(catalogue.POOL_INFO, "llm", "httpx", "") == 1
            assert value(catalogue.POOL_USE, "content", "llm") == 0
        assert used() == 0
        assert gauge(catalogue.POOL_CONNECTIONS_PEAK, "llm") == 1

    asyncio.run(hold())
    assert value(catalogue.POOL_USE, "content", "llm") == 1


def test_the_limit_is_each_loop_s_and_a_wait_for_it_that_times_out_is_counted(
    library: ModuleType, server: HTTPServer
) -> None:
    client = patient_client(
        library=library,
        name="llm",
        limits=library.Limits(max_connections=1),
        timeout=library.Timeout(PATIENCE, pool=0.05),
    )

    async def one_too_many() -> None:
        async with client.stream("GET", f"{server.url}/stream"):
            with pytest.raises(library.PoolTimeout) as caught:
                await client.get(server.url)
            assert loopwatch.classify(caught.value) is None
        assert gauge(catalogue.POOL_PENDING_REQUESTS, "llm") == 0
        await client.get(server.url)

    for _ in range(2):
        asyncio.run(one_too_many())
    assert value(catalogue.POOL_TIMEOUTS, "content", "llm") == 2
    # A full pool is no conflict, whichever loop filled it.
    assert catalogue.LOOP_CONFLICTS.wire_name not in STATS.counters()
    assert value(catalogue.POOL_WAIT, "content", "llm") == 6
    assert server.become(0)


def test_without_a_limit_there_is_no_maximum(library: ModuleType, server: HTTPServer) -> None:
    unlimited = patient_client(library=library, name="unlimited", limits=library.Limits())
    usual = loopwatch.http_client(library=library, name="usual", timeout=PATIENCE)

    async def ask() -> None:
        for client in (unlimited, usual):
            await client.get(server.url)
        assert gauge(catalogue.POOL_CONNECTIONS_MAX, "unlimited") is None
        assert gauge(catalogue.POOL_CONNECTIONS_MAX, "usual") == 100

    asyncio.run(ask())


def test_what_fails_or_is_cancelled_holds_nothing(library: ModuleType, server: HTTPServer) -> None:
    client = patient_client(library=library, name="llm", timeout=library.Timeout(PATIENCE, read=0.05))

    async def fail() -> None:
        with pytest.raises(library.ConnectError):
            await client.get("http://127.0.0.1:1")
        with pytest.raises(library.ReadTimeout):
            await client.get(f"{server.url}/never")
        asking = asyncio.create_task(client.get(f"{server.url}/stream", timeout=PATIENCE))
        await until(lambda: used() == 1)
        asking.cancel()
        await asyncio.wait([asking])
        assert used() == 0
        assert gauge(catalogue.POOL_PENDING_REQUESTS, "llm") == 0

    asyncio.run(fail())
    assert value(catalogue.POOL_WAIT, "content", "llm") == 2  # there was none for the one without a server
    assert value(catalogue.POOL_TIMEOUTS, "content", "llm") == 0
    assert server.become(0)


def test_a_trace_of_the_user_s_sees_everything(library: ModuleType, server: HTTPServer) -> None:
    async def events_of(client: Any) -> list[str]:
        events: list[str] = []

        async def trace(event: str, info: dict[str, Any]) -> None:
            events.append(event)

        async with client:
            for _ in range(2):
                request = client.build_request("GET", server.url, extensions={"trace": trace})
                given = request.extensions
                await client.send(request)
                assert request.extensions is given
                assert given["trace"] is trace
        return events

    limits = library.Limits(keepalive_expiry=10 * PATIENCE)
    ours = asyncio.run(events_of(patient_client(library=library, name="llm", limits=limits)))
    assert ours == asyncio.run(events_of(library.AsyncClient(timeout=PATIENCE, limits=limits)))
    assert "http11.response_closed.complete" in ours
    assert value(catalogue.POOL_CREATE, "llm") == 1


# ---------------------------------------------------------------- https, by way of a proxy too
@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HTTPServer]:
    import ssl

    certificate: Path = self_signed(tmp_path_factory.mktemp("tls"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with serve(context) as running:
        yield running


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_https_by_way_of_a_proxy(run: Callable[..., Any], library: ModuleType, tls_server: HTTPServer) -> None:
    with connect_proxy() as proxy:
        url = proxy.url.replace("//", "//user:secret@")
        client = patient_client(library=library, name="llm", verify=False, proxy=url)

        waiting: list[float] = []

        async def trace(event: str, info: dict[str, Any]) -> None:
            if event.endswith("start_tls.started"):
                waiting.append(gauge(catalogue.POOL_PENDING_REQUESTS, "llm"))

        async def two() -> None:
            for _ in range(2):
                assert (await client.get(tls_server.url, extensions={"trace": trace})).text == "/"

        for _ in range(3):
            run(two())
        target = tls_server.url.removeprefix("https://")
        assert proxy.asked == [f"CONNECT {target}"] * 3
        assert waiting == [1] * 3  # a connection that the proxy has opened is not there yet
        assert len(proxy.authorizations) == 3
        assert tls_server.become(0)
    assert value(catalogue.POOL_WAIT, "content", "llm") == 6
    assert value(catalogue.POOL_USE, "content", "llm") == 6
    assert value(catalogue.POOL_CREATE, "llm") == 3


def test_the_environment_s_proxy_for_https(
    library: ModuleType, tls_server: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect_proxy() as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        client = patient_client(library=library, verify=False)
        assert asyncio.run(client.get(tls_server.url)).text == "/"
        assert len(proxy.asked) == 1
        assert tls_server.become(0)


def test_a_bare_loop_close_behind_a_proxy_is_swept(library: ModuleType, tls_server: HTTPServer) -> None:
    with connect_proxy() as proxy, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # asyncio rightly warns of what is left open
        client = patient_client(library=library, verify=False, proxy=proxy.url)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(client.get(tls_server.url))
        loop.close()
        assert tls_server.connections() == 1
        asyncio.run(client.get(tls_server.url))
        assert tls_server.become(0)
        del loop
        gc.collect()


# ---------------------------------------------------------------- responses that outlive their request
def test_a_response_of_another_loop_is_refused_and_its_owner_goes_on(library: ModuleType, server: HTTPServer) -> None:
    client = patient_client(library=library, name="llm")

    async def begin() -> tuple[Any, Any]:
        response = await client.send(client.build_request("GET", f"{server.url}/stream"), stream=True)
        chunks = response.aiter_raw()
        await anext(chunks)
        return response, chunks

    async def read(chunks: Any) -> Any:
        return await anext(chunks)

    with asyncio.Runner() as owner, asyncio.Runner() as other:
        response, chunks = owner.run(begin())
        with pytest.raises(LoopConflictError, match="read and close a response where") as caught:
            other.run(response.aclose())
        assert (caught.value.resource, caught.value.kind) == ("httpx", "cross_loop")
        fresh, _ = owner.run(begin())
        with pytest.raises(LoopConflictError):
            other.run(read(chunks))  # which ends this iterator, and nothing else
        owner.run(fresh.aclose())
        assert value(catalogue.LOOP_CONFLICTS, "content", "app.generate", "httpx", "cross_loop", "guard") == 2
        owner.run(response.aclose())
        owner.run(client.get(server.url))
    assert server.become(0)


def test_a_response_whose_loop_reads_it_in_another_thread_is_refused(library: ModuleType, server: HTTPServer) -> None:
    client = patient_client(library=library)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def begin() -> tuple[Any, Any]:
        response = await client.send(client.build_request("GET", f"{server.url}/stream"), stream=True)
        chunks = response.aiter_raw()
        await anext(chunks)
        return response, chunks

    async def read(chunks: Any) -> int:
        return sum([len(await anext(chunks)) for _ in range(10)])

    try:
        for _ in range(10):
            response, chunks = asyncio.run_coroutine_threadsafe(begin(), loop).result(60)
            reading = asyncio.run_coroutine_threadsafe(read(chunks), loop)
            with pytest.raises(LoopConflictError):
                asyncio.run(response.aclose())
            assert reading.result(60) > 0
    finally:
        asyncio.run_coroutine_threadsafe(client.aclose(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert server.become(0)


def test_a_full_pool_of_one_loop_is_none_of_another_s(library: ModuleType, server: HTTPServer) -> None:
    client = patient_client(library=library, name="llm", limits=library.Limits(max_connections=1))

    async def fill() -> tuple[Any, asyncio.Task[Any]]:
        response = await client.send(client.build_request("GET", f"{server.url}/stream"), stream=True)
        waiting = asyncio.create_task(client.get(server.url))
        await until(lambda: gauge(catalogue.POOL_PENDING_REQUESTS, "llm") == 1)
        return response, waiting

    async def empty(response: Any, waiting: asyncio.Task[Any]) -> Any:
        await response.aclose()
        return (await waiting).text

    with asyncio.Runner() as owner:
        response, waiting = owner.run(fill())
        for _ in range(3):
            assert asyncio.run(client.get(server.url)).text == "/"
        assert owner.run(empty(response, waiting)) == "/"
    assert server.become(0)


def test_a_response_of_a_closed_loop_is_refused(library: ModuleType, server: HTTPServer) -> None:
    client = patient_client(library=library, name="llm")

    async def begin() -> Any:
        return await client.send(client.build_request("GET", f"{server.url}/stream"), stream=True)

    response = asyncio.run(begin())
    with pytest.raises(LoopConflictError) as caught:
        asyncio.run(response.aread())
    assert caught.value.kind == "closed_loop"
    assert server.become(0)


@pytest.mark.parametrize("chunks", [0, 1])
def test_a_response_that_is_lost_gives_its_connection_back(
    chunks: int, library: ModuleType, server: HTTPServer
) -> None:
    client = patient_client(library=library, name="llm", limits=library.Limits(max_connections=1))

    async def lose_one() -> None:
        response = await client.send(client.build_request("GET", f"{server.url}/stream"), stream=True)
        if chunks:
            async for _ in response.aiter_raw():
                break

    async def lose_three() -> None:
        for _ in range(3):
            await lose_one()
            gc.collect()  # the response and its stream refer to each other
            await until(lambda: used() == 0)
        assert (await client.get(server.url)).text == "/"  # the only connection is to be had

    asyncio.run(lose_three())
    assert value(catalogue.POOL_USE, "content", "llm") == 4
    assert server.become(0)


def test_a_response_that_is_open_for_too_long_is_a_leak(
    library: ModuleType, server: HTTPServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = patient_client(library=library, name="llm", leak_threshold=0.05)

    async def forget() -> None:
        async with client.stream("GET", f"{server.url}/stream"):
            await asyncio.sleep(0.06)
            for _ in range(2):
                STATS.gauges()

    with caplog.at_level(logging.WARNING, "loopwatch"):
        asyncio.run(forget())
    assert value(catalogue.POOL_LEAKS, "content", "llm") == 1
    (message,) = [record.getMessage() for record in caplog.records if record.name == "loopwatch"]
    assert "in forget\n" in message
    assert "site-packages/httpx" not in message
    assert "site-packages/httpcore" not in message
