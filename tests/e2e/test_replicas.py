"""Two trainer processes on one PostgreSQL database, stopped and killed in turn: neither workers nor watchers mind."""

import asyncio
import itertools
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from handful import Run
from handful.channel import connect
from handful.errors import HandfulError
from handful.v1 import model_pb2, worker_pb2
from handful.v1.model_pb2_grpc import ModelServiceStub
from handful.v1.trainer_pb2 import TrainingRun, TrainingRunEvent
from handful.v1.trainer_pb2_grpc import TrainerServiceStub
from handful.v1.worker_pb2_grpc import WorkerServiceStub
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.worker.reporting import Reporter
from tests.playing_worker import PROJECT, asking, bundle, epoch, seal, wanted
from tests.servers import Databases, DatasetService

ROOT = Path(__file__).parents[2]
NUM_RUNS = 10
WATCHERS_PER_RUN = 5
EPOCH_SECONDS = 0.25
START_SECONDS = 60.0

pytestmark = pytest.mark.parametrize("databases", ["postgresql"], indirect=True)


class Replica:
    """One trainer process at addresses of its own, started again and again."""

    def __init__(self, environment: dict[str, str]) -> None:
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
            self.port, self.worker_port = (one.getsockname()[1] for one in sockets)
        self._environment = {
            **environment,
            "HANDFUL_TRAINER_ADDRESS": f"127.0.0.1:{self.port}",
            "HANDFUL_WORKER_ADDRESS": f"127.0.0.1:{self.worker_port}",
        }

    def start(self) -> None:
        """Starts it and waits until it serves."""
        command = [sys.executable, "-m", "services.trainer"]
        self.process = subprocess.Popen(command, cwd=ROOT, env=self._environment)
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            grpc.channel_ready_future(channel).result(START_SECONDS)

    def stop(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        self.process.wait(START_SECONDS)


@pytest.fixture
def replicas(
    databases: Databases, store: FilesystemStore, dataset_service: DatasetService, tmp_path: Path
) -> Iterator[tuple[Replica, Replica]]:
    environment = {
        "HANDFUL_HOME": str(tmp_path),
        "HANDFUL_STORE": str(store.folder),
        "HANDFUL_TRAINER_DATABASE": databases.trainer,
        "HANDFUL_DATASET": dataset_service.address,
        "HANDFUL_WORKERS": "0",
        "HANDFUL_LOG_LEVEL": "error",
    }
    both = Replica(environment), Replica(environment)
    for replica in both:
        replica.start()
    yield both
    for replica in both:
        replica.stop(signal.SIGKILL)


@dataclass
class Watcher:
    """Someone who follows a run with the SDK, through whichever replica is there."""

    run: Run
    sequences: list[int] = field(default_factory=list)
    cuts: list[HandfulError] = field(default_factory=list)

    def follow(self) -> None:
        for event in self.run.watch(on_reconnect=self.cuts.append):
            if isinstance(event, TrainingRunEvent):
                self.sequences.append(event.sequence)


def work(address: str, store: FilesystemStore, number: int, over: threading.Event) -> int:
    """A worker that trains one run with the worker's own reporter, epoch after epoch until it is over: how many."""
    with connect(address) as channel:
        stub = WorkerServiceStub(channel)
        request = asking(f"worker-{number}")
        claim = stub.ClaimTrainingRun(request, timeout=20, wait_for_ready=True).claim
        reporter = Reporter(stub, claim)
        epochs = 0
        while not over.is_set():
            epochs += 1
            reporter.event(epoch(epochs))
            reporter.check()
            time.sleep(EPOCH_SECONDS)
        reporter.close()
        digest = bundle(store, accuracy=number / 100)
        succeeded = worker_pb2.FinishTrainingRunRequest.Succeeded(model_manifest_sha256=digest)
        reporter.finish(worker_pb2.FinishTrainingRunRequest(succeeded=succeeded))
        return epochs


async def test_either_replica_may_go_at_any_time(
    replicas: tuple[Replica, Replica],
    dataset_service: DatasetService,
    store: FilesystemStore,
    picture: Callable[..., bytes],
) -> None:
    """Through ten runs each replica is stopped once and killed once: every run is trained in its first attempt, every
    epoch is there, and each of fifty watchers sees every event once and the end.
    """
    loop, over = asyncio.get_running_loop(), threading.Event()
    trainers = "ipv4:" + ",".join(f"127.0.0.1:{replica.port}" for replica in replicas)
    for_workers = "ipv4:" + ",".join(f"127.0.0.1:{replica.worker_port}" for replica in replicas)
    version = await seal(dataset_service, picture)
    with connect(trainers) as channel, ThreadPoolExecutor(NUM_RUNS * (WATCHERS_PER_RUN + 1) + 1) as pool:
        stub = TrainerServiceStub(channel)
        runs = []
        for _ in range(NUM_RUNS):
            made = await loop.run_in_executor(pool, stub.CreateTrainingRun, wanted(version))
            runs.append(made.training_run)
        working = [loop.run_in_executor(pool, work, for_workers, store, number, over) for number in range(NUM_RUNS)]
        watchers = [Watcher(Run(stub, run)) for run in runs for _ in range(WATCHERS_PER_RUN)]
        watching = [loop.run_in_executor(pool, watcher.follow) for watcher in watchers]
        for replica, how in itertools.product(replicas, (signal.SIGTERM, signal.SIGKILL)):
            await asyncio.sleep(2)
            await loop.run_in_executor(pool, replica.stop, how)
            await asyncio.sleep(1)
            await loop.run_in_executor(pool, replica.start)
        await asyncio.sleep(2)
        over.set()
        epochs = await asyncio.gather(*working)
        await asyncio.gather(*watching)
        listing = model_pb2.ListModelVersionsRequest(parent=f"{PROJECT}/models/flowers")
        versions = await loop.run_in_executor(pool, ModelServiceStub(channel).ListModelVersions, listing)
    ended = {watcher.run.name: watcher.run.training_run for watcher in watchers}
    assert {(run.state, run.attempt) for run in ended.values()} == {(TrainingRun.STATE_SUCCEEDED, 1)}
    for watcher in watchers:
        assert watcher.sequences == list(range(1, ended[watcher.run.name].latest_sequence + 1))
    # QUEUED, RUNNING, the attempt, the epochs, SUCCEEDED.
    assert sorted(run.latest_sequence for run in ended.values()) == sorted(4 + number for number in epochs)
    assert len(versions.model_versions) == NUM_RUNS
    assert sum(len(watcher.cuts) for watcher in watchers) >= len(watchers)
    print(  # noqa: T201 - the figures, with -s
        f"{NUM_RUNS} runs, {sum(epochs)} epochs, {len(watchers)} watchers, "
        f"{sum(len(watcher.sequences) for watcher in watchers)} events seen, "
        f"{sum(len(watcher.cuts) for watcher in watchers)} reconnects: none lost, none twice"
    )
