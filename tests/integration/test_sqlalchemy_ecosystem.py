"""What stands around SQLAlchemy works on a `LoopAwarePool`: drivers, sessions, SQLModel, Alembic, OpenTelemetry."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import alembic.command
import pytest
import sqlmodel
import uvloop
from alembic.config import Config
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlmodel.ext.asyncio.session import AsyncSession as SQLModelSession

import loopwatch
from loopwatch.telemetry import catalogue
from loopwatch.telemetry.stats import STATS
from tests.integration.tls import tls_in_front_of
from tests.postgres import eventually_sessions


async def select_one(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT 1"))).scalar_one())


@pytest.fixture
def psycopg_url(database_url: str) -> str:
    return database_url.replace("+asyncpg", "+psycopg")


class Base(DeclarativeBase):
    """The tables of these tests."""


class Note(Base):
    """A row."""

    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    words: Mapped[str]


class Hero(sqlmodel.SQLModel, table=True):
    """SQLModel's row."""

    id: int | None = sqlmodel.Field(default=None, primary_key=True)
    name: str


# ---------------------------------------------------------------- psycopg


def test_psycopg_200_runs_leave_no_session(psycopg_url: str) -> None:
    engine = loopwatch.create_async_engine(psycopg_url)
    for _ in range(200):
        assert asyncio.run(select_one(engine)) == 1
    assert eventually_sessions(psycopg_url, 0) == 0
    assert len(engine.pool.loops) == 0  # type: ignore[attr-defined]


def test_psycopg_on_loops_in_many_threads(psycopg_url: str) -> None:
    engine = loopwatch.create_async_engine(psycopg_url, name="psycopg_threads", pool_size=2)

    def several(_: int) -> list[int]:
        async def run() -> list[int]:
            return await asyncio.gather(*(select_one(engine) for _ in range(4)))

        return asyncio.run(run())

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(several, range(20))) == [[1] * 4] * 20
    assert STATS.value(catalogue.POOL_USE, ("", "psycopg_threads")) == 80
    assert eventually_sessions(psycopg_url, 0) == 0


