"""Large pictures are decoded on a thread of their own that yields to those that answer, a few at most, and join the
queue as finished pixels: small ones do not wait for them.
"""

import asyncio
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from handful.bundle.predictor import Pixels, to_pixels
from handful.errors import ResourceExhausted
from handful.v1.bundle_pb2 import ImagePreprocessing
from services.inference.glancing import Look

MAX_WAITING = 8
NICENESS = 10
# The first guess of how long a cost of 1 takes; measured from then on.
FIRST_GUESS_SECONDS = 0.004
_SMOOTHING = 0.1


class LargePictures:
    """Decodes one large picture at a time, and refuses where some wait already."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "decode", initializer=_yield)
        self._waiting = 0
        self._cost = 0.0
        self._seconds = FIRST_GUESS_SECONDS

    async def decode(self, data: bytes, preprocessing: ImagePreprocessing, look: Look) -> tuple[Pixels, float]:
        """uint8[size, size, 3], and the seconds that it took. BadImage, and ResourceExhausted where too many wait."""
        if self._waiting >= MAX_WAITING:
            wait_ms = max(1, round(1e3 * self._cost * self._seconds))
            raise ResourceExhausted(
                f"{self._waiting} large pictures wait already. Try again in {wait_ms} ms, or send smaller ones.",
                reason="OVERLOADED",
                facts={"pushback_ms": str(wait_ms)},
            )
        self._waiting += 1
        self._cost += look.cost
        try:
            # One whose caller goes away before its turn is never decoded.
            pixels, seconds = await asyncio.get_running_loop().run_in_executor(
                self._thread, _timed, data, preprocessing
            )
        finally:
            self._waiting -= 1
            self._cost -= look.cost
        self._seconds += _SMOOTHING * (seconds / max(look.cost, 1) - self._seconds)
        return pixels, seconds

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def _timed(data: bytes, preprocessing: ImagePreprocessing) -> tuple[Pixels, float]:
    began = time.perf_counter()
    return to_pixels(data, preprocessing), time.perf_counter() - began


def _yield() -> None:
    if sys.platform == "linux":  # where it is of the thread; elsewhere it would be of the process
        os.nice(NICENESS)
