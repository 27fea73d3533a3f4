"""The HTTP adapter on a real server: one global client of httpx or httpx2 on many loops, proxies, ends and forks."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import ssl
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest
import uvloop

import loopwatch
from loopwatch import ConfigurationError, HTTPTransport, http_client
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS
from tests.integration.certificates import self_signed
from tests.integration.http_clients import PATIENCE, patient_client
from tests.integration.http_server import HTTPServer, serve

RUNNERS = [asyncio.run, uvloop.run]
LIBRARIES = ["httpx", "httpx2"]
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in PROXY_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    STATS.reset()
    yield
    STATS.reset()


@pytest.fixture(scope="module")
def server() -> Iterator[HTTPServer]:
    with serve() as running:
        yield running


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(str(request.param))


async def fetch(client: Any, url: str) -> str:
    answers = await asyncio.gather(*(client.get(url) for _ in range(3)))
    return str(answers[0].raise_for_status().text)


@pytest.mark.parametrize("run", RUNNERS)
def test_one_global_client_on_a_hundred_loops(run: Callable[..., str], library: ModuleType, server: HTTPServer) -> None:
    client = patient_client(library=library, name="api")
    assert type(client) is library.AsyncClient
    for _ in range(100):
        assert run(fetch(client, server.url)) == "/"
    assert server.become(0)
    assert STATS.value(catalogue.ENGINES_CREATED, ("api",)) == 100
    assert STATS.value(catalogue.ENGINES_DISPOSED, ("api", "loop_end")) == 100


def test_a_thousand_loops_leave_no_connection_and_no_descriptor(server: HTTPServer) -> None:
    client = patient_client()
    asyncio.run(fetch(client, server.url))
    assert server.become(0)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(1000):
        asyncio.run(client.get(server.url))
    assert server.become(0)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_one_transport_serves_both_libraries(server: HTTPServer) -> None:
    transport: Any = HTTPTransport(name="both")
    clients = [of.AsyncClient(transport=transport, timeout=PATIENCE) for of in (httpx, httpx2)]

    async def both() -> list[type]:
        return [type(await client.get(server.url)) for client in clients]

    for _ in range(5):
        assert asyncio.run(both()) == [httpx.Response, httpx2.Response]
    assert server.become(0)


def test_the_preferred_library_is_httpx2() -> None:
    assert type(http_client()) is httpx2.AsyncClient
    assert type(http_client(library="httpx")) is httpx.AsyncClient


def test_loops_in_threads_at_once(library: ModuleType, server: HTTPServer) -> None:
    client = patient_client(library=library)
    answers: list[str] = []

    def work() -> None:
        answers.extend(asyncio.run(fetch(client, server.url)) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["/"] * 40
    assert server.become(0)


def test_connections_are_kept_on_one_loop(library: ModuleType, server: HTTPServer) -> None:
    client = patient_client(library=library)
    with asyncio.Runner() as runner:
        for _ in range(10):
            runner.run(client.get(server.url))
        assert server.connections() == 1
    assert server.become(0)


def test_aclose_ends_this_loop_s_connections_and_the_client(library: ModuleType, server: HTTPServer) -> None:
    client = patient_client(library=library)
    with asyncio.Runner() as kept, asyncio.Runner() as closed:
        kept.run(client.get(server.url))
        closed.run(client.get(server.url))
        assert server.connections() == 2
        closed.run(client.aclose())
        assert server.become(1)
        with pytest.raises(RuntimeError, match="client has been closed"):
            kept.run(client.get(server.url))
    assert server.become(0)


async def test_the_context_manager_of_the_client(library: ModuleType, server: HTTPServer) -> None:
    async with patient_client(library=library) as client:
        await fetch(client, server.url)
        assert server.connections() >= 1
    assert client.is_closed
    assert await asyncio.to_thread(server.become, 0)


def test_a_bare_loop_close_is_swept(library: ModuleType, server: HTTPServer) -> None:
    client = patient_client(library=library, name="api")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # asyncio rightly warns of what is left open
        loop = asyncio.new_event_loop()
        loop.run_until_complete(fetch(client, server.url))
        loop.close()
        assert server.connections() >= 1
        asyncio.run(fetch(client, server.url))
        assert server.become(0)
        del loop
        gc.collect()
    assert STATS.value(catalogue.ENGINES_DISPOSED, ("api", "loop_closed")) == 1


# httpx's own generators (`Auth.async_auth_flow` and more) are late then, of which asyncio tells its developers.
@pytest.mark.filterwarnings("ignore:asynchronous generator .* was scheduled after:ResourceWarning")
def test_an_async_generator_that_still_asks_while_the_loop_ends(library: ModuleType, server: HTTPServer) -> None:
    client = patient_client(library=library)
    seen: list[str] = []
    kept: list[AsyncIterator[None]] = []

    async def asking() -> AsyncIterator[None]:
        try:
            yield
        finally:
            seen.append(await fetch(client, server.url))
            seen.append(await fetch(client, server.url))

    async def leave_it_open() -> None:
        kept.extend([asking(), asking()])
        await anext(kept[0])
        await client.get(server.url)
        await anext(kept[1])

    asyncio.run(leave_it_open())
    assert seen == ["/"] * 4
    assert server.become(0)


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_fork_harms_neither_side(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], library: ModuleType, server: HTTPServer
) -> None:
    client = patient_client(library=library)
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(client.get(server.url))
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if asyncio.run(fetch(client, server.url)) == "/" else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert server.become(1)
        runner.run(client.get(server.url))
        assert server.connections() == 1
    assert server.become(0)


def test_limits_are_passed_on(library: ModuleType, server: HTTPServer) -> None:
    client = patient_client(
        library=library, limits=library.Limits(max_connections=1), timeout=library.Timeout(PATIENCE, pool=0.01)
    )

    async def two_at_once() -> None:
        await asyncio.gather(client.get(f"{server.url}/never"), client.get(f"{server.url}/never"))

    with pytest.raises(library.PoolTimeout):
        asyncio.run(two_at_once())


def test_options_of_the_client_are_the_client_s(library: ModuleType, server: HTTPServer) -> None:
    client = patient_client(library=library, base_url=server.url, headers={"x": "y"}, timeout=7)
    assert asyncio.run(fetch(client, "/path")) == "/path"
    assert client.headers["x"] == "y"
    assert client.timeout.connect == 7


# ---------------------------------------------------------------- TLS
@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 and its key, in one file."""
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls_server(certificate: Path) -> Iterator[HTTPServer]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with serve(context) as running:
        yield running


