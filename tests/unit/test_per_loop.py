"""`PerLoop`: one value a live loop, whatever ends the loop."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
import uvloop

from loopwatch import PerLoop
from loopwatch.loop_end import DISPOSE_TIMEOUT
from loopwatch.per_loop import sweep
from loopwatch.sockets import SocketHandle
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS


class Thing:
    """A resource that knows where it was made and where it was ended."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.ended_on: list[asyncio.AbstractEventLoop] = []


async def end(thing: Thing) -> None:
    await asyncio.sleep(0)
    thing.ended_on.append(asyncio.get_running_loop())


@pytest.fixture
def things() -> PerLoop[Thing]:
    return PerLoop(Thing, dispose=end, name="things")


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[..., object]:
    return asyncio.run if request.param == "asyncio" else uvloop.run


@pytest.fixture
def loops() -> Iterator[list[asyncio.AbstractEventLoop]]:
    made = [asyncio.new_event_loop() for _ in range(3)]
    yield made
    for loop in made:
        if not loop.is_closed():
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


async def get(things: PerLoop[Thing]) -> Thing:
    return things.get()


def test_one_value_a_loop_made_and_ended_on_it(things: PerLoop[Thing], run: Callable[..., Thing]) -> None:
    async def twice() -> Thing:
        first = things.get()
        assert things.get() is first is things.peek() is await things.aget()
        assert first.loop is asyncio.get_running_loop()
        return first

    made = [run(twice()) for _ in range(3)]
    assert len(set(made)) == 3
    assert all(thing.ended_on == [thing.loop] for thing in made)
    assert len(things) == 0


def test_live_loops_keep_their_values(things: PerLoop[Thing], loops: list[asyncio.AbstractEventLoop]) -> None:
    made = [loop.run_until_complete(get(things)) for loop in loops]
    assert [loop.run_until_complete(get(things)) for loop in loops] == made
    assert dict(things.live()) == dict(zip(loops, made, strict=True))
    assert list(things) == made
    assert repr(things) == "<PerLoop 'things' loops=3 running=0 idle=3 closed=0>"


def test_the_entry_of_a_loop_that_was_just_closed_is_swept_by_the_next_one(
    loops: list[asyncio.AbstractEventLoop],
) -> None:
    closed: list[str] = []

    class Socket:
        def fileno(self) -> int:
            return -1

        def close(self) -> None:
            closed.append("socket")

    things = PerLoop(Thing, name="swept", sockets=lambda _: [Socket()])
    loops[0].run_until_complete(get(things))
    loops[0].close()
    assert STATS.gauges()["engines_orphaned"][("swept",)] == 1
    loops[1].run_until_complete(get(things))
    assert closed == ["socket"]
    assert len(things) == 1
    assert STATS.value(catalogue.ENGINES_DISPOSED, ("swept", "loop_closed")) == 1
    assert STATS.gauges()["engines_orphaned"][("swept",)] == 0


def test_first_use_while_the_loop_ends_is_left_to_the_sweep(things: PerLoop[Thing], run: Callable[..., object]) -> None:
    """Warnings are errors here: uvloop, whose state cannot be seen, tells of its end by one."""
    made = []

    async def late() -> AsyncIterator[None]:
        try:
            yield
        finally:
            made.append(things.get())
            assert things.get() is made[0]

    generator = late()

    async def begin() -> None:
        await anext(generator)

    run(begin())
    assert len(made) == 1
    asyncio.run(get(things))
    assert len(things) == 0


def test_loops_are_freed(things: PerLoop[Thing]) -> None:
    references = []
    for _ in range(20):
        loop = asyncio.new_event_loop()
        references.append(weakref.ref(loop))
        loop.run_until_complete(get(things))
        loop.close()
    del loop
    asyncio.run(get(things))
    gc.collect()
    assert [reference() for reference in references] == [None] * 20


def test_a_perloop_that_is_dropped_ends_its_value_on_its_loop() -> None:
    async def drop() -> Thing:
        dropped = PerLoop(Thing, dispose=end)
        thing = dropped.get()
        gc.disable()  # the collector may be far: there must be no cycle
        try:
            del dropped
        finally:
            gc.enable()
        async with asyncio.timeout(60):
            while not thing.ended_on:  # noqa: ASYNC110  # the collector has no event to wait for
                await asyncio.sleep(0.001)
        return thing

    thing = asyncio.run(drop())
    assert thing.ended_on == [thing.loop]


