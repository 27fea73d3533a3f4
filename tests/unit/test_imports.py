"""Who may import whom: the rules of the design, read from the sources, and each rule proven able to fail."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import loopwatch

ROOT = Path(__file__).resolve().parents[2]

MONITOR_MAY_USE = {
    "loopwatch.conflicts",
    "loopwatch.telemetry.wire",
    "loopwatch.telemetry.catalogue",
    "loopwatch._version",
}
PURE_MODULES = {
    "loopwatch.per_loop",
    "loopwatch.conflict_patterns",
    "loopwatch.conflicts",
    "loopwatch.errors",
    "loopwatch.loop_end",
    "loopwatch.reach",
    "loopwatch.redact",
    "loopwatch.sockets",
    "loopwatch.stacks",
    "loopwatch.telemetry.conflict_reports",
    "loopwatch.telemetry.stats",
    "loopwatch.telemetry.wire",
    "loopwatch.telemetry.catalogue",
}
CELERY = {"celery", "kombu", "billiard", "vine", "amqp"}
NOT_ON_REDIS = {
    "loopwatch_monitor.intake.kombu",
    "loopwatch_monitor.polls.kombu",
    "loopwatch_monitor.settings",  # asks kombu which transports there are, of any other URL
}
CLOCKS_AND_IO = {
    *("asyncio", "datetime", "io", "os", "pathlib", "select", "selectors", "signal", "socket", "subprocess"),
    *("sched", "tempfile", "threading", "time", "urllib", "http", "redis", "kombu", "aiohttp", "logging", "structlog"),
}


class Import(NamedTuple):
    """``importer`` (a module) imports ``name``: the module, or the module and the name taken from it, dotted."""

    importer: str
    name: str

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


def _imports_of(source: str, module: str, *, is_package: bool = False) -> Iterator[Import]:
    """Every import in the source, also those in functions and under ``if TYPE_CHECKING``; relative ones resolved."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                package = parts[: len(parts) - node.level + is_package]
                base = ".".join([*package, base] if base else package)
            yield from (Import(module, f"{base}.{alias.name}") for alias in node.names)


def _imports_under(directory: Path, package: str) -> list[Import]:
    found: list[Import] = []
    for path in sorted(directory.rglob("*.py")):
        parts = path.relative_to(directory).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join([package, *(parts[:-1] if is_package else parts)])
        found += _imports_of(path.read_text(), module, is_package=is_package)
    assert found, f"no source under {directory}"
    return found


