"""SQLite: a file for one process, held by a lock file beside it, written with `synchronous=FULL`: what was acknowledged
survives a power cut.
"""

import asyncio
import fcntl
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

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
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}", hide_parameters=True)
    sa.event.listen(engine.sync_engine, "connect", _prepare)
    sa.event.listen(engine.sync_engine, "invalidate", _undo)
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


def _undo(connection: Any, _record: object, _problem: object) -> None:
    # Of a caller that was cancelled in a statement. Without this the file stays locked until the statement, which the
    # traceback holds, is collected as garbage: a connection that SQLite closes waits for its statements.
    connection.rollback()


def _prepare(connection: Any, record: object) -> None:
    _leave_transactions_to_us(connection, record)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")
