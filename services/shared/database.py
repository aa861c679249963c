"""SQL, without a word of what it is about: engines, transactions, migrations, and answers kept for repeated requests.

SQLite is for one process, held by a lock file beside the database, and is written with `synchronous=FULL`: what was
acknowledged survives a power cut.
"""

import asyncio
import fcntl
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from google.protobuf.message import Message
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from handful.errors import InvalidArgument, Unavailable
from services.shared.identifiers import now_us
from services.shared.settings import CannotStart

_WRITES = "handful_writes"
_MAX_REQUEST_ID = 64
_KEPT_US = 24 * 3600 * 1_000_000

Response = TypeVar("Response", bound=Message)


class DatabaseInUse(CannotStart):
    """Another process has the SQLite database open."""


class Database:
    """An engine whose transactions either read or write."""

    def __init__(self, engine: AsyncEngine, lock: IO[str]) -> None:
        self._engine = engine
        self._lock = lock

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only reads; it sees one state throughout."""
        async with _reachable(), self._engine.connect() as connection, connection.begin():
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes; durable when the block is left, undone when it is left by an exception."""
        async with _reachable(), self._engine.connect() as connection:
            await connection.execution_options(**{_WRITES: True})
            async with connection.begin():
                yield connection

    async def close(self) -> None:
        await self._engine.dispose()
        self._lock.close()


@asynccontextmanager
async def _reachable() -> AsyncIterator[None]:
    try:
        yield
    except sa.exc.OperationalError as problem:
        raise Unavailable("The database cannot be reached. Try again.") from problem


async def open_database(file: Path, migrations: Path) -> Database:
    """Opens the SQLite database, creates or migrates its tables, and keeps other processes out."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = file.with_suffix(".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise DatabaseInUse(f"{file} is used by another process. Stop it, or set another HANDFUL_HOME.") from None
    await asyncio.to_thread(migrate, f"sqlite:///{file}", migrations)
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
    sa.event.listen(engine.sync_engine, "connect", _prepare)
    sa.event.listen(engine.sync_engine, "begin", _begin)
    return Database(engine, lock)


def migrate(url: str, migrations: Path) -> None:
    """Brings the tables to the newest revision of an Alembic folder."""
    config = Config()
    config.set_main_option("script_location", str(migrations))
    config.set_main_option("sqlalchemy.url", url)
    config.set_main_option("path_separator", "os")
    command.upgrade(config, "head")


def _prepare(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver shall not begin transactions by itself; `_begin` does
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: sa.Connection) -> None:
    # A transaction that will write takes the lock first; one that finds out later can fail.
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def requests_table(metadata: sa.MetaData) -> sa.Table:
    """The table of answers kept for repeated requests; every service that creates things has one."""
    return sa.Table(
        "requests",
        metadata,
        sa.Column("method", sa.String(64), primary_key=True),
        sa.Column("parent", sa.String(256), primary_key=True),
        sa.Column("request_id", sa.String(_MAX_REQUEST_ID), primary_key=True),
        sa.Column("request_sha256", sa.String(64), nullable=False),
        sa.Column("response", sa.LargeBinary, nullable=False),
        sa.Column("create_time_us", sa.BigInteger, nullable=False),
    )


async def once(
    connection: AsyncConnection,
    requests: sa.Table,
    request: Any,
    response: type[Response],
    effect: Callable[[], Awaitable[Response]],
) -> Response:
    """The effect's answer, kept under the request's `request_id`: a repeat within a day gets it again.

    In the transaction of the effect, so that both happen or neither. InvalidArgument REQUEST_ID_REUSED where the id
    came with another body before.
    """
    if not request.request_id:
        return await effect()
    if len(request.request_id) > _MAX_REQUEST_ID:
        raise InvalidArgument.fields([("request_id", f"must be a UUID, or at most {_MAX_REQUEST_ID} characters")])
    method, digest = type(request).__name__, hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
    key = {"method": method, "parent": request.parent, "request_id": request.request_id}
    await connection.execute(sa.delete(requests).where(requests.c.create_time_us < now_us() - _KEPT_US))
    kept = (await connection.execute(sa.select(requests).filter_by(**key))).one_or_none()
    if kept is None:
        answer = await effect()
        row = {"request_sha256": digest, "response": answer.SerializeToString(), "create_time_us": now_us()}
        await connection.execute(sa.insert(requests).values(**key, **row))
        return answer
    if kept.request_sha256 != digest:
        raise InvalidArgument("request_id: was used for another request; make a new one", reason="REQUEST_ID_REUSED")
    return response.FromString(kept.response)
