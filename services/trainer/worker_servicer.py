"""WorkerService: hands runs to workers and takes their reports. On its own port; products never see it."""

import asyncio
import math
import re
import time
from collections.abc import Iterable

from grpc import aio

from handful import names
from handful.bundle import manifest
from handful.errors import Aborted, FailedPrecondition, InvalidArgument, Unavailable
from handful.v1 import bundle_pb2, trainer_pb2, worker_pb2, worker_pb2_grpc
from services.shared.database import Database
from services.shared.objects import ObjectMissing, ObjectStore
from services.shared.objects.keys import KEY
from services.trainer import attempts, models, runs, workers
from services.trainer.board import Board
from services.trainer.fleet import suits
from services.trainer.messages import claim_message
from services.trainer.pointers import Pointers
from services.trainer.records import Grip, ModelKey, NewModelVersion, RunKey, RunRecord

LEASE_SECONDS = 15.0
LONG_POLL_SECONDS = 10.0
# A run that another replica queued is found this late at most.
POLL_SECONDS = 1.0
MAX_EVENTS = 100
MAX_WORKER_ID = 128
MAX_CLAIM_ID = 64
MAX_KEY = 512
SHA256 = re.compile(r"[0-9a-f]{64}")

Context = aio.ServicerContext[object, object]
Request = worker_pb2.ReportTrainingRunRequest | worker_pb2.CommitCheckpointRequest | worker_pb2.FinishTrainingRunRequest


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    def __init__(
        self,
        database: Database,
        board: Board,
        store: ObjectStore,
        pointers: Pointers,
        draining: asyncio.Event,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._database = database
        self._board = board
        self._store = store
        self._pointers = pointers
        self._draining = draining
        self._lease_seconds = lease_seconds

    async def ClaimTrainingRun(
        self, request: worker_pb2.ClaimTrainingRunRequest, context: Context
    ) -> worker_pb2.ClaimTrainingRunResponse:
        for field, length in (("worker_id", MAX_WORKER_ID), ("claim_id", MAX_CLAIM_ID)):
            given = getattr(request, field)
            if not given.isprintable() or not 0 < len(given) <= length:
                raise InvalidArgument.fields([(field, f"must have 1 to {length} printable characters")])
        async with self._database.write() as connection:
            await workers.asked(connection, request.worker_id, request.capabilities)
        ends = time.monotonic() + LONG_POLL_SECONDS
        with self._board.on_queue() as bell:
            while not self._draining.is_set():
                claim = await self._try_claim(request)
                if claim is not None or time.monotonic() > ends:
                    return worker_pb2.ClaimTrainingRunResponse(claim=claim)
                await bell.wait(POLL_SECONDS)
        raise Unavailable("The trainer is stopping. Ask again.", reason="SERVER_DRAINING")

    async def _try_claim(self, request: worker_pb2.ClaimTrainingRunRequest) -> worker_pb2.Claim | None:
        async with self._database.write() as connection:
            run = await attempts.claim(
                connection,
                request.worker_id,
                request.claim_id,
                request.capabilities.device,
                self._lease_seconds,
                lambda run: suits(run.recipe, request.capabilities, continued=run.continued is not None),
            )
            if run is None:
                return None
            history = await attempts.history(connection, run.key)
            notices = await attempts.notices(connection, run.key)
        self._board.changed(run.key)
        return claim_message(run, self._lease_seconds, history, notices)

    async def ReportTrainingRun(
        self, request: worker_pb2.ReportTrainingRunRequest, context: Context
    ) -> worker_pb2.ReportTrainingRunResponse:
        if len(request.events) > MAX_EVENTS:
            raise InvalidArgument.fields([("events", f"at most {MAX_EVENTS} in one report")])
        if not all(_finite(one.event.epoch_completed.metrics) for one in request.events):
            raise InvalidArgument.fields([("events", "metrics must be finite numbers")])
        grip = _grip(request)
        progress = request.progress if request.HasField("progress") else None
        async with self._database.write() as connection:
            committed, run = await attempts.report(connection, grip, request.events, self._lease_seconds, progress)
        if request.events or progress is not None:
            self._board.changed(grip.key)
        return worker_pb2.ReportTrainingRunResponse(committed_worker_sequence=committed, directive=_directive(run))

    async def CommitCheckpoint(
        self, request: worker_pb2.CommitCheckpointRequest, context: Context
    ) -> worker_pb2.CommitCheckpointResponse:
        grip, checkpoint = _grip(request), request.checkpoint
        prefix = f"projects/{grip.key.project}/runs/{grip.key.run}/attempts/{grip.attempt}/"
        below = checkpoint.key[len(prefix) :] if checkpoint.key.startswith(prefix) else ""
        if not KEY.fullmatch(below) or len(checkpoint.key) > MAX_KEY or checkpoint.epoch < 1:
            allowed = f"needs a key below {prefix}, of at most {MAX_KEY} characters, and an epoch from 1"
            raise InvalidArgument.fields([("checkpoint", allowed)])
        await self._hold(grip)
        await self._read(checkpoint.key, checkpoint.sha256)
        async with self._database.write() as connection:
            await attempts.commit_checkpoint(connection, grip, checkpoint, self._lease_seconds)
        self._board.changed(grip.key)
        return worker_pb2.CommitCheckpointResponse()

    async def FinishTrainingRun(
        self, request: worker_pb2.FinishTrainingRunRequest, context: Context
    ) -> worker_pb2.FinishTrainingRunResponse:
        grip, released = _grip(request), request.HasField("released")
        try:
            await self._hold(grip)
            await self._finish(grip, request)
        except Aborted:
            async with self._database.read() as connection:
                if not await attempts.is_over(connection, grip, released=released):
                    raise
        self._board.changed(grip.key)
        self._board.queued()
        return worker_pb2.FinishTrainingRunResponse()

    async def _hold(self, grip: Grip) -> None:
        """Renews the lease before anything that may wait for the store, and be asked again."""
        async with self._database.write() as connection:
            await attempts.hold(connection, grip, self._lease_seconds)

    async def _finish(self, grip: Grip, request: worker_pb2.FinishTrainingRunRequest) -> None:
        outcome = request.WhichOneof("outcome")
        if outcome == "succeeded":
            await self._publish(grip, request.succeeded.model_manifest_sha256)
            return
        if outcome == "evaluated":
            await self._evaluated(grip, request.evaluated.evaluation_sha256)
            return
        if outcome is None:
            raise InvalidArgument.fields([("outcome", "must be set")])
        if outcome == "released":
            async with self._database.write() as connection:
                await attempts.release(connection, grip)
            return
        failed = outcome == "failed"
        state = trainer_pb2.TrainingRun.STATE_FAILED if failed else trainer_pb2.TrainingRun.STATE_CANCELLED
        async with self._database.write() as connection:
            failure = request.failed.SerializeToString() if failed else None
            await attempts.finish(connection, grip, state, failure=failure)

    async def _publish(self, grip: Grip, sha256: str) -> None:
        project = grip.key.project
        _check_sha256("succeeded.model_manifest_sha256", sha256)
        model, evaluation = await self._bundle(project, sha256)
        metrics = tuple((metric.name, metric.value) for metric in evaluation.metrics)
        async with self._database.write() as connection:
            run = await runs.get(connection, grip.key)
            if run.evaluated_version:
                raise InvalidArgument.fields([("outcome", "this run evaluates; it publishes no model")])
            recipe = await attempts.settle(connection, grip, run.recipe, model.recipe)
            new = NewModelVersion(
                key=ModelKey(project, run.model),
                manifest_sha256=sha256,
                recipe=recipe,
                labels=tuple(model.labels),
                metrics=metrics,
                promote=run.promote,
                run=grip.key.run,
                dataset_version=run.dataset_version,
            )
            number = await models.publish(connection, new)
            figures = list((dict(run.metrics) | dict(metrics)).items())
            succeeded = trainer_pb2.TrainingRun.STATE_SUCCEEDED
            await attempts.finish(connection, grip, succeeded, version=number, metrics=figures)
        await self._pointers.write(project)

    async def _evaluated(self, grip: Grip, sha256: str) -> None:
        _check_sha256("evaluated.evaluation_sha256", sha256)
        evaluation = await self._evaluation(grip.key.project, sha256)
        metrics = [(metric.name, metric.value) for metric in evaluation.metrics]
        async with self._database.write() as connection:
            run = await runs.get(connection, grip.key)
            asked = (run.evaluated_manifest_sha256, run.dataset_manifest_sha256)
            if (evaluation.model_manifest_sha256, evaluation.dataset_manifest_sha256) != asked:
                raise InvalidArgument.fields([("outcome", "the evaluation is not the one that the run asked for")])
            state = trainer_pb2.TrainingRun.STATE_SUCCEEDED
            await attempts.finish(connection, grip, state, evaluation_sha256=sha256, metrics=metrics)

    async def _evaluation(self, project: str, sha256: str) -> bundle_pb2.Evaluation:
        """An evaluation on other data, after every plot of it was found to be what it says."""
        data = await self._read(manifest.evaluation_key(project, sha256, "evaluation.json"), sha256)
        try:
            evaluation = manifest.from_bytes(bundle_pb2.Evaluation, data)
            for plot in evaluation.plots:
                await self._read(manifest.evaluation_key(project, sha256, plot.path), plot.sha256)
        except ValueError:
            raise FailedPrecondition("The evaluation is not one.", reason="BUNDLE_INCOMPLETE") from None
        return _measured(evaluation)

    async def _bundle(self, project: str, sha256: str) -> tuple[bundle_pb2.ModelManifest, bundle_pb2.Evaluation]:
        """A bundle's manifest and evaluation, after every file of it was found to be what the manifest says."""
        data = await self._read(manifest.bundle_key(project, sha256, "manifest.json"), sha256)
        try:
            model = manifest.from_bytes(bundle_pb2.ModelManifest, data)
            files = {
                file.path: await self._read(manifest.bundle_key(project, sha256, file.path), file.sha256)
                for file in model.files
            }
            return model, _measured(manifest.from_bytes(bundle_pb2.Evaluation, files["evaluation.json"]))
        except manifest.UnknownFormat:
            message = "The bundle is of a kind that this server does not know. It is a worker's of another release."
            raise FailedPrecondition(message, reason="BUNDLE_UNKNOWN") from None
        except (ValueError, KeyError):
            raise FailedPrecondition(
                "The bundle is not one, or has no evaluation.", reason="BUNDLE_INCOMPLETE"
            ) from None

    async def _read(self, key: str, sha256: str) -> bytes:
        try:
            return await asyncio.to_thread(self._store.get, key, sha256)
        except ObjectMissing:
            raise FailedPrecondition(f"There is no object {key}.", reason="OBJECT_MISSING") from None


def _measured(evaluation: bundle_pb2.Evaluation) -> bundle_pb2.Evaluation:
    if not _finite(evaluation.metrics):
        raise FailedPrecondition("The evaluation has a metric that is no number.", reason="BUNDLE_INCOMPLETE")
    return evaluation


def _finite(metrics: Iterable[bundle_pb2.Metric]) -> bool:
    return all(math.isfinite(metric.value) for metric in metrics)


def _grip(request: Request) -> Grip:
    if not request.token.isprintable():
        raise InvalidArgument.fields([("token", "is none of ours")])
    key = RunKey(**names.match(names.TRAINING_RUN, request.name, "name"))
    return Grip(key, request.attempt, request.token)


def _check_sha256(field: str, value: str) -> None:
    if not SHA256.fullmatch(value):
        raise InvalidArgument.fields([(field, "must be lower-case hex")])


def _directive(run: RunRecord) -> "worker_pb2.ReportTrainingRunResponse.Directive.ValueType":
    if run.state == trainer_pb2.TrainingRun.STATE_CANCELLING:
        return worker_pb2.ReportTrainingRunResponse.DIRECTIVE_CANCEL
    return worker_pb2.ReportTrainingRunResponse.DIRECTIVE_CONTINUE
