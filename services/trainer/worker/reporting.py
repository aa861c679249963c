"""Telling the trainer, in order and at least once, from a thread of its own: training does not wait for the network.

What is not committed yet is kept in memory and sent again; a trainer that is away costs nothing but time, up to a
quarter of an hour. Should this process die, what it kept is void anyway: the next attempt goes on from a checkpoint
that was committed. The answers bring the trainer's directive and the news that the run is lost, both of which `check`
raises in the training thread.
"""

import threading
import time
from collections import deque
from contextlib import suppress

import grpc
import structlog

from handful.errors import Aborted, Cancelled, DeadlineExceeded, HandfulError, Internal, Unavailable, from_rpc_error
from handful.v1.trainer_pb2 import Progress, TrainingRunEvent
from handful.v1.worker_pb2 import (
    Checkpoint,
    Claim,
    CommitCheckpointRequest,
    FinishTrainingRunRequest,
    ReportTrainingRunRequest,
    ReportTrainingRunResponse,
    WorkerEvent,
)
from handful.v1.worker_pb2_grpc import WorkerServiceStub

log = structlog.get_logger()

HEARTBEAT_SECONDS = 2.0
PROGRESS_SECONDS = 0.25
TIMEOUT_SECONDS = 10.0
RELEASE_SECONDS = 2.0
RETRY_SECONDS = 1.0
GIVE_UP_SECONDS = 900.0
BATCH = 100
# Events and checkpoints that may wait to be committed. With more events training waits; of more checkpoints only the
# oldest, which may be on its way, and the newest are of use.
MAX_EVENTS = 1000
MAX_CHECKPOINTS = 2
# Committed checkpoints that stay in the store.
KEPT_CHECKPOINTS = 2
# What trying again cannot mend is a fault of ours.
RETRIED = (Unavailable, DeadlineExceeded, Cancelled, Internal)


class RunCancelled(Exception):
    """Someone cancelled the run."""


class LeaseLost(Exception):
    """Another worker has the run; whatever this one does is not seen."""


