"""Two trainer processes on one PostgreSQL database, stopped and killed in turn: neither workers nor watchers mind."""

import asyncio
import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from handful import Run
from handful.channel import connect
from handful.cli.stack import free_ports
from handful.errors import HandfulError
from handful.peers import reach
from handful.v1 import model_pb2, worker_pb2
from handful.v1.model_pb2_grpc import ModelServiceStub
from handful.v1.trainer_pb2 import GetTrainingRunRequest, TrainingRun, TrainingRunEvent
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
HOUR = 3600
PATIENCE_SECONDS = 60.0
START_SECONDS = 60.0
# As `python -m services.trainer`, on a machine whose clock is wrong.
STARTED = """
import runpy, time
right = time.time_ns
time.time_ns = lambda: right() + {nanoseconds}
runpy.run_module("services.trainer", run_name="__main__", alter_sys=True)
"""

pytestmark = pytest.mark.parametrize("databases", ["postgresql"], indirect=True)


class Replica:
    """One trainer process at addresses of its own, started again and again."""

    def __init__(self, environment: dict[str, str], clock: int = 0) -> None:
        """`clock` is how many seconds its clock is ahead."""
        self._program = STARTED.format(nanoseconds=clock * 10**9)
        self.port, self.worker_port = free_ports(2)
        self._environment = {
            **environment,
            "HANDFUL_TRAINER_ADDRESS": f"127.0.0.1:{self.port}",
            "HANDFUL_WORKER_ADDRESS": f"127.0.0.1:{self.worker_port}",
        }

    def start(self) -> None:
        """Starts it and waits until it serves."""
        command = [sys.executable, "-c", self._program]
        self.process = subprocess.Popen(command, cwd=ROOT, env=self._environment)
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            grpc.channel_ready_future(channel).result(START_SECONDS)

    def stop(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        self.process.wait(START_SECONDS)


@pytest.fixture
def environment(
    databases: Databases, store: FilesystemStore, dataset_service: DatasetService, tmp_path: Path
) -> dict[str, str]:
    """What both replicas are told."""
    return {
        "HANDFUL_HOME": str(tmp_path),
        "HANDFUL_STORE": str(store.folder),
        "HANDFUL_TRAINER_DATABASE": databases.trainer,
        "HANDFUL_DATASET": dataset_service.address,
        "HANDFUL_WORKERS": "0",
        "HANDFUL_LOG_LEVEL": "error",
    }


@pytest.fixture
def replicas(environment: dict[str, str]) -> Iterator[tuple[Replica, Replica]]:
    both = Replica(environment), Replica(environment)
    with running(*both):
        yield both


@contextmanager
def running(*replicas: Replica) -> Iterator[None]:
    """They serve inside."""
    for replica in replicas:
        replica.start()
    try:
        yield
    finally:
        for replica in replicas:
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
    with reach("trainer", trainers) as channel, ThreadPoolExecutor(NUM_RUNS * (WATCHERS_PER_RUN + 1) + 1) as pool:
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


async def test_replicas_whose_clocks_are_wrong_agree_on_leases(
    environment: dict[str, str], dataset_service: DatasetService, picture: Callable[..., bytes]
) -> None:
    """Leases run on the database's clock: of two workers that report to a replica an hour behind, one an hour ahead
    takes the run of the silent one alone, once its lease is over.
    """
    version = await seal(dataset_service, picture)
    behind, ahead = Replica(environment, clock=-HOUR), Replica(environment, clock=HOUR)
    with (
        running(behind, ahead),
        connect(f"127.0.0.1:{ahead.port}") as products,
        connect(f"127.0.0.1:{behind.worker_port}") as workers,
    ):
        await asyncio.to_thread(_leases, TrainerServiceStub(products), WorkerServiceStub(workers), version)


def _leases(trainer: TrainerServiceStub, workers: WorkerServiceStub, version: str) -> None:
    runs = [trainer.CreateTrainingRun(wanted(version)).training_run for _ in range(2)]
    silent, living = (workers.ClaimTrainingRun(asking(name), timeout=20).claim for name in ("worker-1", "worker-2"))
    assert [silent.training_run, living.training_run] == [run.name for run in runs]
    ends = time.monotonic() + PATIENCE_SECONDS
    report = worker_pb2.ReportTrainingRunRequest(name=living.training_run, attempt=1, token=living.token)
    while _state(trainer, silent.training_run) != TrainingRun.STATE_RECOVERING:
        assert time.monotonic() < ends
        workers.ReportTrainingRun(report)  # refused where its lease was ended
        time.sleep(1)
    # Both sweepers are at work by now.
    for _ in range(3):
        time.sleep(1)
        workers.ReportTrainingRun(report)
    assert _state(trainer, living.training_run) == TrainingRun.STATE_RUNNING


def _state(trainer: TrainerServiceStub, run: str) -> "TrainingRun.State.ValueType":
    return trainer.GetTrainingRun(GetTrainingRunRequest(name=run)).training_run.state
