"""Services over a bucket whose server goes, comes back, refuses them, or has lost a byte."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from grpc import StatusCode

from handful.bundle import manifest
from handful.channel import connect
from handful.v1 import inference_pb2_grpc
from handful.v1.dataset_pb2 import (
    CreateDatasetRequest,
    CreateDatasetVersionRequest,
    ListDatasetVersionExamplesRequest,
)
from handful.v1.dataset_pb2 import UploadExamplesRequest as Step
from handful.v1.inference_pb2 import PredictRequest
from handful.v1.model_pb2 import GetEvaluationRequest, SetModelAliasRequest
from handful.v1.trainer_pb2 import Failure, TrainingRun
from handful.v1.worker_pb2_grpc import WorkerServiceStub
from services.shared.objects import ObjectStore, open_store
from services.shared.objects.retrying import RetryingStore
from services.shared.objects.s3 import S3Store
from services.trainer.worker import session
from services.trainer.worker.pretrained import PretrainedWeights
from services.trainer.worker.work import begin
from tests import bundles
from tests.minio_server import READER, WRITER, MinioServer
from tests.playing_worker import (
    PROJECT,
    Hold,
    answer,
    bundle,
    claim,
    claim_briefly,
    create,
    read,
    refusal,
    seal,
    sweep,
)
from tests.servers import Databases, DatasetService, TrainerService

AWAY, LOST = "UNAVAILABLE DEPENDENCY_DOWN", "DATA_LOSS BLOB_CORRUPT"
Picture = Callable[..., bytes]
Inference: TypeAlias = "inference_pb2_grpc.InferenceServiceAsyncStub"


@pytest.fixture
def databases(tmp_path: Path) -> Databases:
    """Files: they are not what is tested here."""
    return Databases(str(tmp_path / "dataset.sqlite"), str(tmp_path / "trainer.sqlite"))


@pytest.fixture
def store(own_minio: MinioServer, request: pytest.FixtureRequest) -> ObjectStore:
    return open_store(own_minio.settings(getattr(request, "param", WRITER)))


async def upload(service: DatasetService, image: bytes) -> None:
    """One picture into the dataset of flowers."""

    async def steps() -> AsyncIterator[Step]:
        yield Step(open=Step.Open(dataset=f"{PROJECT}/datasets/flowers"))
        yield Step(begin=Step.Begin(label="rose"))
        yield Step(chunk=Step.Chunk(data=image))
        yield Step(commit=Step.Commit())

    assert [verdict.HasField("stored") async for verdict in service.stub.UploadExamples(steps())] == [True]


class Line:
    """What the services are asked that makes them ask the store."""

    def __init__(
        self,
        dataset: DatasetService,
        trainer: TrainerService,
        inference: Inference,
        hold: Hold,
        store: ObjectStore,
        picture: Picture,
    ) -> None:
        self._dataset = dataset
        self._trainer = trainer
        self._inference = inference
        self.hold = hold
        self._image = picture(1, bundles.COLOURS["red"])
        self.checkpoint = hold.checkpoint(store, 1)
        self._bundle = bundle(store, accuracy=0.5)
        self.keys = {
            "examples": next(store.keys("projects/default/manifests/")),
            "checkpoint": self.checkpoint.key,
            "finish": manifest.bundle_key("default", self._bundle, "evaluation.json"),
        }

    async def answers(self) -> dict[str, str]:
        """How each call ends, one after another."""
        dataset, version = f"{PROJECT}/datasets/flowers", f"{PROJECT}/datasets/flowers/versions/1"
        model, stub = f"{PROJECT}/models/flowers/versions/1", self._dataset.stub
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "upload": lambda: upload(self._dataset, self._image),
            "seal": lambda: stub.CreateDatasetVersion(CreateDatasetVersionRequest(parent=dataset)),
            "examples": lambda: stub.ListDatasetVersionExamples(ListDatasetVersionExamplesRequest(parent=version)),
            "checkpoint": lambda: self.hold.commit(self.checkpoint),
            "finish": lambda: self.hold.succeed(self._bundle),
            "evaluation": lambda: self._trainer.models.GetEvaluation(GetEvaluationRequest(name=model)),
            "load": lambda: self.predict("trees"),
        }
        return {name: await answer(call()) for name, call in calls.items()}

    async def predict(self, model: str) -> str:
        """The best answer."""
        request = PredictRequest(model=f"{PROJECT}/models/{model}", image=self._image)
        return (await self._inference.Predict(request, timeout=60)).predictions[0].label


@pytest.fixture
async def line(
    dataset_service: DatasetService,
    trainer_service: TrainerService,
    inference_stub: Inference,
    store: ObjectStore,
    picture: Picture,
) -> Line:
    """Version 1 of a dataset and of a model, a second run that is held, and two models to predict with."""
    version = await seal(dataset_service, picture)
    await create(trainer_service, version)
    await (await claim(trainer_service)).succeed(bundle(store))
    await create(trainer_service, version)
    hold = await claim_briefly(trainer_service)
    made = {"roses": [bundles.publish(store)], "trees": [bundles.publish(store, graph=bundles.mean_colour("other"))]}
    bundles.point(store, made, generation=9)
    return Line(dataset_service, trainer_service, inference_stub, hold, store, picture)


async def test_services_outlive_their_store(
    own_minio: MinioServer, trainer_service: TrainerService, line: Line
) -> None:
    """While it is away what needs it is UNAVAILABLE, what does not is done, and afterwards all is well without more."""
    assert await line.predict("roses") == "red"
    own_minio.stop()
    assert await answer(line.hold.commit(line.checkpoint)) == AWAY
    assert await sweep(trainer_service) == [], "a worker that waits for the store with us keeps its run"
    answers = await line.answers()
    assert answers == dict.fromkeys(answers, AWAY)
    assert await line.predict("roses") == "red"
    alias = SetModelAliasRequest(name=f"{PROJECT}/models/flowers", alias="best", version=1)
    assert await answer(trainer_service.models.SetModelAlias(alias)) == "OK"
    own_minio.start()
    answers = await line.answers()
    assert answers == dict.fromkeys(answers, "OK")


async def test_a_byte_that_the_server_lost_is_data_loss(own_minio: MinioServer, store: ObjectStore, line: Line) -> None:
    """Whoever reads the object is told at once that it is lost; everything else goes on."""
    trees = next(key for key in store.keys("backbones/") if store.get(key) == bundles.mean_colour("other"))
    for key in (*line.keys.values(), trees):
        stored = max(own_minio.files(key), key=lambda path: path.stat().st_size)
        content, good = bytearray(stored.read_bytes()), store.get(key)
        content[content.find(good)] ^= 1
        stored.write_bytes(content)
    answers = await line.answers()
    lost = {"examples": LOST, "checkpoint": LOST, "finish": LOST, "load": LOST}
    assert answers == dict.fromkeys(answers, "OK") | lost
    assert await line.predict("roses") == "red"


@pytest.mark.parametrize("store", [READER], indirect=True)
async def test_a_store_that_refuses_is_told_apart(dataset_service: DatasetService, picture: Picture) -> None:
    """With keys that may not write, an upload is UNAVAILABLE for a reason of its own; where and why is not told."""
    await dataset_service.stub.CreateDataset(CreateDatasetRequest(parent=PROJECT, dataset_id="flowers"))
    error = await refusal(upload(dataset_service, picture()))
    assert (error.code, error.reason) == (StatusCode.UNAVAILABLE, "STORE_REFUSED")
    assert not any(word in error.message for word in ("127.0.0.1", "s3:", READER[0], "HANDFUL"))


async def test_a_run_whose_worker_is_refused_fails_at_once(
    own_minio: MinioServer, trainer_service: TrainerService, dataset_service: DatasetService, picture: Picture
) -> None:
    """A worker with wrong keys does not wait for better ones; the run says whom to ask, and nothing about the store."""
    await create(trainer_service, await seal(dataset_service, picture))
    hold = await claim(trainer_service)
    wrong = RetryingStore(S3Store(own_minio.settings((WRITER[0], "not it"))), seconds=600)
    with connect(trainer_service.worker_address) as channel:
        work = begin(WorkerServiceStub(channel), hold.claim, wrong, PretrainedWeights(wrong), threads=1)
        async with asyncio.timeout(30):
            await asyncio.to_thread(session.run, work)
    run = await read(trainer_service, hold.run)
    assert (run.state, run.failure.reason) == (TrainingRun.STATE_FAILED, Failure.REASON_STORE_UNAVAILABLE)
    assert (
        run.failure.message
        == "The object store refuses the worker. Its log says what to mend; then start the run again."
    )
