"""`PerLoop` driven by Hypothesis: loops of asyncio and uvloop, threads, closings, factories that fail, forks."""

from __future__ import annotations

import asyncio
import gc
import os
import traceback
import warnings
from asyncio import AbstractEventLoop
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from loopwatch import PerLoop
from loopwatch.per_loop import sweep
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS

R = TypeVar("R")
_numbers = count()
FAST = settings(max_examples=80, stateful_step_count=40, deadline=None)


@dataclass(eq=False)
class Value:
    """What a factory made: where, and how it ended."""

    loop: AbstractEventLoop
    disposed: list[AbstractEventLoop] = field(default_factory=list)
    sockets_closed: int = 0
    sockets_neutralised: int = 0

    def fileno(self) -> int:
        self.sockets_neutralised += 1  # who asks is about to put /dev/null in its place
        return -1

    def close(self) -> None:
        self.sockets_closed += 1


class Kind:
    """A `PerLoop` and all that it made."""

    def __init__(self, *, asynchronous: bool, disposal_fails: bool) -> None:
        self.name = f"machine-{next(_numbers)}"
        self.disposal_fails = disposal_fails
        self.fails_next = False
        self.made: list[Value] = []
        self.ended: set[Value] = set()
        """Given up by `aclose` or with their loop; whatever is made on a loop afterwards is another value."""
        self.asynchronous = asynchronous
        self.values: PerLoop[Value] = PerLoop(
            self._make_later if asynchronous else self._make,
            dispose=self._dispose,
            name=self.name,
            sockets=lambda value: [value],
        )

    def _make(self) -> Value:
        if self.fails_next:
            self.fails_next = False
            raise ConnectionError("not yet")
        self.made.append(Value(asyncio.get_running_loop()))
        return self.made[-1]

    async def _make_later(self) -> Value:
        await asyncio.sleep(0)
        return self._make()

    async def _dispose(self, value: Value) -> None:
        value.disposed.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        if self.disposal_fails:
            raise OSError("the server is gone")

    async def ask(self, times: int) -> Value:
        """Several tasks ask at once, and again afterwards."""
        values = await asyncio.gather(*(self.values.aget() for _ in range(times)))
        again = await self.values.aget() if self.asynchronous else self.values.get()
        assert set(values) == {again}
        assert self.values.peek() is again
        return again

    def disposals(self) -> Counter[str]:
        rows = STATS.counters().get(catalogue.ENGINES_DISPOSED.wire_name, {})
        return Counter({labels[1]: int(str(n)) for labels, n in rows.items() if labels[0] == self.name})


