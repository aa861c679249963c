"""Two trainers on one PostgreSQL database: products and workers may talk to either, and need not know which."""

import asyncio
import itertools
import json
import os
import platform
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest

from handful.bundle.manifest import pointer_key
from handful.errors import FailedPrecondition
from handful.v1 import model_pb2, worker_pb2
from handful.v1.bundle_pb2 import Recipe
from handful.v1.trainer_pb2 import Progress, TrainingRun
from services.shared.objects import ObjectMissing, ObjectStore
from services.shared.objects.filesystem import FilesystemStore
from services.shared.settings import child_environment
from services.trainer import attempts
from services.trainer.local_workers import LocalWorkers
from services.trainer.watching import POLL_SECONDS
from tests.playing_worker import (
    PROJECT,
    asking,
    bundle,
    cancel,
    claim,
    claim_briefly,
    create,
    epoch,
    events,
    read,
    refusal,
    run_names,
    seal,
    sweep,
)
from tests.rpc.test_watch import Watch
from tests.servers import Databases, DatasetService, TrainerService, running_trainer

pytestmark = pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
CANCEL = worker_pb2.ReportTrainingRunResponse.DIRECTIVE_CANCEL


class UnevenStore(FilesystemStore):
    """Every second pointer takes longer to write, so that one which was begun earlier may come later."""

    turns = itertools.count()

    def put(self, key: str, data: bytes) -> None:
        if key == pointer_key("default") and next(self.turns) % 2:
            time.sleep(0.03)
        super().put(key, data)


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    return UnevenStore(tmp_path / "store")


@pytest.fixture
async def other(
    databases: Databases, store: FilesystemStore, dataset_service: DatasetService
) -> AsyncIterator[TrainerService]:
    """The second replica; `trainer_service` is the first."""
    async with running_trainer(databases.trainer, store, dataset_service.address) as service:
        yield service


@pytest.fixture
async def version(dataset_service: DatasetService, picture: Callable[..., bytes]) -> str:
    return await seal(dataset_service, picture)


async def test_either_serves_a_watch(
    trainer_service: TrainerService, other: TrainerService, store: ObjectStore, version: str
) -> None:
    """What is reported to one replica is told by the other within its poll: every event once, progress, the end."""
    await create(trainer_service, version)
    hold = await claim(trainer_service)
    watch = Watch.of(other, hold.run)
    await watch.next("started")
    lags = []
    for number in range(1, 6):
        await hold.report(epoch(number))
        begin = time.monotonic()
        while (await watch.next("event")).event.epoch != number:
            pass
        lags.append(time.monotonic() - begin)
        await asyncio.sleep(0.17 * number)  # so that reports come at different moments of the poll
    assert max(lags) < 3 * POLL_SECONDS, lags
    await hold.report(progress=Progress(phase="fitting", completed=7))
    assert (await watch.next("progress")).progress.completed == 7
    await hold.succeed(bundle(store))
    assert await watch.end() == grpc.StatusCode.OK
    assert watch.sequences == list(range(1, 10))
    assert watch.seen[-1].finished.training_run == await read(trainer_service, hold.run)


async def test_a_run_is_cancelled_through_either(
    trainer_service: TrainerService, other: TrainerService, version: str
) -> None:
    """The worker hears of it with its next report, wherever it reports."""
    await create(trainer_service, version)
    hold = await claim(trainer_service)
    await cancel(other, hold.run)
    assert (await hold.report()).directive == CANCEL
    await hold.stop()
    assert (await read(other, hold.run)).state == TrainingRun.STATE_CANCELLED


async def test_who_comes_first_decides_whether_a_run_is_cancelled(
    trainer_service: TrainerService, other: TrainerService, store: ObjectStore, version: str
) -> None:
    """A cancel at one replica while the worker ends the run at the other: nothing happens to a run that is over."""
    digest = bundle(store)
    for _ in range(10):
        await create(trainer_service, version)
        hold = await claim(trainer_service)
        await asyncio.gather(hold.succeed(digest), cancel(other, hold.run))
        told = [event.state_changed.state for event in await events(other, hold.run) if event.HasField("state_changed")]
        assert told[-1] == TrainingRun.STATE_SUCCEEDED
        assert told.count(TrainingRun.STATE_SUCCEEDED) == 1


async def test_no_two_workers_get_one_run_of_either(
    trainer_service: TrainerService, other: TrainerService, version: str
) -> None:
    """However many ask both at once, every run is given once; and a claim that is repeated elsewhere is the same."""
    runs = {(await create(trainer_service, version)).name for _ in range(12)}
    both = itertools.cycle((trainer_service, other))
    holds = await asyncio.gather(*(claim(next(both), f"worker-{number}") for number in range(12)))
    assert {hold.run for hold in holds} == runs
    for _ in range(4):
        await create(trainer_service, version)
    asked = (next(both).workers.ClaimTrainingRun(asking("worker-1", "claim-1"), timeout=5) for _ in range(10))
    answers = await asyncio.gather(*asked)
    assert all(answer == answers[0] for answer in answers)


async def test_a_worker_may_go_on_at_the_other(
    trainer_service: TrainerService, other: TrainerService, store: ObjectStore, version: str
) -> None:
    """Reports, commits and the end may each go to another replica; numbers go on, and repeats are taken silently."""
    await create(trainer_service, version)
    hold = await claim(trainer_service)
    for number in range(1, 7):
        hold.stub = (trainer_service, other)[number % 2].workers
        await hold.report(epoch(number))
        await hold.send([(number, epoch(number))])
        await hold.commit(hold.checkpoint(store, number))
    digest = bundle(store)
    await hold.succeed(digest)
    hold.stub = other.workers
    await hold.succeed(digest)
    told = await events(other, hold.run)
    assert [event.sequence for event in told] == list(range(1, len(told) + 1))
    assert [event.epoch for event in told if event.HasField("epoch_completed")] == [1, 2, 3, 4, 5, 6]


