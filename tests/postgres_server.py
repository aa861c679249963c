"""A PostgreSQL server of the tests' own, on a free port, with databases that are made from a template in no time."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import psycopg
import pytest
import sqlalchemy as sa

from handful.cli.stack import free_ports
from services.shared.migrating import migrate

SERVICES = Path(__file__).parents[1] / "services"
USER, PASSWORD = "handful", "p@ss/word"
START_SECONDS = 60.0
_TEMPLATE = "handful_template"
# Nothing here has to survive a power cut. Texts sort as people sort them, unless a column says otherwise.
_INITDB = ("--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US")
_SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_connections": "300", "listen_addresses": "127.0.0.1"}


def binaries() -> Path | None:
    """Where PostgreSQL's programs are, if they are: Debian keeps them beside the path, the newest version last."""
    found = shutil.which("postgres")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    path = Path(found).resolve() if found else next(reversed(debian), None)
    return path.parent if path else None


class PostgresServer:
    """A cluster in a temporary folder. Use it as a context; skips the test where PostgreSQL is not installed."""

    def __init__(self) -> None:
        found = binaries()
        if found is None:
            pytest.skip("PostgreSQL is not installed here (Debian: apt install postgresql)")
        self._binaries = found
        # The server refuses to run as root.
        self._user = _someone() if os.getuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="handful-postgres-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        (self.port,) = free_ports(1)

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder)

    def _make(self) -> None:
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        password = self._folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self._run("initdb", "-D", self._data, "-U", USER, "-A", "scram-sha-256", f"--pwfile={password}", *_INITDB)
        self.start()
        self._make_template()

    def start(self) -> None:
        """Starts the server, or starts it again, and waits until it answers."""
        settings = {**_SETTINGS, "port": str(self.port), "unix_socket_directories": ""}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._data, *options], user=self._user, stdout=log, stderr=log
            )
        ends = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                assert time.monotonic() < ends, (self._folder / "log").read_text()
                assert self._process.poll() is None, (self._folder / "log").read_text()
                time.sleep(0.05)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stops it: SIGINT ends every session, SIGQUIT is a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_SECONDS)
            self._process = None

    def url(self, database: str, password: str = PASSWORD) -> str:
        """As a setting has it."""
        url = sa.URL.create("postgresql", USER, password, "127.0.0.1", self.port, database)
        return url.render_as_string(hide_password=False)

    def empty_database(self) -> str:
        """The URL of a new database without a table."""
        return self._database("template1")

    def database(self) -> str:
        """The URL of a new database with the tables of all services."""
        return self._database(_TEMPLATE)

    def drop(self, url: str) -> None:
        """Removes a database, whoever uses it."""
        self.execute(f"DROP DATABASE {sa.make_url(url).database} WITH (FORCE)")

    def execute(self, statement: str, database: str = "postgres") -> None:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _database(self, template: str) -> str:
        name = f"test_{next(self._numbers)}"
        # A copy of files: a template of a few megabytes is there at once.
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return self.url(name)

    def _make_template(self) -> None:
        self.execute(f"CREATE DATABASE {_TEMPLATE}")
        url = sa.make_url(self.url(_TEMPLATE)).set(drivername="postgresql+psycopg")
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        for service in ("dataset", "trainer"):
            migrate(engine, SERVICES / service / "migrations", service)

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._binaries / program), *map(str, arguments)]
        done = subprocess.run(command, user=self._user, cwd="/", capture_output=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr.decode()

    @property
    def _data(self) -> Path:
        return self._folder / "data"


def _someone() -> str:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"
