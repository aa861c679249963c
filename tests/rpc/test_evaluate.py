"""Evaluations on other data: queued as runs, finished by what a worker measured, read back."""

from collections.abc import Callable

import pytest

from handful.bundle import manifest
from handful.v1 import bundle_pb2, model_pb2, worker_pb2
from handful.v1.trainer_pb2 import TrainingRun
from services.shared.objects.filesystem import FilesystemStore
from tests.playing_worker import PROJECT, Hold, answer, bundle, claim, create, read, refusal, seal
from tests.servers import DatasetService, TrainerService

VERSION = f"{PROJECT}/models/flowers/versions/1"


@pytest.fixture
async def published(
    dataset_service: DatasetService,
    trainer_service: TrainerService,
    store: FilesystemStore,
    picture: Callable[..., bytes],
) -> str:
    """A dataset version, and a model version that was trained on it."""
    version = await seal(dataset_service, picture)
    await create(trainer_service, version)
    await (await claim(trainer_service)).succeed(bundle(store))
    return version


def asked(dataset: str, name: str = VERSION, request_id: str = "") -> model_pb2.EvaluateModelVersionRequest:
    return model_pb2.EvaluateModelVersionRequest(name=name, dataset=dataset, request_id=request_id)


async def evaluate(service: TrainerService, dataset: str) -> tuple[TrainingRun, Hold]:
    """A queued evaluation, in a worker's hands."""
    answered = await service.models.EvaluateModelVersion(asked(dataset))
    return answered.training_run, await claim(service)


def stored(store: FilesystemStore, hold: Hold, accuracy: float = 0.8, **changes: str) -> str:
    """Puts an evaluation of what the claim asked for into the store: its SHA-256."""
    png = b"a matrix"
    evaluation = bundle_pb2.Evaluation(
        metrics=[bundle_pb2.Metric(name="val/accuracy", value=accuracy)],
        model_manifest_sha256=changes.get("model", hold.claim.evaluated_manifest_sha256),
        dataset_manifest_sha256=changes.get("dataset", hold.claim.dataset_manifest_sha256),
        plots=[bundle_pb2.BundleFile(path="plots/confusion_matrix.png", sha256=manifest.sha256(png))],
    )
    data = manifest.to_bytes(evaluation)
    digest = manifest.sha256(data)
    if "plot" not in changes:
        store.put(manifest.evaluation_key("default", digest, "plots/confusion_matrix.png"), png)
    store.put(manifest.evaluation_key("default", digest, "evaluation.json"), data)
    return digest


def finished(hold: Hold, sha256: str) -> worker_pb2.FinishTrainingRunRequest:
    evaluated = worker_pb2.FinishTrainingRunRequest.Evaluated(evaluation_sha256=sha256)
    return worker_pb2.FinishTrainingRunRequest(
        name=hold.run, attempt=hold.claim.attempt, token=hold.claim.token, evaluated=evaluated
    )


async def test_an_evaluation_is_a_run_that_trains_nothing(
    trainer_service: TrainerService, store: FilesystemStore, published: str
) -> None:
    """It is queued and claimed as a run, ends with figures, adds no version, and is read under the dataset version."""
    run, hold = await evaluate(trainer_service, published)
    assert run.evaluated_model_version == VERSION
    await trainer_service.workers.FinishTrainingRun(finished(hold, stored(store, hold)))
    ended = await read(trainer_service, run.name)
    assert (ended.state, ended.model_version) == (TrainingRun.STATE_SUCCEEDED, "")
    assert [(metric.name, metric.value) for metric in ended.metrics] == [("val/accuracy", 0.8)]
    request = model_pb2.GetEvaluationRequest(name=VERSION, dataset_version=published)
    found = await trainer_service.models.GetEvaluation(request)
    assert found.evaluation.dataset_manifest_sha256 == ended.dataset_manifest_sha256
    assert [(plot.name, plot.png) for plot in found.plots] == [("confusion_matrix", b"a matrix")]
    listed = await trainer_service.models.ListModelVersions(
        model_pb2.ListModelVersionsRequest(parent=f"{PROJECT}/models/flowers")
    )
    assert [version.name for version in listed.model_versions] == [VERSION]


