"""The test plays the worker: it claims runs, reports on them, and finishes them with a bundle made by hand."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

import pytest
from grpc import aio

from handful import names
from handful.bundle import manifest
from handful.errors import HandfulError, from_rpc_error
from handful.v1 import bundle_pb2, dataset_pb2, trainer_pb2, worker_pb2, worker_pb2_grpc
from handful.v1.dataset_pb2 import UploadExamplesRequest as Step
from handful.v1.trainer_pb2 import TrainingRun, TrainingRunEvent
from services.shared.objects import ObjectStore
from services.shared.objects.filesystem import FilesystemStore
from services.trainer import attempts
from services.trainer.architectures import ARCHITECTURES
from services.trainer.messages import claim_message
from services.trainer.records import Grip, RunKey
from services.trainer.understanding import known
from tests.servers import DatasetService, TrainerService

PROJECT = "projects/default"
LABELS = ("daisy", "rose")


async def refusal(call: Awaitable[object]) -> HandfulError:
    """The error that a call must end with."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def answer(call: Awaitable[object]) -> str:
    """How a call ends: OK, or its code and reason."""
    try:
        await call
    except aio.AioRpcError as problem:
        error = from_rpc_error(problem)
        return f"{error.code.name} {error.reason}"
    return "OK"


async def seal(
    service: DatasetService,
    picture: Callable[..., bytes],
    dataset: str = "flowers",
    parent: str = PROJECT,
    labels: Sequence[str] = LABELS,
) -> str:
    """The name of the first version of a new dataset of four small pictures."""
    create = dataset_pb2.CreateDatasetRequest(parent=parent, dataset_id=dataset)
    return await add(service, picture, (await service.stub.CreateDataset(create)).dataset.name, range(4), labels)


async def add(
    service: DatasetService,
    picture: Callable[..., bytes],
    dataset: str,
    seeds: Sequence[int],
    labels: Sequence[str] = LABELS,
) -> str:
    """The name of the version of a dataset that has more pictures, one for each seed."""

    async def steps() -> AsyncIterator[Step]:
        yield Step(open=Step.Open(dataset=dataset))
        for seed in seeds:
            yield Step(begin=Step.Begin(client_ref=str(seed), label=labels[seed % 2]))
            yield Step(chunk=Step.Chunk(data=picture(seed, size=(8, 8))))
            yield Step(commit=Step.Commit())

    assert all([verdict.HasField("stored") async for verdict in service.stub.UploadExamples(steps())])
    sealed = await service.stub.CreateDatasetVersion(dataset_pb2.CreateDatasetVersionRequest(parent=dataset))
    return sealed.dataset_version.name


def wanted(dataset: str, **fields: object) -> trainer_pb2.CreateTrainingRunRequest:
    """A request for a run on a dataset or a version of it."""
    return trainer_pb2.CreateTrainingRunRequest(**{"parent": PROJECT, "dataset": dataset, **fields})  # type: ignore[arg-type]


async def create(service: TrainerService, dataset: str, **fields: object) -> TrainingRun:
    return (await service.trainer.CreateTrainingRun(wanted(dataset, **fields))).training_run


async def read(service: TrainerService, run: str) -> TrainingRun:
    return (await service.trainer.GetTrainingRun(trainer_pb2.GetTrainingRunRequest(name=run))).training_run


async def run_names(service: TrainerService, parent: str = PROJECT) -> list[str]:
    """The runs of a project, newest first."""
    listed = await service.trainer.ListTrainingRuns(trainer_pb2.ListTrainingRunsRequest(parent=parent))
    return [run.name for run in listed.training_runs]


async def cancel(service: TrainerService, run: str) -> TrainingRun:
    return (await service.trainer.CancelTrainingRun(trainer_pb2.CancelTrainingRunRequest(name=run))).training_run


async def events(service: TrainerService, run: str) -> list[TrainingRunEvent]:
    """Every event of a run so far."""
    latest = (await read(service, run)).latest_sequence
    call = service.trainer.WatchTrainingRun(trainer_pb2.WatchTrainingRunRequest(name=run, after_sequence=0))
    found: list[TrainingRunEvent] = []
    async for message in call:
        if message.HasField("event"):
            found.append(message.event)
        if len(found) == latest:
            break
    call.cancel()
    return found


