"""What the demo's processes run with."""

from __future__ import annotations

from contextlib import ExitStack

from app.demo.environment import demo_environment

SERVERS = {"DATABASE_URL": "postgresql+asyncpg://app@database/app", "REDIS_URL": "redis://redis/0"}
PORTS = ("API_PORT", "LLM_PORT", "MONITOR_PORT")


def test_ports_that_are_given_are_kept() -> None:
    given = SERVERS | {name: str(number) for number, name in enumerate(PORTS, 20_000)}
    with ExitStack() as stack:
        assert demo_environment(stack, given).items() >= given.items()


def test_ports_that_are_not_given_are_chosen() -> None:
    with ExitStack() as stack:
        environment = demo_environment(stack, SERVERS)
    assert all(0 < int(environment[name]) < 65536 for name in PORTS)
