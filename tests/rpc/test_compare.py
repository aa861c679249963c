"""Runs side by side: figures with intervals, what differs, curves, and what is refused. Runs that are only checked."""

from collections.abc import Callable

import pytest

from handful.v1 import bundle_pb2, model_pb2, trainer_pb2
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.comparing import curve
from services.trainer.intervals import wilson
from tests.playing_worker import (
    PROJECT,
    answer,
    bundle,
    claim,
    create,
    epoch,
    read,
    refusal,
    run_names,
    seal,
    wanted,
)
from tests.servers import DatasetService, TrainerService


@pytest.fixture
async def version(dataset_service: DatasetService, picture: Callable[..., bytes]) -> str:
    return await seal(dataset_service, picture)


def asked(*runs: str, parent: str = PROJECT) -> trainer_pb2.CompareTrainingRunsRequest:
    return trainer_pb2.CompareTrainingRunsRequest(parent=parent, training_runs=runs)


async def test_runs_are_set_side_by_side(trainer_service: TrainerService, store: FilesystemStore, version: str) -> None:
    """A run that is over has figures, an interval, seconds, memory and a curve; one that waits has what it has."""
    over = await create(trainer_service, version)
    hold = await claim(trainer_service)
    figures = {"val/accuracy": 0.5, "val/loss": 0.25, "peak_memory_bytes": 1024.0}
    metrics = [bundle_pb2.Metric(name=name, value=value) for name, value in figures.items()]
    measured = trainer_pb2.TrainingRunEvent(epoch=2, epoch_completed=trainer_pb2.EpochCompleted(metrics=metrics))
    await hold.report(epoch(1), measured)
    await hold.succeed(bundle(store))
    waits = await create(trainer_service, version, recipe=bundle_pb2.Recipe(seed=7, regularization_c=0.5))

    found = await trainer_service.trainer.CompareTrainingRuns(asked(waits.name, over.name))

    assert list(found.differing_fields) == ["seed", "regularization_c"]
    queued, done = found.training_runs
    assert queued.training_run == await read(trainer_service, waits.name)
    assert not queued.HasField("accuracy_interval")
    assert not queued.HasField("seconds")
    assert not queued.history
    assert done.training_run == await read(trainer_service, over.name)
    assert done.seconds > 0
    assert done.num_parameters > 1_000_000
    assert done.peak_memory_bytes == 1024
    assert [[metric.name for metric in one.metrics] for one in done.history] == [
        ["train/loss"],
        ["val/accuracy", "val/loss"],
    ]
    accuracy = next(metric.value for metric in done.training_run.metrics if metric.name == "val/accuracy")
    assert done.num_val_examples > 0
    assert done.accuracy_interval == wilson(accuracy, done.num_val_examples)


async def test_what_cannot_be_compared_is_refused(
    trainer_service: TrainerService, store: FilesystemStore, version: str
) -> None:
    """Nothing, too much, doubles, other projects' runs, evaluations, and names that are none are refused by field."""
    run = (await create(trainer_service, version)).name
    compare = trainer_service.trainer.CompareTrainingRuns
    fields = {
        "none": asked(),
        "many": asked(*(f"{run}{number}" for number in range(101))),
        "twice": asked(run, run),
        "foreign": asked(run, parent="projects/other"),
        "odd": asked("flowers"),
    }
    refused = {case: (await refusal(compare(request))).violations for case, request in fields.items()}
    assert refused["none"] == (("training_runs", "must name 1 to 100 runs, not 0"),)
    assert refused["many"] == (("training_runs", "must name 1 to 100 runs, not 101"),)
    assert refused["twice"] == (("training_runs[1]", "is named twice"),)
    assert refused["foreign"] == (("training_runs[0]", "must be a run of projects/other"),)
    assert [field for field, _ in refused["odd"]] == ["training_runs[0]"]
    evaluated = model_pb2.EvaluateModelVersionRequest(name=f"{PROJECT}/models/flowers/versions/1", dataset=version)
    await (await claim(trainer_service)).succeed(bundle(store))
    evaluation = (await trainer_service.models.EvaluateModelVersion(evaluated)).training_run.name
    error = await refusal(compare(asked(run, evaluation)))
    assert error.violations == (("training_runs[1]", "measures a model and trains none; compare training runs"),)
    assert await answer(compare(asked(f"{PROJECT}/trainingRuns/none"))) == "NOT_FOUND RESOURCE_NOT_FOUND"
    assert await answer(compare(asked(run, parent="nothing"))) == "INVALID_ARGUMENT INVALID_REQUEST"


async def test_a_run_that_is_only_checked_is_not_queued(trainer_service: TrainerService, version: str) -> None:
    """`validate_only` gives the resolved recipe or the refusal of the real call, and leaves nothing behind."""
    create = trainer_service.trainer.CreateTrainingRun
    checked = await create(wanted(version, validate_only=True, request_id="once"))
    assert checked.training_run.recipe.preset == "fast"
    assert checked.training_run.name == ""
    bad = wanted(version, validate_only=True, recipe=bundle_pb2.Recipe(num_epochs=-1))
    assert [field for field, _ in (await refusal(create(bad))).violations] == ["recipe.num_epochs"]
    assert await run_names(trainer_service) == []
    assert (await create(wanted(version, request_id="once"))).training_run.name


def test_a_long_curve_is_thinned() -> None:
    """A hundred points at most, with the first and the last epoch; a short curve stays whole."""
    history = [bundle_pb2.EpochMetrics(epoch=number) for number in range(1, 10_001)]
    epochs = [one.epoch for one in curve(history)]
    assert (len(epochs), epochs[0], epochs[-1]) == (100, 1, 10_000)
    assert epochs == sorted(set(epochs))
    assert len(curve(history[:100])) == 100
    assert curve([]) == []
