"""What deploy/compose.yaml makes of a filled .env: each service's variables, and the two servers beside our services.

The servers are this machine's MinIO and PostgreSQL in place of the images; they get the variables and the files that
compose.yaml gives those.
"""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import yaml

FILE = Path(__file__).with_name("compose.yaml")
START_SECONDS = 30.0
_REFERENCE = re.compile(r"\$\{(\w+)(?::\?[^}]*)?\}")


def environments(given: dict[str, str]) -> dict[str, dict[str, str]]:
    """The variables of every service, by what stands in .env. KeyError where a password is missing."""
    services = yaml.safe_load(FILE.read_text())["services"]
    return {name: _resolved(service.get("environment", {}), given) for name, service in services.items()}


def example() -> dict[str, str]:
    """.env.example with a password wherever one is missing."""
    lines = FILE.with_name(".env.example").read_text().splitlines()
    pairs = [line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")]
    return {name: value or f"made{number:04}for{name.lower()}" for number, (name, value) in enumerate(pairs)}


def _resolved(variables: dict[str, str | None], given: dict[str, str]) -> dict[str, str]:
    # Without a value a variable is taken from .env, and left out where it is not there.
    values = {name: given.get(name) if text is None else text for name, text in variables.items()}
    return {
        name: _REFERENCE.sub(lambda found: given[found[1]], text) for name, text in values.items() if text is not None
    }


@contextlib.contextmanager
def servers(folder: Path, minio: Path, postgres: Path, variables: dict[str, dict[str, str]]) -> Iterator[None]:
    """MinIO on port 9000 and PostgreSQL on port 5432, with the users and databases that compose's servers have."""
    folder.mkdir()
    shutil.chown(folder, "nobody")
    with _started([str(minio), "server", str(folder / "objects")], variables["s3"]):
        data, run = str(folder / "database"), str(folder)
        _as_nobody([str(postgres / "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8"])
        options = f"-k {run} -c listen_addresses=127.0.0.1 -p 5432"
        _as_nobody([str(postgres / "pg_ctl"), "-D", data, "-w", "-l", f"{run}/log", "-o", options, "start"])
        try:
            init = FILE.parent / "k8s/components/postgres/init.sh"
            environment = {"PATH": f"{postgres}:{os.environ['PATH']}", "PGHOST": run, **variables["postgres"]}
            subprocess.run([str(init)], check=True, env=environment, stdout=subprocess.DEVNULL)
            yield
        finally:
            _as_nobody([str(postgres / "pg_ctl"), "-D", data, "-m", "fast", "stop"])


@contextlib.contextmanager
def _started(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _as_nobody(command: list[str]) -> None:
    subprocess.run(command, check=True, user="nobody", stdout=subprocess.DEVNULL, env={"PATH": os.environ["PATH"]})
