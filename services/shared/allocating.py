"""What a process frees, it gives back. The C library keeps large blocks that were used once for the next use, in every
thread that had them: one picture of 50 megapixels, decoded in two threads, cost a gigabyte for ever. And what is used
for long, and lies in room that something larger had, makes the next of these take new room.
"""

import ctypes

# Blocks of this size and more are of their own, and gone when they are freed: decoded pictures and recordings. What a
# forward pass takes is smaller, or kept by its runtime.
OWN_BYTES = 4 * 1024 * 1024
# Of mallopt(3).
_M_MMAP_THRESHOLD = -3


def give_back() -> None:
    """From now on, in this process. Where the C library has no such setting, as on macOS, nothing changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, OWN_BYTES)


def trim() -> None:
    """What was freed by now, at once, small blocks too: for a process that is done with something large."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