async def test_a_hundred_creates_at_both_with_one_request_id_make_one_run(
    trainer_service: TrainerService, other: TrainerService, version: str
) -> None:
    """However often, however concurrently and wherever a create is repeated, there is one run."""
    request_id = str(uuid.uuid4())
    both = itertools.cycle((trainer_service, other))
    made = await asyncio.gather(*(create(next(both), version, request_id=request_id) for _ in range(100)))
    assert all(run == made[0] for run in made)
    assert await run_names(other) == [made[0].name]


async def test_a_lost_worker_is_lost_once(trainer_service: TrainerService, other: TrainerService, version: str) -> None:
    """Both replicas sweep at once: a lease is ended by one of them, with one event."""
    for _ in range(6):
        await create(trainer_service, version)
    holds = [await claim_briefly(trainer_service, f"worker-{number}") for number in range(6)]
    await asyncio.sleep(0.01)
    swept = await asyncio.gather(*(sweep(service) for service in (trainer_service, other) for _ in range(4)))
    assert sorted(key.run for keys in swept for key in keys) == sorted(hold.grip.key.run for hold in holds)
    for hold in holds:
        told = await events(other, hold.run)
        assert [event.state_changed.state for event in told if event.HasField("state_changed")] == [
            TrainingRun.STATE_QUEUED,
            TrainingRun.STATE_RUNNING,
            TrainingRun.STATE_RECOVERING,
        ]


async def test_versions_are_numbered_and_pointers_grow(
    trainer_service: TrainerService, other: TrainerService, store: FilesystemStore, version: str
) -> None:
    """Runs of one model that end at both replicas at once become versions 1..N, and what inference reads never goes
    back to an older generation.
    """
    num_runs = 20
    both = itertools.cycle((trainer_service, other))
    for _ in range(num_runs):
        await create(trainer_service, version)
    holds = [await claim(next(both), f"worker-{number}") for number in range(num_runs)]
    seen: list[int] = []

    async def look() -> None:
        while True:
            seen.append(await asyncio.to_thread(generation, store))
            await asyncio.sleep(0.005)

    looking = asyncio.create_task(look())
    await asyncio.gather(*(hold.succeed(bundle(store, number / 100)) for number, hold in enumerate(holds)))
    looking.cancel()
    listed = await other.models.ListModelVersions(
        model_pb2.ListModelVersionsRequest(parent=f"{PROJECT}/models/flowers", page_size=num_runs)
    )
    names = [one.name for one in listed.model_versions]
    assert names == [f"{PROJECT}/models/flowers/versions/{number}" for number in range(num_runs, 0, -1)]
    assert seen == sorted(seen)
    pointer = json.loads(store.get(pointer_key("default")))
    assert (int(pointer["generation"]), len(pointer["models"]["flowers"]["versions"])) == (num_runs, num_runs)


def generation(store: FilesystemStore) -> int:
    try:
        return int(json.loads(store.get(pointer_key("default")))["generation"])
    except ObjectMissing:
        return 0


async def test_what_a_worker_can_do_is_known_to_both(
    trainer_service: TrainerService, other: TrainerService, version: str
) -> None:
    """A run is refused only where no worker at either replica has its weights; one that holds a run still counts."""
    fast = {"recipe": Recipe(preset="fast", architecture="efficientnet_lite0")}
    await create(other, version, **fast)
    bare = trainer_service.workers.ClaimTrainingRun(asking("worker-1", pretrained=()), timeout=20)
    await asyncio.sleep(0.5)
    refused = await refusal(create(other, version, **fast))
    assert isinstance(refused, FailedPrecondition)
    assert refused.reason == "WEIGHTS_UNAVAILABLE"
    bare.cancel()
    await claim(trainer_service, "worker-2")
    await create(other, version, **fast)


async def test_a_replica_counts_its_own_workers_alone(
    trainer_service: TrainerService, other: TrainerService, version: str
) -> None:
    """Whoever starts anew waits for runs that its own workers hold, by how their ids begin, and for nobody else's."""
    for name in ("node-7112-1-a", "node-7112-2-b", "node-71123-1-c", "node-7113-1-d", "node_7112-1-e"):
        await create(trainer_service, version)
        await claim(trainer_service, name)
    async with other.database.read() as connection:
        assert len(await attempts.holders(connection, "node-7112-")) == 2
        assert len(await attempts.holders(connection, "node_7112-")) == 1


async def test_a_replica_starts_its_workers_whatever_others_hold(
    trainer_service: TrainerService, other: TrainerService, version: str
) -> None:
    """A run in the hands of another's worker keeps no worker from starting; one that is held by a worker of its own
    that lives, from before it started anew, takes that worker's place.
    """
    for name in (f"elsewhere-7112-{os.getpid()}-a", f"{platform.node()}-7112-{os.getpid()}-a"):
        await create(trainer_service, version)
        await claim(trainer_service, name)
    for port, expected in (("7113", 1), ("7112", 0)):
        local, before = LocalWorkers(other.database, 1, f"127.0.0.1:{port}", child_environment()), children()
        running = asyncio.create_task(local.run())
        await asyncio.sleep(1)
        assert len(children() - before) == expected
        running.cancel()
        await local.stop()


def children() -> set[str]:
    """The processes that this one has started."""
    pid = os.getpid()
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