class Reporter:
    """Reports on one claimed run until it is closed."""

    def __init__(self, stub: WorkerServiceStub, claim: Claim) -> None:
        self._stub = stub
        self._claim = claim
        self._pending: deque[WorkerEvent | Checkpoint] = deque()
        self._committed: deque[str] = deque()
        self._useless: list[str] = []
        self._unheard: list[str] = []
        self._sequence = 0
        self._progress: Progress | None = None
        self._cancelled = False
        self._lost = False
        self._refused: HandfulError | None = None
        self._answered = time.monotonic()
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self._thread.start()

    def event(self, event: TrainingRunEvent) -> None:
        """A durable event; it is on its way when this returns. Waits while too many are."""
        event.time.GetCurrentTime()
        with self._changed:
            self._changed.wait_for(lambda: len(self._pending) < MAX_EVENTS or self._is_over)
            self._sequence += 1
            self._pending.append(WorkerEvent(worker_sequence=self._sequence, event=event))
            self._changed.notify_all()

    def checkpoint(self, checkpoint: Checkpoint) -> list[str]:
        """A checkpoint that lies in the store; it is committed after the events before it, unless a newer one comes
        first. The keys of those before it that are of no use any more.
        """
        with self._changed:
            waiting = [one for one in self._pending if isinstance(one, Checkpoint)]
            if len(waiting) == MAX_CHECKPOINTS:
                self._pending.remove(waiting[-1])
                self._useless.append(waiting[-1].key)
            self._pending.append(checkpoint)
            self._changed.notify_all()
            useless, self._useless = self._useless, []
        return useless

    @property
    def last_checkpoints(self) -> list[str]:
        """The key of the one that was committed last, in whichever attempt; and, once closed, of one that may have been
        committed without our having heard of it.
        """
        return [*([self._committed[-1]] if self._committed else [self._claim.checkpoint.key]), *self._unheard]

    def progress(self, progress: Progress) -> None:
        """How far the work is; only the latest is sent, a few times a second."""
        with self._changed:
            self._progress = progress

    def check(self) -> None:
        """Raises where the run shall not go on: RunCancelled, LeaseLost, or the error of a report that was refused.
        Once closed there is nothing to stop.
        """
        if self._closing:
            return
        if self._lost:
            raise LeaseLost(self._claim.training_run)
        if self._refused:
            raise self._refused
        if self._cancelled:
            raise RunCancelled(self._claim.training_run)

    def close(self, *, commit: bool = True) -> None:
        """Sends what is pending and ends; checkpoints only if they shall still count: that may wait for the store.
        LeaseLost where the run is lost or the trainer away for too long, and the error of a report that was refused.
        """
        with self._changed:
            if not commit:
                self._unheard = [one.key for one in list(self._pending)[:1] if isinstance(one, Checkpoint)]
                self._pending = deque(one for one in self._pending if not isinstance(one, Checkpoint))
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if self._lost:
            raise LeaseLost(self._claim.training_run)
        if self._refused:
            raise self._refused

    def finish(self, request: FinishTrainingRunRequest) -> None:
        """After `close`: ends the run, trying until the trainer answers. Raises what trying again cannot mend."""
        request.name, request.attempt, request.token = self._grip
        self._refused = None
        while True:
            try:
                self._stub.FinishTrainingRun(request, timeout=TIMEOUT_SECONDS)
            except grpc.RpcError as problem:
                self._sort(from_rpc_error(problem))
                if self._lost:
                    raise LeaseLost(self._claim.training_run) from None
                if self._refused:
                    raise self._refused from None
                time.sleep(RETRY_SECONDS)
            else:
                return

    def release(self) -> None:
        """Hands the run back at once, to be continued from its last checkpoint; what is pending is lost."""
        name, attempt, token = self._grip
        released = FinishTrainingRunRequest.Released()
        request = FinishTrainingRunRequest(name=name, attempt=attempt, token=token, released=released)
        with suppress(grpc.RpcError):  # the trainer's sweeper finds out by itself
            self._stub.FinishTrainingRun(request, timeout=RELEASE_SECONDS)

    @property
    def _is_over(self) -> bool:
        return self._lost or self._cancelled or self._refused is not None

    @property
    def _grip(self) -> tuple[str, int, str]:
        return self._claim.training_run, self._claim.attempt, self._claim.token

    def _run(self) -> None:
        beat = time.monotonic()
        while not self._lost and not self._refused:
            with self._changed:
                if not self._pending and not self._closing:
                    self._changed.wait(PROGRESS_SECONDS)
                if self._closing and not self._pending:
                    return
                due = self._pending or self._progress or time.monotonic() - beat >= HEARTBEAT_SECONDS
            if due:
                self._try_send()
                beat = time.monotonic()

    def _try_send(self) -> None:
        try:
            self._send()
            self._answered = time.monotonic()
        except grpc.RpcError as problem:
            self._sort(from_rpc_error(problem))
            time.sleep(RETRY_SECONDS)

    def _send(self) -> None:
        with self._changed:
            first = self._pending[0] if self._pending else None
            events = self._leading_events()
            progress, self._progress = self._progress, None
        if isinstance(first, Checkpoint):
            self._commit(first)
        else:
            self._report(events, progress)

    def _commit(self, checkpoint: Checkpoint) -> None:
        name, attempt, token = self._grip
        request = CommitCheckpointRequest(name=name, attempt=attempt, token=token, checkpoint=checkpoint)
        try:
            self._stub.CommitCheckpoint(request, timeout=TIMEOUT_SECONDS)
        except grpc.RpcError:
            # The trainer may wait for the store: whether the run shall go on is asked all the same.
            self._report([], None)
            raise
        with self._changed:
            if self._pending and self._pending[0] is checkpoint:
                self._pending.popleft()
            self._committed.append(checkpoint.key)
            if len(self._committed) > KEPT_CHECKPOINTS:
                self._useless.append(self._committed.popleft())

    def _report(self, events: list[WorkerEvent], progress: Progress | None) -> None:
        name, attempt, token = self._grip
        report = ReportTrainingRunRequest(name=name, attempt=attempt, token=token, events=events, progress=progress)
        self._take(self._stub.ReportTrainingRun(report, timeout=TIMEOUT_SECONDS))

    def _leading_events(self) -> list[WorkerEvent]:
        events: list[WorkerEvent] = []
        for one in self._pending:
            if isinstance(one, Checkpoint) or len(events) == BATCH:
                break
            events.append(one)
        return events

    def _take(self, answer: ReportTrainingRunResponse) -> None:
        with self._changed:
            self._cancelled |= answer.directive == ReportTrainingRunResponse.DIRECTIVE_CANCEL
            while self._pending:
                first = self._pending[0]
                if isinstance(first, Checkpoint) or first.worker_sequence > answer.committed_worker_sequence:
                    break
                self._pending.popleft()
            self._changed.notify_all()

    def _sort(self, error: HandfulError) -> None:
        log.warning("not taken by the trainer", reason=error.reason, message=error.message)
        away = time.monotonic() - self._answered > GIVE_UP_SECONDS
        if away or (isinstance(error, Aborted) and error.reason == "LEASE_LOST"):
            self._lost = True
        elif not isinstance(error, RETRIED):
            self._refused = error
        with self._changed:
            self._changed.notify_all()
