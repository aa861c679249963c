"""Gradient training that cannot end well, on real workers: it fails with its reason, and what was good stays."""

import asyncio
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from handful.channel import connect
from handful.recipe import recipe
from handful.v1.trainer_pb2 import ContinueTrainingRunRequest, Failure, TrainingRun, WatchTrainingRunRequest
from handful.v1.worker_pb2_grpc import WorkerServiceStub
from services.shared.objects.filesystem import FilesystemStore
from services.shared.objects.retrying import RetryingStore
from services.shared.settings import child_environment
from services.trainer.worker import session
from services.trainer.worker.pretrained import PretrainedWeights
from services.trainer.worker.work import begin
from tests.playing_worker import claim, create, events, lose, read, seal
from tests.servers import Databases, DatasetService, TrainerService

MEBIBYTE = 1024 * 1024
# What a worker may have: enough for PyTorch, which alone may take half of it, and a few pictures at once, not for
# hundreds, which need more than twice as much.
MEMORY = 3072 * MEBIBYTE
# Without normalisation steps that are too large are felt at once.
PLAIN: dict[str, object] = {"preset": "fine_tune", "architecture": "alexnet", "weights": "RANDOM", "optimizer": "SGD"}


@pytest.fixture
def databases(tmp_path: Path) -> Databases:
    """SQLite alone: how training ends has nothing to do with SQL."""
    return Databases.in_files(tmp_path)


@pytest.fixture
async def version(dataset_service: DatasetService, picture: Callable[..., bytes]) -> str:
    return await seal(dataset_service, picture)


async def work(service: TrainerService, store: FilesystemStore) -> TrainingRun:
    """The run that is next, as a worker in this process leaves it."""
    hold = await claim(service)
    with connect(service.worker_address) as channel:
        stub, weights = WorkerServiceStub(channel), PretrainedWeights(store)
        at_hand = begin(stub, hold.claim, RetryingStore(store, 0), weights, threads=1)
        async with asyncio.timeout(600):
            await asyncio.to_thread(session.run, at_hand)
    return await read(service, hold.run)


async def test_a_run_that_diverges_keeps_its_last_good_checkpoint(
    trainer_service: TrainerService, store: FilesystemStore, version: str
) -> None:
    """Steps that grow until they are far too large: FAILED, DIVERGED, and with smaller ones it goes on from before."""
    wild = {"learning_rate": 1.0, "head_learning_rate": 1.0, "gradient_clip_norm": 0, "layer_decay": 1.0}
    growing = {"num_epochs": 100, "schedule": "CONSTANT", "warmup_epochs": 99}
    await create(trainer_service, version, recipe=recipe({**PLAIN, **wild, **growing}))
    run = await work(trainer_service, store)
    assert (run.state, run.failure.reason) == (TrainingRun.STATE_FAILED, Failure.REASON_DIVERGED)
    assert f"in epoch {run.epoch + 1}. Try a smaller learning_rate." in run.failure.message
    saved = [one.epoch for one in await events(trainer_service, run.name) if one.HasField("checkpoint_saved")]
    assert saved[-1] == run.epoch >= 1
    kept = [key for key in store.keys("projects/default/runs/") if "/checkpoints/" in key]
    assert [key.rpartition("/")[2] for key in kept] == [f"{run.epoch}.pt"]
    smaller = recipe({"learning_rate": 1e-6, "head_learning_rate": 1e-6, "gradient_clip_norm": 1})
    more = ContinueTrainingRunRequest(name=run.name, num_additional_epochs=1, recipe=smaller)
    await trainer_service.trainer.ContinueTrainingRun(more)
    assert (await claim(trainer_service)).claim.checkpoint.key == kept[0]


async def test_a_checkpoint_that_does_not_fit_is_named(
    trainer_service: TrainerService, store: FilesystemStore, version: str
) -> None:
    """An attempt that finds something else than its network's checkpoint ends the run as WEIGHTS_MISMATCH."""
    await create(trainer_service, version, recipe=recipe(PLAIN))
    first = await claim(trainer_service)
    await first.commit(first.checkpoint(store, 1))
    await lose(trainer_service, first)
    run = await work(trainer_service, store)
    assert (run.state, run.failure.reason) == (TrainingRun.STATE_FAILED, Failure.REASON_WEIGHTS_MISMATCH)
    assert run.failure.message.startswith("The checkpoint of epoch 1 does not fit the run's network")


@pytest.mark.timeout(600)
async def test_a_worker_without_memory_says_what_fits(
    trainer_service: TrainerService, store: FilesystemStore, version: str, tmp_path: Path
) -> None:
    """A batch that a worker's memory does not hold: OUT_OF_MEMORY with one that it holds, which then succeeds."""
    environment = child_environment(
        HANDFUL_HOME=str(tmp_path),
        HANDFUL_STORE=str(store.folder),
        HANDFUL_WORKER_TRAINER=trainer_service.worker_address,
        HANDFUL_WORKER_THREADS="1",
    )
    command = [sys.executable, "-m", "services.trainer.worker"]
    quick = {"preset": "fine_tune", "num_epochs": 1}
    with subprocess.Popen(command, env=environment) as worker:  # noqa: ASYNC220 - it starts at once, and is killed
        try:
            resource.prlimit(worker.pid, resource.RLIMIT_DATA, (MEMORY, MEMORY))
            run = await ended(trainer_service, version, **quick, target_size=64, batch_size=128)
            assert (run.state, run.failure.reason) == (TrainingRun.STATE_FAILED, Failure.REASON_OUT_OF_MEMORY)
            said, fits = run.failure.message.rsplit("batch_size=", 1)
            assert said == "The memory of the worker does not suffice for batches of 128. "
            batch_size = int(fits.split()[0])
            assert fits == f"{batch_size} does: steps with {2 * batch_size} were tried."
            assert 1 <= batch_size <= 32
            run = await ended(trainer_service, version, **quick, target_size=batch_size, batch_size=batch_size)
            assert run.state == TrainingRun.STATE_SUCCEEDED, run.failure
        finally:
            worker.kill()


async def ended(service: TrainerService, version: str, **fields: object) -> TrainingRun:
    """A run that its worker has ended."""
    name = (await create(service, version, recipe=recipe(fields))).name
    async with asyncio.timeout(600):
        async for message in service.trainer.WatchTrainingRun(WatchTrainingRunRequest(name=name)):
            if message.HasField("finished"):
                break
    return await read(service, name)
