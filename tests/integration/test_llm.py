"""The SDKs of language models on `http_client`, against a real server that speaks their APIs: many loops, streams."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop
from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI
from pydantic import SecretStr

from loopwatch import classify
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS
from tests.integration.http_clients import patient_client
from tests.integration.http_server import HTTPServer, serve

RUNNERS = [asyncio.run, uvloop.run]
LIBRARIES = ["httpx", "httpx2"]
Ask = Callable[..., Any]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    gc.collect()
    STATS.reset()
    yield
    STATS.reset()


@pytest.fixture(scope="module")
def server() -> Iterator[HTTPServer]:
    with serve() as running:
        yield running


def chat_openai(url: str, http: Any) -> Ask:
    # A new object each time isolates nothing, and need not: it is the transport that is per loop.
    llm = ChatOpenAI(
        model="local", base_url=f"{url}/v1", api_key=SecretStr("none"), max_retries=0, http_async_client=http
    )

    async def ask() -> Any:
        return (await llm.ainvoke("Say hello")).content

    return ask


def openai(url: str, http: Any, retries: int = 0) -> Ask:
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=retries, http_client=http)

    async def ask(**options: Any) -> Any:
        question: Any = [{"role": "user", "content": "Hello"}]
        answer: Any = await client.chat.completions.create(model="local", messages=question, **options)
        return answer if options.get("stream") else answer.choices[0].message.content

    return ask


def anthropic(url: str, http: Any, retries: int = 0) -> Ask:
    client = AsyncAnthropic(base_url=url, api_key="none", max_retries=retries, http_client=http)

    async def ask(max_tokens: int = 10, **options: Any) -> Any:
        question: Any = [{"role": "user", "content": "Hello"}]
        answer: Any = await client.messages.create(model="local", messages=question, max_tokens=max_tokens, **options)
        return answer if options.get("stream") else answer.content[0].text

    return ask


SDKS = [openai, anthropic]
# Anthropic's takes clients of one library only: the one that its own are of.
OF_ANTHROPIC = DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0]
PAIRS = [*((sdk, of) for sdk in (chat_openai, openai) for of in LIBRARIES), (anthropic, OF_ANTHROPIC)]


@pytest.mark.parametrize(("sdk", "of"), PAIRS)
@pytest.mark.parametrize("run", RUNNERS)
def test_20_of_20_calls(sdk: Callable[..., Ask], run: Callable[..., Any], of: str, server: HTTPServer) -> None:
    for _ in range(2):
        ask = sdk(server.url, patient_client(library=of, name="llm"))
        assert [run(ask()) for _ in range(20)] == ["hello"] * 20
    assert server.become(0)


def twenty(sdk: str, url: str) -> None:
    """Without us, in a process of its own, as it leaves sockets behind that nobody can end. Prints the outcomes."""
    outcomes: Counter[str] = Counter()
    make = globals()[sdk]
    shared = make(url, None)
    for _ in range(20):
        # LangChain shares its HTTP client in the whole process: a new object isolates nothing.
        ask = make(url, None) if sdk == "chat_openai" else shared
        try:
            asyncio.run(ask())
            outcomes["answered"] += 1
        except Exception as error:  # noqa: BLE001  # whatever it raises is the result
            conflict = classify(error)
            outcomes[conflict.kind if conflict else repr(error)] += 1
    print(json.dumps(outcomes), flush=True)
    os._exit(0)


@pytest.mark.parametrize("sdk", ["chat_openai", "openai", "anthropic"])
def test_without_us_half_of_20_calls_fail(sdk: str, server: HTTPServer) -> None:
    program = f"from tests.integration.test_llm import twenty; twenty({sdk!r}, {server.url!r})"
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert json.loads(done.stdout) == {"answered": 10, "closed_loop": 10}


@pytest.mark.parametrize("sdk", SDKS)
def test_a_retry_of_the_sdk_is_a_request_of_its_own(sdk: Callable[..., Ask], server: HTTPServer) -> None:
    ask = sdk(server.url, patient_client(library=OF_ANTHROPIC, name="llm"), 2)

    async def both() -> list[Any]:
        return [await ask(max_tokens=503), await ask(max_tokens=503)]

    assert asyncio.run(both()) == ["hello"] * 2
    assert STATS.value(catalogue.POOL_USE, ("", "llm")) == 4
    assert STATS.value(catalogue.POOL_CREATE, ("llm",)) == 1
    assert server.become(0)


@pytest.mark.parametrize(("sdk", "of"), PAIRS[2:])
@pytest.mark.parametrize("begun", [False, True])
def test_an_abandoned_stream_gives_its_connection_back(
    sdk: Callable[..., Ask], begun: bool, of: str, server: HTTPServer
) -> None:
    http = patient_client(library=of, name="llm")
    ask = sdk(server.url, http)

    async def abandon() -> None:
        stream = await ask(stream=True)
        if begun:
            async for _ in stream:
                break

    async def abandon_three() -> None:
        for _ in range(3):
            await abandon()
        async with asyncio.timeout(60):
            while STATS.gauges()["pool_connections"]["llm", "used"]:
                gc.collect()  # the SDK's objects refer to each other
                await asyncio.sleep(0.01)
        assert await ask() == "hello"

    asyncio.run(abandon_three())
    assert STATS.value(catalogue.POOL_USE, ("", "llm")) == 4
    assert server.become(0)


@pytest.mark.parametrize("sdk", SDKS)
def test_a_stream_that_is_closed_gives_its_connection_back_at_once(sdk: Callable[..., Ask], server: HTTPServer) -> None:
    ask = sdk(server.url, patient_client(library=OF_ANTHROPIC, name="llm"))

    async def close_one() -> None:
        async with await ask(stream=True) as stream:
            async for _ in stream:
                break
            assert STATS.gauges()["pool_connections"]["llm", "used"] == 1
        assert STATS.gauges()["pool_connections"]["llm", "used"] == 0

    for _ in range(3):
        asyncio.run(close_one())
    assert server.become(0)
