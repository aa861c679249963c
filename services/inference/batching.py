"""From waiting pictures and sounds to answers: threads without a timer. A free thread takes what waits for one
backbone, up to its cap, decodes it, runs the backbone once and every head on its own rows; a sound, which has a length
of its own, goes alone. The queue is bounded and refuses beyond.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import structlog

from handful.bundle.images import BadImage
from handful.bundle.predictor import Pixels, to_pixels
from handful.bundle.recordings import BadSound
from handful.errors import InvalidArgument, ResourceExhausted
from services.inference.answering import Answer, Spent, say
from services.inference.listening import listen
from services.inference.loading import Model
from services.inference.statistics import Statistics

log = structlog.get_logger()

MAX_QUEUED_BYTES = 64 * 1024 * 1024
# The first guess of how long a picture takes; measured from then on.
FIRST_GUESS_SECONDS = 0.02
_SMOOTHING = 0.1


@dataclass(eq=False)
class Waiting:
    """One picture or sound whose answer someone awaits."""

    data: bytes | Pixels
    model: Model
    answer: "asyncio.Future[Answer]"
    # What it is called in an error.
    name: str
    since_ns: int = field(default_factory=time.perf_counter_ns)
    # Nanoseconds that it waited, and that it took to decode.
    queue: int = 0
    decode: int = 0

    @property
    def num_bytes(self) -> int:
        return len(self.data) if isinstance(self.data, bytes) else self.data.nbytes


class Batcher:
    """Answers pictures with some threads."""

    def __init__(self, threads: int, queue: int) -> None:
        self._threads = threads
        self.queue = queue
        self.statistics = Statistics()
        self._waiting: deque[Waiting] = deque()
        self._num_bytes = 0
        self._seconds = FIRST_GUESS_SECONDS
        self._changed = threading.Condition()
        self._closed = False
        self._loop = asyncio.get_running_loop()
        for _ in range(threads):
            threading.Thread(target=self._work, name="predict", daemon=True).start()

    async def answer(self, data: bytes, model: Model) -> Answer:
        """What the model says. InvalidArgument where the file is none, ResourceExhausted where too many wait."""
        return (await self.answer_all([data], model))[0]

    async def answer_all(self, files: Sequence[bytes | Pixels], model: Model) -> list[Answer]:
        """What the model says of each, in their order; pictures may be decoded already, as the model takes them. They
        are refused together, and what is wrong with one ends them all.
        """
        waiting = [
            Waiting(one, model, self._loop.create_future(), _name(model, number, len(files)))
            for number, one in enumerate(files, 1)
        ]
        with self.statistics.counting(model.version) as answers:
            self._admit(waiting)
            try:
                answers.extend(await asyncio.gather(*(one.answer for one in waiting)))
            finally:
                self._forget(waiting)
        return answers

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _admit(self, waiting: Sequence[Waiting]) -> None:
        num_bytes = sum(one.num_bytes for one in waiting)
        with self._changed:
            full = len(self._waiting) + len(waiting) > self.queue
            if full or (self._waiting and self._num_bytes + num_bytes > MAX_QUEUED_BYTES):
                raise self._overloaded()
            self._waiting.extend(waiting)
            self._num_bytes += num_bytes
            self._changed.notify(len(waiting))

    def _forget(self, waiting: Sequence[Waiting]) -> None:
        """A caller that went away, or has its error, makes room at once."""
        with self._changed:
            for one in waiting:
                one.answer.cancel()
                if one in self._waiting:
                    self._remove(one)

    def _remove(self, one: Waiting) -> None:
        self._waiting.remove(one)
        self._num_bytes -= one.num_bytes

    def _overloaded(self) -> ResourceExhausted:
        wait_ms = round(1e3 * len(self._waiting) * self._seconds / self._threads)
        return ResourceExhausted(
            f"{len(self._waiting)} pictures wait already. Try again in {wait_ms} ms.",
            reason="OVERLOADED",
            facts={"pushback_ms": str(max(wait_ms, 1))},
        )

    def _work(self) -> None:
        while batch := self._take():
            started = time.perf_counter()
            try:
                self._answer(batch)
            except Exception as problem:  # noqa: BLE001 - whoever waits must hear of it, and the thread must live
                for one in batch:
                    self._fail(one, problem)
            each = (time.perf_counter() - started) / len(batch)
            self._seconds += _SMOOTHING * (each - self._seconds)

    def _take(self) -> list[Waiting]:
        """The oldest: a sound alone, a picture with those that wait for the same backbone; empty when closed."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                return []
            oldest = self._waiting[0]
            # The very one: where it was replaced meanwhile, the old one answers whom it was promised to.
            body, cap = oldest.model.backbone.backbone, oldest.model.backbone.cap
            batch = [one for one in self._waiting if one.model.backbone.backbone is body][:cap]
            if oldest.model.head.of_sounds:
                batch = [oldest]
            for one in batch:
                self._remove(one)
            return batch

    def _answer(self, batch: Sequence[Waiting]) -> None:
        taken = time.perf_counter_ns()
        rows: list[tuple[Waiting, Pixels]] = []
        for one in batch:
            one.queue = taken - one.since_ns
            pixels = self._prepare(one)
            if pixels is not None:
                rows.append((one, pixels))
        if not rows:
            return
        try:
            self._compute(rows)
        except MemoryError:
            log.warning("memory did not suffice", num_pictures=len(rows))
            self._compute_each(rows)

    def _compute(self, rows: Sequence[tuple[Waiting, Pixels]]) -> None:
        begun = time.perf_counter_ns()
        features = rows[0][0].model.backbone.backbone.features(np.stack([pixels for _, pixels in rows]))
        network = (time.perf_counter_ns() - begun) // len(rows)
        heads = set[int]()
        for (one, _), row in zip(rows, features, strict=True):
            begun, head = time.perf_counter_ns(), one.model.head
            answer = say(head, row[None])
            took = time.perf_counter_ns() - begun
            spent = Spent(one.queue, one.decode, network, took, passes=int(id(head) not in heads))
            heads.add(id(head))
            self._settle(one, replace(answer, spent=spent))

    def _compute_each(self, rows: Sequence[tuple[Waiting, Pixels]]) -> None:
        """One picture after another, where there is not memory enough for all of them at once."""
        for one in rows:
            try:
                self._compute([one])
            except MemoryError:
                self._fail(one[0], _too_much())

    def _prepare(self, one: Waiting) -> Pixels | None:
        """A picture as the backbone takes it; None where there is nothing more to do."""
        if one.answer.done():  # its caller went away, or its deadline passed
            return None
        begun = time.perf_counter_ns()
        try:
            if not isinstance(one.data, bytes):
                return one.data
            if one.model.head.of_sounds:
                answer = listen(one.data, one.model, one.answer.done)
                if answer is not None:
                    spent = Spent(queue=one.queue, network=time.perf_counter_ns() - begun, passes=1)
                    self._settle(one, replace(answer, spent=spent))
                return None
            pixels = to_pixels(one.data, one.model.head.described.preprocessing)
        except (BadImage, BadSound) as bad:
            self._fail(one, InvalidArgument(f"{one.name}: {bad.message}", reason=bad.reason))
        except MemoryError:
            log.warning("memory did not suffice", num_bytes=one.num_bytes)
            self._fail(one, _too_much())
        else:
            one.decode = time.perf_counter_ns() - begun
            return pixels
        return None

    def _settle(self, one: Waiting, answer: Answer) -> None:
        def settle() -> None:
            if not one.answer.done():
                one.answer.set_result(answer)

        self._loop.call_soon_threadsafe(settle)

    def _fail(self, one: Waiting, problem: Exception) -> None:
        def fail() -> None:
            if not one.answer.done():
                one.answer.set_exception(problem)

        self._loop.call_soon_threadsafe(fail)


def _name(model: Model, number: int, of: int) -> str:
    kind = "sound" if model.head.of_sounds else "image"
    return kind if of == 1 else f"{kind} {number} of {of}"


def _too_much() -> ResourceExhausted:
    return ResourceExhausted(
        "There is not memory enough for this file now. Send a smaller one.", reason="OUT_OF_MEMORY"
    )
