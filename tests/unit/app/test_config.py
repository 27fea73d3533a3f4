"""The settings: defaults, and what each error says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.core.config import Settings, SettingsError, get_settings

URL = "postgresql+asyncpg://app:secret@db.example/app"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for field in Settings.model_fields:
        monkeypatch.delenv(field.upper(), raising=False)
    monkeypatch.delenv("UVICORN_WORKERS", raising=False)
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv("REDIS_URL", "redis://:secret@redis.example/3")
    yield
    get_settings.cache_clear()  # of this environment


def _settings() -> Settings:
    get_settings.cache_clear()  # a process reads them once
    return get_settings()


def test_defaults_share_180_connections_among_18_processes() -> None:
    budget = _settings().connection_budget()
    assert (budget.processes, budget.pool_size, budget.max_overflow) == (18, 6, 4)
    assert budget.total == 180


def test_the_broker_and_the_results_are_redis_by_default() -> None:
    settings = _settings()
    assert settings.broker_url == settings.result_backend == "redis://:secret@redis.example/3"


def test_no_credentials_in_the_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_API_KEY", "sk-secret")
    assert "secret" not in repr(_settings())


@pytest.mark.parametrize(("name", "expected"), [("WEB_CONCURRENCY", 2), ("UVICORN_WORKERS", 2)])
def test_both_names_of_the_number_of_api_processes(monkeypatch: pytest.MonkeyPatch, name: str, expected: int) -> None:
    monkeypatch.setenv(name, "2")
    assert _settings().web_concurrency == expected


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "")
    assert _settings().web_concurrency == 4


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("DATABASE_URL", "", "DATABASE_URL: it is not set; set it to an address such as postgresql+asyncpg://"),
        ("DATABASE_URL", "postgresql://app:secret@db/app", "DATABASE_URL: it is not the address of"),
        ("DATABASE_URL", "not an address, secret", "DATABASE_URL: it is not the address of"),
        ("REDIS_URL", "secret", "REDIS_URL: it does not begin with redis:// or rediss:// or unix://; set it to"),
        ("LLM_BASE_URL", "localhost", "LLM_BASE_URL: it does not begin with http:// or https://"),
        ("WEB_CONCURRENCY", "secret", "WEB_CONCURRENCY or UVICORN_WORKERS: Input should be a valid integer"),
        ("UVICORN_WORKERS", "0", "WEB_CONCURRENCY or UVICORN_WORKERS: Input should be greater"),
        ("CELERY_LOGS_CONCURRENCY", "-1", "CELERY_LOGS_CONCURRENCY: Input should be greater than or equal to 1"),
        ("DATABASE_MAX_CONNECTIONS", "1e9", "DATABASE_MAX_CONNECTIONS"),
        ("API_PORT", "65536", "API_PORT"),
        ("APP_RESOURCES", "secret", "APP_RESOURCES: Input should be 'loop_aware' or 'global'"),
        ("CELERY_LOG_LEVEL", "loud", "CELERY_LOG_LEVEL"),
        ("LLM_TIMEOUT", "0", "LLM_TIMEOUT"),
        ("APP_METRICS", "direct", "APP_METRICS: direct works with one API process, and WEB_CONCURRENCY is 4; set"),
    ],
)
def test_an_error_is_one_line_that_names_the_variable_and_the_fix(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as raised:
        _settings()
    message = str(raised.value)
    assert message.startswith(says)
    assert "set " in message
    assert "\n" not in message
    assert "secret" not in message


def test_a_budget_that_cannot_be_met_is_refused_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_MAX_CONNECTIONS", "19")
    with pytest.raises(SettingsError, match=r"^DATABASE_MAX_CONNECTIONS: 18 processes .* leaves 17"):
        _settings().connection_budget()
