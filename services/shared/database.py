"""SQL, without a word of what it is about: transactions, locks, the clock and pages, alike in SQLite and PostgreSQL."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from handful.errors import Unavailable
from services.shared import postgresql, sqlite
from services.shared.identifiers import now_us

_MODE = "handful_mode"
# What PostgreSQL says to a writer where it has become the standby of another server.
_READ_ONLY = "25006"
# How long whoever closes a database waits for transactions under way.
CLOSE_SECONDS = 5.0


class Database:
    """An engine whose transactions either read or write."""

    def __init__(
        self, engine: AsyncEngine, begin: Callable[[sa.Connection, str], None], lock: IO[str] | None = None
    ) -> None:
        self._engine = engine
        self._lock = lock
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._num_under_way = 0
        self._all_over = asyncio.Event()
        self._all_over.set()
        sa.event.listen(
            engine.sync_engine, "begin", lambda connection: begin(connection, connection.get_execution_options()[_MODE])
        )

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
        async with self._turns[name], self._transaction("read_alone") as connection:
            await alone(connection, name)
            yield connection

    async def close(self) -> None:
        """After the transactions under way: a connection that comes back to a pool that is gone is closed by nobody."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._all_over.wait(), CLOSE_SECONDS)
        await self._engine.dispose()
        if self._lock is not None:
            self._lock.close()

    @asynccontextmanager
    async def _transaction(self, mode: str) -> AsyncIterator[AsyncConnection]:
        with self._counted():
            async with self._turn(mode), _reachable(mode), self._engine.connect() as connection:
                await connection.execution_options(**{_MODE: mode})
                async with connection.begin():
                    yield connection

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._num_under_way += 1
        self._all_over.clear()
        try:
            yield
        finally:
            self._num_under_way -= 1
            if not self._num_under_way:
                self._all_over.set()

    def _turn(self, mode: str) -> AbstractAsyncContextManager[object]:
        """Writers of a file wait for each other here and not in a thread: whoever is cancelled there is still at it."""
        return self._turns[mode] if mode == "write" and self._lock is not None else nullcontext()


@asynccontextmanager
async def _reachable(mode: str) -> AsyncIterator[None]:
    try:
        yield
    except (sa.exc.DBAPIError, sa.exc.TimeoutError) as problem:
        if _may_pass(problem, mode):
            raise Unavailable("The database cannot be reached, or is too busy. Try again.") from problem
        raise


def _may_pass(problem: sa.exc.DBAPIError | sa.exc.TimeoutError, mode: str) -> bool:
    """Whether trying again may help: out of reach, overloaded, or two writers in each other's way."""
    if isinstance(problem, (sa.exc.OperationalError, sa.exc.TimeoutError)) or problem.connection_invalidated:
        return True
    return mode == "write" and getattr(problem.orig, "sqlstate", None) == _READ_ONLY


async def open_database(where: str, service: str, migrations: Path) -> Database:
    """Opens a service's database, a SQLite file or a postgresql:// URL, with its tables at their newest revision."""
    if "://" in where:
        engine = await postgresql.open_engine(where, service, migrations)
        return Database(engine, partial(postgresql.begin, service=service))
    engine, lock = await sqlite.open_engine(Path(where), migrations)
    return Database(engine, sqlite.begin, lock)


def look(where: str, service: str, migrations: Path) -> str:
    """What there is of a service's database, in a few words; nothing is changed. CannotStart where it is of no use."""
    if "://" in where:
        return postgresql.look(where, service, migrations)
    return sqlite.look(where, migrations)


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
