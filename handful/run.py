"""A training run in a caller's hands: watched, waited for, cancelled. The watch reconnects by itself."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc

from handful.errors import Cancelled, DeadlineExceeded, FailedPrecondition, HandfulError, Unavailable, from_rpc_error
from handful.v1 import trainer_pb2
from handful.v1.trainer_pb2 import (
    Progress,
    TrainingRun,
    TrainingRunEvent,
    WatchTrainingRunRequest,
    WatchTrainingRunResponse,
)
from handful.v1.trainer_pb2_grpc import TrainerServiceStub

# A stream that is silent for this many heartbeat intervals is dead.
SILENT_INTERVALS = 3
FIRST_SILENCE_SECONDS = 30.0
MIN_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 30.0
UNARY_SECONDS = 30.0


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: its number from 1, and its figures by well-known name, such as `val/accuracy`."""

    number: int
    metrics: dict[str, float]


class Run:
    """A training run. `training_run` is the latest that is known of it."""

    def __init__(self, stub: TrainerServiceStub, training_run: TrainingRun) -> None:
        self._stub = stub
        self.training_run = training_run

    @property
    def name(self) -> str:
        return self.training_run.name

    def watch(
        self, after_sequence: int = 0, on_reconnect: Callable[[HandfulError], None] | None = None
    ) -> Iterator[TrainingRunEvent | Progress]:
        """Events after a sequence, each exactly once and in order, and progress as it is known, to the end of the run.

        Lost connections are made again, for ever, with a growing pause; `on_reconnect` hears of each. Raises NotFound,
        OutOfRange and the other errors that trying again cannot mend.
        """
        last, pause = after_sequence, MIN_BACKOFF_SECONDS
        while True:
            try:
                for message in self._stream(last):
                    pause = MIN_BACKOFF_SECONDS
                    kind = message.WhichOneof("message")
                    if kind == "event" and message.event.sequence > last:
                        last = message.event.sequence
                        yield message.event
                    elif kind == "progress":
                        yield message.progress
                    elif kind == "finished":
                        self.training_run = message.finished.training_run
                        return
                problem: HandfulError = Unavailable("The stream ended early.")
            except grpc.RpcError as error:
                problem = from_rpc_error(error)
                if not isinstance(problem, (Unavailable, DeadlineExceeded, Cancelled)):
                    raise problem from None
            if on_reconnect:
                on_reconnect(problem)
            time.sleep(random.uniform(0, pause))  # noqa: S311 - full jitter, no secret
            pause = min(2 * pause, MAX_BACKOFF_SECONDS)

    def epochs(self) -> Iterator[Epoch]:
        """The epochs as they end. Where a worker was lost, epochs after its last checkpoint come again."""
        for event in self.watch():
            if isinstance(event, TrainingRunEvent) and event.HasField("epoch_completed"):
                metrics = {metric.name: metric.value for metric in event.epoch_completed.metrics}
                yield Epoch(event.epoch, metrics)

    def result(self) -> TrainingRun:
        """Waits for the end. The run, SUCCEEDED; FailedPrecondition where it failed or was cancelled."""
        for _ in self.watch(after_sequence=self.training_run.latest_sequence):
            pass
        run = self.training_run
        if run.state == TrainingRun.STATE_SUCCEEDED:
            return run
        if run.state == TrainingRun.STATE_FAILED:
            reason = trainer_pb2.Failure.Reason.Name(run.failure.reason).removeprefix("REASON_")
            raise FailedPrecondition(f"The run failed: {run.failure.message}", reason=reason)
        raise FailedPrecondition("The run was cancelled.", reason="CANCELLED")

    def refresh(self) -> TrainingRun:
        """Reads the run again."""
        request = trainer_pb2.GetTrainingRunRequest(name=self.name)
        try:
            self.training_run = self._stub.GetTrainingRun(request, timeout=UNARY_SECONDS).training_run
        except grpc.RpcError as problem:
            raise from_rpc_error(problem) from None
        return self.training_run

    def cancel(self) -> TrainingRun:
        """Stops the run, within 10 s where it is running."""
        request = trainer_pb2.CancelTrainingRunRequest(name=self.name)
        try:
            self.training_run = self._stub.CancelTrainingRun(request, timeout=UNARY_SECONDS).training_run
        except grpc.RpcError as problem:
            raise from_rpc_error(problem) from None
        return self.training_run

    def _stream(self, after_sequence: int) -> Iterator[WatchTrainingRunResponse]:
        request = WatchTrainingRunRequest(name=self.name, after_sequence=after_sequence)
        call = self._stub.WatchTrainingRun(request)
        silence = FIRST_SILENCE_SECONDS
        watchdog = _watchdog(call, silence)
        try:
            for message in call:
                watchdog.cancel()
                if message.HasField("started"):
                    silence = SILENT_INTERVALS * message.started.heartbeat_interval_seconds
                    self.training_run = message.started.training_run
                yield message
                watchdog = _watchdog(call, silence)
        finally:
            watchdog.cancel()
            call.cancel()


def _watchdog(call: grpc.Call, seconds: float) -> threading.Timer:
    # A peer that froze sends no error; cancelling the call turns its silence into one.
    timer = threading.Timer(seconds, call.cancel)
    timer.daemon = True
    timer.start()
    return timer
