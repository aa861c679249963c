"""Workers of an older release beside a newer trainer: they get what they understand, and what they do not waits."""

import asyncio
from collections.abc import Callable

import pytest

from handful.recipe import recipe
from handful.v1 import worker_pb2
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.understanding import known
from tests.playing_worker import asking, claim, create, read, seal
from tests.rpc.test_continue import continued, ended, more
from tests.servers import DatasetService, TrainerService


@pytest.fixture
async def version(dataset_service: DatasetService, picture: Callable[..., bytes]) -> str:
    return await seal(dataset_service, picture)


async def claimed(service: TrainerService, asked: worker_pb2.ClaimTrainingRunRequest) -> str:
    """The run that a worker gets at once, or none."""
    call = asyncio.ensure_future(service.workers.ClaimTrainingRun(asked))
    done, _ = await asyncio.wait([call], timeout=1.5)
    if not done:
        call.cancel()
        return ""
    return call.result().claim.training_run


async def test_an_older_worker_takes_what_it_understands_past_what_it_does_not(
    trainer_service: TrainerService, store: FilesystemStore, version: str
) -> None:
    """LDA, preset fine_tune, another input size and a run that goes on wait while a plain one is trained, and only for
    their turn where a worker of this release is there too, which then takes them in their order.
    """
    first = await ended(trainer_service, store, version)
    waiting = [
        await create(trainer_service, version, recipe=recipe({"head": "LDA"})),
        await create(trainer_service, version, recipe=recipe({"preset": "fine_tune"})),
        await create(trainer_service, version, recipe=recipe({"input_size": 160})),
        await continued(trainer_service, more(first.name)),
    ]
    plain = await create(trainer_service, version)
    assert await claimed(trainer_service, asking("old", understands=())) == plain.name
    assert await claimed(trainer_service, asking("old", understands=())) == ""
    assert [(await read(trainer_service, run.name)).waits_for for run in waiting] == [""] * len(waiting)
    assert [(await claim(trainer_service)).run for _ in waiting] == [run.name for run in waiting]


async def test_a_run_says_what_it_waits_for(trainer_service: TrainerService, version: str) -> None:
    """No worker at all, only older ones, and then nothing but its turn; it is never refused for that."""
    asked = recipe({"head": "LDA"})
    run = await create(trainer_service, version, recipe=asked)
    assert "No worker was heard of" in run.waits_for
    assert await claimed(trainer_service, asking("old", understands=known() - {"fast.head=LDA"})) == ""
    told = (await read(trainer_service, run.name)).waits_for
    assert "do not know fast.head=LDA" in told
    again = await create(trainer_service, version, recipe=asked)
    assert again.waits_for == told
    assert await claimed(trainer_service, asking("new")) == run.name
    assert (await read(trainer_service, run.name)).waits_for == ""
    assert (await read(trainer_service, again.name)).waits_for == ""