class Machine(RuleBasedStateMachine):
    """Each loop lives in a thread of its own, as in a worker with threads; the sweep may come from any."""

    loops = Bundle("loops")
    kinds = Bundle("kinds")

    def __init__(self) -> None:
        super().__init__()
        STATS.reset()  # the process's table of series is bounded, and each example names its own
        self.threads: dict[AbstractEventLoop, ThreadPoolExecutor] = {}
        self.all: list[Kind] = []
        self.forks = 0

    def run(self, loop: AbstractEventLoop, work: Coroutine[Any, Any, R]) -> R:
        return self.threads[loop].submit(loop.run_until_complete, work).result(60)

    def close(self, loop: AbstractEventLoop) -> None:
        with self.threads.pop(loop) as thread:
            thread.submit(loop.close).result(60)

    @initialize(target=kinds, asynchronous=st.booleans())
    def begin(self, asynchronous: bool) -> Kind:
        self.all.append(Kind(asynchronous=asynchronous, disposal_fails=False))
        return self.all[-1]

    @rule(target=kinds, asynchronous=st.booleans(), disposal_fails=st.booleans())
    def make_kind(self, asynchronous: bool, disposal_fails: bool) -> Kind:
        self.all.append(Kind(asynchronous=asynchronous, disposal_fails=disposal_fails))
        return self.all[-1]

    @rule(target=loops, new=st.sampled_from([asyncio.new_event_loop, uvloop.new_event_loop]))
    def make_loop(self, new: Callable[[], AbstractEventLoop]) -> AbstractEventLoop:
        loop = new()
        self.threads[loop] = ThreadPoolExecutor(1)
        return loop

    @rule(loop=loops, kind=kinds, times=st.integers(1, 3))
    def ask(self, loop: AbstractEventLoop, kind: Kind, times: int) -> None:
        before = dict(kind.values.live()).get(loop)
        value = self.run(loop, kind.ask(times))
        assert value.loop is loop
        assert before in (None, value)
        assert value not in kind.ended

    @rule(loop=loops, kind=kinds)
    def ask_while_the_factory_fails(self, loop: AbstractEventLoop, kind: Kind) -> None:
        if loop in dict(kind.values.live()):
            return
        made, kind.fails_next = len(kind.made), True
        try:
            self.run(loop, kind.values.aget())
        except ConnectionError:
            assert len(kind.made) == made
            assert loop not in dict(kind.values.live())
        else:
            raise AssertionError("the factory's error was lost")

    @rule(loop=loops, kind=kinds)
    def close_explicitly(self, loop: AbstractEventLoop, kind: Kind) -> None:
        value = dict(kind.values.live()).get(loop)
        self.run(loop, kind.values.aclose())
        if value is not None:
            kind.ended.add(value)
            assert value.disposed == [loop]

    @rule(loop=consumes(loops), properly=st.booleans())
    def end_loop(self, loop: AbstractEventLoop, properly: bool) -> None:
        held = [(kind, value) for kind in self.all for of, value in kind.values.live() if of is loop]
        if properly:
            self.run(loop, loop.shutdown_asyncgens())
        self.close(loop)
        for kind, value in held:
            kind.ended.add(value)
            assert value.disposed == ([loop] if properly else [])

    @rule(loop=consumes(loops), kind=kinds)
    def ask_while_the_loop_ends(self, loop: AbstractEventLoop, kind: Kind) -> None:
        """Another async generator's end asks for the value: the old one or a new one, which is the sweep's to end."""

        async def late() -> Any:
            try:
                yield
            finally:
                await kind.values.aget()

        async def begin() -> Any:
            generator = late()
            await anext(generator)
            return generator  # referred to until the loop has ended

        generator = self.run(loop, begin())
        self.run(loop, loop.shutdown_asyncgens())
        self.close(loop)
        assert generator.ag_frame is None
        for one in self.all:
            one.ended.update(value for value in one.made if value.loop is loop)

    @rule()
    def sweep_closed_loops(self) -> None:
        sweep()
        for kind in self.all:
            assert [loop for loop, _ in kind.values.live() if loop.is_closed()] == []

    @precondition(lambda self: self.forks < 2)  # 20 ms each
    @rule()
    def fork(self) -> None:
        self.forks += 1
        held = [value for kind in self.all for _, value in kind.values.live()]

        def look_and_use() -> None:
            assert [value.sockets_neutralised for value in held] == [1] * len(held)
            for kind in self.all:
                _look_and_use(kind)

        assert _exit_code_of_child(look_and_use) == 0
        assert [value for kind in self.all for _, value in kind.values.live()] == held
        assert all(value.sockets_neutralised == 0 for value in held)  # in this process

    @rule(loop=loops)
    def drop(self, loop: AbstractEventLoop) -> None:
        """A `PerLoop` that its owner lets go of ends its value on its loop."""
        dropped = Kind(asynchronous=False, disposal_fails=False)

        async def use_and_drop() -> Value:
            value = dropped.values.get()
            del dropped.values
            gc.collect()
            async with asyncio.timeout(30):
                while not value.disposed:  # noqa: ASYNC110  # the finaliser's task tells nobody
                    await asyncio.sleep(0)
                while others := asyncio.all_tasks() - {asyncio.current_task()}:
                    await asyncio.wait(others)
            return value

        value = self.run(loop, use_and_drop())
        assert value.disposed == [loop]

    @invariant()
    def one_value_a_loop_made_and_disposed_of_at_most_once(self) -> None:
        for kind in self.all:
            live = kind.values.live()
            assert all(value.loop is loop for loop, value in live)
            assert len({loop for loop, _ in live}) == len(live)
            current = [value.loop for value in kind.made if value not in kind.ended]
            assert len(set(current)) == len(current), "made twice in one life of a loop"
            for value in kind.made:
                assert value.disposed in ([], [value.loop])
                assert value.sockets_closed <= 1

    @invariant()
    def the_counters_add_up(self) -> None:
        for kind in self.all:
            created = STATS.value(catalogue.ENGINES_CREATED, (kind.name,))
            assert created == len(kind.made)
            assert created == len(kind.values.live()) + kind.disposals().total()
            if kind.disposal_fails:  # it is the sweep's to end, which closes the sockets
                assert kind.disposals()["loop_end"] == 0

    def teardown(self) -> None:
        for loop in list(self.threads):
            self.end_loop(loop, True)
        sweep()
        for kind in self.all:
            assert len(kind.values) == 0
            for value in kind.made:
                # Disposed of on its loop, or (not, or in vain) its sockets closed after it.
                assert value.disposed or value.sockets_closed


TestMachine = Machine.TestCase
TestMachine.settings = FAST


def _exit_code_of_child(check: Callable[[], object]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on: pytest's plugins have threads
        pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        check()
        code = 0
    except BaseException:  # noqa: BLE001  # the child may not go on as a second pytest, whatever happens
        traceback.print_exc()
    finally:
        os._exit(code)


def _look_and_use(kind: Kind) -> None:
    """In the child: nothing is inherited, nothing of the parent's is ended, and a new loop has a value of its own."""
    assert len(kind.values) == 0
    kind.fails_next = kind.disposal_fails = False
    before = [(list(value.disposed), value.sockets_closed) for value in kind.made]
    asyncio.run(kind.ask(2))
    assert [(value.disposed, value.sockets_closed) for value in kind.made[:-1]] == before
    assert kind.made[-1].disposed == [kind.made[-1].loop]
    assert STATS.value(catalogue.ENGINES_CREATED, (kind.name,)) == 1


@given(
    before=st.lists(st.sampled_from(["ask", "close", "ask elsewhere"]), max_size=4),
    closed=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_a_fork_at_any_moment_leaves_the_child_nothing(before: list[str], closed: bool) -> None:
    kind = Kind(asynchronous=False, disposal_fails=False)
    here, elsewhere = asyncio.new_event_loop(), uvloop.new_event_loop()
    for step in before:
        loop = elsewhere if step == "ask elsewhere" else here
        loop.run_until_complete(kind.values.aclose() if step == "close" else kind.ask(2))
    if closed:
        here.close()
    assert _exit_code_of_child(lambda: _look_and_use(kind)) == 0
    for loop in (here, elsewhere):
        if not loop.is_closed():
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
    sweep()
    assert all(value.disposed or value.sockets_closed for value in kind.made)  # unharmed by the child
