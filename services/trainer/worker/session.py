"""One claimed run from start to finish: trains, publishes, and says how it ended, whatever happens."""

import errno
from collections.abc import Callable

import structlog

from handful.v1.trainer_pb2 import Failure
from handful.v1.worker_pb2 import Claim, FinishTrainingRunRequest
from handful.v1.worker_pb2_grpc import WorkerServiceStub
from services.shared.objects import ObjectCorrupt, ObjectMissing, ObjectStore, StoreUnavailable
from services.trainer.recipes import BASELINE, FAST
from services.trainer.worker import linear_probe
from services.trainer.worker.backbones import GraphDisagrees
from services.trainer.worker.evaluation import evaluate
from services.trainer.worker.examples import Examples, targets
from services.trainer.worker.publishing import ParityFailed, publish
from services.trainer.worker.reporting import LeaseLost, Reporter, RunCancelled
from services.trainer.worker.work import Diverged, Trained, Work

log = structlog.get_logger()


def run(stub: WorkerServiceStub, claim: Claim, store: ObjectStore, threads: int) -> None:
    """Trains the claimed run and reports its end. Where the run is lost to another worker it is dropped."""
    reporter = Reporter(stub, claim)
    work = Work(claim, store, reporter, threads)
    log.info("run started", training_run=claim.training_run, attempt=claim.attempt, preset=claim.recipe.preset)
    try:
        finish = _outcome(work)
        reporter.close()
        reporter.finish(finish)
        log.info("run ended", outcome=finish.WhichOneof("outcome"))
    except LeaseLost:
        log.warning("run lost", training_run=claim.training_run)


def _outcome(work: Work) -> FinishTrainingRunRequest:
    try:
        return FinishTrainingRunRequest(
            succeeded=FinishTrainingRunRequest.Succeeded(model_manifest_sha256=_train(work))
        )
    except LeaseLost:
        raise
    except RunCancelled:
        return FinishTrainingRunRequest(cancelled=FinishTrainingRunRequest.Cancelled())
    except Exception as problem:  # noqa: BLE001 - a run ends in a named failure, whatever befell it
        failure = _failure(problem)
        log.error("run failed", reason=Failure.Reason.Name(failure.reason), exc_info=problem)  # noqa: LOG014
        return FinishTrainingRunRequest(failed=failure)


def _train(work: Work) -> str:
    examples = Examples.load(work.store, work.project, work.claim.dataset_manifest_sha256)
    trained = _trainer(work.recipe.preset)(work, examples)
    work.progress("publishing")
    evaluation = evaluate(examples.labels, targets(examples.val), trained.val_probabilities, work.history)
    digest = publish(work, trained, evaluation)
    work.reporter.check()
    return digest


def _trainer(preset: str) -> Callable[[Work, Examples], Trained]:
    if preset == FAST:
        return linear_probe.train
    if preset == BASELINE:
        from services.trainer.worker import fine_tuning  # torch, where it is needed

        return fine_tuning.train
    raise ValueError(f"unknown preset {preset}")


def _failure(problem: Exception) -> Failure:
    """What the user is told: our own messages as they are, anything else as a fault of ours."""
    if _is_weights_unavailable(problem):
        return Failure(reason=Failure.REASON_WEIGHTS_UNAVAILABLE, message=str(problem))
    if isinstance(problem, (Diverged, ParityFailed)):
        reason = Failure.REASON_DIVERGED if isinstance(problem, Diverged) else Failure.REASON_PARITY
        return Failure(reason=reason, message=str(problem))
    if isinstance(problem, GraphDisagrees):
        return Failure(reason=Failure.REASON_PARITY, message="The network's graph disagrees with the network.")
    if isinstance(problem, (ObjectMissing, ObjectCorrupt)):
        message = "A stored object that the run needs is missing or not what its hash says."
        return Failure(reason=Failure.REASON_DATA_CORRUPT, message=message)
    if isinstance(problem, (StoreUnavailable, OSError)):
        return _store_failure(problem)
    if isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError":
        message = "The memory of the worker does not suffice. Try a smaller batch_size."
        return Failure(reason=Failure.REASON_OUT_OF_MEMORY, message=message)
    message = "Something went wrong on our side; the worker's log says what."
    return Failure(reason=Failure.REASON_INTERNAL, message=message)


def _store_failure(problem: Exception) -> Failure:
    cause = problem if isinstance(problem, OSError) else problem.__cause__
    if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
        return Failure(reason=Failure.REASON_DISK_FULL, message="The disk is full. Make room and start the run again.")
    return Failure(
        reason=Failure.REASON_STORE_UNAVAILABLE,
        message="The object store cannot be reached. Start the run again later.",
    )


def _is_weights_unavailable(problem: Exception) -> bool:
    # By name: the class lives beside torch, which a run of `fast` may never import.
    return type(problem).__name__ == "WeightsUnavailable"
