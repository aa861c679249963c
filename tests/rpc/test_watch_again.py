"""The SDK's watch: every event once, through cut connections, a trainer that starts anew, and whatever servers do."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Self

import grpc
import pytest
from grpc import aio

from handful.errors import HandfulError, NotFound, OutOfRange, Unavailable
from handful.peers import reach
from handful.run import Run
from handful.v1.trainer_pb2 import TrainingRun, TrainingRunEvent, WatchTrainingRunRequest, WatchTrainingRunResponse
from handful.v1.trainer_pb2_grpc import TrainerServiceStub
from services.shared.objects import ObjectStore
from tests.playing_worker import PROJECT, bundle, claim, create, epoch, seal
from tests.relay import Relay
from tests.servers import Databases, DatasetService, TrainerService, running_trainer


@pytest.fixture
def databases(tmp_path: Path) -> Databases:
    """SQLite alone: what happens on the way to a service has nothing to do with SQL."""
    return Databases.in_files(tmp_path)


@pytest.fixture
async def version(dataset_service: DatasetService, picture: Callable[..., bytes]) -> str:
    return await seal(dataset_service, picture)


class Follower:
    """Someone who follows a run with the SDK, in a thread of their own."""

    def __init__(self, address: str, run: str) -> None:
        self.sequences: list[int] = []
        self.problems: list[HandfulError] = []
        self._channel = reach("trainer", address)
        self._run = Run(TrainerServiceStub(self._channel), TrainingRun(name=run))
        self._news: asyncio.Queue[int] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(asyncio.to_thread(self._follow))

    async def seen(self, sequence: int) -> None:
        """Until the event was seen."""
        async with asyncio.timeout(20):
            while not self.sequences or self.sequences[-1] < sequence:
                self.sequences.append(await self._news.get())

    async def end(self) -> TrainingRun:
        """The run, as the end of the watch has it."""
        async with asyncio.timeout(20):
            ended = await self._task
        while not self._news.empty():
            self.sequences.append(self._news.get_nowait())
        return ended

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._channel.close()  # which ends the thread where the test failed
        await asyncio.wait([self._task])

    def _follow(self) -> TrainingRun:
        for event in self._run.watch(on_reconnect=self.problems.append):
            if isinstance(event, TrainingRunEvent):
                self._loop.call_soon_threadsafe(self._news.put_nowait, event.sequence)
        return self._run.training_run


async def test_the_sdk_sees_every_event_once_through_twenty_cuts(trainer_service: TrainerService, version: str) -> None:
    """Though connections are cut at random bytes, whoever watches with the SDK sees exactly 1..N and then the end."""
    await create(trainer_service, version)
    hold = await claim(trainer_service)
    chance = random.Random(20)  # noqa: S311 - the same cuts every time
    relay = Relay(trainer_service.address, lambda: chance.randrange(200, 4000) if relay.num_cut < 20 else None)
    async with relay.listening(), Follower(relay.address, hold.run) as follower, asyncio.timeout(60):
        while relay.num_cut < 20:
            await hold.report(*(epoch(hold.reported + number) for number in range(1, 11)))
            await asyncio.sleep(0.05)
        await hold.fail()
        ended = await follower.end()
    assert ended.state == TrainingRun.STATE_FAILED
    assert follower.sequences == list(range(1, ended.latest_sequence + 1))
    assert ended.latest_sequence == 3 + hold.reported + 1
    assert follower.problems
    assert all(isinstance(problem, Unavailable) for problem in follower.problems)


async def test_the_sdk_follows_through_a_restart(
    databases: Databases, store: ObjectStore, dataset_service: DatasetService, version: str
) -> None:
    """While the trainer stops and starts anew at the same address, a watch goes on where it was, to the end."""
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(Relay().listening())
        async with running_trainer(databases.trainer, store, dataset_service.address) as service:
            relay.upstream = service.address
            await create(service, version)
            hold = await claim(service)
            follower = await stack.enter_async_context(Follower(relay.address, hold.run))
            await hold.report(epoch(1))
            await follower.seen(4)
        relay.upstream = None
        service = await stack.enter_async_context(running_trainer(databases.trainer, store, dataset_service.address))
        hold.stub = service.workers
        await hold.report(epoch(2))
        relay.upstream = service.address
        await hold.report(epoch(3))
        await follower.seen(6)
        await hold.succeed(bundle(store))
        assert (await follower.end()).model_version == f"{PROJECT}/models/flowers/versions/1"
    assert follower.sequences == list(range(1, 8))
    assert follower.problems


Script = Sequence[WatchTrainingRunResponse | float]


@asynccontextmanager
async def scripted(*scripts: Script) -> AsyncIterator[tuple[str, list[int]]]:
    """A server whose watches go by a script each, message by message, with pauses in seconds; then they end, with OK.

    Its address, and the positions that were asked for.
    """
    asked: list[int] = []

    async def watch(
        request: WatchTrainingRunRequest, _: aio.ServicerContext[object, object]
    ) -> AsyncIterator[WatchTrainingRunResponse]:
        asked.append(request.after_sequence)
        for step in scripts[len(asked) - 1]:
            if isinstance(step, float):
                await asyncio.sleep(step)
            else:
                yield step

    handler = grpc.unary_stream_rpc_method_handler(
        watch, WatchTrainingRunRequest.FromString, WatchTrainingRunResponse.SerializeToString
    )
    server = aio.server()
    methods = {"WatchTrainingRun": handler}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("handful.v1.TrainerService", methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", asked
    finally:
        await server.stop(0)


def started(heartbeat_seconds: float = 5.0) -> WatchTrainingRunResponse:
    return WatchTrainingRunResponse(
        started=WatchTrainingRunResponse.Started(heartbeat_interval_seconds=heartbeat_seconds)
    )


def event(sequence: int) -> WatchTrainingRunResponse:
    return WatchTrainingRunResponse(event=TrainingRunEvent(sequence=sequence))


HEARTBEAT = WatchTrainingRunResponse(heartbeat=WatchTrainingRunResponse.Heartbeat())
FINISHED = WatchTrainingRunResponse(finished=WatchTrainingRunResponse.Finished())


@pytest.mark.parametrize(
    ("scripts", "positions"),
    [
        pytest.param(
            [[started(), event(1), event(2)], [], [started(), event(3), FINISHED]],
            [0, 2, 2],
            id="ends without finished",
        ),
        pytest.param(
            [[started(), event(1), event(2)], [started(), event(1), event(2), event(3), FINISHED]], [0, 2], id="repeats"
        ),
        pytest.param(
            [[started(0.1), event(1), event(2), 5.0], [started(), event(3), FINISHED]], [0, 2], id="falls silent"
        ),
        pytest.param(
            [[started(0.3), event(1), 0.4, HEARTBEAT, 0.4, HEARTBEAT, 0.4, event(2), event(3), FINISHED]],
            [0],
            id="is slow",
        ),
    ],
)
async def test_the_sdk_sees_every_event_once_whatever_the_server_does(
    scripts: list[Script], positions: list[int]
) -> None:
    """Only `finished` ends a watch: after another end, or three silent intervals, it asks on from where it is."""
    async with scripted(*scripts) as (address, asked), Follower(address, "projects/default/trainingRuns/1") as follower:
        await follower.end()
    assert follower.sequences == [1, 2, 3]
    assert asked == positions
    assert len(follower.problems) == len(positions) - 1


async def test_the_sdk_does_not_try_what_cannot_succeed(trainer_service: TrainerService, version: str) -> None:
    """A run that is not there and a position that it does not have are raised at once."""
    run = await create(trainer_service, version)
    with reach("trainer", trainer_service.address) as channel:
        stub = TrainerServiceStub(channel)
        for name, after, kind in ((f"{run.name}0", 0, NotFound), (run.name, 2, OutOfRange)):
            watch = Run(stub, TrainingRun(name=name)).watch(after)
            with pytest.raises(kind):
                await asyncio.to_thread(next, watch)
