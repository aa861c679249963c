"""What waits, bounded and in lines: one for all shared backbones, and one for each backbone that a single model has for
itself. The line that has used the least time for its weight is served next, and the shared one weighs three times what
all others do together: a private network that is slow, or asked much, does not hold up the models of everyone else.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from handful.bundle.predictor import Pixels
from handful.errors import ResourceExhausted
from services.inference.answering import Answer
from services.inference.loading import Model
from services.inference.runtimes import Body

# Of the shared line, and of all private ones together.
MAX_QUEUED_BYTES = 64 * 1024 * 1024
# The first guess of how long a picture takes; measured from then on.
FIRST_GUESS_SECONDS = 0.02
_SMOOTHING = 0.1
SHARED_WEIGHT = 3
# So long after shared work one thread is kept free of private work.
KEPT_SECONDS = 1.0
# So long after it was found full fewer may wait.
CROWDED_SECONDS = 1.0


@dataclass(eq=False)
class Waiting:
    """One picture or sound whose answer someone awaits: a file, or a picture as its model takes it."""

    data: bytes | Pixels
    model: Model
    answer: "asyncio.Future[Answer]"
    # What it is called in an error.
    name: str = ""
    since_ns: int = field(default_factory=time.perf_counter_ns)
    # Nanoseconds that it waited, and that it took to decode.
    queue: int = 0
    decode: int = 0

    @property
    def num_bytes(self) -> int:
        return len(self.data) if isinstance(self.data, bytes) else self.data.nbytes


class Line:
    """Who waits for the same: a deque, seconds for each, and the seconds that were used so far."""

    def __init__(self, *, private: bool) -> None:
        self.private = private
        self.waiting: deque[Waiting] = deque()
        self.num_bytes = 0
        self.seconds = FIRST_GUESS_SECONDS
        self.used = 0.0
        self.crowded_at = -CROWDED_SECONDS

    def remove(self, one: Waiting) -> None:
        self.waiting.remove(one)
        self.num_bytes -= one.num_bytes


@dataclass(frozen=True)
class Batch:
    """What is answered in one pass."""

    line: Line
    waiting: Sequence[Waiting]


class Queue:
    """The lines of some threads that take from them. Each takes at most `length` pictures."""

    def __init__(self, num_threads: int, length: int) -> None:
        self._num_threads = num_threads
        self._length = length
        self._shared = Line(private=False)
        self._private: WeakKeyDictionary[Body, Line] = WeakKeyDictionary()
        self._now = 0.0
        self._num_private = 0
        self._shared_at = -KEPT_SECONDS
        self._changed = threading.Condition()
        self._closed = False

    def put(self, waiting: Sequence[Waiting]) -> None:
        """Those of one call, for one model. ResourceExhausted for all of them where too many wait."""
        if not waiting:
            return
        with self._changed:
            line = self.line(waiting[0].model)
            kin = list(self._private.values()) if line.private else [line]
            queued, num_bytes = (sum(one.num_bytes for one in some) for some in (kin, waiting))
            limit = self._limit(line)
            if len(line.waiting) >= limit:
                line.crowded_at = time.monotonic()
            if len(line.waiting) + len(waiting) > limit or (queued and queued + num_bytes > MAX_QUEUED_BYTES):
                raise self._overloaded(line)
            if not line.waiting:  # who used nothing for long has no claim on all of the time to come
                line.used = max(line.used, self._now)
            line.waiting.extend(waiting)
            line.num_bytes += num_bytes
            self._changed.notify(len(waiting))

    def forget(self, waiting: Sequence[Waiting]) -> None:
        """A caller that went away, or has its error, makes room at once."""
        with self._changed:
            for one in waiting:
                one.answer.cancel()
                line = self.line(one.model)
                if one in line.waiting:
                    line.remove(one)

    def take(self) -> Batch | None:
        """The oldest of the line whose turn it is: a sound alone, a picture with those that wait for the same backbone.
        Waits for there to be one; None when closed.
        """
        with self._changed:
            while not (self._closed or (line := self._next())):
                self._changed.wait(KEPT_SECONDS if any(each.waiting for each in self._private.values()) else None)
            if self._closed or line is None:
                return None
            oldest = line.waiting[0].model
            # The very one: where it was replaced meanwhile, the old one answers whom it was promised to.
            body, cap = oldest.backbone.backbone, 1 if oldest.head.of_sounds else oldest.backbone.cap
            batch = [one for one in line.waiting if one.model.backbone.backbone is body][:cap]
            for one in batch:
                line.remove(one)
            self._now = max(self._now, line.used)
            line.used += self._charged(line, len(batch) * line.seconds)
            self._num_private += line.private
            if not line.private:
                self._shared_at = time.monotonic()
            return Batch(line, batch)

    def done(self, batch: Batch, seconds: float) -> None:
        """A batch took so long."""
        with self._changed:
            line, count = batch.line, len(batch.waiting)
            line.used += self._charged(line, seconds - count * line.seconds)
            line.seconds += _SMOOTHING * (seconds / count - line.seconds)
            self._num_private -= line.private
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _limit(self, line: Line) -> int:
        """How many may wait. Half of it while callers find it full: a queue that is always full makes all wait longer
        and answers no more; one that is full of a fixed number of callers, who wait for their answers, refuses nobody.
        """
        crowded = line.waiting and time.monotonic() - line.crowded_at < CROWDED_SECONDS
        return max(1, self._length // 2) if crowded else self._length

    def line(self, model: Model) -> Line:
        """The line in which a model's pictures wait."""
        if not model.backbone.private:
            return self._shared
        return self._private.setdefault(model.backbone.backbone, Line(private=True))

    def _next(self) -> Line | None:
        return min(self._ready(), key=lambda line: line.used, default=None)

    def _ready(self) -> Iterator[Line]:
        if self._shared.waiting:
            yield self._shared
        kept = time.monotonic() - self._shared_at < KEPT_SECONDS
        if self._num_private < max(1, self._num_threads - kept):
            yield from (line for line in self._private.values() if line.waiting)

    def _charged(self, line: Line, seconds: float) -> float:
        others = sum(1 for each in self._private.values() if each.waiting)
        return seconds if line.private else seconds / (SHARED_WEIGHT * max(1, others))

    def _share(self, line: Line) -> float:
        """What a line gets of the time of all threads while all lines that wait go on to."""
        others = sum(1 for each in self._private.values() if each.waiting)
        if not line.private:
            return SHARED_WEIGHT / (SHARED_WEIGHT + 1) if others else 1
        return (1 / (SHARED_WEIGHT + 1) if self._shared.waiting else 1) / max(1, others)

    def _overloaded(self, line: Line) -> ResourceExhausted:
        wait_ms = round(1e3 * len(line.waiting) * line.seconds / self._num_threads / self._share(line))
        return ResourceExhausted(
            f"{len(line.waiting)} pictures wait already. Try again in {wait_ms} ms.",
            reason="OVERLOADED",
            facts={"pushback_ms": str(max(wait_ms, 1))},
        )
