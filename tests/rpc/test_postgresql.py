"""PostgreSQL as services meet it: started together, not there yet, wrong, gone for a while, shared through a pooler."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from handful.cli.stack import free_ports
from handful.errors import Unavailable
from handful.v1.trainer_pb2 import TrainingRun
from services.shared import database
from services.shared.objects import ObjectStore
from services.shared.postgresql import POOL_SIZE
from services.trainer import sweeper
from tests.playing_worker import bundle, claim, create, epoch, read, refusal, seal
from tests.postgres_server import PASSWORD, USER, PostgresServer
from tests.processes import until
from tests.rpc.test_migrations import COUNT, INSERT, TABLES, engine_of, folder
from tests.rpc.test_watch import Watch
from tests.servers import Databases, DatasetService, TrainerService, running_trainer

ROOT = Path(__file__).parents[2]
LISTENS_SECONDS = 60.0
LEASE_SECONDS = 3.0


@contextmanager
def started(home: Path, *services: tuple[str, str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes of services, each with its database, that end with the block."""
    processes = []
    for service, where in services:
        environment = {
            "HANDFUL_HOME": str(home),
            "HANDFUL_WORKERS": "0",
            "HANDFUL_WORKER_ADDRESS": "127.0.0.1:0",
            f"HANDFUL_{service.upper()}_ADDRESS": "127.0.0.1:0",
            f"HANDFUL_{service.upper()}_DATABASE": where,
        }
        command = [sys.executable, "-m", f"services.{service}"]
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def lines_until(process: subprocess.Popen[str], event: str) -> list[str]:
    """What a service says until it says this; AssertionError where it ends before."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("{") and json.loads(line)["event"] == event:
            return lines
    raise AssertionError("".join(lines))


def test_services_that_start_together_share_an_empty_database(postgres: PostgresServer, tmp_path: Path) -> None:
    """Two replicas of two services at once on an empty database: one of each migrates, all serve."""
    where = postgres.empty_database()
    with started(tmp_path, *((service, where) for service in TABLES for _ in range(2))) as processes:
        for process in processes:
            lines_until(process, "listening")
    for service, tables in TABLES.items():
        found = sa.inspect(engine_of(where, service)).get_table_names()
        assert set(found) == {*tables.tables, "alembic_version"}


def test_a_database_that_cannot_be_used_is_one_clear_line(postgres: PostgresServer, tmp_path: Path) -> None:
    """Nobody at the address, a wrong password, no such database, a wrong option, no URL: a service tries for some
    seconds what may become right, then says what is wrong, without the password, and ends with status 2.
    """
    url = postgres.url("postgres")
    wrong = {
        "postgresql://handful:s3cret@127.0.0.1:1/x": ["127.0.0.1:1/x", "refused", "HANDFUL_DATASET_DATABASE"],
        postgres.url("postgres", "s3cret"): ["password authentication failed", "HANDFUL_DATASET_DATABASE"],
        postgres.url("nowhere"): ['"nowhere" does not exist', "HANDFUL_DATASET_DATABASE"],
        f"{url}?no_option=s3cret": ["no_option", "HANDFUL_DATASET_DATABASE"],
        f"{url}?sslmode=require": ["SSL", "HANDFUL_DATASET_DATABASE"],
        "mysql://handful:s3cret@127.0.0.1/x": ["must be a file or postgresql://"],
        "postgresql://handful:s3cret@word@127.0.0.1/x": ["%40"],
        "postgresql://handful:s3cret@127.0.0.1:port/x": ["must be a file or postgresql://"],
    }
    with started(tmp_path, *(("dataset", where) for where in wrong)) as processes:
        ends = [process.communicate(timeout=LISTENS_SECONDS)[1] for process in processes]
    for process, told, expected in zip(processes, ends, wrong.values(), strict=True):
        last = told.splitlines()[-1]
        assert process.returncode == 2, told
        assert last.startswith("dataset: ")
        assert all(words in last for words in expected), last
        assert not any(secret in told for secret in ("s3cret", PASSWORD, "p%40ss", "Traceback")), told


def test_a_service_waits_for_its_database(tmp_path: Path) -> None:
    """In a cluster services and database start in any order."""
    with PostgresServer() as server:
        where = server.empty_database()
        server.stop()
        with started(tmp_path, ("dataset", where)) as (process,):
            lines_until(process, "the database cannot be used yet, trying again")
            server.start()
            lines_until(process, "listening")


def test_a_user_who_may_not_create_a_schema_uses_the_one_there_is(postgres: PostgresServer, tmp_path: Path) -> None:
    """Where the database's owner keeps the right to create schemas, a service says so, or uses what it was given."""
    where = postgres.empty_database()
    name = where.rpartition("/")[2]
    postgres.execute("CREATE ROLE limited LOGIN PASSWORD 'limited'")
    limited = f"postgresql://limited:limited@127.0.0.1:{postgres.port}/{name}"
    with started(tmp_path, ("dataset", limited)) as (process,):
        told = process.communicate(timeout=LISTENS_SECONDS)[1]
    assert process.returncode == 2
    assert f"permission denied for database {name}" in told.splitlines()[-1]
    postgres.execute("CREATE SCHEMA dataset AUTHORIZATION limited", name)
    with started(tmp_path, ("dataset", limited)) as (process,):
        lines_until(process, "listening")


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server that the test may stop."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def databases(own_postgres: PostgresServer) -> Databases:
    """Where the services of this module keep their tables."""
    url = own_postgres.database()
    return Databases(url, url)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "crashed"])
