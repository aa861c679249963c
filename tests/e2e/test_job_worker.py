"""A worker as a Kubernetes Job: it drains the queue and ends by itself."""

import asyncio
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from handful.v1.trainer_pb2 import TrainingRun
from handful.v1.worker_pb2 import Capabilities
from services.shared.objects.filesystem import FilesystemStore
from services.trainer import workers
from tests.playing_worker import create, read, seal
from tests.servers import DatasetService, TrainerService

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
async def test_a_job_trains_what_waits_and_goes(
    trainer_service: TrainerService,
    dataset_service: DatasetService,
    store: FilesystemStore,
    picture: Callable[..., bytes],
    backbones: Path,
    tmp_path: Path,
) -> None:
    """It says that it is a Job, trains every run that waits, and after so long without one ends with status 0."""
    version = await seal(dataset_service, picture)
    runs = [await create(trainer_service, version) for _ in range(2)]
    shutil.copytree(backbones, store.folder / "backbones")
    environment = {
        "HANDFUL_HOME": str(tmp_path),
        "HANDFUL_STORE": str(store.folder),
        "HANDFUL_WORKER_TRAINER": trainer_service.worker_address,
        "HANDFUL_WORKER_KIND": "job",
        "HANDFUL_WORKER_IDLE_SECONDS": "1",
    }
    job = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.trainer.worker", cwd=ROOT, env=environment
    )
    assert await job.wait() == 0
    ended = [await read(trainer_service, run.name) for run in runs]
    assert [run.state for run in ended] == [TrainingRun.STATE_SUCCEEDED] * 2, [run.failure for run in ended]
    async with trainer_service.database.read() as connection:
        assert [known.kind for known in await workers.known(connection)] == [Capabilities.KIND_JOB]
