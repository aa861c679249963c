"""Workers beside a trainer: real processes, which are started, counted and stopped."""

import asyncio
import os
import platform
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.shared.settings import child_environment
from services.trainer.local_workers import LocalWorkers
from services.trainer.worker_servicer import LEASE_SECONDS
from tests.playing_worker import claim, create, seal
from tests.processes import PATIENCE_SECONDS, gone, of_home, until
from tests.servers import DatasetService, TrainerService


@pytest.fixture
async def version(dataset_service: DatasetService, picture: Callable[..., bytes]) -> str:
    return await seal(dataset_service, picture)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home that the workers are started with, by which they are found."""
    return tmp_path


@pytest.fixture
def dead() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@asynccontextmanager
async def one_wanted(service: TrainerService, home: Path) -> AsyncIterator[None]:
    """While inside, one worker is kept beside a trainer that has just started."""
    local = LocalWorkers(service.database, 1, service.worker_address, child_environment(HANDFUL_HOME=str(home)))
    running = asyncio.create_task(local.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])
        await local.stop()


def workers(home: Path) -> list[int]:
    return [pid for pid, command in of_home(home).items() if "services.trainer.worker" in command]


async def started(home: Path, beside: int = 0, seconds: float = PATIENCE_SECONDS) -> int:
    """A worker that is not a given one, once there is one."""
    await asyncio.to_thread(until, lambda: set(workers(home)) - {beside}, "a worker is started", seconds)
    return next(pid for pid in workers(home) if pid != beside)


def name(service: TrainerService, pid: int) -> str:
    """The id of a worker beside the trainer."""
    return f"{platform.node()}-{service.worker_address.rpartition(':')[2]}-{pid}-abcdef"


async def test_a_worker_is_kept_and_stopped(trainer_service: TrainerService, home: Path) -> None:
    """There is one, another when it is killed, and none afterwards."""
    async with one_wanted(trainer_service, home):
        first = await started(home)
        os.kill(first, signal.SIGKILL)
        await started(home, beside=first)
    await asyncio.to_thread(gone, home)


async def test_a_trainer_that_starts_anew_waits_for_a_worker_that_lives(
    trainer_service: TrainerService, version: str, home: Path
) -> None:
    """Where one holds a run none is started beside it, until that run is over."""
    await create(trainer_service, version)
    hold = await claim(trainer_service, name(trainer_service, os.getpid()))
    async with one_wanted(trainer_service, home):
        await asyncio.sleep(2)
        assert workers(home) == []
        await hold.fail()
        await started(home)


async def test_a_trainer_that_starts_anew_does_not_wait_for_the_dead(
    trainer_service: TrainerService, version: str, home: Path, dead: int
) -> None:
    """A worker that is gone still has its lease, but another is started long before that ends."""
    await create(trainer_service, version)
    await claim(trainer_service, name(trainer_service, dead))
    async with one_wanted(trainer_service, home):
        await started(home, seconds=LEASE_SECONDS / 2)