async def test_services_recover_by_themselves(
    own_postgres: PostgresServer,
    dataset_service: DatasetService,
    trainer_service: TrainerService,
    store: ObjectStore,
    picture: Callable[..., bytes],
    how: signal.Signals,
) -> None:
    """While the database is away every call is UNAVAILABLE; afterwards all goes on, and the worker has its run."""
    version = await seal(dataset_service, picture)
    run = await create(trainer_service, version)
    hold = await claim(trainer_service)
    await hold.report(epoch(1))
    watch = Watch.of(trainer_service, run.name)
    await watch.next("event")
    await asyncio.to_thread(own_postgres.stop, how)
    calls = (
        read(trainer_service, run.name),
        create(trainer_service, version),
        hold.send([(2, epoch(2))]),
        seal(dataset_service, picture, "other"),
        watch.end(),
    )
    for error in await asyncio.gather(*(refusal(call) for call in calls)):
        assert isinstance(error, Unavailable)
        assert error.reason == "DEPENDENCY_DOWN"
    await asyncio.to_thread(own_postgres.start)
    await hold.send([(2, epoch(2))])
    await hold.succeed(bundle(store))
    assert (await read(trainer_service, run.name)).state == TrainingRun.STATE_SUCCEEDED
    again = Watch.of(trainer_service, run.name, watch.sequences[-1])
    await again.end()
    assert watch.sequences + again.sequences == list(range(1, 7))


@pytest.fixture
async def brief(
    databases: Databases, store: ObjectStore, dataset_service: DatasetService
) -> AsyncIterator[TrainerService]:
    """A trainer whose leases are short."""
    async with running_trainer(databases.trainer, store, dataset_service.address, LEASE_SECONDS) as service:
        yield service


async def test_an_outage_ends_no_lease(
    own_postgres: PostgresServer,
    dataset_service: DatasetService,
    brief: TrainerService,
    picture: Callable[..., bytes],
) -> None:
    """A worker that could not report because the database was away, for longer than its lease, keeps its run; once it
    is silent by itself it loses it.
    """
    await create(brief, await seal(dataset_service, picture))
    hold = await claim(brief)
    sweeping = asyncio.create_task(sweeper.sweep(brief.database, brief.board, LEASE_SECONDS))
    for _ in range(7):
        await asyncio.sleep(LEASE_SECONDS / 6)
        await hold.report()
    await asyncio.to_thread(own_postgres.stop)
    await asyncio.sleep(1.5 * LEASE_SECONDS)
    await asyncio.to_thread(own_postgres.start)
    await asyncio.sleep(LEASE_SECONDS / 3)
    await hold.report(epoch(1))
    watch = Watch.of(brief, hold.run, None)
    lost = (await watch.next("event", seconds=10 * LEASE_SECONDS)).event
    assert lost.state_changed.state == TrainingRun.STATE_RECOVERING
    assert (await refusal(hold.report())).reason == "LEASE_LOST"
    sweeping.cancel()


