"""The database in a file: who is given up in the middle leaves it to the next."""

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa

from services.shared.database import open_database

MIGRATIONS = Path(__file__).parents[2] / "services" / "dataset" / "migrations"
# Its first row takes a while, and it has more.
LONG = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000009) SELECT i FROM n WHERE i > 1000000"


async def test_a_writer_cancelled_in_a_statement_lets_go_of_the_file(tmp_path: Path) -> None:
    """The next one writes at once, though the traceback of the first still holds the statement; nothing of it stays."""
    database = await open_database(str(tmp_path / "state.sqlite"), "dataset", MIGRATIONS)

    async def write(statement: str) -> None:
        async with database.write() as connection:
            await connection.execute(sa.text("CREATE TABLE written (i)"))
            await connection.execute(sa.text(statement))

    given_up = asyncio.create_task(write(LONG))
    await asyncio.sleep(0.1)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError) as kept:
        await given_up
    await asyncio.wait_for(write("SELECT 1"), 10)
    assert kept.tb is not None
    await database.close()
