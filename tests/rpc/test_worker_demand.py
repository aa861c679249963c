"""The view that a cluster scales workers by: how many Jobs are wanted, as time passes and KEDA looks every ten seconds.

Time passes by moving every row into the past; runs are claimed and ended as workers do it.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa

from handful.v1.bundle_pb2 import Recipe
from handful.v1.worker_pb2 import Capabilities
from services.trainer import attempts, runs, workers
from services.trainer.records import Grip, NewRun, RunKey, RunRecord, State
from tests.playing_worker import cancel, claim, create, lose, read, seal
from tests.servers import DatasetService, TrainerService

pytestmark = pytest.mark.parametrize("databases", ["postgresql"], indirect=True)

POLL_SECONDS = 10
MAX_JOBS = 8
# From wanting a Job to its first claim: a node starts, an image is pulled.
START_SECONDS = 60
IDLE_SECONDS = 90
# What the view takes a run for that nothing is known of.
UNKNOWN_SECONDS = 60


@dataclass
class Worker:
    """A worker that is there, and what it holds: the run, and in how many seconds it is done."""

    name: str
    job: bool
    starts_in: float = 0.0
    idle: float = 0.0
    held: RunRecord | None = None
    left: float = 0.0


@dataclass
class Cluster:
    """A queue, workers, and KEDA with its `default` strategy: new Jobs are as many as wanted, less those unfinished."""

    service: TrainerService
    seconds: float
    workers: list[Worker] = field(default_factory=list)
    num_jobs: int = 0
    names = itertools.count()

    async def queue(self, count: int, seconds: float | None = None) -> None:
        """Adds runs that take and are thought to take so long."""
        async with self.service.database.write() as connection:
            for _ in range(count):
                key = RunKey("default", f"run-{next(self.names)}")
                asked = NewRun(key, "flowers", "", "", Recipe(preset="fast"), promote=False, request_id="")
                await runs.add(connection, asked)
        await self.change("UPDATE training_runs SET estimated_seconds = :n WHERE state = 1", seconds or self.seconds)

    async def wanted(self) -> int:
        async with self.service.database.read() as connection:
            return int((await connection.execute(sa.text("SELECT jobs_wanted FROM worker_demand"))).scalar_one())

    async def live(self) -> float:
        """Until everything is trained and every Job has ended: how long it took."""
        took = 0.0
        while await self._unfinished():
            for worker in [*self.workers]:
                await self._work(worker)
            unfinished = sum(worker.job for worker in self.workers)
            for _ in range(min(MAX_JOBS, await self.wanted()) - unfinished):
                self.num_jobs += 1
                self.workers.append(Worker(f"job-{next(self.names)}", job=True, starts_in=START_SECONDS))
            await self.later(POLL_SECONDS)
            took += POLL_SECONDS
            assert took < 100_000, "runs are left that nobody takes"
        return took

    async def later(self, seconds: float) -> None:
        """So much time passes."""
        await self.change(
            "UPDATE training_runs SET create_time_us = create_time_us - :n * 1000000, "
            "start_time_us = start_time_us - :n * 1000000, finish_time_us = finish_time_us - :n * 1000000",
            seconds,
        )
        await self.change("UPDATE workers SET seen_us = seen_us - :n * 1000000", seconds)

    async def change(self, statement: str, number: float = 0) -> None:
        async with self.service.database.write() as connection:
            await connection.execute(sa.text(statement), {"n": int(number)})

    async def _unfinished(self) -> bool:
        query = sa.text("SELECT count(*) FROM training_runs WHERE state < 5")
        async with self.service.database.read() as connection:
            left = (await connection.execute(query)).scalar_one()
        return bool(left) or any(worker.job for worker in self.workers)

    async def _work(self, worker: Worker) -> None:
        """What a worker does in one step."""
        if worker.starts_in > 0:
            worker.starts_in -= POLL_SECONDS
            return
        async with self.service.database.write() as connection:
            if worker.held is not None:
                worker.left -= POLL_SECONDS
                if worker.left > 0:
                    return
                grip = Grip(worker.held.key, worker.held.attempt, worker.held.token or "")
                await attempts.finish(connection, grip, State.STATE_SUCCEEDED, version=1)
            kind = Capabilities.KIND_JOB if worker.job else Capabilities.KIND_WARM
            await workers.asked(connection, worker.name, Capabilities(kind=kind))
            claim_id = str(next(self.names))
            held = await attempts.claim(connection, worker.name, claim_id, "cpu", 1e6, lambda _: True)
        worker.held, worker.left = held, self.seconds
        worker.idle = 0 if held else worker.idle + POLL_SECONDS
        if worker.job and worker.idle > IDLE_SECONDS:
            self.workers.remove(worker)


@pytest.mark.parametrize(
    ("num_runs", "seconds", "num_warm", "num_jobs", "at_most_minutes"),
    [
        pytest.param(8, 30, 1, 0, 6, id="8 short runs: the warm worker does them"),
        pytest.param(1, 30, 1, 0, 2, id="1 short run"),
        pytest.param(1, 30, 0, 1, 5, id="1 short run and nobody there"),
        pytest.param(8, 600, 1, 7, 15, id="8 long runs: a Job each but one"),
        pytest.param(40, 30, 1, 3, 12, id="40 short runs: a Job per 300 seconds of them"),
        pytest.param(24, 600, 1, 8, 33, id="24 long runs: as many Jobs as are allowed"),
    ],
)
async def test_as_many_jobs_start_as_are_worth_it(
    trainer_service: TrainerService,
    num_runs: int,
    seconds: float,
    num_warm: int,
    num_jobs: int,
    at_most_minutes: float,
) -> None:
    """A burst of runs is trained by what is there and by Jobs where those are worth their start; no Job is started for
    a run that another has by then, and all of them end.
    """
    cluster = Cluster(trainer_service, seconds)
    cluster.workers = [Worker(f"warm-{number}", job=False) for number in range(num_warm)]
    for worker in cluster.workers:
        await cluster._work(worker)
    await cluster.queue(num_runs)
    took = await cluster.live()
    assert cluster.num_jobs == num_jobs
    assert took < 60 * at_most_minutes + IDLE_SECONDS


@pytest.fixture
async def version(dataset_service: DatasetService, picture: Callable[..., bytes]) -> str:
    return await seal(dataset_service, picture)


@pytest.fixture
def cluster(trainer_service: TrainerService) -> Cluster:
    return Cluster(trainer_service, seconds=30)


async def test_a_run_has_to_wait_a_little_before_it_counts(cluster: Cluster) -> None:
    """A worker that is there takes a run at once: only what has waited for 15 s wants a Job."""
    await cluster.queue(1)
    assert await cluster.wanted() == 0
    await cluster.later(16)
    assert await cluster.wanted() == 1


async def test_runs_that_nothing_is_known_of_are_counted_on(cluster: Cluster) -> None:
    """A Job is worth starting for 300 seconds of work: the sixth run that nothing is known of wants another."""
    await cluster.queue(5)
    await cluster.change("UPDATE training_runs SET estimated_seconds = NULL")
    await cluster.later(16)
    assert await cluster.wanted() == 5 * UNKNOWN_SECONDS // 300
    await cluster.queue(1)
    await cluster.change("UPDATE training_runs SET estimated_seconds = NULL")
    await cluster.later(16)
    assert await cluster.wanted() == 1 + 5 * UNKNOWN_SECONDS // 300


async def test_a_run_that_overruns_does_not_promise_a_worker(
    cluster: Cluster, trainer_service: TrainerService, version: str
) -> None:
    """A worker whose run takes far longer than was thought is not counted on."""
    await create(trainer_service, version)
    await claim(trainer_service)
    await cluster.queue(4, seconds=30)
    await cluster.later(UNKNOWN_SECONDS)
    assert await cluster.wanted() == 0
    await cluster.later(400)
    assert await cluster.wanted() == 1


async def test_a_run_that_lost_its_job_wants_another(
    cluster: Cluster, trainer_service: TrainerService, version: str
) -> None:
    """What a Job holds is wanted as long as it holds it, and what waits again afterwards is wanted again."""
    run = await create(trainer_service, version)
    async with trainer_service.database.write() as connection:
        await workers.asked(connection, "worker-1", Capabilities(kind=Capabilities.KIND_JOB))
    hold = await claim(trainer_service)
    await cluster.change("UPDATE workers SET kind = :n", Capabilities.KIND_JOB)
    assert await cluster.wanted() == 1
    await lose(trainer_service, hold)
    await cluster.later(16)
    assert await cluster.wanted() == 1
    await cancel(trainer_service, run.name)
    assert await cluster.wanted() == 0
    assert (await read(trainer_service, run.name)).attempt == 1


async def test_an_estimate_is_what_the_last_ones_took(cluster: Cluster) -> None:
    """A run is expected to take as long as the latest that were like it."""
    cluster.workers = [Worker("warm", job=False)]
    await cluster.queue(3)
    await cluster.live()
    async with cluster.service.database.write() as connection:
        for epochs, expected in ((0, pytest.approx(30.0, abs=1)), (7, None)):
            key = RunKey("default", f"like-{epochs}")
            recipe = Recipe(preset="fast", num_epochs=epochs)
            await runs.add(connection, NewRun(key, "m", "", "", recipe, promote=False, request_id=""))
            query = sa.text("SELECT estimated_seconds FROM training_runs WHERE run = :run")
            found = (await connection.execute(query, {"run": key.run})).scalar_one()
            assert found == expected
