"""Runs that go on from others: what they begin with, what may be other in them, and what is refused by field."""

from collections.abc import Callable, Iterable

import pytest

from handful.errors import FailedPrecondition, InvalidArgument, NotFound
from handful.history import History
from handful.recipe import as_dict, recipe
from handful.v1 import model_pb2, trainer_pb2
from handful.v1.bundle_pb2 import FROZEN_MODE_TRAIN, Recipe
from handful.v1.trainer_pb2 import TrainingRun
from services.shared.objects.filesystem import FilesystemStore
from services.trainer import continuing, recipes
from services.trainer.architectures import DEFAULT_ARCHITECTURE
from tests.playing_worker import PROJECT, add, bundle, cancel, claim, create, epoch, events, read, refusal, seal
from tests.servers import DatasetService, TrainerService

EPOCHS = 3


@pytest.fixture
async def version(dataset_service: DatasetService, picture: Callable[..., bytes]) -> str:
    return await seal(dataset_service, picture)


async def ended(
    service: TrainerService, store: FilesystemStore, version: str, epochs: Iterable[int] = (1, 2, 3), **fields: object
) -> TrainingRun:
    """A run that is over, with a checkpoint of each epoch."""
    asked = recipe({"preset": "fine_tune", "num_epochs": EPOCHS, **fields})
    run = await create(service, version, recipe=asked)
    hold = await claim(service)
    for number in epochs:
        await hold.report(epoch(number))
        await hold.commit(hold.checkpoint(store, number))
    await hold.succeed(bundle(store))
    return await read(service, run.name)


def more(run: str, num_additional_epochs: int = 2, **fields: object) -> trainer_pb2.ContinueTrainingRunRequest:
    return trainer_pb2.ContinueTrainingRunRequest(
        name=run,
        num_additional_epochs=num_additional_epochs,
        **fields,  # type: ignore[arg-type]
    )


async def continued(service: TrainerService, request: trainer_pb2.ContinueTrainingRunRequest) -> TrainingRun:
    return (await service.trainer.ContinueTrainingRun(request)).training_run


async def test_a_run_goes_on_from_the_last_checkpoint(
    trainer_service: TrainerService, store: FilesystemStore, version: str
) -> None:
    """It begins with the epochs and the checkpoint of the other, and its worker is told both; its own follow."""
    first = await ended(trainer_service, store, version)
    second = await continued(trainer_service, more(first.name))
    assert second.name != first.name
    assert (second.continued_training_run, second.continued_after_epoch) == (first.name, EPOCHS)
    assert (second.model, second.dataset_version) == (first.model, first.dataset_version)
    assert (second.epoch, second.metrics) == (3, epoch(3).epoch_completed.metrics)
    assert as_dict(second.recipe) == as_dict(first.recipe) | {"num_epochs": 5}

    hold = await claim(trainer_service)
    assert hold.run == second.name
    assert hold.claim.checkpoint.epoch == EPOCHS
    assert hold.claim.checkpoint.key.startswith(f"projects/default/runs/{first.name.rpartition('/')[2]}/")
    assert [one.epoch for one in hold.claim.history] == [1, 2, 3]
    assert list(hold.claim.earlier_dataset_manifest_sha256s) == []
    await hold.report(epoch(4))
    await hold.commit(hold.checkpoint(store, 4))
    told = await events(trainer_service, second.name)
    assert [one.epoch for one in History(told).epochs] == [1, 2, 3, 4]
    assert [one.attempt for one in told if one.HasField("epoch_completed")] == [0, 0, 0, 1]
    before = [one.time for one in await events(trainer_service, first.name) if one.HasField("epoch_completed")]
    assert [one.time for one in told if one.HasField("epoch_completed")][:3] == before
    await hold.release()
    assert (await claim(trainer_service)).claim.checkpoint.epoch == 4


async def test_a_run_that_failed_or_was_cancelled_goes_on(
    trainer_service: TrainerService, store: FilesystemStore, version: str
) -> None:
    """However it ended: what its last checkpoint holds is not lost. Epochs after that are not counted."""
    asked = recipe({"preset": "baseline", "num_epochs": 9})
    for end in ("fail", "stop"):
        run = await create(trainer_service, version, recipe=asked)
        hold = await claim(trainer_service)
        await hold.report(epoch(1))
        await hold.commit(hold.checkpoint(store, 1))
        await hold.report(epoch(2))
        await getattr(hold, end)()
        again = await continued(trainer_service, more(run.name, 8))
        assert (again.epoch, again.recipe.num_epochs) == (1, 9)
        await cancel(trainer_service, again.name)


