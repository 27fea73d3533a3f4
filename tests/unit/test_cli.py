"""The command line as a user meets it, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

import loopwatch


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loopwatch.cli", *arguments], capture_output=True, text=True, timeout=100, check=False
    )


def test_version_and_help() -> None:
    assert command("--version").stdout == f"loopwatch {loopwatch.__version__}\n"
    shown = command("--help")
    assert shown.returncode == 0
    assert "monitor" in shown.stdout


@pytest.mark.parametrize("arguments", [[], ["watch"]])
def test_what_cannot_be_run_is_said_in_one_line_with_exit_code_2(arguments: list[str]) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert "loopwatch {monitor}" in done.stdout + done.stderr
    assert len((done.stdout + done.stderr).splitlines()) == 1


def test_the_monitor_is_reached_through_its_entry_point() -> None:
    done = command("monitor", "--help")
    assert done.returncode == 0
    assert "--broker-url" in done.stdout


def test_importing_loopwatch_is_cheap_and_names_are_loaded_on_first_use() -> None:
    program = (
        "import sys, loopwatch\n"
        "heavy = {'celery', 'kombu', 'sqlalchemy', 'redis', 'httpx', 'prometheus_client'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert set(loopwatch.__all__) <= set(dir(loopwatch))\n"
        "for name in loopwatch.__all__: getattr(loopwatch, name)\n"
        "from loopwatch import *\n"
        "assert callable(budget) and callable(instrument)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("create_async_engine", "sqlalchemy", "sqlalchemy"),
        ("redis_from_url", "redis", "redis"),
        ("instrument", "celery", "celery"),
        ("http_client", "httpx", "httpx"),
        ("Collector", "prometheus_client", "prometheus"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(name: str, package: str, extra: str) -> None:
    program = (
        "import sys\n"
        f"sys.modules[{package!r}] = None\n"
        "sys.modules['httpx2'] = None\n"
        "import loopwatch\n"
        f"try: getattr(loopwatch, {name!r}); loopwatch.http_client() if {name!r} == 'http_client' else None\n"
        "except loopwatch.MissingExtraError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert f"pip install 'loopwatch[{extra}]'" in done.stdout, done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'create_engine'"):
        loopwatch.create_engine  # noqa: B018  # the access is the test