def epoch(number: int) -> TrainingRunEvent:
    """An epoch's end, with a loss of its own."""
    loss = bundle_pb2.Metric(name="train/loss", value=1 / number)
    return TrainingRunEvent(epoch=number, epoch_completed=trainer_pb2.EpochCompleted(metrics=[loss]))


def bundle(
    store: ObjectStore, accuracy: float = 0.9, without: str = "", recipe: bundle_pb2.Recipe | None = None
) -> str:
    """Puts a small bundle into the store, if wanted `without` one of its files: the SHA-256 of its manifest."""
    evaluation = bundle_pb2.Evaluation(metrics=[bundle_pb2.Metric(name="val/accuracy", value=accuracy)])
    contents = {
        "evaluation.json": manifest.to_bytes(evaluation),
        "head.safetensors": b"a head",
        "plots/confusion_matrix.png": b"a matrix",
        "plots/loss.png": b"a curve",
    }
    contents.pop(without, None)
    files = [
        bundle_pb2.BundleFile(path=path, sha256=manifest.sha256(data), size_bytes=len(data))
        for path, data in contents.items()
    ]
    model = bundle_pb2.ModelManifest(
        format=manifest.MODEL_FORMAT, modality=bundle_pb2.MODALITY_IMAGE, labels=LABELS, files=files, recipe=recipe
    )
    written = manifest.to_bytes(model)
    digest = manifest.sha256(written)
    for path, data in {**contents, "manifest.json": written}.items():
        store.put(manifest.bundle_key("default", digest, path), data)
    return digest


def changed(store: FilesystemStore, key: str) -> None:
    """The object is not what it was."""
    store.put(key, b"other bytes")


def removed(store: FilesystemStore, key: str) -> None:
    """There is no object any more."""
    store.delete(key)


def unreadable(store: FilesystemStore, key: str) -> None:
    """There is something that cannot be read, as when a disk is away: a link in a circle."""
    store.delete(key)
    (store.folder / key).symlink_to(store.folder / key)


def unwritable(store: FilesystemStore, key: str) -> None:
    """There is something that cannot be replaced: a folder."""
    store.delete(key)
    (store.folder / key).mkdir()


def mended(store: FilesystemStore, key: str, data: bytes) -> None:
    """All is well again."""
    if (store.folder / key).is_dir():
        (store.folder / key).rmdir()
    store.put(key, data)


