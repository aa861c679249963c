"""The whole line over a bucket of a real S3 server, which is killed under it, for a while and for good."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from handful import Client, Run
from handful.cli.stack import Stack
from handful.errors import Unavailable
from handful.v1.trainer_pb2 import Failure, TrainingRun, TrainingRunEvent
from services.shared.objects import ObjectStore, StoreRefused, open_store
from tests.minio_server import READER, WRITER, MinioServer
from tests.postgres_server import PostgresServer
from tests.processes import of_home, stack_in

pytestmark = pytest.mark.timeout(400)

OUTAGE_SECONDS = 20.0
# Longer than the outage that a run must bear.
STORE_SECONDS = 40.0
EVERYTHING = {"blobs", "manifests", "features", "bundles", "aliases.json", "backbones"}
RED, BLUE = (210, 50, 50), (50, 50, 210)


def copy(backbones: Path, store: ObjectStore) -> None:
    """Puts the default backbone into a store."""
    for path in backbones.rglob("*"):
        if path.is_file():
            store.put(f"backbones/{path.relative_to(backbones).as_posix()}", path.read_bytes())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, backbones: Path) -> Iterator[MinioServer]:
    """A server of this module's own, whose bucket has the default backbone."""
    with MinioServer(tmp_path_factory.mktemp("minio")) as server:
        server.provision()
        copy(backbones, open_store(server.settings()))
        yield server


@pytest.fixture(scope="module")
def line(server: MinioServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All services over the bucket; inference with keys that may only read."""
    with stack_in(tmp_path_factory.mktemp("home")) as stack:
        stack.environment |= server.environment(WRITER) | {"HANDFUL_STORE_SECONDS": str(STORE_SECONDS)}
        stack.own["inference"] = server.environment(READER)
        with stack:
            yield stack


@pytest.fixture
def client(line: Stack) -> Iterator[Client]:
    with Client(line.addresses) as client:
        yield client


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, picture: Callable[..., bytes]) -> Path:
    """Two classes that a colour tells apart."""
    made = tmp_path_factory.mktemp("colours")
    for label, colour, first in (("red", RED, 0), ("blue", BLUE, 100)):
        (made / label).mkdir()
        for seed in range(first, first + 12):
            (made / label / f"{seed}.jpg").write_bytes(picture(seed, colour))
    return made


@pytest.fixture
def red(picture: Callable[..., bytes]) -> bytes:
    """A picture that nobody has seen."""
    return picture(999, RED)


def kinds(store: ObjectStore) -> set[str]:
    """What a bucket holds: the part of each key that says so."""
    return {re.sub(r"^projects/[^/]+/", "", key).split("/")[0] for key in store.keys("")}


def services(stack: Stack) -> set[int]:
    """The processes of the services and the worker."""
    return {pid for pid, command in of_home(stack.home).items() if "-m services." in command}


def interrupted(run: Run, interrupt: Callable[[], None]) -> list[TrainingRunEvent]:
    """The events of a run that is interrupted after its second epoch."""
    events = []
    for event in run.watch():
        if isinstance(event, TrainingRunEvent):
            events.append(event)
            if event.HasField("epoch_completed") and event.epoch == 2:
                interrupt()
    return events


def test_everything_lies_in_the_bucket(
    server: MinioServer, line: Stack, client: Client, folder: Path, red: bytes
) -> None:
    """Pictures become a model that predicts; every kind of object is in the bucket, and features are on the worker's
    disk too; inference may only read there.
    """
    client.push("colours", folder)
    run = client.train("colours").result()
    assert run.state == TrainingRun.STATE_SUCCEEDED, run.failure
    assert client.predict("colours", red).predictions[0].label == "red"
    assert len(client.evaluation(run.model_version).plots) == 5
    store = open_store(server.settings())
    assert kinds(store) == EVERYTHING
    cached = line.home / "cache"
    kept = {path.relative_to(cached).as_posix() for path in cached.rglob("*.safetensors")}
    assert kept == set(store.keys("projects/default/features/"))
    with pytest.raises(StoreRefused, match="AccessDenied"):
        open_store(server.settings(READER)).put("projects/default/aliases.json", b"{}")


def test_a_run_bears_a_store_that_is_away(server: MinioServer, client: Client, folder: Path, red: bytes) -> None:
    """The server is killed in mid-run and back after 20 s: the run succeeds, in the attempt that it was in, and what
    is loaded is served all the while.
    """
    client.push("colours", folder)
    client.train("colours").result()
    client.predict("colours", red)
    back = threading.Timer(OUTAGE_SECONDS, server.start)

    def kill() -> None:
        server.stop(signal.SIGKILL)
        back.start()
        assert client.predict("colours", red).predictions[0].label == "red"

    run = client.train("colours", preset="baseline", num_epochs=4, target_size=0)
    began = time.monotonic()
    events = interrupted(run, kill)
    back.join()
    assert time.monotonic() - began > OUTAGE_SECONDS
    assert run.training_run.state == TrainingRun.STATE_SUCCEEDED, run.training_run.failure
    assert [event.attempt for event in events if event.HasField("attempt_started")] == [1]
    assert [event.epoch for event in events if event.HasField("epoch_completed")] == [1, 2, 3, 4]
    made = run.training_run.model_version
    assert client.predict(made, red).model_version == made


def test_a_store_that_is_gone_fails_the_run_and_nothing_else(
    server: MinioServer, line: Stack, client: Client, folder: Path, red: bytes, picture: Callable[..., bytes]
) -> None:
    """The run is FAILED with STORE_UNAVAILABLE; services answer, say that the store is away, and once it is back do
    everything again without having been started anew.
    """
    client.push("colours", folder)
    client.train("colours").result()
    client.predict("colours", red)
    before = services(line)
    run = client.train("colours", preset="baseline", num_epochs=4, target_size=0)
    interrupted(run, server.stop)
    failed = run.training_run
    assert (failed.state, failed.failure.reason) == (TrainingRun.STATE_FAILED, Failure.REASON_STORE_UNAVAILABLE)
    assert failed.name in {run.name for run in client.runs()}
    assert client.predict("colours", red).predictions[0].label == "red"
    (folder / "red" / "new.jpg").write_bytes(picture(500, RED))
    with pytest.raises(Unavailable) as away:
        client.push("colours", folder)
    assert away.value.reason == "DEPENDENCY_DOWN"
    server.start()
    client.push("colours", folder)
    again = client.train("colours", model="again").result()
    assert again.state == TrainingRun.STATE_SUCCEEDED, again.failure
    assert client.predict("again", red).predictions[0].label == "red"
    assert services(line) == before


def test_the_demo_runs_on_a_bucket_and_a_database(
    server: MinioServer, postgres: PostgresServer, backbones: Path, folder: Path
) -> None:
    """Where an object store and databases are set, the demo uses them, and what it made is there afterwards."""
    url, store = postgres.database(), open_store(server.settings(prefix="demo"))
    copy(backbones, store)
    settings = {**server.environment(prefix="demo"), "HANDFUL_DATASET_DATABASE": url, "HANDFUL_TRAINER_DATABASE": url}
    command = [str(Path(sys.executable).parent / "handful"), "demo", "--json", "--data", str(folder)]
    done = subprocess.run(
        command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["classes"] == ["blue", "red"]
    assert kinds(store) == EVERYTHING | {"exports"}
    with psycopg.connect(url) as connection:
        rows = "SELECT dataset, model FROM dataset.datasets, trainer.models"
        assert connection.execute(rows).fetchall() == [("demo", "demo")]
    postgres.drop(url)