async def test_the_latest_evaluation_is_read(
    trainer_service: TrainerService, store: FilesystemStore, published: str
) -> None:
    """A version may be measured again on the same data; the newest figures are given."""
    for accuracy in (0.5, 0.75):
        _, hold = await evaluate(trainer_service, published)
        await trainer_service.workers.FinishTrainingRun(finished(hold, stored(store, hold, accuracy)))
    request = model_pb2.GetEvaluationRequest(name=VERSION, dataset_version=published)
    found = await trainer_service.models.GetEvaluation(request)
    assert [metric.value for metric in found.evaluation.metrics] == [0.75]


async def test_only_what_was_asked_for_is_taken(
    trainer_service: TrainerService, store: FilesystemStore, published: str
) -> None:
    """Another model's figures, other data's, a missing plot, a model, and no hash are refused; the right ones are then
    taken.
    """
    _, hold = await evaluate(trainer_service, published)
    other = "0" * 64
    finish = trainer_service.workers.FinishTrainingRun
    answers = [
        await answer(finish(finished(hold, stored(store, hold, model=other)))),
        await answer(finish(finished(hold, stored(store, hold, dataset=other)))),
        await answer(finish(finished(hold, stored(store, hold, 0.1, plot="missing")))),
        await answer(hold.succeed(bundle(store, 0.7))),
        await answer(finish(finished(hold, "../x"))),
        await answer(finish(finished(hold, stored(store, hold)))),
    ]
    assert answers == [
        "INVALID_ARGUMENT INVALID_REQUEST",
        "INVALID_ARGUMENT INVALID_REQUEST",
        "FAILED_PRECONDITION OBJECT_MISSING",
        "INVALID_ARGUMENT INVALID_REQUEST",
        "INVALID_ARGUMENT INVALID_REQUEST",
        "OK",
    ]


async def test_a_training_run_takes_no_evaluation(
    trainer_service: TrainerService, store: FilesystemStore, published: str
) -> None:
    """A worker cannot end a training run with figures instead of a model."""
    await create(trainer_service, published)
    hold = await claim(trainer_service)
    digest = stored(store, hold, model="")
    assert await answer(trainer_service.workers.FinishTrainingRun(finished(hold, digest))) == (
        "INVALID_ARGUMENT INVALID_REQUEST"
    )


async def test_what_cannot_be_measured_is_refused(
    dataset_service: DatasetService, trainer_service: TrainerService, published: str, picture: Callable[..., bytes]
) -> None:
    """Unknown models, versions and datasets, and data without a class that the model knows, are refused at once."""
    other = await seal(dataset_service, picture, "others")
    call = trainer_service.models.EvaluateModelVersion
    assert await answer(call(asked(published, f"{PROJECT}/models/none@production"))) == "NOT_FOUND RESOURCE_NOT_FOUND"
    assert await answer(call(asked(published, f"{VERSION}0"))) == "NOT_FOUND RESOURCE_NOT_FOUND"
    assert await answer(call(asked(f"{PROJECT}/datasets/none"))) == "NOT_FOUND RESOURCE_NOT_FOUND"
    assert await answer(call(asked("flowers"))) == "INVALID_ARGUMENT INVALID_REQUEST"
    assert await answer(call(asked(other))) == "OK"
    unmeasured = model_pb2.GetEvaluationRequest(name=VERSION, dataset_version=other)
    error = await refusal(trainer_service.models.GetEvaluation(unmeasured))
    assert "EvaluateModelVersion" in error.message


async def test_the_same_request_is_one_run(trainer_service: TrainerService, published: str) -> None:
    """Repeated with its request_id, a call gives the run that there is."""
    call = trainer_service.models.EvaluateModelVersion
    first = await call(asked(published, request_id="once"))
    again = await call(asked(published, request_id="once"))
    assert first == again
    assert await answer(call(asked(published.replace("/versions/1", ""), request_id="once"))) == (
        "INVALID_ARGUMENT REQUEST_ID_REUSED"
    )
