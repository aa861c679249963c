"""A training run in a caller's hands: watched, waited for, cancelled. The watch reconnects by itself."""

import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from handful.calls import call
from handful.errors import Cancelled, DeadlineExceeded, FailedPrecondition, HandfulError, Unavailable
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
            except (Unavailable, DeadlineExceeded, Cancelled) as lost:
                problem = lost
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
        self.training_run = call(self._stub.GetTrainingRun, request).training_run
        return self.training_run

    def cancel(self) -> TrainingRun:
        """Stops the run, within 10 s where it is running."""
        request = trainer_pb2.CancelTrainingRunRequest(name=self.name)
        self.training_run = call(self._stub.CancelTrainingRun, request).training_run
        return self.training_run

    def _stream(self, after_sequence: int) -> Iterator[WatchTrainingRunResponse]:
        request = WatchTrainingRunRequest(name=self.name, after_sequence=after_sequence)
        stream = self._stub.WatchTrainingRun(request)
        with _Watchdog(stream, FIRST_SILENCE_SECONDS) as watchdog:
            for message in stream:
                if message.HasField("started"):
                    watchdog.patience = SILENT_INTERVALS * message.started.heartbeat_interval_seconds
                    self.training_run = message.started.training_run
                watchdog.rest()
                yield message
                watchdog.watch()


class _Watchdog:
    """Cancels a call that is silent for too long: a peer that froze sends no error. It rests while the caller is busy
    with a message.
    """

    def __init__(self, call: Any, patience: float) -> None:
        self.patience = patience
        self._call = call
        self._deadline = time.monotonic() + patience
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._call.cancel()

    def rest(self) -> None:
        self._deadline = math.inf

    def watch(self) -> None:
        self._deadline = time.monotonic() + self.patience

    def _run(self) -> None:
        while not self._closed.wait(max(0.05, min(self._deadline - time.monotonic(), self.patience))):
            if time.monotonic() >= self._deadline:
                self._call.cancel()
                return
