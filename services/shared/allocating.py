"""What a process frees, it gives back. The C library keeps it for its next use, in every thread that had it: a picture
of 50 megapixels, decoded in two threads, cost a gigabyte for ever; and small blocks cost tens of megabytes, sometimes
more and sometimes less, which hides what a process really gathers. And what is used for long, and lies in room that
something larger had, makes the next of these take new room.
"""

import asyncio
import ctypes
import time

# Blocks of this size and more are of their own, and gone when they are freed: decoded pictures and recordings. What a
# forward pass takes is smaller, or kept by its runtime.
OWN_BYTES = 4 * 1024 * 1024
# So often at most what lies free between smaller ones is given back. It takes the longer the more lies between, up to
# tens of milliseconds in which other threads may wait for room: so at most that share of the time.
SECONDS, SHARE = 2.0, 0.01
# Of mallopt(3).
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8


def give_back(num_threads: int) -> None:
    """Large blocks, from now on, in this process; small ones lie in as many places as it has threads that compute, and
    not in eight for each core. Where the C library has no such settings, as on macOS, nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, OWN_BYTES)
        mallopt(_M_ARENA_MAX, max(2, num_threads))


def trim() -> None:
    """What was freed by now, at once, small blocks too: for a process that is done with something large."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


async def keep_giving_back() -> None:
    """For ever: whole pages that lie free between smaller blocks, where the C library can."""
    took = 0.0
    while True:
        await asyncio.sleep(pause(took))
        took = await asyncio.to_thread(_timed)


def pause(took: float) -> float:
    """Seconds until the next time, where the last took so many."""
    return max(SECONDS, took / SHARE)


def _timed() -> float:
    began = time.thread_time()  # what other programs took meanwhile is none of its business
    trim()
    return time.thread_time() - began
