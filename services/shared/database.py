"""SQL, without a word of what it is about: engines, transactions, locks and the clock, in SQLite or PostgreSQL.

SQLite is for one process, held by a lock file beside the database, and is written with `synchronous=FULL`: what was
acknowledged survives a power cut. On PostgreSQL any number of replicas share a database, and every service has a schema
of its own. Whatever a transaction needs of its session is set by the transaction, so that a pooler may stand between.
"""

import asyncio
import fcntl
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from handful.errors import Unavailable
from services.shared.identifiers import now_us
from services.shared.migrating import check, migrate
from services.shared.settings import CannotStart

log = structlog.get_logger()

# How long a service that starts waits for its database: in a cluster they start in any order.
START_SECONDS = 10.0
RETRY_SECONDS = 1.0
POOL_SIZE = 10
_READ_ONLY = {"mode": "ro", "uri": "true"}
POOL_SECONDS = 10.0
_MODE = "handful_mode"
# What a transaction is on PostgreSQL: its isolation, before anything else.
_ISOLATION = {
    "read": "REPEATABLE READ, READ ONLY",
    "alone": "READ COMMITTED, READ ONLY",
    "write": "READ COMMITTED, READ WRITE",
}
# Nobody waits longer for an answer than UNARY_CEILING_SECONDS; and what a lost replica has locked is free in a minute.
_LIMITS = {"statement_timeout": "20s", "lock_timeout": "10s", "idle_in_transaction_session_timeout": "60s"}
_CONNECT = {
    "connect_timeout": "5",
    "client_encoding": "utf8",
    # A server that is gone without a word is noticed in seconds, not in hours.
    "keepalives_idle": "5",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}


class DatabaseInUse(CannotStart):
    """Another process has the SQLite database open."""


class Database:
    """An engine whose transactions either read or write."""

    def __init__(self, engine: AsyncEngine, lock: IO[str] | None = None) -> None:
        self._engine = engine
        self._lock = lock
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only reads; it sees one state throughout."""
        async with self._transaction("read") as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes; durable when the block is left, undone when it is left by an exception."""
        async with self._transaction("write") as connection:
            yield connection

    @asynccontextmanager
    async def read_alone(self, name: str) -> AsyncIterator[AsyncConnection]:
        """A transaction that only reads, one after another under one name, whichever replica they are in. Each of its
        statements sees what was committed before it.
        """
        async with self._turns[name], self._transaction("alone") as connection:
            await alone(connection, name)
            yield connection

    async def close(self) -> None:
        await self._engine.dispose()
        if self._lock is not None:
            self._lock.close()

    @asynccontextmanager
    async def _transaction(self, mode: str) -> AsyncIterator[AsyncConnection]:
        async with _reachable(), self._engine.connect() as connection:
            await connection.execution_options(**{_MODE: mode})
            async with connection.begin():
                yield connection


@asynccontextmanager
async def _reachable() -> AsyncIterator[None]:
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.TimeoutError) as problem:
        # Out of reach, overloaded, or two writers in each other's way: what it takes is to try again.
        raise Unavailable("The database cannot be reached. Try again.") from problem
    except sa.exc.DBAPIError as problem:
        # A server that has become the standby of another refuses to write until its connections are gone.
        read_only = getattr(problem.orig, "sqlstate", None) == "25006"
        if not problem.connection_invalidated and not read_only:
            raise
        raise Unavailable("The database cannot be reached. Try again.") from problem


async def open_database(where: str, service: str, migrations: Path) -> Database:
    """Opens a service's database, a SQLite file or a postgresql:// URL, with its tables at their newest revision."""
    if "://" in where:
        return await _open_postgresql(_url(where, service), service, migrations)
    return await _open_sqlite(Path(where), migrations)


def look(where: str, service: str, migrations: Path) -> str:
    """What there is of a service's database, in a few words; nothing is changed. CannotStart where it is of no use."""
    if "://" in where:
        url, schema = _url(where, service).update_query_dict({"connect_timeout": "3"}), service
        shown = f"{url.host}:{url.port or 5432}/{url.database or ''}"
    elif Path(where).exists():
        url, schema = sa.URL.create("sqlite", database=f"file:{quote(where)}", query=_READ_ONLY), None
        shown = where
    else:
        return f"{where} is made at the first start"
    try:
        check(sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True), migrations, schema)
    except sa.exc.DBAPIError as problem:
        raise CannotStart(f"{shown} cannot be used: {' '.join(str(problem.orig).split())}") from None
    return f"{shown} answers"


