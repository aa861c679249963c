"""The databases: migrated tables are the ones the code knows; SQLite files that one process holds."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from services.dataset import tables as dataset_tables
from services.shared.database import Database, look, open_database
from services.shared.migrating import DatabaseTooNew, configuration, migrate
from services.shared.settings import CannotStart
from services.shared.sqlite import DatabaseInUse
from services.trainer import tables as trainer_tables
from tests.postgres_server import PostgresServer

SERVICES = Path(__file__).parents[2] / "services"
TABLES = {"dataset": dataset_tables.metadata, "trainer": trainer_tables.metadata}
INSERT = sa.text("INSERT INTO datasets VALUES ('default', :dataset, 1, 1)")
COUNT = sa.text("SELECT count(*) FROM datasets")

RUN = sa.text(
    "INSERT INTO training_runs (project, run, model, dataset_version, dataset_manifest_sha256, recipe, promote, "
    "request_id, create_time_us, state, epoch, metrics, latest_sequence, attempt, num_lost, "
    "committed_worker_sequence, estimated_seconds) "
    "VALUES ('default', :run, 'm', '', '', '', FALSE, '', 1, 1, 0, '[]', 1, 0, 0, 0, :seconds)"
)
EVENT = sa.text("INSERT INTO events (project, run, sequence, event) VALUES ('default', :run, 1, '')")

services = pytest.mark.parametrize("service", TABLES)


def folder(service: str) -> Path:
    return SERVICES / service / "migrations"


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of either kind without a table, as a setting has it."""
    if request.param == "sqlite":
        yield str(tmp_path / "a.sqlite")
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.empty_database()
        yield url
        server.drop(url)


def engine_of(where: str, service: str) -> sa.Engine:
    if "://" not in where:
        return sa.create_engine(f"sqlite:///{where}", poolclass=sa.NullPool)
    url = sa.make_url(where).set(drivername="postgresql+psycopg")
    return sa.create_engine(url, poolclass=sa.NullPool, connect_args={"options": f"-c search_path={service}"})


def upgrade(where: str, service: str) -> None:
    migrate(engine_of(where, service), folder(service), service if "://" in where else None)


@services
def test_migrated_tables_are_the_tables_of_the_code(service: str, empty: str) -> None:
    """A database brought to the newest revision has the tables, columns and indexes that the code declares."""
    upgrade(empty, service)
    upgrade(empty, service)
    with engine_of(empty, service).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), TABLES[service]) == []


@services
def test_migrations_can_be_undone(service: str, empty: str) -> None:
    """Down from the newest revision to none, nothing of ours is left, and up again works."""
    upgrade(empty, service)
    engine = engine_of(empty, service)
    with engine.begin() as connection:
        command.downgrade(configuration(connection, folder(service)), "base")
    assert sa.inspect(engine).get_table_names() == ["alembic_version"]
    upgrade(empty, service)
    assert set(sa.inspect(engine).get_table_names()) == {*TABLES[service].tables, "alembic_version"}


def test_estimates_that_are_none_become_null(empty: str) -> None:
    """Rows of a release that wrote 60 seconds for what it did not know are changed, their events are kept, and back."""
    engine = engine_of(empty, "trainer")
    schema = "trainer" if "://" in empty else None
    migrate(engine, folder("trainer"), schema)
    with engine.begin() as connection:
        command.downgrade(configuration(connection, folder("trainer")), "0005")
    with engine.begin() as connection:
        for run, seconds in (("unknown", 60.0), ("known", 30.5)):
            connection.execute(RUN, {"run": run, "seconds": seconds})
            connection.execute(EVENT, {"run": run})
    estimates = sa.text("SELECT run, estimated_seconds FROM training_runs ORDER BY run")
    for revision, expected in (("head", None), ("0005", 60.0)):
        with engine.begin() as connection:
            move = command.upgrade if revision == "head" else command.downgrade
            move(configuration(connection, folder("trainer")), revision)
        with engine.connect() as connection:
            assert connection.execute(estimates).all() == [("known", 30.5), ("unknown", expected)]
            assert connection.execute(sa.text("SELECT count(*) FROM events")).scalar_one() == 2


def test_services_share_a_postgresql_database_but_no_table(postgres: PostgresServer) -> None:
    """Every service has a schema of its own, and the one that everybody may use stays as it is."""
    engine = engine_of(postgres.database(), "public")
    found = {name: set(sa.inspect(engine).get_table_names(schema=name)) for name in ("public", *TABLES)}
    assert found == {"public": set(), **{name: {*tables.tables, "alembic_version"} for name, tables in TABLES.items()}}


def test_ids_sort_by_their_bytes(postgres: PostgresServer) -> None:
    """Every text column sorts alike on both kinds of database, though this server's own order is a language's."""
    engine = engine_of(postgres.database(), "public")
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT 'a' < 'B'")).scalar_one()
    for service, tables in TABLES.items():
        for table in tables.tables:
            columns = sa.inspect(engine).get_columns(table, schema=service)
            texts = {column["name"]: column["type"] for column in columns if isinstance(column["type"], sa.String)}
            assert {name: kind.collation for name, kind in texts.items()} == dict.fromkeys(texts, "C"), table


