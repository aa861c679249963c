"""Following a run: every event once and in order, from any position, through cut connections and restarts."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
import pytest
from grpc import aio

from handful.errors import InvalidArgument, NotFound, OutOfRange, Unavailable
from handful.v1.trainer_pb2 import (
    Progress,
    TrainingRun,
    WatchTrainingRunRequest,
    WatchTrainingRunResponse,
)
from services.shared.objects import ObjectStore
from services.trainer.watching import POLL_SECONDS
from tests.playing_worker import (
    PROJECT,
    Hold,
    bundle,
    cancel,
    claim,
    create,
    epoch,
    events,
    read,
    refusal,
    seal,
)
from tests.servers import Databases, DatasetService, TrainerService, running_trainer

Message = WatchTrainingRunResponse


@pytest.fixture
async def version(dataset_service: DatasetService, picture: Callable[..., bytes]) -> str:
    return await seal(dataset_service, picture)


@pytest.fixture
async def hold(trainer_service: TrainerService, version: str) -> Hold:
    """A run that is being trained: it is queued, running, and has begun its first attempt, which are three events."""
    await create(trainer_service, version)
    return await claim(trainer_service)


@dataclass
class Watch:
    """A watch and what it has seen so far."""

    call: aio.UnaryStreamCall[WatchTrainingRunRequest, Message]
    seen: list[Message] = field(default_factory=list)

    @classmethod
    def of(cls, service: TrainerService, run: str, after: int | None = 0) -> "Watch":
        return cls(service.trainer.WatchTrainingRun(WatchTrainingRunRequest(name=run, after_sequence=after)))

    async def next(self, kind: str, seconds: float = 5.0) -> Message:
        """Reads on to the next message of a kind."""
        async with asyncio.timeout(seconds):
            async for message in self.call:
                self.seen.append(message)
                if message.WhichOneof("message") == kind:
                    return message
        raise AssertionError(f"the stream ended without {kind}")

    async def end(self, seconds: float = 10.0) -> grpc.StatusCode:
        """Reads to the end: the status."""
        async with asyncio.timeout(seconds):
            async for message in self.call:
                self.seen.append(message)
            return await self.call.code()

    @property
    def kinds(self) -> list[str | None]:
        return [message.WhichOneof("message") for message in self.seen]

    @property
    def sequences(self) -> list[int]:
        return [message.event.sequence for message in self.seen if message.HasField("event")]


async def test_a_watch_begins_with_the_run_as_it_stands(trainer_service: TrainerService, hold: Hold) -> None:
    """The first message has the run, where its events begin and end, and how often something is said."""
    await hold.report(epoch(1))
    started = (await Watch.of(trainer_service, hold.run).next("started")).started
    assert started.training_run == await read(trainer_service, hold.run)
    assert (started.oldest_sequence, started.latest_sequence) == (1, 4)
    assert 0 < started.heartbeat_interval_seconds <= 15


async def test_a_watch_has_every_event_after_its_position(
    trainer_service: TrainerService, store: ObjectStore, hold: Hold
) -> None:
    """0 gives all events, n those after n, no position only new ones: in order, no gap, no repeat, then the end."""
    await hold.report(epoch(1))
    watches = {after: Watch.of(trainer_service, hold.run, after) for after in (0, 1, 3, 4, None)}
    for watch in watches.values():
        await watch.next("started")
    for number in range(2, 6):
        await hold.report(epoch(number))
    await hold.succeed(bundle(store))
    run, told = await read(trainer_service, hold.run), await events(trainer_service, hold.run)
    assert [event.sequence for event in told] == list(range(1, 10))
    for after, watch in watches.items():
        assert await watch.end() == grpc.StatusCode.OK
        expected = told[4 if after is None else after :]
        assert watch.kinds == ["started", *["event"] * len(expected), "finished"]
        assert [message.event for message in watch.seen[1:-1]] == expected
        assert watch.seen[-1].finished.training_run == run


async def test_watchers_are_woken(trainer_service: TrainerService, hold: Hold) -> None:
    """An event comes when it happens, not when someone looks next."""
    watch = Watch.of(trainer_service, hold.run, None)
    await watch.next("started")
    begin = time.monotonic()
    for number in range(1, 6):
        await hold.report(epoch(number))
        assert (await watch.next("event")).event.epoch == number
    assert time.monotonic() - begin < 2.5 * POLL_SECONDS


async def test_a_position_that_is_not_there_is_refused(trainer_service: TrainerService, hold: Hold) -> None:
    """A position ahead of the run says so, with the latest there is; one that can never be is INVALID_ARGUMENT."""
    for after in (4, 2**62):
        ahead = await refusal(Watch.of(trainer_service, hold.run, after).end())
        assert isinstance(ahead, OutOfRange)
        assert (ahead.reason, ahead.facts["latest_sequence"]) == ("SEQUENCE_AHEAD", "3")
    never = await refusal(Watch.of(trainer_service, hold.run, -1).end())
    assert isinstance(never, InvalidArgument)
    assert [field for field, _ in never.violations] == ["after_sequence"]


async def test_a_silent_run_is_heard_of(trainer_service: TrainerService, hold: Hold) -> None:
    """With nothing to say, a heartbeat comes within the interval that was promised."""
    watch = Watch.of(trainer_service, hold.run, None)
    interval = (await watch.next("started")).started.heartbeat_interval_seconds
    begin = time.monotonic()
    await watch.next("heartbeat", seconds=interval + 1)
    assert time.monotonic() - begin > interval / 2
    assert watch.kinds == ["started", "heartbeat"]


@pytest.mark.parametrize("state", ["SUCCEEDED", "FAILED", "CANCELLED"])
async def test_a_run_that_is_over_is_told_and_finished(
    trainer_service: TrainerService, store: ObjectStore, hold: Hold, state: str
) -> None:
    """A watch on a run that is over sends what is left, `finished` with the run as it ended, and ends with OK."""
    if state == "SUCCEEDED":
        await hold.succeed(bundle(store))
    elif state == "FAILED":
        await hold.fail()
    else:
        await cancel(trainer_service, hold.run)
        await hold.stop()
    run = await read(trainer_service, hold.run)
    assert run.state == TrainingRun.State.Value(f"STATE_{state}")
    latest = run.latest_sequence
    for after, left in {0: range(1, latest + 1), latest - 1: [latest], latest: [], None: []}.items():
        watch = Watch.of(trainer_service, hold.run, after)
        assert await watch.end() == grpc.StatusCode.OK
        assert watch.sequences == list(left)
        assert watch.seen[0].started.training_run == run
        assert watch.seen[-1].finished.training_run == run


async def test_a_drain_sends_watchers_on(trainer_service: TrainerService, store: ObjectStore, hold: Hold) -> None:
    """A server that stops ends its watches soon and says so; what there is to tell is told before."""
    quiet = Watch.of(trainer_service, hold.run)
    await quiet.next("started")
    trainer_service.server.draining.set()
    error = await refusal(quiet.end(seconds=3))
    assert isinstance(error, Unavailable)
    assert error.reason == "SERVER_DRAINING"
    late = Watch.of(trainer_service, hold.run)
    assert (await refusal(late.end(seconds=3))).reason == "SERVER_DRAINING"
    assert late.sequences == [1, 2, 3]
    await hold.succeed(bundle(store))
    assert await Watch.of(trainer_service, hold.run).end() == grpc.StatusCode.OK


async def test_only_the_latest_progress_is_told(trainer_service: TrainerService, hold: Hold) -> None:
    """Progress has no number, comes to those who watch and to those who come later, and is gone with the run."""
    watch = Watch.of(trainer_service, hold.run, None)
    await watch.next("started")
    for completed in range(1, 51):
        await hold.report(progress=Progress(phase="features", completed=completed, total=50))
    while (await watch.next("progress")).progress.completed < 50:
        pass
    await hold.report(epoch(1))
    await watch.next("event")
    await hold.report(epoch(2))
    await watch.next("event")
    told = [message.progress.completed for message in watch.seen if message.HasField("progress")]
    assert told == sorted(set(told))
    late = Watch.of(trainer_service, hold.run)
    assert (await late.next("progress")).progress == Progress(phase="features", completed=50, total=50)
    assert (await read(trainer_service, hold.run)).latest_sequence == 5
    await hold.fail()
    after = Watch.of(trainer_service, hold.run)
    assert await after.end() == grpc.StatusCode.OK
    assert "progress" not in after.kinds


async def test_progress_outlives_the_trainer(
    databases: Databases, store: ObjectStore, dataset_service: DatasetService, version: str
) -> None:
    """After a restart the events are all there, and so is the progress that was reported last."""
    said = Progress(phase="fitting", completed=1)
    async with running_trainer(databases.trainer, store, dataset_service.address) as service:
        await create(service, version)
        hold = await claim(service)
        await hold.report(epoch(1), progress=said)
    async with running_trainer(databases.trainer, store, dataset_service.address) as service:
        watch = Watch.of(service, hold.run)
        assert (await watch.next("progress")).progress == said
        assert watch.sequences == [1, 2, 3, 4]


async def test_many_watch_at_once_and_some_leave(
    trainer_service: TrainerService, store: ObjectStore, hold: Hold, version: str
) -> None:
    """Watchers at different positions each see theirs exactly, though others leave or never read; no other run's."""
    other = await create(trainer_service, version)
    elsewhere = Watch.of(trainer_service, other.name)
    positions = [0, 1, 2, 3] * 6
    watches = [Watch.of(trainer_service, hold.run, after) for after in positions]
    leaving = [Watch.of(trainer_service, hold.run) for _ in range(10)]
    sleeping = [Watch.of(trainer_service, hold.run) for _ in range(3)]
    await asyncio.gather(*(watch.next("started") for watch in watches + leaving))
    for number, watch in enumerate(leaving, start=1):
        await hold.report(epoch(number))
        watch.call.cancel()
    await hold.succeed(bundle(store))
    ends = await asyncio.gather(*(watch.end() for watch in watches))
    assert set(ends) == {grpc.StatusCode.OK}
    assert all(watch.sequences == list(range(after + 1, 15)) for watch, after in zip(watches, positions, strict=True))
    for watch in sleeping:
        assert await watch.end() == grpc.StatusCode.OK
        assert watch.sequences == list(range(1, 15))
    await cancel(trainer_service, other.name)
    await elsewhere.end()
    assert elsewhere.sequences == [1, 2]


async def test_there_is_no_watch_without_a_run(trainer_service: TrainerService) -> None:
    """An unknown run is NOT_FOUND, and what is no run's name is INVALID_ARGUMENT."""
    unknown = await refusal(Watch.of(trainer_service, f"{PROJECT}/trainingRuns/1").end())
    assert isinstance(unknown, NotFound)
    assert unknown.message == f"There is no training run {PROJECT}/trainingRuns/1."
    assert isinstance(await refusal(Watch.of(trainer_service, "1").end()), InvalidArgument)