def test_an_async_factory_runs_once_however_many_ask() -> None:
    calls = []

    async def make() -> Thing:
        calls.append(1)
        await asyncio.sleep(0.01)
        return Thing()

    things = PerLoop(make)

    async def ask_together() -> set[Thing]:
        first = asyncio.create_task(things.aget())
        others = [asyncio.create_task(things.aget()) for _ in range(9)]
        await asyncio.sleep(0)
        first.cancel()  # whoever asked first may go: the others still get the one value
        return set(await asyncio.gather(*others))

    assert len(asyncio.run(ask_together())) == 1
    assert len(calls) == 1


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_failure_is_told_and_not_kept(asynchronous: bool) -> None:
    attempts = []

    def make() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionError("not yet")
        return "made"

    async def make_later() -> str:
        return make()

    things: PerLoop[str] = PerLoop(make_later if asynchronous else make)

    async def ask() -> str:
        with pytest.raises(ConnectionError, match="not yet"):
            await things.aget()
        return await things.aget()

    assert asyncio.run(ask()) == "made"


def test_aclose_ends_the_value_now_and_the_next_one_is_new(things: PerLoop[Thing]) -> None:
    async def ask() -> tuple[Thing, Thing]:
        first = things.get()
        await things.aclose()
        assert first.ended_on == [first.loop]
        await things.aclose()
        return first, things.get()

    first, second = asyncio.run(ask())
    assert first is not second
    assert len(first.ended_on) == len(second.ended_on) == 1


