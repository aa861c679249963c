"""What is well-formed but extreme: whatever stands in a text or a number of a request, no call is a fault of ours."""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from grpc import aio

from handful.v1 import dataset_pb2, model_pb2, trainer_pb2, worker_pb2
from services.shared.objects import ObjectStore
from services.shared.pages import Page
from tests.playing_worker import PROJECT, Hold, answer, asking, bundle, claim, create, epoch, seal, wanted
from tests.servers import DatasetService, TrainerService

TEXTS = ("", "\0", "a\0b", "x" * 100_000, "💥\uffff", "'; --", "%_\\")
NUMBERS: dict[int, tuple[float, ...]] = {
    FieldDescriptor.TYPE_INT32: (-(2**31), -1, 0, 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), -1, 0, 2**63 - 1),
    FieldDescriptor.TYPE_DOUBLE: (float("nan"), float("inf"), -float("inf"), 1e308),
    FieldDescriptor.TYPE_ENUM: (-1, 99),
}
FAULTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


def extremes(request: Message) -> Iterator[tuple[str, Message]]:
    """Copies of a request, each with an extreme value in one field, and what is extreme about it."""
    for path in _leaves(request, ()):
        field = path[-1]
        values: tuple[Any, ...] = TEXTS if field.type == FieldDescriptor.TYPE_STRING else NUMBERS.get(field.type, ())
        for value in values:
            changed = type(request)()
            changed.CopyFrom(request)
            holder: Any = changed
            for part in path[:-1]:
                holder = getattr(holder, part.name)
                holder = holder[0] if part.is_repeated else holder
            if field.is_repeated:
                getattr(holder, field.name).append(value)
            else:
                setattr(holder, field.name, value)
            yield f"{'.'.join(part.name for part in path)}={str(value)[:8]!r}", changed


def _leaves(message: Any, above: tuple[FieldDescriptor, ...]) -> Iterator[tuple[FieldDescriptor, ...]]:
    for field in message.DESCRIPTOR.fields:
        if field.message_type is None:
            yield (*above, field)
        elif not field.is_repeated or len(getattr(message, field.name)):
            inner = getattr(message, field.name)
            yield from _leaves(inner[0] if field.is_repeated else inner, (*above, field))


async def faults(method: Callable[..., Any], request: Message, seconds: float = 5.0) -> dict[str, str]:
    """The extremes of a request that end as a fault of ours, and how."""
    found = {}
    for what, changed in extremes(request):
        try:
            await method(changed, timeout=seconds)
        except aio.AioRpcError as problem:
            if problem.code() in FAULTS:
                found[what] = str(problem.details())
    return found


