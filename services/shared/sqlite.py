"""SQLite: a file for one process, held by a lock file beside it, written with `synchronous=FULL`: what was acknowledged
survives a power cut.
"""

import asyncio
import fcntl
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import aiosqlite
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.shared.migrating import check, migrate
from services.shared.settings import CannotStart

_READ_ONLY = {"mode": "ro", "uri": "true"}


class DatabaseInUse(CannotStart):
    """Another process has the file open."""


async def open_engine(file: Path, migrations: Path) -> tuple[AsyncEngine, IO[str]]:
    """An engine on the file, with its tables at their newest revision, and the lock that keeps other processes out."""
    lock = _locked(file)
    try:
        await asyncio.to_thread(_migrate, file, migrations)
    except BaseException:
        lock.close()
        raise
    url = f"sqlite+aiosqlite:///{file}"
    engine = create_async_engine(url, async_creator=partial(_connect, file), hide_parameters=True)
    sa.event.listen(engine.sync_engine, "connect", _prepare)
    return engine, lock


def begin(connection: sa.Connection, mode: str) -> None:
    """Begins a transaction that will "write", or will not."""
    # One that will takes the lock first; one that finds out later can fail.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if mode == "write" else "BEGIN")


def look(file: str, migrations: Path) -> str:
    """What there is of the file, in a few words; nothing is changed. CannotStart where it is of no use."""
    if not Path(file).exists():
        return f"{file} is made at the first start"
    url = sa.URL.create("sqlite", database=f"file:{quote(file)}", query=_READ_ONLY)
    try:
        check(sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True), migrations)
    except sa.exc.DBAPIError as problem:
        raise CannotStart(f"{file} cannot be used: {problem.orig}") from None
    return f"{file} answers"


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


def _migrate(file: Path, migrations: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{file}", poolclass=sa.NullPool, hide_parameters=True)
    sa.event.listen(engine, "connect", _leave_transactions_to_us)
    sa.event.listen(engine, "begin", lambda connection: begin(connection, "write"))
    try:
        migrate(engine, migrations)
    except sa.exc.DBAPIError as problem:
        raise CannotStart(f"{file} cannot be used as a database: {problem.orig}.") from None


def _leave_transactions_to_us(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver shall not begin transactions by itself


async def _connect(file: Path) -> aiosqlite.Connection:
    return await _Connection(partial(sqlite3.connect, file, factory=_Undone), iter_chunk_size=64)


class _Connection(aiosqlite.Connection):
    """One whose caller may be cancelled at any moment, also while it is closed."""

    _stopped = False

    def __init__(self, connector: Callable[[], sqlite3.Connection], iter_chunk_size: int) -> None:
        super().__init__(connector, iter_chunk_size)
        self._thread.daemon = True

    def stop(self) -> asyncio.Future[Any] | None:
        """Ends the thread, once: who is told to wait for a thread that has ended waits for ever."""
        if self._stopped:
            return None
        self._stopped = True
        return super().stop()


class _Undone(sqlite3.Connection):
    """Undoes what was not committed before it is closed. Without this the file of a caller that was cancelled in a
    statement stays locked until the statement, which the traceback holds, is collected as garbage.
    """

    def close(self) -> None:
        try:
            self.rollback()
        finally:
            super().close()


def _prepare(connection: Any, record: object) -> None:
    _leave_transactions_to_us(connection, record)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")