@pytest.mark.filterwarnings("ignore")  # what a bare close leaves behind warns, rightly; it must not stay behind
@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_psycopg_a_loop_that_is_just_closed_is_swept(
    psycopg_url: str, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    engine = loopwatch.create_async_engine(psycopg_url, name="psycopg_swept")
    for _ in range(5):
        loop = factory()
        assert loop.run_until_complete(select_one(engine)) == 1
        loop.close()
    assert asyncio.run(select_one(engine)) == 1
    assert eventually_sessions(psycopg_url, 0) == 0
    assert STATS.value(catalogue.ENGINES_DISPOSED, ("psycopg_swept", "loop_closed")) >= 5
    gc.collect()


# ---------------------------------------------------------------- TLS


@pytest.mark.filterwarnings("ignore")  # as above
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_loop_that_is_just_closed_leaves_no_session_under_tls(
    database_url: str, driver: str, factory: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    option = "ssl" if driver == "asyncpg" else "sslmode"
    with tls_in_front_of(database_url, tmp_path) as url:
        engine = loopwatch.create_async_engine(f"{url.replace('asyncpg', driver)}?{option}=require", name="tls")
        for _ in range(5):
            loop = factory()
            assert loop.run_until_complete(select_one(engine)) == 1
            loop.close()
        assert asyncio.run(select_one(engine)) == 1
        assert eventually_sessions(database_url, 0) == 0
        gc.collect()


# ---------------------------------------------------------------- SQLite in a file


def test_sqlite_in_a_file_on_many_loops(tmp_path: Path) -> None:
    engine = loopwatch.create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/notes.db", name="sqlite_file")
    assert isinstance(engine.pool, loopwatch.LoopAwarePool)

    async def write(number: int) -> int:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as session, session.begin():
            session.add(Note(id=number, words="written"))
        async with engine.connect() as connection:
            return int((await connection.execute(text("SELECT count(*) FROM notes"))).scalar_one())

    assert [asyncio.run(write(number)) for number in range(10)] == list(range(1, 11))
    assert engine.pool.checkedin() == engine.pool.checkedout() == len(engine.pool.loops) == 0


# ---------------------------------------------------------------- the ORM, SQLModel


def test_sessions_and_run_sync_on_many_loops(database_url: str) -> None:
    engine = loopwatch.create_async_engine(database_url, pool_size=2)
    make_session = async_sessionmaker(engine, expire_on_commit=False)

    def write(session: Session) -> list[str]:
        session.add(Note(words="run_sync"))
        session.commit()
        return list(session.scalars(sqlmodel.select(Note.words)))

    async def create() -> None:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

    async def run() -> int:
        async with make_session() as session:
            return len(await session.run_sync(write))

    asyncio.run(create())
    assert [asyncio.run(run()) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert eventually_sessions(database_url, 0) == 0


def test_sqlmodel_on_many_loops(database_url: str) -> None:
    engine = loopwatch.create_async_engine(database_url)

    async def create() -> None:
        async with engine.begin() as connection:
            await connection.run_sync(sqlmodel.SQLModel.metadata.create_all)

    async def run(name: str) -> list[str]:
        async with SQLModelSession(engine) as session:
            session.add(Hero(name=name))
            await session.commit()
            return [hero.name for hero in (await session.exec(sqlmodel.select(Hero))).all()]

    asyncio.run(create())
    assert asyncio.run(run("Ada")) == ["Ada"]
    assert sorted(asyncio.run(run("Grace"))) == ["Ada", "Grace"]
    assert eventually_sessions(database_url, 0) == 0


# ---------------------------------------------------------------- Alembic

REVISION = '''
"""a table"""
from alembic import op
import sqlalchemy as sa
revision, down_revision, branch_labels, depends_on = "1", None, None, None


def upgrade():
    op.create_table("migrated", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("migrated")
'''


def test_alembics_async_template_migrates_through_it(database_url: str, tmp_path: Path) -> None:
    config = Config(tmp_path / "alembic.ini")
    alembic.command.init(config, str(tmp_path / "migrations"), template="async")
    (tmp_path / "migrations" / "versions" / "1.py").write_text(REVISION)
    # As a reader would: Alembic's own template, with the engine of the application.
    environment = tmp_path / "migrations" / "env.py"
    template = environment.read_text()
    made_by_the_template = template[template.index("connectable = async_engine_from_config(") :].partition("\n\n")[0]
    environment.write_text(
        "import loopwatch\n"
        + template.replace(
            made_by_the_template,
            "connectable = loopwatch.create_async_engine(config.get_main_option('sqlalchemy.url'), name='migrations')",
        )
    )
    # Without its file: that configures logging, and switches every logger off that exists.
    config = Config()
    config.set_main_option("script_location", str(tmp_path / "migrations"))
    config.set_main_option("sqlalchemy.url", database_url)

    async def tables() -> list[str]:
        engine = loopwatch.create_async_engine(database_url)
        async with engine.connect() as connection:
            return await connection.run_sync(lambda sync: inspect(sync).get_table_names())

    alembic.command.upgrade(config, "head")
    assert "migrated" in asyncio.run(tables())
    alembic.command.downgrade(config, "base")
    assert "migrated" not in asyncio.run(tables())
    assert STATS.value(catalogue.POOL_USE, ("", "migrations")) >= 2
    assert eventually_sessions(database_url, 0) == 0


# ---------------------------------------------------------------- OpenTelemetry


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = SQLAlchemyInstrumentor()
    # It asks for SQLAlchemy below 2.1, and works with 2.1.
    instrumentor.instrument(tracer_provider=provider, skip_dep_check=True)
    yield exporter
    instrumentor.uninstrument()
    provider.shutdown()


def test_opentelemetrys_instrumentor_sees_an_engine_made_by_us(database_url: str, spans: InMemorySpanExporter) -> None:
    engine = loopwatch.create_async_engine(database_url, name="traced")
    for _ in range(3):
        assert asyncio.run(select_one(engine)) == 1
    selects = [span for span in spans.get_finished_spans() if span.name.startswith("SELECT")]
    assert len(selects) == 3
    assert STATS.value(catalogue.POOL_USE, ("", "traced")) == 3
    assert STATS.value(catalogue.POOL_CREATE, ("traced",)) == 3
    assert eventually_sessions(database_url, 0) == 0