async def test_hyperparameters_may_be_other(
    trainer_service: TrainerService, store: FilesystemStore, version: str
) -> None:
    """What is asked for is changed, what hangs on it has its default again, and all else stays."""
    run = await ended(trainer_service, store, version, freeze="BODY", hue=0.1, optimizer="SGD", momentum=0.5)
    assert run.recipe.learning_rate == 0.0
    asked = recipe({"freeze": "NONE", "optimizer": "ADAM", "batch_size": 4})
    other = await continued(trainer_service, more(run.name, recipe=asked))
    fields = as_dict(other.recipe)
    changed = {name: value for name, value in fields.items() if as_dict(run.recipe).get(name) != value}
    assert changed == {
        "num_epochs": 5,
        "batch_size": 4,
        "freeze": "NONE",
        "optimizer": "ADAM",
        "momentum": 0.0,
        "learning_rate": 1e-4,
        "layer_decay": 0.9,
    }
    assert fields["hue"] == 0.1


async def test_newer_data_of_the_same_classes_may_be_taken(
    trainer_service: TrainerService,
    dataset_service: DatasetService,
    store: FilesystemStore,
    version: str,
    picture: Callable[..., bytes],
) -> None:
    """The worker is told what the weights have learnt from before; a run after that knows of all of it."""
    first = await ended(trainer_service, store, version)
    newer = await add(dataset_service, picture, version.partition("/versions/")[0], range(10, 14))
    second = await continued(trainer_service, more(first.name, dataset=newer))
    assert second.dataset_version == newer
    hold = await claim(trainer_service)
    assert list(hold.claim.earlier_dataset_manifest_sha256s) == [first.dataset_manifest_sha256]
    await hold.succeed(bundle(store))
    compared = trainer_pb2.CompareTrainingRunsRequest(parent=PROJECT, training_runs=[second.name])
    (one,) = (await trainer_service.trainer.CompareTrainingRuns(compared)).training_runs
    assert one.num_val_examples == 0
    assert not one.HasField("accuracy_interval")

    back = await continued(trainer_service, more(second.name, dataset=version))
    assert back.dataset_manifest_sha256 == first.dataset_manifest_sha256
    hold = await claim(trainer_service)
    assert list(hold.claim.earlier_dataset_manifest_sha256s) == [second.dataset_manifest_sha256]


def test_what_says_nothing_does_not_hold_a_run_up() -> None:
    """A run of a release that took a frozen mode where nothing is frozen goes on, even where its recipe is sent along;
    who asks for that now is refused.
    """
    base = recipes.resolve(recipe({"preset": "baseline", "freeze": "NONE"}), DEFAULT_ARCHITECTURE)
    expected = as_dict(base) | {"num_epochs": 12}
    base.frozen_mode = FROZEN_MODE_TRAIN
    again = Recipe(frozen_mode=FROZEN_MODE_TRAIN)
    for asked in (Recipe(), again):
        assert as_dict(continuing.continued(base, asked, 12)) == expected
    with pytest.raises(InvalidArgument, match=r"recipe\.frozen_mode"):
        continuing.continued(recipe(expected), again, 12)


def test_a_run_goes_on_at_another_size_and_back() -> None:
    """Weights hang on no size: larger pictures for the last epochs are a way to train. The architecture's own is
    asked for by 0 or by its number.
    """
    base = recipes.resolve(recipe({"preset": "fine_tune", "input_size": 96}), DEFAULT_ARCHITECTURE)
    asked = (Recipe(), *(Recipe(input_size=size) for size in (160, 0, 224)))
    assert [continuing.continued(base, one, 12).input_size for one in asked] == [96, 160, 0, 0]


FIXED: dict[str, tuple[dict[str, object], str, str]] = {
    "another architecture": ({"architecture": "resnet18"}, "recipe.architecture", "is efficientnet_lite0"),
    "another preset": ({"preset": "baseline"}, "recipe.preset", "is fine_tune"),
    "another start": ({"weights": "RANDOM"}, "recipe.weights", "is PRETRAINED"),
    "another seed": ({"seed": 1}, "recipe.seed", "is 0"),
    "another head": ({"initial_head": "RANDOM"}, "recipe.initial_head", "is FAST"),
    "frozen again": ({"freeze": "BODY"}, "recipe.freeze", "must leave the body to training"),
    "epochs in two ways": ({"num_epochs": 9}, "recipe.num_epochs", "num_additional_epochs"),
    "not the preset's": ({"frozen_mode": "TRAIN"}, "recipe.frozen_mode", "no such field"),
    "out of range": ({"batch_size": 0}, "recipe.batch_size", "between 1 and 512"),
}


