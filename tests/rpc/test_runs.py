"""Training runs as products see them: asked for once, read, listed, cancelled, and refused with words that help."""

import asyncio
import base64
import json
import random
import re
import socket
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from grpc import aio

from handful.errors import InvalidArgument
from handful.v1.bundle_pb2 import Recipe
from handful.v1.trainer_pb2 import ListTrainingRunsRequest, TrainingRun
from services.shared.objects import ObjectStore
from services.trainer.architectures import DEFAULT_ARCHITECTURE
from services.trainer.records import TERMINAL
from tests.playing_worker import (
    PROJECT,
    add,
    asking,
    bundle,
    cancel,
    claim,
    claim_briefly,
    create,
    events,
    lose,
    read,
    refusal,
    run_names,
    seal,
    wanted,
)
from tests.servers import Databases, DatasetService, TrainerService, running_trainer


@pytest.fixture
async def version(dataset_service: DatasetService, picture: Callable[..., bytes]) -> str:
    return await seal(dataset_service, picture)


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


async def test_a_run_begins_in_the_queue(trainer_service: TrainerService, version: str) -> None:
    """A new run waits, and says what it will train on, how, and for which model."""
    run = await create(trainer_service, version)
    assert run.state == TrainingRun.STATE_QUEUED
    assert (run.dataset_version, run.model, run.recipe.preset) == (version, f"{PROJECT}/models/flowers", "fast")
    assert re.fullmatch("[0-9a-f]{64}", run.dataset_manifest_sha256)
    assert (run.attempt, run.epoch, run.num_ahead, run.latest_sequence) == (0, 0, 0, 1)
    assert run.HasField("create_time")
    assert not run.HasField("start_time")
    assert not run.HasField("finish_time")
    assert await read(trainer_service, run.name) == run


async def test_a_dataset_stands_for_its_latest_version(
    trainer_service: TrainerService, dataset_service: DatasetService, picture: Callable[..., bytes], version: str
) -> None:
    """Whoever names a dataset trains on its newest version, and whoever names a version on that one."""
    dataset = version.rpartition("/versions/")[0]
    newer = await add(dataset_service, picture, dataset, [4, 5])
    assert newer != version
    assert (await create(trainer_service, dataset)).dataset_version == newer
    assert (await create(trainer_service, version)).dataset_version == version


async def test_a_run_can_be_for_another_model(trainer_service: TrainerService, version: str) -> None:
    """The model is the one that is asked for, and so is its promotion."""
    run = await create(trainer_service, version, model_id="roses", promote=True)
    assert (run.model, run.promote) == (f"{PROJECT}/models/roses", True)


async def test_runs_say_how_many_are_ahead(trainer_service: TrainerService, version: str) -> None:
    """A waiting run counts those that wait before it, and one less when one of them is taken."""
    runs = [await create(trainer_service, version) for _ in range(3)]
    assert [run.num_ahead for run in runs] == [0, 1, 2]
    await claim(trainer_service)
    assert [(await read(trainer_service, run.name)).num_ahead for run in runs] == [0, 0, 1]


async def test_an_estimate_of_a_minute_is_one(
    trainer_service: TrainerService, version: str, store: ObjectStore
) -> None:
    """Of the first run of its kind nothing is known; after one that took exactly 60 s, the next is likely to. Of one on
    smaller pictures nothing is known.
    """
    run = await create(trainer_service, version)
    assert not run.HasField("estimated_seconds")
    await (await claim(trainer_service)).succeed(bundle(store))
    async with trainer_service.database.write() as connection:
        took = "UPDATE training_runs SET start_time_us = 1000000, finish_time_us = 61000000"
        await connection.execute(sa.text(took))
    again = await create(trainer_service, version)
    assert again.HasField("estimated_seconds")
    assert again.estimated_seconds == 60
    smaller = await create(trainer_service, version, recipe=Recipe(preset="fast", input_size=160))
    assert not smaller.HasField("estimated_seconds")


async def test_an_estimate_looks_at_what_was_asked_for(
    trainer_service: TrainerService, version: str, store: ObjectStore
) -> None:
    """A run whose architecture is left open is likely to take what such runs took, whatever those chose; and one that
    names it, or chooses among fewer, is of another kind.
    """
    asked = Recipe(preset="quality")
    run = await create(trainer_service, version, recipe=asked)
    settled = Recipe(preset="quality", architecture=DEFAULT_ARCHITECTURE)
    await (await claim(trainer_service)).succeed(bundle(store, recipe=settled))
    assert (await read(trainer_service, run.name)).recipe == settled
    async with trainer_service.database.write() as connection:
        took = "UPDATE training_runs SET start_time_us = 1000000, finish_time_us = 13000000"
        await connection.execute(sa.text(took))
    assert (await create(trainer_service, version, recipe=asked)).estimated_seconds == 12
    for other in (settled, Recipe(preset="quality", max_gflops=0.5), Recipe(preset="fast")):
        assert not (await create(trainer_service, version, recipe=other)).HasField("estimated_seconds"), other


