"""SQL, without a word of what it is about: engines, transactions, migrations, and answers kept for repeated requests.

SQLite is for one process, held by a lock file beside the database, and is written with `synchronous=FULL`: what was
acknowledged survives a power cut.
"""

import asyncio
import fcntl
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
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
    except (sa.exc.OperationalError, sa.exc.TimeoutError) as problem:
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
    # ConfigParser takes % for the start of a reference.
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
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


async def kept(
    connection: AsyncConnection, requests: sa.Table, request: Any, response: type[Response]
) -> Response | None:
    """The answer that an equal request got within a day; None where there was none.

    InvalidArgument REQUEST_ID_REUSED where the id came with another body.
    """
    if not request.request_id:
        return None
    if len(request.request_id) > _MAX_REQUEST_ID:
        raise InvalidArgument.fields([("request_id", f"must be a UUID, or at most {_MAX_REQUEST_ID} characters")])
    query = sa.select(requests).filter_by(**_key(request)).where(requests.c.create_time_us >= now_us() - _KEPT_US)
    found = (await connection.execute(query)).one_or_none()
    if found is None:
        return None
    if found.request_sha256 != _digest(request):
        raise InvalidArgument("request_id: was used for another request; make a new one", reason="REQUEST_ID_REUSED")
    return response.FromString(found.response)


async def once(
    connection: AsyncConnection,
    requests: sa.Table,
    request: Any,
    response: type[Response],
    effect: Callable[[], Awaitable[Response]],
) -> Response:
    """The effect's answer, kept under the request's `request_id`: a repeat within a day gets it again.

    In the transaction of the effect, so that both happen or neither.
    """
    known = await kept(connection, requests, request, response)
    if known is not None:
        return known
    answer = await effect()
    if request.request_id:
        await connection.execute(sa.delete(requests).where(requests.c.create_time_us < now_us() - _KEPT_US))
        row = {"request_sha256": _digest(request), "response": answer.SerializeToString(), "create_time_us": now_us()}
        await connection.execute(sa.insert(requests).values(**_key(request), **row))
    return answer


def _key(request: Any) -> dict[str, str]:
    # What is asked of a resource has its name, what makes a new one its parent's.
    parent = request.parent if "parent" in request.DESCRIPTOR.fields_by_name else request.name
    return {"method": type(request).__name__, "parent": parent, "request_id": request.request_id}


def _digest(request: Any) -> str:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()


def newest_first(query: Any, order: Sequence[Any], limit: int | None, before: Sequence[Any] | None) -> Any:
    """A page of a query: newest first by the sort columns, beginning before the row that a page token names."""
    if before is not None:
        query = query.where(sa.tuple_(*order) < sa.tuple_(*before))
    return query.order_by(*(column.desc() for column in order)).limit(limit)