async def test_what_a_checkpoint_fixes_is_refused(
    trainer_service: TrainerService, store: FilesystemStore, version: str
) -> None:
    """By field, with what it is; all of it at once; and the same where the request is only checked."""
    run = await ended(trainer_service, store, version)
    go_on = trainer_service.trainer.ContinueTrainingRun
    for case, (fields, field, says) in FIXED.items():
        error = await refusal(go_on(more(run.name, recipe=recipe(fields))))
        assert isinstance(error, InvalidArgument), case
        ((named, problem),) = error.violations
        assert named == field, case
        assert says in problem, case
    wrong = more(run.name, 998, recipe=recipe({"seed": 3, "batch_size": 0}), checkpoint_sha256="0" * 64)
    wrong.validate_only = True
    assert [field for field, _ in (await refusal(go_on(wrong))).violations] == [
        "num_additional_epochs",
        "checkpoint_sha256",
        "recipe.seed",
        "recipe.batch_size",
    ]
    same = more(run.name, recipe=run.recipe)
    same.recipe.ClearField("num_epochs")
    same.validate_only = True
    checked = await continued(trainer_service, same)
    assert (checked.name, checked.continued_training_run) == ("", run.name)
    assert checked.recipe.num_epochs == 5


async def test_a_checkpoint_of_another_run_is_refused(
    trainer_service: TrainerService, store: FilesystemStore, version: str
) -> None:
    """Whoever names a checkpoint gets that one, the run's last, or none."""
    mine, other = [await ended(trainer_service, store, version, epochs) for epochs in ((1, 2), (1,))]
    saved = {
        run.name: [one.checkpoint_saved.sha256 for one in await events(trainer_service, run.name)][-2]
        for run in (mine, other)
    }
    error = await refusal(
        trainer_service.trainer.ContinueTrainingRun(more(mine.name, checkpoint_sha256=saved[other.name]))
    )
    assert [field for field, _ in error.violations] == ["checkpoint_sha256"]
    assert saved[mine.name] in error.message
    assert (await continued(trainer_service, more(mine.name, checkpoint_sha256=saved[mine.name]))).name


async def test_runs_without_a_checkpoint_are_refused(
    trainer_service: TrainerService, store: FilesystemStore, version: str
) -> None:
    """`fast`, evaluations, runs that ended too early or are not over, and runs that are not there: each says why."""
    go_on = trainer_service.trainer.ContinueTrainingRun

    async def refused(run: str) -> str:
        error = await refusal(go_on(more(run)))
        assert isinstance(error, InvalidArgument)
        assert [field for field, _ in error.violations] == ["name"]
        return error.message

    fast = await create(trainer_service, version)
    await (await claim(trainer_service)).succeed(bundle(store))
    assert "fast, which has no checkpoints" in await refused(fast.name)
    measuring = model_pb2.EvaluateModelVersionRequest(
        name=f"{PROJECT}/models/flowers/versions/1", dataset=version.partition("/versions/")[0]
    )
    evaluation = (await trainer_service.models.EvaluateModelVersion(measuring)).training_run
    assert "measures a model" in await refused(evaluation.name)
    await cancel(trainer_service, evaluation.name)
    early = await create(trainer_service, version, recipe=recipe({"preset": "baseline"}))
    waiting = await refusal(go_on(more(early.name)))
    assert isinstance(waiting, FailedPrecondition)
    assert waiting.reason == "ILLEGAL_STATE"
    await cancel(trainer_service, early.name)
    assert "ended before" in await refused(early.name)
    assert isinstance(await refusal(go_on(more(f"{PROJECT}/trainingRuns/none"))), NotFound)
    assert isinstance(await refusal(go_on(more("flowers"))), InvalidArgument)


async def test_other_classes_are_refused(
    trainer_service: TrainerService,
    dataset_service: DatasetService,
    store: FilesystemStore,
    version: str,
    picture: Callable[..., bytes],
) -> None:
    """Data of other classes is named, with the classes of both."""
    run = await ended(trainer_service, store, version)
    trees = await seal(dataset_service, picture, "trees", labels=("fir", "oak"))
    error = await refusal(trainer_service.trainer.ContinueTrainingRun(more(run.name, dataset=trees)))
    assert error.violations == (
        ("dataset", "must have the classes of the run, which are daisy, rose; it has fir, oak"),
    )


async def test_a_checkpoint_that_is_gone_is_missed_at_once(
    trainer_service: TrainerService, store: FilesystemStore, version: str
) -> None:
    """Releases that kept none left its name behind: nothing is queued that would fail later."""
    run = await ended(trainer_service, store, version)
    for key in list(store.keys("projects/default/runs/")):
        store.delete(key)
    error = await refusal(trainer_service.trainer.ContinueTrainingRun(more(run.name)))
    assert isinstance(error, FailedPrecondition)
    assert error.reason == "CHECKPOINT_MISSING"


async def test_asked_for_twice_it_is_one_run(
    trainer_service: TrainerService, store: FilesystemStore, version: str
) -> None:
    """A repeated request gets the same answer; another one under its id is refused."""
    run = await ended(trainer_service, store, version)
    once = await continued(trainer_service, more(run.name, request_id="once"))
    assert await continued(trainer_service, more(run.name, request_id="once")) == once
    error = await refusal(trainer_service.trainer.ContinueTrainingRun(more(run.name, 3, request_id="once")))
    assert error.reason == "REQUEST_ID_REUSED"