async def test_a_database_of_a_newer_release_is_left_alone(empty: str) -> None:
    """A revision that this release does not know is one clear line, whatever the database; nothing is changed."""
    upgrade(empty, "dataset")
    with engine_of(empty, "dataset").begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseTooNew, match=r"made by a newer Handful: its revision is 9999.*Upgrade") as refused:
        await open_database(empty, "dataset", folder("dataset"))
    assert len(str(refused.value).splitlines()) == 1
    with engine_of(empty, "dataset").connect() as connection:
        assert connection.execute(COUNT).scalar_one() == 0


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
async def test_a_database_that_cannot_hold_every_text_is_refused(postgres: PostgresServer, encoding: str) -> None:
    """Another encoding than UTF-8 is one clear line, at a start and in a look beforehand; nothing is changed."""
    name = f"in_{encoding.lower()}"
    locale = "LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0"
    postgres.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' {locale}")
    url = postgres.url(name)
    with pytest.raises(CannotStart, match=f"encoding is {encoding}.*UTF8"):
        await open_database(url, "dataset", folder("dataset"))
    with pytest.raises(CannotStart, match=f"encoding is {encoding}.*UTF8"):
        look(url, "dataset", folder("dataset"))
    with engine_of(f"{url}?client_encoding=utf8", "dataset").connect() as connection:
        assert "dataset" not in sa.inspect(connection).get_schema_names()
    postgres.drop(url)


async def test_a_sqlite_file_is_for_one_process(tmp_path: Path) -> None:
    """While a file is open it cannot be opened again, here or in another process; afterwards it can."""
    file = str(tmp_path / "dataset.sqlite")
    database = await open_database(file, "dataset", folder("dataset"))
    with pytest.raises(DatabaseInUse, match=file):
        await open_database(file, "dataset", folder("dataset"))
    environment = {"HANDFUL_HOME": str(tmp_path), "HANDFUL_DATASET_ADDRESS": "127.0.0.1:0"}
    service = [sys.executable, "-m", "services.dataset"]
    ended = await asyncio.to_thread(
        subprocess.run, service, cwd=SERVICES.parent, env=environment, capture_output=True, check=False, timeout=60
    )
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert f"{file} is used by another process" in ended.stderr.decode()
    await database.close()
    await (await open_database(file, "dataset", folder("dataset"))).close()


async def _write(database: Database, *datasets: str) -> None:
    async with database.write() as connection:
        for dataset in datasets:
            await connection.execute(INSERT, {"dataset": dataset})


async def test_what_was_written_is_durable(empty: str) -> None:
    """Committed rows are there after opening again; a transaction that failed left none."""
    database = await open_database(empty, "dataset", folder("dataset"))
    await _write(database, "kept")
    with pytest.raises(sa.exc.IntegrityError):
        await _write(database, "undone", "kept")
    await database.close()
    database = await open_database(empty, "dataset", folder("dataset"))
    async with database.read() as connection:
        assert (await connection.execute(COUNT)).scalar_one() == 1
    await database.close()


async def test_every_commit_to_a_sqlite_file_is_flushed(tmp_path: Path) -> None:
    """What was acknowledged survives a power cut, and readers do not wait for writers."""
    database = await open_database(str(tmp_path / "dataset.sqlite"), "dataset", folder("dataset"))
    async with database.read() as connection:
        pragmas = [
            (await connection.execute(sa.text(f"PRAGMA {name}"))).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert pragmas == ["wal", 2, 1]
    await database.close()


async def test_readers_and_writers_do_not_disturb_each_other(empty: str) -> None:
    """Writers at the same time all succeed, and a reader sees one state throughout."""
    database = await open_database(empty, "dataset", folder("dataset"))

    async def write(number: int) -> None:
        async with database.write() as connection:
            before = (await connection.execute(COUNT)).scalar_one()
            await asyncio.sleep(0.001)
            await connection.execute(INSERT, {"dataset": f"d{number}"})
            assert (await connection.execute(COUNT)).scalar_one() > before

    async with database.read() as reader:
        assert (await reader.execute(COUNT)).scalar_one() == 0
        await asyncio.gather(*(write(number) for number in range(10)))
        assert (await reader.execute(COUNT)).scalar_one() == 0
    async with database.read() as reader:
        assert (await reader.execute(COUNT)).scalar_one() == 10
    await database.close()


async def test_a_reader_cannot_write(postgres: PostgresServer) -> None:
    """Whoever writes where only reading is announced is told by the server, as a fault of ours."""
    database = await open_database(postgres.database(), "dataset", folder("dataset"))
    with pytest.raises(sa.exc.InternalError, match="read-only"):
        async with database.read() as connection:
            await connection.execute(INSERT, {"dataset": "d"})
    await database.close()


def test_who_may_read_the_demand_for_workers_still_may(postgres: PostgresServer) -> None:
    """What was granted once on the view that scales workers outlives the revisions that change it, up and down."""
    where = postgres.empty_database()
    engine = engine_of(where, "trainer")
    may_read = sa.text("SELECT has_table_privilege('scaler', 'trainer.worker_demand', 'SELECT')")
    upgrade(where, "trainer")
    with engine.begin() as connection:
        command.downgrade(configuration(connection, folder("trainer")), "0005")
        connection.execute(sa.text("CREATE ROLE scaler"))
        connection.execute(sa.text("GRANT SELECT ON trainer.worker_demand TO scaler"))
    upgrade(where, "trainer")
    with engine.begin() as connection:
        assert connection.execute(may_read).scalar_one()
        command.downgrade(configuration(connection, folder("trainer")), "0005")
        assert connection.execute(may_read).scalar_one()
    postgres.drop(where)
