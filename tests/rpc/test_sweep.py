"""What a sweep asks the trainer for, and asks again."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from handful import Client
from handful.channel import Addresses
from handful.cli import sweep
from services.shared.objects.filesystem import FilesystemStore
from tests.playing_worker import bundle, cancel, claim, run_names, seal
from tests.servers import DatasetService, TrainerService


@pytest.fixture
async def client(
    trainer_service: TrainerService, dataset_service: DatasetService, picture: Callable[..., bytes]
) -> AsyncIterator[Client]:
    """A client of services that have a dataset of flowers and no worker."""
    await seal(dataset_service, picture)
    with Client(Addresses(dataset=dataset_service.address, trainer=trainer_service.address)) as client:
        yield client


async def begun(client: Client, *combinations: dict[str, str]) -> list[str]:
    """The runs of a sweep, as the command begins them. In a thread: the services are in this one."""

    def begin() -> list[str]:
        wanted = sweep.checked(client, ["flowers"], combinations, "")
        return [run.name for run in sweep.begin(client, wanted)]

    return await asyncio.to_thread(begin)


async def test_what_was_begun_is_not_begun_again(
    client: Client, trainer_service: TrainerService, store: FilesystemStore
) -> None:
    """A sweep said again gets the runs it had, those that wait and those that succeeded; recipes that resolve to the
    same are one run; and only what failed or was cancelled is begun anew, once.
    """
    grid = ({"seed": "1"}, {"seed": "2"}, {"seed": "1", "preset": "fast"}, {"seed": "3"})
    first = await begun(client, *grid)
    assert len(set(first)) == 3
    assert await begun(client, *grid) == first
    await (await claim(trainer_service)).succeed(bundle(store))
    await (await claim(trainer_service)).fail()
    await cancel(trainer_service, first[2])
    second = await begun(client, *grid)
    assert second[0] == first[0]
    assert not {*second[1:]} & {*first}
    assert await begun(client, *grid) == second
    assert len(await run_names(trainer_service)) == 5
    await cancel(trainer_service, second[1])
    third = await begun(client, *grid)
    assert third[0] == first[0]
    assert third[2] == second[2]
    assert third[1] not in {*first, *second}
