"""Large pictures are decoded on a thread of their own that yields to those that answer, a few at most, and join the
queue as finished pixels: small ones do not wait for them.
"""

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from handful.bundle.predictor import Pixels, to_pixels
from handful.v1.bundle_pb2 import ImagePreprocessing
from services.inference.admission import has_room, overloaded
from services.inference.glancing import Look
from services.inference.loading import Model
from services.shared import deadlines

MAX_WAITING = 8
NICENESS = 10
# The first guess of how long a cost of 1 takes; measured from then on.
FIRST_GUESS_SECONDS = 0.004
_SMOOTHING = 0.1


class LargePictures:
    """Decodes one large picture at a time, and refuses where some wait already."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "decode", initializer=_yield)
        self._waiting = Counter[str]()
        self._cost = 0.0
        self._seconds = FIRST_GUESS_SECONDS

    async def decode(self, data: bytes, model: Model, look: Look) -> tuple[Pixels, float]:
        """uint8[size, size, 3], and the seconds that it took. BadImage, and ResourceExhausted where too many wait, or
        those who do would take longer than there is time.
        """
        wait, left = self._cost * self._seconds, deadlines.left()
        if not has_room(self._waiting, model.project, 1, MAX_WAITING) or 0 < left < wait:
            raise overloaded(f"{self._waiting.total()} large pictures wait already; send smaller ones.", wait, left)
        with self._counted(model.project, look.cost):
            # One whose caller goes away before its turn is never decoded.
            pixels, seconds = await asyncio.get_running_loop().run_in_executor(
                self._thread, _timed, data, model.head.described.preprocessing
            )
        self._seconds += _SMOOTHING * (seconds / max(look.cost, 1) - self._seconds)
        return pixels, seconds

    @property
    def num_waiting(self) -> int:
        return self._waiting.total()

    @contextmanager
    def _counted(self, project: str, cost: float) -> Iterator[None]:
        self._waiting[project] += 1
        self._cost += cost
        try:
            yield
        finally:
            self._waiting -= Counter([project])  # which keeps no zeros
            self._cost = self._cost - cost if self._waiting else 0.0  # sums of fractions drift

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def _timed(data: bytes, preprocessing: ImagePreprocessing) -> tuple[Pixels, float]:
    began = time.perf_counter()
    return to_pixels(data, preprocessing), time.perf_counter() - began


def _yield() -> None:
    if sys.platform == "linux":  # where it is of the thread; elsewhere it would be of the process
        os.nice(NICENESS)