async def test_what_products_ask_for_is_never_a_fault(
    trainer_service: TrainerService, dataset_service: DatasetService, store: ObjectStore, picture: Callable[..., bytes]
) -> None:
    """Texts with NUL, of any length, in any script, and numbers at their ends: an answer or a refusal."""
    version = await seal(dataset_service, picture)
    run = await create(trainer_service, version)
    await (await claim(trainer_service)).succeed(bundle(store))
    model, dataset = f"{PROJECT}/models/flowers", version.rpartition("/versions/")[0]
    evaluation = model_pb2.EvaluateModelVersionRequest(name=f"{model}/versions/1", dataset=version, request_id="1")
    datasets, trainer, models = dataset_service.stub, trainer_service.trainer, trainer_service.models
    requests: list[tuple[Callable[..., Any], Message]] = [
        (datasets.CreateDataset, dataset_pb2.CreateDatasetRequest(parent=PROJECT, dataset_id="new", request_id="1")),
        (datasets.GetDataset, dataset_pb2.GetDatasetRequest(name=dataset)),
        (datasets.ListDatasets, dataset_pb2.ListDatasetsRequest(parent=PROJECT)),
        (datasets.ListExamples, dataset_pb2.ListExamplesRequest(parent=dataset)),
        (datasets.CreateDatasetVersion, dataset_pb2.CreateDatasetVersionRequest(parent=dataset, request_id="1")),
        (datasets.GetDatasetVersion, dataset_pb2.GetDatasetVersionRequest(name=version)),
        (datasets.ListDatasetVersions, dataset_pb2.ListDatasetVersionsRequest(parent=dataset)),
        (datasets.ListDatasetVersionExamples, dataset_pb2.ListDatasetVersionExamplesRequest(parent=version)),
        (trainer.CreateTrainingRun, wanted(version, request_id="1")),
        (trainer.GetTrainingRun, trainer_pb2.GetTrainingRunRequest(name=run.name)),
        (trainer.ListTrainingRuns, trainer_pb2.ListTrainingRunsRequest(parent=PROJECT)),
        (trainer.CancelTrainingRun, trainer_pb2.CancelTrainingRunRequest(name=run.name)),
        (models.GetModel, model_pb2.GetModelRequest(name=model)),
        (models.ListModels, model_pb2.ListModelsRequest(parent=PROJECT)),
        (models.GetModelVersion, model_pb2.GetModelVersionRequest(name=f"{model}/versions/1")),
        (models.ListModelVersions, model_pb2.ListModelVersionsRequest(parent=model)),
        (models.SetModelAlias, model_pb2.SetModelAliasRequest(name=model, alias="best", version=1)),
        (models.EvaluateModelVersion, evaluation),
        (models.GetEvaluation, model_pb2.GetEvaluationRequest(name=f"{model}/versions/1")),
    ]
    for method, request in requests:
        assert await faults(method, request) == {}, request
    for number in (2**31, 2**63 - 1, 2**63):
        page = model_pb2.ListModelVersionsRequest(parent=model, page_token=token(model, number))
        assert await answer(models.ListModelVersions(page)) in ("OK", "INVALID_ARGUMENT INVALID_REQUEST")


def token(parent: str, *key: object) -> str:
    """A page token with any sort key."""
    question = Page.of(model_pb2.ListModelVersionsRequest(parent=parent), [int]).question
    return base64.urlsafe_b64encode(json.dumps([question, *key]).encode()).decode()


@pytest.fixture
async def hold(trainer_service: TrainerService, dataset_service: DatasetService, picture: Callable[..., bytes]) -> Hold:
    await create(trainer_service, await seal(dataset_service, picture))
    return await claim(trainer_service)


async def test_what_workers_say_is_never_a_fault(
    trainer_service: TrainerService, store: ObjectStore, hold: Hold
) -> None:
    """The same for claims, reports, checkpoints and ends."""

    async def report(request: worker_pb2.ReportTrainingRunRequest, timeout: float) -> None:  # noqa: ASYNC109
        # What was reported before would be taken silently.
        if request.events and 0 < request.events[0].worker_sequence < 2**31:
            request.events[0].worker_sequence = (await hold.report()).committed_worker_sequence + 1
        await workers.ReportTrainingRun(request, timeout=timeout)

    grip: dict[str, Any] = {"name": hold.run, "attempt": hold.claim.attempt, "token": hold.claim.token}
    event = worker_pb2.WorkerEvent(worker_sequence=1, event=epoch(1))
    failure = trainer_pb2.Failure(message="x")
    workers = trainer_service.workers
    requests: list[tuple[Callable[..., Any], Message]] = [
        (report, worker_pb2.ReportTrainingRunRequest(**grip, events=[event])),
        (workers.CommitCheckpoint, worker_pb2.CommitCheckpointRequest(**grip, checkpoint=hold.checkpoint(store, 1))),
        (workers.FinishTrainingRun, worker_pb2.FinishTrainingRunRequest(**grip, failed=failure)),
    ]
    for method, request in requests:
        assert await faults(method, request) == {}, request
    # Where nothing waits a claim waits.
    assert await faults(workers.ClaimTrainingRun, asking(), seconds=0.1) == {}
