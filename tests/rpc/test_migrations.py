"""The databases: migrated tables are the ones the code knows, in SQLite files that one process holds."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from services.dataset import tables as dataset_tables
from services.shared.database import Database, DatabaseInUse, migrate, open_database
from services.trainer import tables as trainer_tables

SERVICES = Path(__file__).parents[2] / "services"
TABLES = {"dataset": dataset_tables.metadata, "trainer": trainer_tables.metadata}
INSERT = sa.text("INSERT INTO datasets VALUES ('default', :dataset, 1, 1)")
COUNT = sa.text("SELECT count(*) FROM datasets")


def folder(service: str) -> Path:
    return SERVICES / service / "migrations"


@pytest.mark.parametrize("service", TABLES)
def test_migrated_tables_are_the_tables_of_the_code(service: str, tmp_path: Path) -> None:
    """A database brought to the newest revision has the tables, columns and indexes that the code declares."""
    url = f"sqlite:///{tmp_path}/a.sqlite"
    migrate(url, folder(service))
    migrate(url, folder(service))
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), TABLES[service]) == []
    engine.dispose()


@pytest.mark.parametrize("service", TABLES)
def test_migrations_can_be_undone(service: str, tmp_path: Path) -> None:
    """Down from the newest revision to none, nothing of ours is left, and up again works."""
    url = f"sqlite:///{tmp_path}/a.sqlite"
    config = Config()
    config.set_main_option("script_location", str(folder(service)))
    config.set_main_option("sqlalchemy.url", url)
    config.set_main_option("path_separator", "os")
    migrate(url, folder(service))
    command.downgrade(config, "base")
    engine = sa.create_engine(url)
    assert sa.inspect(engine).get_table_names() == ["alembic_version"]
    migrate(url, folder(service))
    assert set(sa.inspect(engine).get_table_names()) == {*TABLES[service].tables, "alembic_version"}
    engine.dispose()


async def test_a_database_is_for_one_process(tmp_path: Path) -> None:
    """While a database is open it cannot be opened again, here or in another process; afterwards it can."""
    file = tmp_path / "dataset.sqlite"
    database = await open_database(file, folder("dataset"))
    with pytest.raises(DatabaseInUse, match=str(file)):
        await open_database(file, folder("dataset"))
    environment = {"HANDFUL_HOME": str(tmp_path), "HANDFUL_DATASET_ADDRESS": "127.0.0.1:0"}
    service = [sys.executable, "-m", "services.dataset"]
    ended = await asyncio.to_thread(
        subprocess.run, service, cwd=SERVICES.parent, env=environment, capture_output=True, check=False, timeout=60
    )
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert f"{file} is used by another process" in ended.stderr.decode()
    await database.close()
    await (await open_database(file, folder("dataset"))).close()


async def _write(database: Database, *datasets: str) -> None:
    async with database.write() as connection:
        for dataset in datasets:
            await connection.execute(INSERT, {"dataset": dataset})


async def test_what_was_written_is_durable(tmp_path: Path) -> None:
    """Committed rows are there after opening again; a transaction that failed left none; every commit is flushed."""
    file = tmp_path / "dataset.sqlite"
    database = await open_database(file, folder("dataset"))
    await _write(database, "kept")
    with pytest.raises(sa.exc.IntegrityError):
        await _write(database, "undone", "kept")
    async with database.read() as connection:
        pragmas = [
            (await connection.execute(sa.text(f"PRAGMA {name}"))).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert pragmas == ["wal", 2, 1]
    await database.close()
    database = await open_database(file, folder("dataset"))
    async with database.read() as connection:
        assert (await connection.execute(COUNT)).scalar_one() == 1
    await database.close()


async def test_readers_and_writers_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Writers at the same time all succeed, one after another, and a reader sees one state throughout."""
    database = await open_database(tmp_path / "dataset.sqlite", folder("dataset"))

    async def write(number: int) -> None:
        async with database.write() as connection:
            before = (await connection.execute(COUNT)).scalar_one()
            await asyncio.sleep(0.001)
            await connection.execute(INSERT, {"dataset": f"d{number}"})
            assert (await connection.execute(COUNT)).scalar_one() == before + 1

    async with database.read() as reader:
        assert (await reader.execute(COUNT)).scalar_one() == 0
        await asyncio.gather(*(write(number) for number in range(10)))
        assert (await reader.execute(COUNT)).scalar_one() == 0
    async with database.read() as reader:
        assert (await reader.execute(COUNT)).scalar_one() == 10
    await database.close()