async def test_rows_of_earlier_releases_are_what_they_say(
    trainer_service: TrainerService, version: str, store: ObjectStore
) -> None:
    """Where a row does not know what was asked for, its recipe is taken for it."""
    await create(trainer_service, version)
    await (await claim(trainer_service)).succeed(bundle(store))
    async with trainer_service.database.write() as connection:
        await connection.execute(sa.text("UPDATE training_runs SET asked_recipe = NULL"))
    assert (await create(trainer_service, version)).HasField("estimated_seconds")


async def test_a_hundred_creates_at_once_with_one_request_id_make_one_run(
    trainer_service: TrainerService, version: str
) -> None:
    """However often and however concurrently a create is repeated, there is one run and everyone hears of it."""
    request_id = str(uuid.uuid4())
    made = await asyncio.gather(*(create(trainer_service, version, request_id=request_id) for _ in range(100)))
    assert all(run == made[0] for run in made)
    assert await run_names(trainer_service) == [made[0].name]


async def test_a_request_id_means_one_request(trainer_service: TrainerService, version: str) -> None:
    """A request_id that comes with another body is refused, and makes nothing."""
    request_id = str(uuid.uuid4())
    run = await create(trainer_service, version, request_id=request_id)
    for other in ({"promote": True}, {"model_id": "roses"}, {"recipe": Recipe(seed=1)}):
        error = await refusal(create(trainer_service, version, request_id=request_id, **other))
        assert isinstance(error, InvalidArgument)
        assert error.reason == "REQUEST_ID_REUSED"
    assert await run_names(trainer_service) == [run.name]


async def test_without_a_request_id_every_create_makes_a_run(
    trainer_service: TrainerService, dataset_service: DatasetService, picture: Callable[..., bytes], version: str
) -> None:
    """No request_id protects nothing, and an id protects only within its project."""
    elsewhere = await seal(dataset_service, picture, parent="projects/elsewhere")
    request_id = str(uuid.uuid4())
    for _ in range(2):
        await create(trainer_service, version)
        await create(trainer_service, version, request_id=request_id)
        await create(trainer_service, elsewhere, parent="projects/elsewhere", request_id=request_id)
    assert len(await run_names(trainer_service)) == 3
    assert len(await run_names(trainer_service, "projects/elsewhere")) == 1


async def test_a_repeat_gets_the_first_answer_whatever_happened_since(
    databases: Databases, store: ObjectStore, dataset_service: DatasetService, version: str, nobody: str
) -> None:
    """A repeated create gets its answer again: though the run went on, the trainer restarted, the dataset is away."""
    request_id = str(uuid.uuid4())
    async with running_trainer(databases.trainer, store, dataset_service.address) as service:
        run = await create(service, version, request_id=request_id)
        await claim(service)
        assert await create(service, version, request_id=request_id) == run
    async with running_trainer(databases.trainer, store, dataset_service.address) as service:
        assert await create(service, version, request_id=request_id) == run
    async with running_trainer(databases.trainer, store, nobody) as service:
        assert await create(service, version, request_id=request_id) == run


async def test_calls_that_are_given_up_do_no_harm(trainer_service: TrainerService, version: str) -> None:
    """Creates and claims whose callers go away happen wholly or not at all, and the next caller is served."""
    chance = random.Random(3)  # noqa: S311 - the same deadlines every time

    async def give_up(method: Any, request: Any) -> bool:
        try:
            await method(request, timeout=chance.uniform(0.005, 0.2))
        except aio.AioRpcError as problem:
            assert problem.code() == grpc.StatusCode.DEADLINE_EXCEEDED  # noqa: PT017 - either way is right
            return False
        return True

    made = 0
    for _ in range(8):
        creates = [give_up(trainer_service.trainer.CreateTrainingRun, wanted(version)) for _ in range(4)]
        claims = [give_up(trainer_service.workers.ClaimTrainingRun, asking()) for _ in range(2)]
        answered = await asyncio.gather(*creates, *claims)
        made += sum(answered[:4])
    runs = [await read(trainer_service, name) for name in await run_names(trainer_service)]
    assert len(runs) >= made
    stands = {(run.state, run.attempt, run.latest_sequence) for run in runs}
    assert stands <= {(TrainingRun.STATE_QUEUED, 0, 1), (TrainingRun.STATE_RUNNING, 1, 3)}
    await create(trainer_service, version)
    await (await claim(trainer_service)).report()