@dataclass
class Hold:
    """A run in the hands of the worker that the test plays."""

    stub: worker_pb2_grpc.WorkerServiceAsyncStub
    claim: worker_pb2.Claim
    reported: int = 0

    @property
    def run(self) -> str:
        return self.claim.training_run

    @property
    def grip(self) -> Grip:
        key = RunKey(**names.match(names.TRAINING_RUN, self.run, "name"))
        return Grip(key, self.claim.attempt, self.claim.token)

    def forged(self, run: str = "", attempt: int | None = None, token: str | None = None) -> Hold:
        """What someone has who takes this hold for another run's, attempt's or token's."""
        claim = worker_pb2.Claim()
        claim.CopyFrom(self.claim)
        claim.training_run = run or self.run
        claim.attempt = self.claim.attempt if attempt is None else attempt
        claim.token = self.claim.token if token is None else token
        return Hold(self.stub, claim)

    async def send(
        self, numbered: Sequence[tuple[int, TrainingRunEvent]], progress: trainer_pb2.Progress | None = None
    ) -> worker_pb2.ReportTrainingRunResponse:
        """Reports events under worker sequences of the test's choice."""
        sent = [worker_pb2.WorkerEvent(worker_sequence=number, event=event) for number, event in numbered]
        return await self.stub.ReportTrainingRun(
            worker_pb2.ReportTrainingRunRequest(
                name=self.run, attempt=self.claim.attempt, token=self.claim.token, events=sent, progress=progress
            )
        )

    async def report(
        self, *new: TrainingRunEvent, progress: trainer_pb2.Progress | None = None
    ) -> worker_pb2.ReportTrainingRunResponse:
        """Reports new events under the next worker sequences."""
        answer = await self.send(list(enumerate(new, start=self.reported + 1)), progress)
        self.reported += len(new)
        return answer

    def checkpoint(self, store: ObjectStore, number: int) -> worker_pb2.Checkpoint:
        """A checkpoint of an epoch, in the store and not committed yet."""
        prefix = f"{PROJECT}/runs/{self.grip.key.run}/attempts/{self.claim.attempt}"
        data = f"state after epoch {number} of attempt {self.claim.attempt}".encode()
        key = f"{prefix}/checkpoint-{number}"
        store.put(key, data)
        return worker_pb2.Checkpoint(key=key, sha256=manifest.sha256(data), epoch=number)

    async def commit(self, checkpoint: worker_pb2.Checkpoint) -> None:
        await self.stub.CommitCheckpoint(
            worker_pb2.CommitCheckpointRequest(
                name=self.run, attempt=self.claim.attempt, token=self.claim.token, checkpoint=checkpoint
            )
        )

    async def finish(self, **outcome: object) -> None:
        """Ends the run with `succeeded`, `failed` or `cancelled`, or hands it back with `released`."""
        request = worker_pb2.FinishTrainingRunRequest(**outcome)  # type: ignore[arg-type]
        request.name, request.attempt, request.token = self.run, self.claim.attempt, self.claim.token
        await self.stub.FinishTrainingRun(request)

    async def succeed(self, manifest_sha256: str) -> None:
        Succeeded = worker_pb2.FinishTrainingRunRequest.Succeeded  # noqa: N806 - a message's class
        await self.finish(succeeded=Succeeded(model_manifest_sha256=manifest_sha256))

    async def fail(self, message: str = "The loss is no number.") -> None:
        await self.finish(failed=trainer_pb2.Failure(reason=trainer_pb2.Failure.REASON_DIVERGED, message=message))

    async def stop(self) -> None:
        await self.finish(cancelled=worker_pb2.FinishTrainingRunRequest.Cancelled())

    async def release(self) -> None:
        await self.finish(released=worker_pb2.FinishTrainingRunRequest.Released())


def asking(
    worker: str = "worker-1",
    claim: str = "",
    pretrained: Iterable[str] = ARCHITECTURES,
    fetchable: Iterable[str] = (),
    understands: Iterable[str] = known(),
) -> worker_pb2.ClaimTrainingRunRequest:
    """The request for work of a worker of this release, or of one that understands something else; under a new claim_id
    unless one is given.
    """
    capabilities = worker_pb2.Capabilities(
        device="cpu", pretrained=pretrained, fetchable=fetchable, understands=sorted(understands)
    )
    return worker_pb2.ClaimTrainingRunRequest(
        worker_id=worker, claim_id=claim or str(uuid.uuid4()), capabilities=capabilities
    )


async def claim(service: TrainerService, worker: str = "worker-1", claim_id: str = "") -> Hold:
    """Takes the run that is next."""
    answer = await service.workers.ClaimTrainingRun(asking(worker, claim_id), timeout=5)
    assert answer.HasField("claim")
    return Hold(service.workers, answer.claim)


async def claim_briefly(service: TrainerService, worker: str = "worker-1") -> Hold:
    """Takes the run that is next, with a lease that is over at once."""
    async with service.database.write() as connection:
        run = await attempts.claim(connection, worker, str(uuid.uuid4()), "cpu", 0, suits=lambda _: True)
        assert run is not None
        history = await attempts.history(connection, run.key)
    return Hold(service.workers, claim_message(run, 0, history, []))


async def lose(service: TrainerService, hold: Hold) -> None:
    """The worker falls silent until its lease is over, and the trainer notices."""
    async with service.database.write() as connection:
        await attempts.report(connection, hold.grip, [], lease_seconds=0)
    assert hold.grip.key in await sweep(service)


async def sweep(service: TrainerService) -> list[RunKey]:
    """Ends the leases that ran out, as the sweeper does: the runs that were lost."""
    async with service.database.write() as connection:
        return await attempts.expire(connection)
