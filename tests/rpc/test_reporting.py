"""A worker's reports to a real trainer: they arrive, whole and in order, whatever the network does."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from handful.channel import connect
from handful.v1.trainer_pb2 import TrainingRun, TrainingRunEvent
from handful.v1.worker_pb2 import FinishTrainingRunRequest
from handful.v1.worker_pb2_grpc import WorkerServiceStub
from services.shared.objects.filesystem import FilesystemStore
from services.shared.objects.retrying import RetryingStore
from services.trainer.worker import checkpoints, session
from services.trainer.worker.pretrained import PretrainedWeights
from services.trainer.worker.reporting import (
    KEPT_CHECKPOINTS,
    MAX_CHECKPOINTS,
    MAX_EVENTS,
    LeaseLost,
    Reporter,
    RunCancelled,
)
from services.trainer.worker.work import begin
from tests.playing_worker import Hold, cancel, claim, create, epoch, events, lose, read, seal, unreadable
from tests.relay import Relay
from tests.servers import Databases, DatasetService, TrainerService

Result = TypeVar("Result")
STOPPED = FinishTrainingRunRequest(cancelled=FinishTrainingRunRequest.Cancelled())


@pytest.fixture
def databases(tmp_path: Path) -> Databases:
    """SQLite alone: what happens on the way to a service has nothing to do with SQL."""
    return Databases.in_files(tmp_path)


@pytest.fixture
async def hold(trainer_service: TrainerService, dataset_service: DatasetService, picture: Callable[..., bytes]) -> Hold:
    await create(trainer_service, await seal(dataset_service, picture))
    return await claim(trainer_service)


@asynccontextmanager
async def reporting(relay: Relay, hold: Hold) -> AsyncIterator[Reporter]:
    """A reporter on the held run that reaches the trainer through a relay."""
    async with relay.listening():
        with connect(relay.address) as channel:
            yield Reporter(WorkerServiceStub(channel), hold.claim)


async def elsewhere(task: Callable[..., Result], *arguments: Any) -> Result:
    """In a thread, as training is: the trainer serves from this one."""
    async with asyncio.timeout(60):
        return await asyncio.to_thread(task, *arguments)


async def epochs(service: TrainerService, run: str) -> list[int]:
    """The epochs that the trainer has heard of, in its order."""
    return [event.epoch for event in await events(service, run) if event.HasField("epoch_completed")]


async def checked_for_ever(reporter: Reporter) -> None:
    """As training does; ends with what the reporter raises."""
    while True:
        await asyncio.sleep(0.1)
        reporter.check()


async def test_events_arrive_once_and_in_order_through_cuts(trainer_service: TrainerService, hold: Hold) -> None:
    """Though answers are cut off at random bytes, the trainer has every event exactly once and in order."""
    chance = random.Random(7)  # noqa: S311 - the same cuts every time
    relay = Relay(trainer_service.worker_address, lambda: chance.randrange(50, 900) if relay.num_cut < 10 else None)
    async with reporting(relay, hold) as reporter:
        number = 0
        while relay.num_cut < 10:
            number += 1
            await elsewhere(reporter.event, epoch(number))
            await asyncio.sleep(0.02)
        await elsewhere(reporter.close)
    assert await epochs(trainer_service, hold.run) == list(range(1, number + 1))


async def test_training_does_not_wait_for_a_trainer_that_is_away(trainer_service: TrainerService, hold: Hold) -> None:
    """A thousand events are kept meanwhile; the one after them waits until the trainer has some."""
    relay = Relay()
    async with reporting(relay, hold) as reporter:
        for number in range(1, MAX_EVENTS + 1):
            await elsewhere(reporter.event, epoch(number))
        waiting = asyncio.create_task(elsewhere(reporter.event, epoch(MAX_EVENTS + 1)))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        assert await epochs(trainer_service, hold.run) == []
        relay.upstream = trainer_service.worker_address
        await waiting
        await elsewhere(reporter.close)
    assert await epochs(trainer_service, hold.run) == list(range(1, MAX_EVENTS + 2))


async def test_training_that_waits_hears_that_its_run_is_lost(trainer_service: TrainerService, hold: Hold) -> None:
    """Nobody waits for room that will not come."""
    relay = Relay()
    async with reporting(relay, hold) as reporter:
        for number in range(1, MAX_EVENTS + 1):
            await elsewhere(reporter.event, epoch(number))
        waiting = asyncio.create_task(elsewhere(reporter.event, epoch(MAX_EVENTS + 1)))
        await lose(trainer_service, hold)
        relay.upstream = trainer_service.worker_address
        await waiting
        with pytest.raises(LeaseLost):
            reporter.check()


async def test_of_checkpoints_that_wait_the_newest_counts(
    trainer_service: TrainerService, hold: Hold, store: FilesystemStore
) -> None:
    """While the trainer is away a store does not fill with checkpoints, and afterwards the newest is the run's."""
    relay = Relay()
    async with reporting(relay, hold) as reporter:
        useless = []
        for number in range(1, 8):
            await elsewhere(reporter.event, epoch(number))
            useless += await elsewhere(reporter.checkpoint, hold.checkpoint(store, number))
        assert len(useless) == 7 - MAX_CHECKPOINTS
        relay.upstream = trainer_service.worker_address
        await elsewhere(reporter.close)
    told = await events(trainer_service, hold.run)
    assert [event.epoch for event in told if event.HasField("checkpoint_saved")] == [1, 7]
    await lose(trainer_service, hold)
    again = await claim(trainer_service)
    assert again.claim.checkpoint.epoch == 7
    assert again.claim.checkpoint.key not in useless