async def test_writers_in_each_others_way_are_told_to_try_again(postgres: PostgresServer) -> None:
    """Of two transactions that wait for each other one goes on; the other is UNAVAILABLE, which is no fault."""
    opened = await database.open_database(postgres.database(), "dataset", folder("dataset"))
    both = asyncio.Barrier(2)

    async def write(first: str, second: str) -> None:
        async with opened.write() as connection:
            await database.alone(connection, first)
            await both.wait()
            await database.alone(connection, second)
            await connection.execute(INSERT, {"dataset": first})

    ends = await asyncio.gather(write("a", "b"), write("b", "a"), return_exceptions=True)
    assert [type(end) for end in sorted(ends, key=bool)] == [type(None), Unavailable]
    async with opened.read() as connection:
        assert (await connection.execute(COUNT)).scalar_one() == 1
    await opened.close()


async def test_a_database_that_is_closed_leaves_no_connection(postgres: PostgresServer) -> None:
    """What is under way when it is closed comes to its end, and then there is no session left."""
    where = postgres.database()
    opened = await database.open_database(where, "dataset", folder("dataset"))
    begun = asyncio.Event()

    async def write() -> None:
        async with opened.write() as connection:
            begun.set()
            await asyncio.sleep(0.2)
            await connection.execute(INSERT, {"dataset": "a"})

    writing = asyncio.create_task(write())
    await begun.wait()
    await opened.close()
    assert writing.done()
    await writing
    with psycopg.connect(where, autocommit=True) as connection:
        count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        until(lambda: connection.execute(count).fetchone() == (1,), "no other session is left")


async def test_a_pooler_may_stand_between(postgres: PostgresServer) -> None:
    """Through PgBouncer in transaction mode, with fewer connections than a service has, tables are made, every
    transaction finds its schema, and writers that must not meet do not.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed here (Debian: apt install pgbouncer)")
    where = postgres.empty_database()
    with pooler(program, postgres) as port:
        pooled = where.replace(f":{postgres.port}/", f":{port}/")
        both = [await database.open_database(pooled, service, folder(service)) for service in TABLES]
        names = []

        async def write(number: int) -> None:
            async with both[0].write() as connection:
                await database.alone(connection, "one at a time")
                before = (await connection.execute(COUNT)).scalar_one()
                await connection.execute(INSERT, {"dataset": f"d{number}"})
                assert (await connection.execute(COUNT)).scalar_one() == before + 1
            async with both[1].read() as connection:
                names.append((await connection.execute(sa.text("SELECT current_schema"))).scalar_one())

        await asyncio.gather(*(write(number) for number in range(30)))
        assert names == ["trainer"] * 30
        for opened in both:
            await opened.close()


@contextmanager
def pooler(program: str, server: PostgresServer) -> Iterator[int]:
    """PgBouncer before a server, with three connections for each database: its port."""
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        users, settings = Path(folder) / "users", Path(folder) / "ini"
        users.write_text(f'"{USER}" "{PASSWORD}"\n')
        settings.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\npool_mode = transaction\n"
            f"default_pool_size = 3\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = plain\nauth_file = {users}\n"
        )
        # It refuses to run as root, and must be able to read its files.
        Path(folder).chmod(0o755)
        user = "nobody" if os.getuid() == 0 else None
        process = subprocess.Popen([program, settings], user=user, stderr=subprocess.DEVNULL)
        try:
            yield port
        finally:
            process.terminate()
            process.wait()


async def test_more_callers_than_connections_wait_their_turn(postgres: PostgresServer) -> None:
    """A process holds at most POOL_SIZE connections; who comes then waits, and is served."""
    where = postgres.database()
    opened = await database.open_database(where, "dataset", folder("dataset"))
    peak = 0

    async def write(number: int) -> None:
        nonlocal peak
        async with opened.write() as connection:
            await connection.execute(INSERT, {"dataset": f"d{number}"})
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            peak = max(peak, (await connection.execute(sa.text(query))).scalar_one())

    await asyncio.gather(*(write(number) for number in range(5 * POOL_SIZE)))
    assert peak == POOL_SIZE
    await opened.close()