async def _open_sqlite(file: Path, migrations: Path) -> Database:
    lock = _locked(file)
    try:
        engine = sa.create_engine(f"sqlite:///{file}", poolclass=sa.NullPool, hide_parameters=True)
        sa.event.listen(engine, "connect", _leave_transactions_to_us)
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        await asyncio.to_thread(migrate, engine, migrations)
    except sa.exc.DBAPIError as problem:
        lock.close()
        raise CannotStart(f"{file} cannot be used as a database: {problem.orig}.") from None
    except BaseException:
        lock.close()
        raise
    opened = create_async_engine(f"sqlite+aiosqlite:///{file}", hide_parameters=True)
    sa.event.listen(opened.sync_engine, "connect", _prepare_sqlite)
    sa.event.listen(opened.sync_engine, "begin", _begin_sqlite)
    return Database(opened, lock)


def _locked(file: Path) -> IO[str]:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.with_suffix(".lock").open("w")
    except OSError as problem:
        raise CannotStart(f"{file} cannot be used as a database: {problem.strerror}.") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise DatabaseInUse(f"{file} is used by another process. Stop it, or set another HANDFUL_HOME.") from None
    return lock


async def _open_postgresql(url: sa.URL, service: str, migrations: Path) -> Database:
    options: dict[str, Any] = {"hide_parameters": True, "connect_args": {"prepare_threshold": None}}
    engine = sa.create_engine(url, poolclass=sa.NullPool, **options)
    ends = time.monotonic() + START_SECONDS
    while True:
        try:
            await asyncio.to_thread(migrate, engine, migrations, service)
            break
        except sa.exc.DBAPIError as problem:
            told = f"{url.host}:{url.port or 5432}/{url.database or ''}: {' '.join(str(problem.orig).split())}"
            if not isinstance(problem, sa.exc.OperationalError) or time.monotonic() > ends:
                raise CannotStart(
                    f"The database cannot be used: {told} (HANDFUL_{service.upper()}_DATABASE says where it is)"
                ) from None
            log.warning("the database cannot be used yet, trying again", problem=told)
            await asyncio.sleep(RETRY_SECONDS)
    opened = create_async_engine(
        url, pool_size=POOL_SIZE, max_overflow=0, pool_timeout=POOL_SECONDS, pool_pre_ping=True, **options
    )
    settings = "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in _LIMITS.items())

    def begin(connection: sa.Connection) -> None:
        mode = _ISOLATION[connection.get_execution_options()[_MODE]]
        statements = f"SET TRANSACTION ISOLATION LEVEL {mode}; SET LOCAL search_path = {service}; {settings}"
        connection.exec_driver_sql(statements, execution_options={"no_parameters": True})

    sa.event.listen(opened.sync_engine, "begin", begin)
    return Database(opened)


def _url(where: str, service: str) -> sa.URL:
    wrong = CannotStart(
        f"HANDFUL_{service.upper()}_DATABASE must be a file or postgresql://user:password@host:port/name. In a "
        "password @, /, : and % are written as %40, %2F, %3A and %25."
    )
    try:
        url = sa.make_url(where)
    except (sa.exc.ArgumentError, ValueError):
        raise wrong from None
    if url.drivername not in ("postgresql", "postgres") or "@" in (url.host or ""):
        raise wrong
    return url.set(drivername="postgresql+psycopg", query={**_CONNECT, **url.query})


def _leave_transactions_to_us(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver shall not begin transactions by itself


def _prepare_sqlite(connection: Any, record: object) -> None:
    _leave_transactions_to_us(connection, record)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that will write takes the lock first; one that finds out later can fail.
    writes = connection.get_execution_options()[_MODE] == "write"
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


async def alone(connection: AsyncConnection, *names: str) -> None:
    """Waits until no other transaction has come past here under the same names, whichever replica it is in, and keeps
    the place until this one ends. In SQLite whoever writes is alone already.
    """
    if connection.dialect.name == "postgresql":
        key = sa.func.hashtextextended("/".join(names), 0)
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))


def clock(connection: AsyncConnection) -> Any:
    """Microseconds since 1970 on the one clock that all replicas share: the database server's; a file's is ours."""
    if connection.dialect.name == "postgresql":
        return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()) * 1_000_000, sa.BigInteger)
    return now_us()


def text(length: int) -> sa.types.TypeEngine[str]:
    """Text of at most so many characters, which sorts by its bytes everywhere, whatever a server's language is."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def newest_first(query: Any, order: Sequence[Any], limit: int | None, before: Sequence[Any] | None) -> Any:
    """A page of a query: newest first by the sort columns, beginning before the row that a page token names."""
    if before is not None:
        # A number may be larger than any in its column.
        parts = [sa.literal(part, sa.BigInteger if isinstance(part, int) else sa.String) for part in before]
        query = query.where(sa.tuple_(*order) < sa.tuple_(*parts))
    return query.order_by(*(column.desc() for column in order)).limit(limit)
