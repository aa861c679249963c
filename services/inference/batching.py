"""From waiting pictures and sounds to answers: threads without a timer. A free thread takes what waits for one
backbone, up to its cap, decodes it, runs the backbone once and every head on its own rows; a sound, which has a length
of its own, goes alone. The queue is bounded and refuses beyond; large pictures are decoded before they join it.
"""

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import structlog

from handful.bundle.images import BadImage
from handful.bundle.predictor import Pixels, to_pixels
from handful.bundle.recordings import BadSound
from handful.errors import InvalidArgument, ResourceExhausted
from services.inference.answering import Answer, Spent, say
from services.inference.glancing import glance
from services.inference.large import LargePictures
from services.inference.lines import Batch, Waiting
from services.inference.listening import listen
from services.inference.loading import Model
from services.inference.queueing import Queue
from services.inference.runtimes import Body
from services.inference.statistics import Statistics
from services.shared import deadlines

log = structlog.get_logger()

CLOSING_SECONDS = 10.0


class Batcher:
    """Answers pictures with some threads."""

    def __init__(self, threads: int, queue: int) -> None:
        self.queue = queue
        self.statistics = Statistics()
        # Passes of a picture that was alone, on several threads.
        self.num_wide = 0
        self._queue = Queue(threads, queue)
        self._large = LargePictures()
        self._loop = asyncio.get_running_loop()
        self._threads = [threading.Thread(target=self._work, name="predict", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    async def answer(self, data: bytes, model: Model) -> Answer:
        """What the model says. InvalidArgument where the file is none, ResourceExhausted where too many wait."""
        return (await self.answer_all([data], model))[0]

    async def answer_all(self, files: Sequence[bytes | Pixels], model: Model) -> list[Answer]:
        """What the model says of each, in their order; pictures may be decoded already, as the model takes them. They
        are refused together, and what is wrong with one ends them all.
        """
        waiting = [
            Waiting(one, model, self._loop.create_future(), _name(model, number, len(files)), deadlines.end())
            for number, one in enumerate(files, 1)
        ]
        with self.statistics.counting(model.version) as answers:
            for one in waiting:
                await self._shrink(one)
            self._queue.put(waiting)
            try:
                answers.extend(await _all(waiting))
            except BaseException:
                self._queue.forget(waiting)
                raise
        return answers

    def passes(self) -> dict[int, int]:
        """How many passes there were of each number of pictures, or of one sound."""
        return self._queue.passes()

    def waiting(self) -> dict[str, int]:
        """How many wait in which lines."""
        return {**self._queue.lengths(), "large": self._large.num_waiting}

    async def close(self) -> None:
        """Ends the threads, each after the pass that it is in."""
        self._queue.close()
        self._large.close()
        # The interpreter cannot end one that is inside a runtime without ending itself.
        await asyncio.to_thread(self._join, time.monotonic() + CLOSING_SECONDS)

    def _join(self, until: float) -> None:
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    async def _shrink(self, one: Waiting) -> None:
        """A large picture becomes pixels, as its model takes them."""
        if not isinstance(one.data, bytes) or one.model.head.of_sounds or not (look := glance(one.data)).is_large:
            return
        try:
            one.data, seconds = await self._large.decode(one.data, one.model, look)
        except (BadImage, MemoryError) as problem:
            raise _refusal(problem, one) from None
        one.decode = round(1e9 * seconds)
        one.since_ns += one.decode

    def _work(self) -> None:
        while batch := self._queue.take():
            started, computed = time.perf_counter(), 0
            try:
                computed = self._answer(batch)
            except Exception as problem:  # noqa: BLE001 - whoever waits must hear of it, and the thread must live
                for one in batch.waiting:
                    self._fail(one, problem)
            self._queue.done(batch, time.perf_counter() - started, computed)

    def _answer(self, batch: Batch) -> int:
        """How many were computed; a sound, which goes alone, counts in any case."""
        taken = time.perf_counter_ns()
        rows: list[tuple[Waiting, Pixels]] = []
        for one in batch.waiting:
            one.queue = taken - one.since_ns
            pixels = self._prepare(one)
            if pixels is not None:
                rows.append((one, pixels))
        if not rows:
            return sum(one.model.head.of_sounds for one in batch.waiting)
        try:
            self._compute(rows, batch.wide or rows[0][0].body)
            self.num_wide += batch.wide is not None  # one thread at a time: until it is done no other picture is alone
        except MemoryError:
            log.warning("memory did not suffice", num_pictures=len(rows))
            self._compute_each(rows)
        return len(rows)

    def _compute(self, rows: Sequence[tuple[Waiting, Pixels]], body: Body) -> None:
        begun = time.perf_counter_ns()
        features = body.features(np.stack([pixels for _, pixels in rows]))
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
                self._compute([one], one[0].body)
            except MemoryError:
                self._fail(one[0], _too_much())

    def _prepare(self, one: Waiting) -> Pixels | None:
        """A picture as the backbone takes it; None where there is nothing more to do."""
        if one.answer.done() or time.monotonic() > one.end:  # its caller went away, or its deadline passed
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
        except (BadImage, BadSound, MemoryError) as problem:
            self._fail(one, _refusal(problem, one))
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


async def _all(waiting: Sequence[Waiting]) -> list[Answer]:
    if len(waiting) == 1:  # nearly always, and much cheaper
        return [await waiting[0].answer]
    return await asyncio.gather(*(one.answer for one in waiting))


def _name(model: Model, number: int, of: int) -> str:
    kind = "sound" if model.head.of_sounds else "image"
    return kind if of == 1 else f"{kind} {number} of {of}"


def _too_much() -> ResourceExhausted:
    return ResourceExhausted(
        "There is not memory enough for this file now. Send a smaller one.", reason="OUT_OF_MEMORY"
    )


def _refusal(problem: BadImage | BadSound | MemoryError, one: Waiting) -> InvalidArgument | ResourceExhausted:
    if isinstance(problem, MemoryError):
        log.warning("memory did not suffice", num_bytes=one.num_bytes)
        return _too_much()
    return InvalidArgument(f"{one.name}: {problem.message}", reason=problem.reason)