def test_a_disposal_that_fails_or_hangs_does_not_keep_the_loop(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loopwatch.loop_end.DISPOSE_TIMEOUT", 0.05)
    assert DISPOSE_TIMEOUT < 30  # the real one is bounded too

    async def fail(_: Thing) -> None:
        raise OSError("gone")

    async def hang(_: Thing) -> None:
        await asyncio.Event().wait()

    for dispose in (fail, hang):
        things = PerLoop(Thing, dispose=dispose, name=dispose.__name__)
        asyncio.run(get(things))
    assert [record.getMessage() for record in caplog.records] == [
        "the disposal of fail on its loop failed: OSError: gone",
        "the disposal of hang on its loop failed: TimeoutError: not done after 0.05 s",
    ]


def test_a_disposal_that_heeds_no_cancellation_is_left_alone(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loopwatch.loop_end.DISPOSE_TIMEOUT", 0.05)
    monkeypatch.setattr("loopwatch.loop_end.UNHEEDED", 0.05)

    async def use() -> None:
        goes_on = asyncio.Event()

        async def resist(_: Thing) -> None:
            while not goes_on.is_set():
                with suppress(asyncio.CancelledError):
                    await goes_on.wait()

        things = PerLoop(Thing, dispose=resist, name="resists")
        things.get()
        async with asyncio.timeout(30):
            await things.aclose()
        goes_on.set()

    asyncio.run(use())
    (record,) = caplog.records
    assert "the disposal of resists on its loop failed: TimeoutError" in record.getMessage()


def test_aclose_waits_for_a_factory_that_is_under_way_and_ends_what_it_made() -> None:
    async def ask() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def make() -> Thing:
            begun.set()
            await go_on.wait()
            return Thing()

        things: PerLoop[Thing] = PerLoop(make, dispose=end)
        asking = asyncio.create_task(things.aget())
        await begun.wait()
        closing = asyncio.create_task(things.aclose())
        await asyncio.sleep(0)
        go_on.set()
        await closing
        assert len(things) == 0
        assert (await asking).ended_on == [asyncio.get_running_loop()]

    asyncio.run(ask())


def test_a_dispose_may_be_any_function() -> None:
    ended: list[object] = []

    async def entered() -> Thing:
        return Thing()

    async def ask(things: PerLoop[Thing]) -> None:
        await things.aget()

    for dispose in (ended.append, lambda thing: end(thing), end):
        asyncio.run(ask(PerLoop(entered, dispose=dispose)))
    assert len(ended) == 1

    @asynccontextmanager
    async def manager() -> AsyncIterator[str]:
        yield "value"
        ended.append("left")

    async def use() -> str:
        managers: PerLoop[AbstractAsyncContextManager[str]] = PerLoop(
            manager, dispose=lambda it: it.__aexit__(None, None, None)
        )
        return await managers.get().__aenter__()

    assert asyncio.run(use()) == "value"
    assert ended[1:] == ["left"]


def test_its_repr_says_what_its_loops_do(things: PerLoop[Thing], loops: list[asyncio.AbstractEventLoop]) -> None:
    async def look() -> str:
        things.get()
        return repr(things)

    loops[0].run_until_complete(look())
    loops[1].run_until_complete(get(things))
    loops[1].close()
    assert loops[0].run_until_complete(look()) == "<PerLoop 'things' loops=2 running=1 idle=0 closed=1>"


def test_under_anyio(things: PerLoop[Thing]) -> None:
    made = [anyio.run(get, things) for _ in range(2)]
    assert len(set(made)) == 2
    assert all(thing.ended_on == [thing.loop] for thing in made)


@pytest.mark.parametrize("kind", ["lock", "event", "queue"])
def test_locks_events_and_queues_are_each_loop_s(kind: str, loops: list[asyncio.AbstractEventLoop]) -> None:
    """A waiter binds each of them to its loop: shared, the second loop is refused."""
    things: PerLoop[Any] = PerLoop({"lock": asyncio.Lock, "event": asyncio.Event, "queue": asyncio.Queue}[kind])

    async def wait() -> None:
        thing = things.get()
        if kind == "lock" and not thing.locked():
            await thing.acquire()
        waiting = {"lock": "acquire", "event": "wait", "queue": "get"}[kind]
        with suppress(TimeoutError):
            await asyncio.wait_for(getattr(thing, waiting)(), 0.01)

    for loop in (*loops, *loops):
        loop.run_until_complete(wait())
    assert len(set(map(id, things))) == len(loops)


def test_sockets_that_cannot_be_reached_cost_nobody_else_anything(
    loops: list[asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture
) -> None:
    def hidden(_: Thing) -> list[SocketHandle]:
        raise AttributeError("no _transport in this version")

    ours, theirs = PerLoop(Thing, name="hidden", sockets=hidden), PerLoop(Thing, name="theirs")
    loops[0].run_until_complete(get(ours))
    loops[0].close()
    assert loops[1].run_until_complete(get(theirs)).loop is loops[1]
    assert len(ours) == 0
    assert "the sockets of hidden could not be reached: AttributeError: no _transport" in caplog.text


def test_others_may_be_made_while_the_closed_loops_are_swept() -> None:
    """As by a task that makes an LLM's client, while the next thread's loop begins."""
    kept = [PerLoop(Thing) for _ in range(200)]
    over, errors = threading.Event(), []

    def make() -> None:
        while not over.is_set():
            PerLoop(Thing)

    def look() -> None:
        try:
            for _ in range(1500):
                sweep()
        except RuntimeError as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        maker, lookers = threading.Thread(target=make), [threading.Thread(target=look) for _ in range(2)]
        for thread in (maker, *lookers):
            thread.start()
        for thread in lookers:
            thread.join()
    finally:
        over.set()
        sys.setswitchinterval(interval)
    maker.join()
    assert errors == []
    assert len(kept) == 200


def test_many_threads_each_with_many_loops(things: PerLoop[Thing]) -> None:
    barrier = threading.Barrier(8)

    def work(_: int) -> list[Thing]:
        barrier.wait(60)
        return [asyncio.run(get(things)) for _ in range(25)]

    with ThreadPoolExecutor(8) as threads:
        made = [thing for batch in threads.map(work, range(8)) for thing in batch]
    assert len(set(made)) == 200
    assert all(thing.ended_on == [thing.loop] for thing in made)
    assert len(things) == 0


def test_gauges_say_how_many_loops_and_engines_live(loops: list[asyncio.AbstractEventLoop]) -> None:
    first, second = PerLoop(Thing, name="first"), PerLoop(Thing, name="second")
    for loop in loops[:2]:
        loop.run_until_complete(get(first))
    loops[0].run_until_complete(get(second))
    gauges = STATS.gauges()
    assert gauges["engines"][("first",)] == 2
    assert gauges["engines"][("second",)] == 1
    assert gauges["loops"][()] == 2


def test_misuse_says_what_to_write() -> None:
    with pytest.raises(RuntimeError, match=r"no event loop is running.*run_async"):
        PerLoop(list).get()
    with pytest.raises(TypeError, match="a function that makes a value"):
        PerLoop("redis://localhost")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="a function as dispose="):
        PerLoop(list, dispose="close")  # type: ignore[call-overload]

    async def make() -> str:
        return ""

    async def generate() -> AsyncIterator[str]:
        yield ""

    with pytest.raises(TypeError, match=r"not a coroutine: .* write `make` instead of `make\(\)`"):
        PerLoop(make())  # type: ignore[call-overload]

    async def ask() -> None:
        with pytest.raises(TypeError, match="is an async generator function: let it `return` the value"):
            PerLoop(generate).get()
        with pytest.raises(TypeError, match=r"await \.\.\.\.aget\(\)"):
            PerLoop(make).get()

    asyncio.run(ask())
