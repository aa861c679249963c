"""Folds and repeats that a recipe asks for: refused by field where the data have not so many, and never fewer."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import pytest
import sqlalchemy as sa

from handful import Client
from handful.bundle.manifest import DATASET_FORMAT, dataset_manifest_key, from_bytes, sha256, to_bytes
from handful.channel import Addresses
from handful.cli import sweep
from handful.errors import HandfulError, InvalidArgument
from handful.recipe import as_dict, recipe
from handful.v1 import dataset_pb2
from handful.v1.bundle_pb2 import (
    MODALITY_IMAGE,
    SPLIT_TRAIN,
    SPLIT_VAL,
    DatasetManifest,
    DatasetManifestExample,
    Evaluation,
    ModelManifest,
)
from handful.v1.dataset_pb2 import UploadExamplesRequest as Step
from handful.v1.trainer_pb2 import Failure, TrainingRun
from services.shared.objects.filesystem import FilesystemStore
from services.trainer import folding
from services.trainer.head_fields import HEAD
from services.trainer.understanding import known
from tests.playing_worker import PROJECT, asking, bundle, claim, create, read, refusal, run_names
from tests.rpc.test_continue import ended, more
from tests.rpc.test_gradient_ends import databases, work
from tests.rpc.test_older_workers import claimed
from tests.servers import DatasetService, TrainerService

__all__ = ["databases"]

# An item of an upload: the seed of its picture, its label, its group, and whether it trains or validates.
Item = tuple[int, str, str, bool]
EIGHT_EACH = [(seed, ("daisy", "rose")[seed % 2], "", True) for seed in range(16)]
# A picture of each to validate, so that all others train.
VAL = [(100, "daisy", "", False), (101, "rose", "", False)]


async def sealed(service: DatasetService, picture: Callable[..., bytes], items: Iterable[Item]) -> str:
    """The name of the first version of a new dataset."""
    asked = dataset_pb2.CreateDatasetRequest(parent=PROJECT, dataset_id="flowers")
    dataset = (await service.stub.CreateDataset(asked)).dataset.name

    async def steps() -> AsyncIterator[Step]:
        yield Step(open=Step.Open(dataset=dataset))
        for number, (seed, label, group, trains) in enumerate(items):
            split = SPLIT_TRAIN if trains else SPLIT_VAL
            yield Step(begin=Step.Begin(client_ref=str(number), label=label, group=group, split=split))
            yield Step(chunk=Step.Chunk(data=picture(seed, size=(8, 8))))
            yield Step(commit=Step.Commit())

    assert all([verdict.HasField("stored") async for verdict in service.stub.UploadExamples(steps())])
    version = await service.stub.CreateDatasetVersion(dataset_pb2.CreateDatasetVersionRequest(parent=dataset))
    return version.dataset_version.name


@pytest.fixture
async def version(dataset_service: DatasetService, picture: Callable[..., bytes]) -> str:
    """Eight pictures of each of two classes to train on."""
    return await sealed(dataset_service, picture, [*EIGHT_EACH, *VAL])


def refused(error: HandfulError) -> dict[str, str]:
    """The fields that are refused."""
    assert isinstance(error, InvalidArgument)
    return dict(error.violations)


WRONG = [
    ({"num_folds": 9}, "num_folds", "must be at most 8: daisy has 8 different training examples"),
    ({"preset": "quality", "num_folds": 50, "num_repeats": 2}, "num_folds", "must be at most 8: "),
    ({"num_folds": 1}, "num_folds", "must be 0 or at least 2"),
    ({"num_folds": 51}, "num_folds", "must be between 0 and 50, not 51"),
    ({"num_folds": -1}, "num_folds", "must be between 0 and 50, not -1"),
    ({"num_repeats": 21}, "num_repeats", "must be between 0 and 20, not 21"),
    ({"preset": "fine_tune", "num_folds": 5}, "num_folds", "there is one in fast, quality"),
    ({"preset": "baseline", "num_repeats": 5}, "num_repeats", "there is one in fast, quality"),
]


@pytest.mark.parametrize("validate_only", [False, True])
@pytest.mark.parametrize(("asked", "field", "allowed"), WRONG, ids=str)
async def test_folds_that_cannot_be_had_are_refused(
    trainer_service: TrainerService,
    version: str,
    asked: dict[str, object],
    field: str,
    allowed: str,
    *,
    validate_only: bool,
) -> None:
    """INVALID_ARGUMENT names the field and what would fit, for validate_only too, and nothing is queued."""
    error = await refusal(create(trainer_service, version, recipe=recipe(asked), validate_only=validate_only))
    found = refused(error)
    assert list(found) == [f"recipe.{field}"]
    assert allowed in found[f"recipe.{field}"]
    assert await run_names(trainer_service) == []


async def test_as_many_folds_as_there_can_be_are_taken(trainer_service: TrainerService, version: str) -> None:
    """The most that a refusal names is queued, with what was asked in its recipe; and 0 is what it is without."""
    most = await create(trainer_service, version, recipe=recipe({"num_folds": 8, "num_repeats": 20}))
    assert {"num_folds": 8, "num_repeats": 20}.items() <= as_dict(most.recipe).items()
    none = await create(trainer_service, version, recipe=recipe({"num_folds": 0, "num_repeats": 0}))
    assert none.recipe == (await create(trainer_service, version)).recipe
    assert not {"num_folds", "num_repeats"} & set(as_dict(none.recipe))


async def test_groups_are_counted_and_not_pictures(
    trainer_service: TrainerService, dataset_service: DatasetService, picture: Callable[..., bytes]
) -> None:
    """Eight pictures of three bursts are three; those to validate do not count."""
    bursts = [(seed, label, f"burst-{seed % 3}" if label == "rose" else "", True) for seed, label, *_ in EIGHT_EACH]
    version = await sealed(dataset_service, picture, [*bursts, *VAL, (102, "rose", "", False)])
    error = await refusal(create(trainer_service, version, recipe=recipe({"num_folds": 4})))
    assert refused(error)["recipe.num_folds"].startswith("must be at most 3: rose has 3 different training examples")
    assert (await create(trainer_service, version, recipe=recipe({"num_folds": 3}))).recipe.num_folds == 3


async def test_where_nothing_is_cross_validated_neither_is_taken(
    trainer_service: TrainerService, dataset_service: DatasetService, picture: Callable[..., bytes]
) -> None:
    """Of a class with one training example there are no folds: both fields are named at once."""
    version = await sealed(dataset_service, picture, [*EIGHT_EACH[::2], EIGHT_EACH[1], *VAL])
    error = await refusal(create(trainer_service, version, recipe=recipe({"num_folds": 2, "num_repeats": 1})))
    found = refused(error)
    assert list(found) == ["recipe.num_folds", "recipe.num_repeats"]
    assert all(problem.startswith("must be 0: ") and "rose has 1 " in problem for problem in found.values())
    assert (await create(trainer_service, version)).state == TrainingRun.STATE_QUEUED


async def test_a_run_that_goes_on_has_no_folds(
    trainer_service: TrainerService, store: FilesystemStore, version: str
) -> None:
    """Presets that have folds keep no checkpoints, and those that keep them have no folds: each is refused by name."""
    first = await ended(trainer_service, store, version)
    wrong = more(first.name, recipe=recipe({"num_folds": 5, "num_repeats": 2}))
    found = refused(await refusal(trainer_service.trainer.ContinueTrainingRun(wrong)))
    assert list(found) == ["recipe.num_folds", "recipe.num_repeats"]
    await create(trainer_service, version, recipe=recipe({"num_folds": 5}))
    hold = await claim(trainer_service)
    await hold.succeed(bundle(store))
    again = more(hold.run, recipe=recipe({"num_folds": 4}))
    assert list(refused(await refusal(trainer_service.trainer.ContinueTrainingRun(again)))) == ["name"]


async def test_a_sweep_names_the_combinations_that_cannot_be_had(
    trainer_service: TrainerService, dataset_service: DatasetService, version: str
) -> None:
    """Every combination with too many folds is named before anything is queued."""
    assert version.endswith("/versions/1")
    combinations = [{"num_folds": folds, "num_repeats": "2"} for folds in ("4", "9", "10")]

    def check() -> None:
        with Client(Addresses(dataset=dataset_service.address, trainer=trainer_service.address)) as client:
            assert len(sweep.checked(client, ["flowers"], combinations[:1], "")) == 1
            sweep.checked(client, ["flowers"], combinations, "")

    with pytest.raises(InvalidArgument) as caught:
        await asyncio.to_thread(check)
    ((named, problem),) = caught.value.violations
    assert named == "recipe.num_folds (num_folds=9 num_repeats=2, and 1 more)"
    assert problem.startswith("must be at most 8: ")
    assert await run_names(trainer_service) == []


@pytest.mark.parametrize("field", ["num_folds", "num_repeats"])
async def test_an_older_worker_is_given_none(trainer_service: TrainerService, version: str, field: str) -> None:
    """A worker of a release without these fields trains what asks for neither; what asks for one waits and says so."""
    old = known() - {f"fast.{field}"}
    waiting = await create(trainer_service, version, recipe=recipe({field: 3}))
    plain = await create(trainer_service, version, recipe=recipe({field: 0}))
    assert await claimed(trainer_service, asking("old", understands=old)) == plain.name
    assert await claimed(trainer_service, asking("old", understands=old)) == ""
    assert f"do not know fast.{field}" in (await read(trainer_service, waiting.name)).waits_for
    assert await claimed(trainer_service, asking("new")) == waiting.name


async def test_more_of_them_are_another_kind_of_run(
    trainer_service: TrainerService, store: FilesystemStore, version: str
) -> None:
    """How long runs took with other folds or repeats says nothing of how long one will."""
    await create(trainer_service, version, recipe=recipe({"num_folds": 8}))
    await (await claim(trainer_service)).succeed(bundle(store))
    async with trainer_service.database.write() as connection:
        took = "UPDATE training_runs SET start_time_us = 1000000, finish_time_us = 13000000"
        await connection.execute(sa.text(took))
    assert (await create(trainer_service, version, recipe=recipe({"num_folds": 8}))).estimated_seconds == 12
    for other in ({}, {"num_folds": 7}, {"num_folds": 8, "num_repeats": 1}):
        run = await create(trainer_service, version, recipe=recipe(other))
        assert not run.HasField("estimated_seconds"), other


async def test_a_model_says_the_folds_it_was_asked_for(
    trainer_service: TrainerService, store: FilesystemStore, version: str
) -> None:
    """A real worker draws them as often as asked, and both stand in the model's recipe and evaluation."""
    await create(trainer_service, version, recipe=recipe({"num_folds": 7, "num_repeats": 3}))
    run = await work(trainer_service, store)
    assert run.state == TrainingRun.STATE_SUCCEEDED, run.failure
    model = next(path for path in store.keys("projects/default/bundles/") if path.endswith("/manifest.json"))
    made = from_bytes(ModelManifest, store.get(model))
    assert (made.recipe.num_folds, made.recipe.num_repeats) == (7, 3)
    data = store.get(model.replace("manifest.json", "evaluation.json"))
    found = from_bytes(Evaluation, data).cross_validation
    assert (found.folds, found.repeats, found.num_examples) == (7, 3, 16)


