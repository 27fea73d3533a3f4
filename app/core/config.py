"""The settings: read from the environment once, validated, each error one line that names the variable and the fix."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

import loopwatch

__all__ = ["Settings", "SettingsError", "get_settings"]

RESERVE = 0.10
"""The part of the server's connections that the application leaves alone, for people, migrations and backups."""


class SettingsError(Exception):
    """The environment cannot work; the message is one line that names the variable and the fix."""


def _database_url(value: str) -> str:
    try:
        driver = make_url(value).drivername
    except (ArgumentError, ValueError):
        driver = ""
    if driver != "postgresql+asyncpg":
        raise ValueError("it is not the address of a PostgreSQL by asyncpg")
    return value


def _url_of(*schemes: str) -> AfterValidator:
    def check(value: str) -> str:
        if not value.startswith(schemes):
            raise ValueError(f"it does not begin with {' or '.join(schemes)}")
        return value

    return AfterValidator(check)


RedisURL = Annotated[str, _url_of("redis://", "rediss://", "unix://")]
HTTPURL = Annotated[str, _url_of("http://", "https://")]
# A database takes 262,143 connections at most; a typing error should not become a pool of millions.
Processes = Annotated[int, Field(ge=1, le=10_000)]

PROCESSES_FIX = "a whole number of processes, 1 or more"
REDIS_FIX = "an address such as redis://127.0.0.1:6379/0"


class Settings(BaseSettings):
    """Every setting. A field's description completes the sentence "set it to ..." of its error.

    Fields that may hold credentials do not show in the `repr`.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True, populate_by_name=True
    )

    database_url: Annotated[str, AfterValidator(_database_url)] = Field(
        repr=False, description="an address such as postgresql+asyncpg://user:password@127.0.0.1:5432/name"
    )
    database_max_connections: int = Field(
        200, ge=1, le=262_143, description="the connections that the server allows (its max_connections), e.g. 200"
    )
    redis_url: RedisURL = Field(repr=False, description=REDIS_FIX)
    celery_broker_url: str = Field("", repr=False, description="a broker's address; the default is REDIS_URL")
    celery_result_backend: str = Field("", repr=False, description="a result backend; the default is REDIS_URL")

    llm_base_url: HTTPURL = Field(
        "http://127.0.0.1:8090/v1", description="the address of an OpenAI-compatible server, up to /v1"
    )
    llm_api_key: SecretStr = Field(SecretStr("local"), description="the LLM server's key")
    llm_model: str = Field("local", min_length=1, description="the name of a model that the LLM server has")
    llm_timeout: float = Field(60.0, gt=0, description="a number of seconds above 0")

    api_host: str = Field("127.0.0.1", min_length=1, description="the address to listen on, e.g. 127.0.0.1")
    api_port: int = Field(8080, ge=1, le=65535, description="a port, 1 to 65535")
    app_resources: Literal["loop_aware", "global"] = Field("loop_aware", description="loop_aware or global")
    app_metrics: Literal["events", "direct"] = Field("events", description="events or direct")

    web_concurrency: Processes = Field(
        4, validation_alias=AliasChoices("WEB_CONCURRENCY", "UVICORN_WORKERS"), description=PROCESSES_FIX
    )
    celery_logs_concurrency: Processes = Field(4, description=PROCESSES_FIX)
    celery_content_concurrency: Processes = Field(6, description=PROCESSES_FIX)
    celery_workflow_concurrency: Processes = Field(4, description=PROCESSES_FIX)
    celery_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="DEBUG, INFO, WARNING, ERROR or CRITICAL"
    )

    @model_validator(mode="after")
    def _direct_needs_one_process(self) -> Self:
        if self.app_metrics == "direct" and self.web_concurrency != 1:
            # A scrape would meet one of several processes by chance, and its counters would seem to fall.
            raise ValueError(
                f"APP_METRICS: direct works with one API process, and WEB_CONCURRENCY is {self.web_concurrency}; "
                "set WEB_CONCURRENCY=1, or APP_METRICS=events and run the monitor"
            )
        return self

    @property
    def broker_url(self) -> str:
        return self.celery_broker_url or self.redis_url

    @property
    def result_backend(self) -> str:
        return self.celery_result_backend or self.redis_url

    def connection_budget(self) -> loopwatch.Budget:
        """What one process's pool may hold, so that the whole fleet fits the server.

        Raises:
            SettingsError: when it cannot be met; the message holds the numbers.
        """
        processes = {
            "WEB_CONCURRENCY": self.web_concurrency,
            "CELERY_LOGS_CONCURRENCY": self.celery_logs_concurrency,
            "CELERY_CONTENT_CONCURRENCY": self.celery_content_concurrency,
            "CELERY_WORKFLOW_CONCURRENCY": self.celery_workflow_concurrency,
        }
        try:
            return loopwatch.budget(self.database_max_connections, processes=processes, reserve=RESERVE)
        except loopwatch.BudgetError as error:
            raise SettingsError(f"DATABASE_MAX_CONNECTIONS: {error}") from None


def _explain(error: ValidationError) -> str:
    """The first error as one line: the variable, what is wrong, what to set."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    what = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:  # a rule over several settings: its message names them
        return what
    name = str(first["loc"][0]).upper()
    field = Settings.model_fields[name.lower()]
    if isinstance(field.validation_alias, AliasChoices):
        # Pydantic does not tell which of the names was used.
        name = " or ".join(str(choice) for choice in field.validation_alias.choices)
    what = "it is not set" if first["type"] == "missing" else what
    return f"{name}: {what}; set it to {field.description}"


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The process's settings; raises `SettingsError` when the environment cannot work."""
    try:
        return Settings()  # type: ignore[call-arg]  # the environment is where they come from
    except ValidationError as error:
        # From None: pydantic's own text runs over many lines.
        raise SettingsError(_explain(error)) from None
