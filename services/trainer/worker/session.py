"""One claimed run from start to finish: trains, publishes, and says how it ended, whatever happens."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import structlog

from handful.errors import HandfulError
from handful.v1.bundle_pb2 import Recipe
from handful.v1.trainer_pb2 import Failure, TrainingRunEvent
from handful.v1.worker_pb2 import FinishTrainingRunRequest
from services.shared.objects import (
    ObjectCorrupt,
    ObjectMissing,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from services.trainer.architectures import ARCHITECTURES, ULTRALYTICS
from services.trainer.presets import BASELINE, FINE_TUNE, OF_FEATURES
from services.trainer.worker import checkpoints, linear_probe, measuring
from services.trainer.worker.agreement import GraphDisagrees
from services.trainer.worker.children import ChildLost
from services.trainer.worker.evaluation import evaluate, wrong_answers
from services.trainer.worker.examples import Examples, targets
from services.trainer.worker.held_out import HeldOut
from services.trainer.worker.memory import OutOfMemory, is_out_of_memory
from services.trainer.worker.parts import NoTorch, NoYolo, need_torch, need_yolo
from services.trainer.worker.pretrained import WeightsUnavailable
from services.trainer.worker.publishing import ParityFailed, publish
from services.trainer.worker.reporting import LeaseLost, RunCancelled
from services.trainer.worker.starting_point import settle
from services.trainer.worker.unseen import unseen
from services.trainer.worker.work import CannotDivide, Diverged, NoExamples, Trained, WeightsMismatch, Work

log = structlog.get_logger()


def run(work: Work) -> None:
    """Trains the run and reports its end. Where it is lost to another worker it is dropped."""
    claim, reporter = work.claim, work.reporter
    log.info("run started", training_run=claim.training_run, attempt=claim.attempt, preset=claim.recipe.preset)
    try:
        try:
            finish = _outcome(work)
        finally:
            work.children.end()
        try:
            reporter.close(commit=_keeps_checkpoint(finish))
            reporter.finish(finish)
        except HandfulError as refused:
            if not finish.HasField("failed"):  # else it failed for a better reason
                finish = FinishTrainingRunRequest(failed=_failure(refused))
            reporter.finish(finish)
        log.info("run ended", outcome=finish.WhichOneof("outcome"))
        checkpoints.remove_others(work.store, claim, reporter.last_checkpoints)
    except HandfulError:
        log.exception("the run's end was refused; its lease will end", training_run=claim.training_run)
    except LeaseLost:
        log.warning("run lost", training_run=claim.training_run)


def _keeps_checkpoint(finish: FinishTrainingRunRequest) -> bool:
    """Whether the end of a run waits until its last checkpoint counts: whoever cancels does not wait for a store, and a
    store that failed is not waited for.
    """
    away = (Failure.REASON_STORE_UNAVAILABLE, Failure.REASON_DISK_FULL)
    return finish.HasField("succeeded") or (finish.HasField("failed") and finish.failed.reason not in away)


def _outcome(work: Work) -> FinishTrainingRunRequest:
    try:
        if work.claim.evaluated_manifest_sha256:
            evaluated = FinishTrainingRunRequest.Evaluated(evaluation_sha256=measuring.measure(work))
            return FinishTrainingRunRequest(evaluated=evaluated)
        succeeded = FinishTrainingRunRequest.Succeeded(model_manifest_sha256=_train(work))
        return FinishTrainingRunRequest(succeeded=succeeded)
    except LeaseLost:
        raise
    except RunCancelled:
        return FinishTrainingRunRequest(cancelled=FinishTrainingRunRequest.Cancelled())
    except Exception as problem:
        failure = _failure(problem)
        log.exception("run failed", reason=Failure.Reason.Name(failure.reason))
        return FinishTrainingRunRequest(failed=failure)


def _train(work: Work) -> str:
    examples = Examples.load(work.store, work.project, work.claim.dataset_manifest_sha256)
    examples = replace(examples, val=unseen(work, examples.val, examples, work.claim.earlier_dataset_manifest_sha256s))
    settle(work)
    trained = trainer(work.recipe)(work, examples)
    work.progress("publishing")
    labels, answers = targets(examples.val), trained.val_probabilities
    groups = [one.group for one in examples.val]
    evaluation = evaluate(examples.labels, labels, answers, work.history, trained.cross_validation, groups)
    evaluation.wrong_answers.extend(wrong_answers(examples.labels, examples.val, answers))
    held_out = trained.held_out or HeldOut(answers[None], labels, np.unique(groups, return_inverse=True)[1])
    control = held_out.error_control()
    if control is not None:
        evaluation.error_rate_promises.extend(held_out.promises(control))
    evaluation.resources.CopyFrom(work.usage.so_far())
    digest = publish(work, trained, evaluation, control)
    work.reporter.event(TrainingRunEvent(resources_used=work.usage.so_far()))
    work.reporter.check()
    return digest


def trainer(recipe: Recipe) -> Callable[[Work, Examples], Trained]:
    """What trains by a recipe; NoTorch or NoYolo."""
    preset = recipe.preset
    if preset in OF_FEATURES:
        return linear_probe.train
    row = ARCHITECTURES[recipe.architecture]
    if row.network.library == ULTRALYTICS:
        need_yolo(row)
        from services.trainer.worker.yolo import training

        return training.train
    if preset in (BASELINE, FINE_TUNE):
        need_torch(f"Preset {preset}")
        from services.trainer.worker import fine_tuning  # torch, where it is needed

        return fine_tuning.train
    raise ValueError(f"unknown preset {preset}")


def _failure(problem: Exception) -> Failure:
    """What the user is told: messages that were written for them as they are, anything else in our words."""
    if type(problem) in _TOLD:
        return Failure(reason=_TOLD[type(problem)], message=str(problem))
    if is_out_of_memory(problem):
        message = "The memory of the worker does not suffice. Try a smaller architecture."
        return Failure(reason=Failure.REASON_OUT_OF_MEMORY, message=message)
    for kinds, reason, message in _OURS:
        if isinstance(problem, kinds):
            return Failure(reason=reason, message=message)
    message = "Something went wrong on our side; the worker's log says what."
    return Failure(reason=Failure.REASON_INTERNAL, message=message)


_TOLD: dict[type[Exception], "Failure.Reason.ValueType"] = {
    WeightsUnavailable: Failure.REASON_WEIGHTS_UNAVAILABLE,
    WeightsMismatch: Failure.REASON_WEIGHTS_MISMATCH,
    OutOfMemory: Failure.REASON_OUT_OF_MEMORY,
    Diverged: Failure.REASON_DIVERGED,
    NoTorch: Failure.REASON_NO_TORCH,
    NoYolo: Failure.REASON_NO_YOLO,
    NoExamples: Failure.REASON_NO_EXAMPLES,
    CannotDivide: Failure.REASON_NO_FOLDS,
    ParityFailed: Failure.REASON_PARITY,
}
_OURS: tuple[tuple[tuple[type[Exception], ...], "Failure.Reason.ValueType", str], ...] = (
    (
        (GraphDisagrees,),
        Failure.REASON_PARITY,
        "The network's graph disagrees with the network; nothing was published.",
    ),
    (
        (ChildLost,),
        Failure.REASON_PROCESS_LOST,
        "A process that the run had started ended without an answer. Start the run again; the worker's log says more.",
    ),
    (
        (ObjectMissing, ObjectCorrupt),
        Failure.REASON_DATA_CORRUPT,
        "A stored object that the run needs is missing or not what its hash says.",
    ),
    (
        (StoreFull,),
        Failure.REASON_DISK_FULL,
        "The disk is full. Make room and start the run again.",
    ),
    (
        (StoreRefused,),
        Failure.REASON_STORE_UNAVAILABLE,
        "The object store refuses the worker. Its log says what to mend; then start the run again.",
    ),
    (
        (StoreUnavailable,),
        Failure.REASON_STORE_UNAVAILABLE,
        "The object store cannot be reached. Start the run again later.",
    ),
)
