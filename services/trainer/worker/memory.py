"""Telling that memory ran out, and what would have fitted. Libraries say the first each in its own way."""

from collections.abc import Callable

# What torch on a CPU, the standard library of C++, ONNX Runtime and oneDNN say, in exceptions of general types.
_SAID = ("DefaultCPUAllocator: ", "std::bad_alloc", "Failed to allocate memory", "could not create a primitive")


class OutOfMemory(Exception):
    """The memory does not suffice for a batch; the message says which one fits."""


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether an exception says that memory ran out. Torch's own class cannot be imported where torch is not."""
    named = isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError"
    return named or (isinstance(problem, Exception) and any(words in str(problem) for words in _SAID))


def batch_that_fits(batch_size: int, step: Callable[[int], None]) -> int:
    """The largest half of a half ... of a batch with which a step can be taken, found by taking them; 0 for none."""
    while batch_size > 1:
        batch_size //= 2
        try:
            step(batch_size)
        except Exception as problem:
            if not is_out_of_memory(problem):
                raise
        else:
            return batch_size
    return 0
