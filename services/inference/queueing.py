"""What waits, bounded and in lines: of each project one for all shared backbones, and one for each backbone that it has
for itself. The line that has used the least time for its weight is served next. The shared lines weigh three times what
the private ones do, and projects the same: neither a private network that is slow, nor a project that asks much, holds
up everyone else.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from weakref import WeakKeyDictionary

from services.inference.admission import MAX_WAIT_SECONDS, has_room, overloaded
from services.inference.lines import CROWDED_SECONDS, FIRST_GUESS_SECONDS, Batch, Line, Waiting
from services.inference.loading import Model
from services.inference.runtimes import LONE_THREADS, Body

# Of the shared lines, and of all private ones together.
MAX_QUEUED_BYTES = 64 * 1024 * 1024
_SMOOTHING = 0.1
SHARED_WEIGHT = 3
# So long after shared work one thread is kept free of private work.
KEPT_SECONDS = 1.0


class Queue:
    """The lines of some threads that take from them. Shared ones take at most `length` pictures together, if no project
    has less than its share of them; each private one as many.
    """

    def __init__(self, num_threads: int, length: int) -> None:
        self._num_threads = num_threads
        self._length = length
        self._shared: dict[str, Line] = {}
        self._private: WeakKeyDictionary[Body, Line] = WeakKeyDictionary()
        # Those in which someone waits.
        self._busy: list[Line] = []
        self._seconds: WeakKeyDictionary[Body, float] = WeakKeyDictionary()
        # What the line that is being served has used, and the most that any has; all start equal where nobody waits.
        self._now = self._most = 0.0
        self._num_taken = self._num_private = 0
        self._shared_at = -KEPT_SECONDS
        # How many passes had so many pictures, or one sound.
        self._passes = Counter[int]()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, waiting: Sequence[Waiting]) -> None:
        """Those of one call, for one model. ResourceExhausted for all of them where too many wait, or those who do
        would take longer than there is time.
        """
        if not waiting:
            return
        with self._changed:
            line = self.line(waiting[0].model)
            wait, left = self.wait(line), waiting[0].end - time.monotonic()
            if not self._has_room(line, waiting):
                kin = self._kin(line)
                served = sum(each.seconds for each in kin) / self._num_threads / max(1, len(kin))
                count = sum(len(each.waiting) for each in kin)
                raise overloaded(f"{count} files wait already.", max(wait, served), left)
            # Whose time is over already is ended by that, as anywhere else.
            if 0 < left < wait or wait > MAX_WAIT_SECONDS:
                raise overloaded(f"{len(line.waiting)} files of the project wait already.", wait, left)
            self._enter(line, waiting)
            self._changed.notify(len(waiting))

    def forget(self, waiting: Sequence[Waiting]) -> None:
        """A caller that went away, or has its error, makes room at once."""
        with self._changed:
            for one in waiting:
                one.answer.cancel()
                if one.line is not None and one in one.line.waiting:
                    self._leave(one.line, one)

    def take(self) -> Batch | None:
        """The oldest of the line whose turn it is: a sound alone, a picture with those that wait for the same backbone.
        Waits for there to be one; None when closed.
        """
        with self._changed:
            while not (self._closed or (line := self._next())):
                self._changed.wait(KEPT_SECONDS if any(each.private for each in self._busy) else None)
            if self._closed or line is None:
                return None
            oldest = line.waiting[0].model
            cap = 1 if oldest.head.of_sounds else oldest.backbone.cap
            waiting = list(islice(self._company(line, oldest.backbone.backbone), cap))
            self._now = max(self._now, line.used)
            for one in waiting:
                self._charge(one, one.seconds)
            for one in waiting:
                self._leave(one.line or line, one)
            batch = Batch(line, waiting, self._is_alone(line, waiting))
            self._num_taken += 1
            self._num_private += line.private
            if not line.private:
                self._shared_at = time.monotonic()
            return batch

    def done(self, batch: Batch, seconds: float, computed: int) -> None:
        """A batch took so long, and so many of it were computed: the others were no pictures, or too late. What several
        threads took is charged for each of them, and says nothing of how long who waits for one will be.
        """
        with self._changed:
            threads = LONE_THREADS if batch.wide else 1
            for one in batch.waiting:
                self._charge(one, threads * seconds / len(batch.waiting) - one.seconds)
            if computed:
                self._passes[computed] += 1
            if computed and threads == 1:
                body = batch.waiting[0].body
                usual = self._seconds.get(body, FIRST_GUESS_SECONDS)
                self._seconds[body] = usual + _SMOOTHING * (seconds / computed - usual)
            self._num_taken -= 1
            self._num_private -= batch.line.private
            self._changed.notify()

    def passes(self) -> dict[int, int]:
        """How many passes there were of each number of pictures."""
        with self._changed:
            return dict(self._passes)

    def lengths(self) -> dict[str, int]:
        """How many wait in all shared lines, and in all private ones."""
        with self._changed:
            private = sum(len(one.waiting) for one in self._busy if one.private)
            return {"shared": sum(len(one.waiting) for one in self._busy) - private, "private": private}

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def line(self, model: Model) -> Line:
        """The line in which a model's pictures wait."""
        if model.backbone.private:
            return self._private.setdefault(model.backbone.backbone, Line(model.project, private=True))
        if model.project not in self._shared:
            # One that is empty and owes nothing is as good as a new one.
            kept = {name: one for name, one in self._shared.items() if one.waiting or one.used > self._now}
            self._shared = {**kept, model.project: Line(model.project, private=False)}
        return self._shared[model.project]

    def wait(self, line: Line) -> float:
        """Seconds until who comes next is served, while all who wait go on asking."""
        weights = SHARED_WEIGHT * any(not each.private for each in {line, *self._busy})
        weights += any(each.private for each in {line, *self._busy})
        turns = weights / self._weight(line)
        if line.waiting:
            return line.seconds * turns / self._num_threads
        # A line that was empty is served after one of each of the others.
        usual = sum(each.seconds for each in self._busy) / max(1, sum(len(each.waiting) for each in self._busy))
        return usual * (turns - 1) / self._num_threads

    def _enter(self, line: Line, waiting: Sequence[Waiting]) -> None:
        if not line.waiting:  # who used nothing for long has no claim on all of the time to come
            line.used = max(line.used, self._now)
            self._busy.append(line)
        for one in waiting:
            one.line, one.seconds = line, self._seconds.get(one.body, FIRST_GUESS_SECONDS)
            line.seconds += one.seconds
            line.num_bytes += one.num_bytes
        line.waiting.extend(waiting)

    def _leave(self, line: Line, one: Waiting) -> None:
        line.waiting.remove(one)
        line.num_bytes -= one.num_bytes
        line.seconds -= one.seconds
        if not line.waiting:
            line.seconds = 0.0  # sums of fractions drift
            self._busy.remove(line)
        if not self._busy:
            self._now = self._most

    def _kin(self, line: Line) -> list[Line]:
        """The lines in which someone waits for the same places."""
        return [each for each in self._busy if each.private == line.private]

    def _has_room(self, line: Line, waiting: Sequence[Waiting]) -> bool:
        kin = self._kin(line)
        places, num_bytes = Counter[str](), Counter[str]()
        for each in kin:
            num_bytes[each.project] += each.num_bytes
            if not line.private or each is line:
                places[each.project] += len(each.waiting)
        limit, more = self._limit(line), sum(one.num_bytes for one in waiting)
        if not has_room(places, line.project, 1, limit):
            line.crowded_at = time.monotonic()
        if kin and not has_room(num_bytes, line.project, more, MAX_QUEUED_BYTES):
            return False
        # Where a project has nothing yet, its batch is let in as one picture is: shares may be smaller than batches.
        return has_room(places, line.project, len(waiting) if line.waiting else 1, limit)

    def _limit(self, line: Line) -> int:
        """How many may wait. Half of it while callers find it full: a queue that is always full makes all wait longer
        and answers no more; one that is full of a fixed number of callers, who wait for their answers, refuses nobody.
        """
        crowded = line.waiting and time.monotonic() - line.crowded_at < CROWDED_SECONDS
        return max(1, self._length // 2) if crowded else self._length

    def _next(self) -> Line | None:
        return min(self._ready(), key=lambda line: line.used, default=None)

    def _ready(self) -> Iterator[Line]:
        takes_private = self._num_private < max(1, self._num_threads - self._keeps())
        return (line for line in self._busy if takes_private or not line.private)

    def _keeps(self) -> bool:
        """Whether a thread is kept free of private work."""
        return time.monotonic() - self._shared_at < KEPT_SECONDS

    def _is_alone(self, line: Line, waiting: Sequence[Waiting]) -> bool:
        free = not self._busy and not self._num_taken
        return free and len(waiting) == 1 and not (line.private and self._keeps())

    def _company(self, line: Line, body: Body) -> Iterator[Waiting]:
        """Those of the line that wait for a backbone, the oldest first, and those of other projects. The very one:
        where it was replaced meanwhile, the old one answers whom it was promised to.
        """
        others = sorted(self._kin(line), key=lambda each: each.used)
        for each in (line, *(one for one in others if one is not line)):
            yield from (one for one in each.waiting if one.body is body)

    def _weight(self, line: Line) -> float:
        """Of a line that waits, beside those that do."""
        kin = [each for each in {line, *self._busy} if each.private == line.private]
        lines = Counter(each.project for each in kin)
        return (1 if line.private else SHARED_WEIGHT) / len(lines) / lines[line.project]

    def _charge(self, one: Waiting, seconds: float) -> None:
        if one.line is not None:
            one.line.used += seconds / self._weight(one.line)
            self._most = max(self._most, one.line.used)