def _inside(name: str, modules: Iterable[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


# Each rule answers whether an import breaks it.


def library_reaches_out(found: Import) -> bool:
    return _inside(found.importer, ["loopwatch"]) and found.top in {"loopwatch_monitor", "app", "tests", "benchmarks"}


def monitor_knows_too_much(found: Import) -> bool:
    if not _inside(found.importer, ["loopwatch_monitor"]):
        return False
    return found.top in {"app", "tests"} or (found.top == "loopwatch" and not _inside(found.name, MONITOR_MAY_USE))


def app_uses_a_private_name(found: Import) -> bool:
    """The application says ``import loopwatch`` or ``from loopwatch import name``, as a reader would."""
    if not _inside(found.importer, ["app"]) or found.top not in {"loopwatch", "loopwatch_monitor"}:
        return False
    return found.name.partition(".")[2] not in {"", *loopwatch.__all__} or found.top != "loopwatch"


def pure_module_imports_more(found: Import) -> bool:
    if found.importer not in PURE_MODULES:
        return False
    if found.top == "loopwatch":
        return not _inside(found.name, {*PURE_MODULES, "loopwatch._version"})
    return found.top not in sys.stdlib_module_names


def celery_outside_its_room(found: Import) -> bool:
    return (
        _inside(found.importer, ["loopwatch"])
        and not _inside(found.importer, ["loopwatch.celery"])
        and found.top in CELERY
    )


def state_is_not_pure(found: Import) -> bool:
    return _inside(found.importer, ["loopwatch_monitor.state"]) and found.top in CLOCKS_AND_IO


def monitor_on_redis_carries_celery(found: Import) -> bool:
    """What a monitor on Redis imports: Celery, kombu and redis-py would be a third of its memory."""
    return (
        _inside(found.importer, ["loopwatch_monitor"])
        and not _inside(found.importer, NOT_ON_REDIS)
        and found.top in {*CELERY, "redis"}
    )


RULES: dict[Callable[[Import], bool], Import] = {
    library_reaches_out: Import("loopwatch.cli", "loopwatch_monitor.command"),
    monitor_knows_too_much: Import("loopwatch_monitor.render", "loopwatch.telemetry.stats.STATS"),
    app_uses_a_private_name: Import("app.db.session", "loopwatch.adapters.sqlalchemy.LoopAwarePool"),
    pure_module_imports_more: Import("loopwatch.per_loop", "sqlalchemy.pool"),
    celery_outside_its_room: Import("loopwatch.runner", "celery.exceptions.SoftTimeLimitExceeded"),
    state_is_not_pure: Import("loopwatch_monitor.state.tasks", "time.monotonic"),
    monitor_on_redis_carries_celery: Import("loopwatch_monitor.polls.redis", "kombu.pidbox.Mailbox"),
}
"""Each rule, and an import that breaks it."""


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    packages = {"loopwatch": "loopwatch", "monitor/loopwatch_monitor": "loopwatch_monitor", "app": "app"}
    return [found for place, package in packages.items() for found in _imports_under(ROOT / place, package)]


@pytest.mark.parametrize("broken_by", RULES)
def test_the_rule_is_kept(imports: list[Import], broken_by: Callable[[Import], bool]) -> None:
    assert [found for found in imports if broken_by(found)] == []


@pytest.mark.parametrize(("broken_by", "example"), RULES.items())
def test_the_rule_can_be_broken(broken_by: Callable[[Import], bool], example: Import) -> None:
    assert broken_by(example)
    assert not broken_by(Import(example.importer, "collections.abc.Iterator"))


@pytest.mark.parametrize(
    "allowed",
    [
        Import("loopwatch_monitor.state.conflicts", "loopwatch.conflicts.classify"),
        Import("loopwatch_monitor.render", "loopwatch.telemetry.catalogue"),
        Import("app.db.session", "loopwatch"),
        Import("app.db.session", "loopwatch.create_async_engine"),
        Import("loopwatch.celery.task", "celery.Task"),
        Import("loopwatch_monitor.polls.kombu", "kombu.Connection"),
        Import("loopwatch.per_loop", "loopwatch.telemetry.stats.STATS"),
    ],
)
def test_what_is_allowed_breaks_no_rule(allowed: Import) -> None:
    assert not any(broken_by(allowed) for broken_by in RULES)


def test_every_way_of_importing_is_seen() -> None:
    source = """
from typing import TYPE_CHECKING
import celery.app as a
from . import stats
from .wire import Table
from ..errors import LoopwatchError
if TYPE_CHECKING:
    import kombu
def lazily():
    from sqlalchemy import pool
"""
    assert {found.name for found in _imports_of(source, "loopwatch.telemetry.x")} == {
        "typing.TYPE_CHECKING",
        "celery.app",
        "loopwatch.telemetry.stats",
        "loopwatch.telemetry.wire.Table",
        "loopwatch.errors.LoopwatchError",
        "kombu",
        "sqlalchemy.pool",
    }
    (of_package,) = _imports_of("from .stats import STATS", "loopwatch.telemetry", is_package=True)
    assert of_package.name == "loopwatch.telemetry.stats.STATS"


def _third_party_modules_after(statement: str) -> list[str]:
    code = (
        f"import sys; before = set(sys.modules)\n{statement}\n"
        "tops = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(tops - sys.stdlib_module_names))"
    )
    # -I: no user site, no PYTHON* variables; the project is installed in the environment.
    result = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    return result.stdout.split()


def test_importing_the_library_loads_nothing_else() -> None:
    assert _third_party_modules_after("import loopwatch") == ["loopwatch"]


def test_the_subprocess_would_see_a_third_party_module() -> None:
    assert "redis" in _third_party_modules_after("import redis")