async def test_groups_of_several_classes_fail_what_they_cannot_be_dealt_into(
    trainer_service: TrainerService,
    dataset_service: DatasetService,
    store: FilesystemStore,
    picture: Callable[..., bytes],
) -> None:
    """Three pictures, each under two of three labels: whatever is held out of two folds, one class is left without. The
    worker alone can see that: the run fails and says what there is; without folds where none are asked for it succeeds.
    """
    pairs = ("ab", "bc", "ca")
    version = await sealed(
        dataset_service, picture, [(seed, label, "", True) for seed, pair in enumerate(pairs) for label in pair]
    )
    await create(trainer_service, version, recipe=recipe({"num_folds": 2}))
    run = await work(trainer_service, store)
    assert (run.state, run.failure.reason) == (TrainingRun.STATE_FAILED, Failure.REASON_NO_FOLDS)
    assert "hold several classes: only 0 draws of the folds" in run.failure.message
    await create(trainer_service, version)
    assert (await work(trainer_service, store)).state == TrainingRun.STATE_SUCCEEDED


def test_repeats_are_bounded_by_memory(tmp_path: Path) -> None:
    """Many examples of many classes are answered fewer times, and the refusal says how many; once always."""
    store = FilesystemStore(tmp_path)
    most = {field.name: int(field.maximum) for field in HEAD}["num_repeats"]

    def allowed(num_classes: int) -> int:
        labels = [f"{number:04}" for number in range(num_classes)]
        examples = [
            DatasetManifestExample(
                content_sha256=str(one), label=labels[one % num_classes], split=SPLIT_TRAIN, group=str(one)
            )
            for one in range(8000)
        ]
        data = to_bytes(
            DatasetManifest(format=DATASET_FORMAT, modality=MODALITY_IMAGE, labels=labels, examples=examples)
        )
        store.put(dataset_manifest_key("default", sha256(data)), data)
        try:
            folding.check(store, "default", sha256(data), recipe({"num_repeats": most}))
        except InvalidArgument as error:
            said = refused(error)["recipe.num_repeats"]
            number = int(said.removeprefix("must be at most ").partition(":")[0])
            folding.check(store, "default", sha256(data), recipe({"num_repeats": number}))
            return number
        return most

    assert [allowed(number) for number in (50, 100, 4000)] == [20, 10, 1]