async def test_checkpoints_that_were_followed_by_two_go(
    trainer_service: TrainerService, hold: Hold, store: FilesystemStore
) -> None:
    """Of those that were committed the last two stay."""
    useless: list[str] = []
    kept = [hold.checkpoint(store, number) for number in range(1, 6)]
    async with reporting(Relay(trainer_service.worker_address), hold) as reporter:
        for checkpoint in kept:
            useless += await elsewhere(reporter.checkpoint, checkpoint)
            async with asyncio.timeout(20):
                while (await events(trainer_service, hold.run))[-1].epoch != checkpoint.epoch:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        await elsewhere(reporter.close)
    assert useless == [one.key for one in kept[: len(kept) - KEPT_CHECKPOINTS - 1]]


async def test_an_end_is_told_until_it_is_heard(trainer_service: TrainerService, hold: Hold) -> None:
    """A worker that is done while the trainer is away finishes its run once the trainer is back, and only once."""
    await cancel(trainer_service, hold.run)
    chance = random.Random(1)  # noqa: S311 - the same cuts every time
    relay = Relay(allow=lambda: chance.randrange(50, 300) if relay.num_cut < 3 else None)
    async with reporting(relay, hold) as reporter:
        await elsewhere(reporter.event, epoch(1))

        def end() -> None:
            reporter.close()
            reporter.finish(STOPPED)

        ending = asyncio.create_task(elsewhere(end))
        await asyncio.sleep(0.5)
        relay.upstream = trainer_service.worker_address
        await ending
    assert (await read(trainer_service, hold.run)).state == TrainingRun.STATE_CANCELLED
    last = (await events(trainer_service, hold.run))[-1]
    assert isinstance(last, TrainingRunEvent)
    assert last.state_changed.state == TrainingRun.STATE_CANCELLED


async def test_a_run_that_waits_for_its_store_can_be_cancelled(
    trainer_service: TrainerService, hold: Hold, store: FilesystemStore
) -> None:
    """Whoever cancels does not wait until the store is back, or given up; and no checkpoint of the run stays."""
    checkpoint = checkpoints.key(hold.claim, 1)
    store.put(checkpoint, b"weights")
    unreadable(store, f"projects/default/manifests/{hold.claim.dataset_manifest_sha256}.json")
    with connect(trainer_service.worker_address) as channel:
        patient, weights = RetryingStore(store, 600), PretrainedWeights(store)
        work = begin(WorkerServiceStub(channel), hold.claim, patient, weights, threads=1)
        running = asyncio.create_task(elsewhere(session.run, work))
        await asyncio.sleep(0.5)
        assert not running.done()
        await cancel(trainer_service, hold.run)
        async with asyncio.timeout(10):
            await running
    assert (await read(trainer_service, hold.run)).state == TrainingRun.STATE_CANCELLED
    assert checkpoint not in store.keys("projects/default/runs/")


async def test_a_checkpoint_that_waits_for_the_store_holds_nothing_up(
    trainer_service: TrainerService, hold: Hold, store: FilesystemStore
) -> None:
    """While the trainer cannot look at it, the worker hears that the run is cancelled, and can end it."""
    checkpoint = hold.checkpoint(store, 1)
    unreadable(store, checkpoint.key)
    async with reporting(Relay(trainer_service.worker_address), hold) as reporter:
        await elsewhere(reporter.checkpoint, checkpoint)
        await elsewhere(reporter.event, epoch(2))
        await cancel(trainer_service, hold.run)
        async with asyncio.timeout(10):
            with pytest.raises(RunCancelled):
                await checked_for_ever(reporter)

        def end() -> None:
            reporter.close(commit=False)
            reporter.finish(STOPPED)

        async with asyncio.timeout(10):
            await elsewhere(end)
    assert await epochs(trainer_service, hold.run) == [2]
    assert (await read(trainer_service, hold.run)).state == TrainingRun.STATE_CANCELLED