async def test_pages_hold_every_run_once_newest_first(trainer_service: TrainerService, version: str) -> None:
    """Pages follow each other without gap or repeat, also while runs are added."""
    made = [(await create(trainer_service, version)).name for _ in range(5)]
    seen: list[str] = []
    sizes: list[int] = []
    request = ListTrainingRunsRequest(parent=PROJECT, page_size=2)
    while not sizes or request.page_token:
        page = await trainer_service.trainer.ListTrainingRuns(request)
        seen += [run.name for run in page.training_runs]
        sizes.append(len(page.training_runs))
        request.page_token = page.next_page_token
        await create(trainer_service, version)
    assert seen == made[::-1]
    assert sizes == [2, 2, 1]


def forged(token: str, *key: object) -> str:
    """A token of ours with another sort key."""
    question, *_ = json.loads(base64.urlsafe_b64decode(token))
    return base64.urlsafe_b64encode(json.dumps([question, *key]).encode()).decode()


async def test_pages_that_cannot_be_are_refused(trainer_service: TrainerService, version: str) -> None:
    """A size that is none, and a token that is none of ours or another list's, are INVALID_ARGUMENT."""
    for _ in range(2):
        await create(trainer_service, version)
    first = await trainer_service.trainer.ListTrainingRuns(ListTrainingRunsRequest(parent=PROJECT, page_size=1))
    token = first.next_page_token
    wrong: dict[str, tuple[dict[str, object], str]] = {
        "negative size": ({"page_size": -1}, "page_size"),
        "no token": ({"page_token": "nonsense"}, "page_token"),
        "swapped key": ({"page_token": forged(token, "x", 1)}, "page_token"),
        "beyond any time": ({"page_token": forged(token, 10**30, "x")}, "page_token"),
        "half a character": ({"page_token": forged(token, 1, "\ud800")}, "page_token"),
        "another list": ({"page_token": token, "parent": "projects/other"}, "page_token"),
        "no project": ({"parent": "default"}, "parent"),
    }
    answers = {}
    for case, (asked, _) in wrong.items():
        request = ListTrainingRunsRequest(**{"parent": PROJECT, **asked})  # type: ignore[arg-type]
        answers[case] = await refusal(trainer_service.trainer.ListTrainingRuns(request))
    assert {case: error.code.name for case, error in answers.items()} == dict.fromkeys(wrong, "INVALID_ARGUMENT")
    assert all(field in answers[case].message for case, (_, field) in wrong.items())


@pytest.mark.parametrize("state", ["QUEUED", "RUNNING", "CANCELLING", "RECOVERING", "SUCCEEDED", "FAILED", "CANCELLED"])
async def test_a_run_can_be_cancelled_in_every_state(
    trainer_service: TrainerService, store: ObjectStore, version: str, state: str
) -> None:
    """Who waits is cancelled at once, who runs is asked to stop, and what is over stays as it ended."""
    run = await create(trainer_service, version)
    if state in {"RUNNING", "CANCELLING", "SUCCEEDED", "FAILED"}:
        hold = await claim(trainer_service)
        if state == "SUCCEEDED":
            await hold.succeed(bundle(store))
        elif state == "FAILED":
            await hold.fail()
    if state == "RECOVERING":
        await lose(trainer_service, await claim_briefly(trainer_service))
    if state in {"CANCELLING", "CANCELLED"}:
        await cancel(trainer_service, run.name)
    before = await read(trainer_service, run.name)
    assert before.state == TrainingRun.State.Value(f"STATE_{state}")

    becomes = {"QUEUED": "CANCELLED", "RECOVERING": "CANCELLED", "RUNNING": "CANCELLING"}.get(state, state)
    after = await cancel(trainer_service, run.name)
    assert after.state == TrainingRun.State.Value(f"STATE_{becomes}")
    assert await read(trainer_service, run.name) == after
    assert after.latest_sequence == before.latest_sequence + (becomes != state)
    assert (await events(trainer_service, run.name))[-1].state_changed.state == after.state
    assert after.HasField("finish_time") == (after.state in TERMINAL)
    if becomes == state:
        assert after == before


async def test_another_projects_run_is_not_found(trainer_service: TrainerService, version: str) -> None:
    """A run is seen under its own project alone."""
    run = await create(trainer_service, version)
    foreign = run.name.replace(PROJECT, "projects/elsewhere")
    for call in (read(trainer_service, foreign), cancel(trainer_service, foreign)):
        assert (await refusal(call)).code == grpc.StatusCode.NOT_FOUND
    assert await read(trainer_service, run.name) == run
