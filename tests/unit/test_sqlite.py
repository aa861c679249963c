"""The database in a file: who is given up in the middle leaves it to the next."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import sqlalchemy as sa

from services.shared.database import Database, open_database

MIGRATIONS = Path(__file__).parents[2] / "services" / "dataset" / "migrations"


# Its first row takes a while, the longer the more rows there are, and it has more.
LONG = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT :rows + 9) SELECT i FROM n WHERE i > :rows"


@pytest_asyncio.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await open_database(str(tmp_path / "state.sqlite"), "dataset", MIGRATIONS)
    yield opened
    await opened.close()


async def test_a_writer_cancelled_in_a_statement_lets_go_of_the_file(database: Database) -> None:
    """The next one writes at once, though the traceback of the first still holds the statement; nothing of it stays."""

    async def write(rows: int) -> None:
        async with database.write() as connection:
            await connection.execute(sa.text("CREATE TABLE written (i)"))
            await connection.execute(sa.text(LONG), {"rows": rows})

    given_up = asyncio.create_task(write(1_000_000))
    await asyncio.sleep(0.1)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError) as kept:
        await given_up
    await asyncio.wait_for(write(1), 10)
    assert kept.tb is not None


@pytest.mark.parametrize("pause", [0.0, 0.0002, 0.001])
async def test_a_writer_cancelled_again_and_again_leaves_nothing(
    database: Database, caplog: pytest.LogCaptureFixture, pause: float
) -> None:
    """Also while its connection is closed: no task is left waiting, and the next one writes."""

    async def write(seconds: float) -> None:
        async with database.write() as connection:
            await asyncio.sleep(seconds)
            await connection.execute(sa.text(LONG), {"rows": 10_000})

    for milliseconds in range(20):
        given_up = asyncio.create_task(write(milliseconds / 1000))
        await asyncio.sleep(0.01)
        while not given_up.done():
            given_up.cancel()
            await asyncio.sleep(pause)
        await asyncio.wait_for(write(0), 10)
    del given_up
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