def test_verify_is_passed_on(library: ModuleType, tls_server: HTTPServer, certificate: Path) -> None:
    with pytest.raises(library.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        asyncio.run(patient_client(library=library).get(tls_server.url))
    for verify in (ssl.create_default_context(cafile=certificate), False):
        client = patient_client(library=library, verify=verify)
        assert [asyncio.run(fetch(client, tls_server.url)) for _ in range(3)] == ["/"] * 3
    assert tls_server.become(0)


def test_tls_connections_of_a_bare_loop_close_are_swept(library: ModuleType, tls_server: HTTPServer) -> None:
    client = patient_client(library=library, verify=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(client.get(tls_server.url))
        loop.close()
        assert tls_server.connections() == 1
        asyncio.run(fetch(client, tls_server.url))
        assert tls_server.become(0)
        del loop
        gc.collect()


# ---------------------------------------------------------------- proxies: a client with transport= drops its own
ELSEWHERE = "http://service.example.invalid:81/path"


def test_an_explicit_proxy(library: ModuleType, server: HTTPServer) -> None:
    for proxy in (server.url, library.Proxy(server.url)):
        client = patient_client(library=library, proxy=proxy)
        assert [asyncio.run(fetch(client, ELSEWHERE)) for _ in range(3)] == [ELSEWHERE] * 3
    assert server.become(0)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_the_environment_s_proxy(
    variable: str, library: ModuleType, server: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, server.url.removeprefix("http://"))
    client = patient_client(library=library)
    transport: Any = HTTPTransport()
    for each in (client, library.AsyncClient(transport=transport, timeout=PATIENCE)):
        assert asyncio.run(fetch(each, ELSEWHERE)) == ELSEWHERE
    assert server.become(0)


@pytest.mark.parametrize(
    "no_proxy",
    ["service.example.invalid", "example.invalid", ".Example.Invalid", "a.b, service.example.invalid:81", "*"],
)
def test_no_proxy(no_proxy: str, library: ModuleType, server: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", no_proxy)
    with pytest.raises(library.ConnectError):
        asyncio.run(patient_client(library=library).get(ELSEWHERE))


@pytest.mark.parametrize("no_proxy", ["ample.invalid", "service.example.invalid:8", "other", ",", "invalid.example"])
def test_no_proxy_of_others(
    no_proxy: str, library: ModuleType, server: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", no_proxy)
    assert asyncio.run(fetch(patient_client(library=library), ELSEWHERE)) == ELSEWHERE


def test_trust_env_false_ignores_the_environment(
    library: ModuleType, server: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    with pytest.raises(library.ConnectError):
        asyncio.run(patient_client(library=library, trust_env=False).get(ELSEWHERE))


# ---------------------------------------------------------------- arguments
def test_bad_arguments_are_refused_at_construction() -> None:
    with pytest.raises(ConfigurationError, match="transport"):
        http_client(transport=HTTPTransport())
    with pytest.raises(ConfigurationError, match="library must be one of httpx2, httpx"):
        http_client(library="requests")
    with pytest.raises(ConfigurationError, match="http1"):
        HTTPTransport(http1=False)
    with pytest.raises(ConfigurationError, match="retries"):
        HTTPTransport(retries=-1)
    with pytest.raises(TypeError, match="nonsense"):
        http_client(nonsense=1)
    with pytest.raises(ConfigurationError, match="leak_threshold"):
        http_client(leak_threshold=0)


@pytest.mark.parametrize(
    ("proxy", "told"),
    [
        ("htp://someone:secret@proxy:3128", "the scheme 'htp'"),
        ("someone:secret@proxy:3128", "without a scheme"),
        ("http://someone:secret@", "without a host"),
        ("", "without a scheme"),
    ],
)
def test_a_bad_proxy_is_refused_without_its_password(proxy: str, told: str, library: ModuleType) -> None:
    with pytest.raises(ConfigurationError, match="proxy must be a URL such as http://host:port") as caught:
        http_client(library=library, proxy=proxy)
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)


def test_made_without_a_loop_and_used_synchronously_only(library: ModuleType) -> None:
    """A client in a global or a synchronous constructor needs no loop, and asks for nothing until it is used."""
    client = http_client(library=library)
    assert client.build_request("GET", "http://localhost/").url.path == "/"
    assert not client.is_closed


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "httpx2", None)
    assert type(http_client()) is httpx.AsyncClient
    monkeypatch.setitem(__import__("sys").modules, "httpx", None)
    with pytest.raises(loopwatch.MissingExtraError, match=r"pip install 'loopwatch\[httpx\]'"):
        http_client()


def test_repr() -> None:
    assert repr(HTTPTransport(name="llm")) == "<HTTPTransport 'llm' loops=0>"
