"""PostgreSQL: a database that any number of replicas share, in which every service has a schema of its own.

Whatever a transaction needs of its session it sets itself when it begins, and nothing is prepared: a pooler may stand
between that gives every transaction another session.
"""

import asyncio
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.shared.migrating import check, migrate
from services.shared.settings import CannotStart

log = structlog.get_logger()

# How long a service that starts waits for its database: in a cluster they start in any order.
START_SECONDS = 10.0
RETRY_SECONDS = 1.0
LOOK_SECONDS = 3
POOL_SIZE = 10
POOL_SECONDS = 10.0
# A reader sees one state throughout; one that waits for a lock shall see what was done before it got it.
_ISOLATION = {
    "read": "REPEATABLE READ, READ ONLY",
    "read_alone": "READ COMMITTED, READ ONLY",
    "write": "READ COMMITTED, READ WRITE",
}
# Nobody waits for longer than UNARY_CEILING_SECONDS; and what a lost replica has locked is free in a minute.
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
_OPTIONS: dict[str, Any] = {"hide_parameters": True, "connect_args": {"prepare_threshold": None}}


async def open_engine(where: str, service: str, migrations: Path) -> AsyncEngine:
    """An engine on the database of a URL, with the service's tables at their newest revision. Waits a little for it."""
    url, ends = _url(where, service), time.monotonic() + START_SECONDS
    engine = sa.create_engine(url, poolclass=sa.NullPool, **_OPTIONS)
    while True:
        try:
            await asyncio.to_thread(migrate, engine, migrations, service)
            break
        except sa.exc.DBAPIError as problem:
            told = _told(url, problem)
            if not isinstance(problem, sa.exc.OperationalError) or time.monotonic() > ends:
                raise CannotStart(f"{told} (HANDFUL_{service.upper()}_DATABASE says where it is)") from None
            log.warning("the database cannot be used yet, trying again", problem=told)
            await asyncio.sleep(RETRY_SECONDS)
    return create_async_engine(
        url, pool_size=POOL_SIZE, max_overflow=0, pool_timeout=POOL_SECONDS, pool_pre_ping=True, **_OPTIONS
    )


def begin(connection: sa.Connection, mode: str, service: str) -> None:
    """Begins a transaction of one of the modes in the service's schema."""
    statements = [f"SET TRANSACTION ISOLATION LEVEL {_ISOLATION[mode]}", f"SET LOCAL search_path = {service}"]
    statements += [f"SET LOCAL {name} = '{value}'" for name, value in _LIMITS.items()]
    # One message; that it has no parameters makes it one of several statements.
    connection.exec_driver_sql("; ".join(statements), execution_options={"no_parameters": True})


def look(where: str, service: str, migrations: Path) -> str:
    """What there is of the database, in a few words; nothing is changed. CannotStart where it is of no use."""
    url = _url(where, service).update_query_dict({"connect_timeout": str(LOOK_SECONDS)})
    try:
        check(sa.create_engine(url, poolclass=sa.NullPool, **_OPTIONS), migrations, service)
    except sa.exc.DBAPIError as problem:
        raise CannotStart(_told(url, problem)) from None
    return f"{_shown(url)} answers"


def _url(where: str, service: str) -> sa.URL:
    wrong = CannotStart(
        f"HANDFUL_{service.upper()}_DATABASE must be a file or postgresql://user:password@host:port/name. In a "
        "password @, /, : and % are written as %40, %2F, %3A and %25."
    )
    try:
        url = sa.make_url(where)
    except (sa.exc.ArgumentError, ValueError):
        raise wrong from None
    # A host with @ in it is the end of a password.
    if url.drivername not in ("postgresql", "postgres") or "@" in (url.host or ""):
        raise wrong
    return url.set(drivername="postgresql+psycopg", query={**_CONNECT, **url.query})


def _told(url: sa.URL, problem: sa.exc.DBAPIError) -> str:
    return f"The database {_shown(url)} cannot be used: {' '.join(str(problem.orig).split())}"


def _shown(url: sa.URL) -> str:
    # Neither the user nor the options, which may have a password among them.
    return f"{url.host}:{url.port or 5432}/{url.database or ''}"
