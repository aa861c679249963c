"""ONNX Runtime as all of ours loads it: one thread per call, unless more are asked for, and nothing told to anyone.

Its official builds collect events and send them to Microsoft unless ORT_DISABLE_TELEMETRY is set before they are loaded
(Privacy.md in the package, since 1.32), so nothing else here imports it.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

VERSION: str = ort.__version__


# Threads of one pass look so long for its next part before they sleep. To wake them for each part takes all that they
# win, and while they look longer they keep others from the core. Below 1.26 nobody heeds it.
_SPIN_MICROSECONDS = 100

# What it says where memory ran out: it has no exception for that alone.
_SAID = ("Failed to allocate memory", "std::bad_alloc", "bad allocation")


def session(graph: bytes, threads: int = 1) -> ort.InferenceSession:
    """A graph, ready to run; calls may come from several threads at once. MemoryError where memory does not suffice."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(threads > 1)))
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_MICROSECONDS))
    with _memory():
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def run(session: ort.InferenceSession, outputs: Sequence[str], inputs: Mapping[str, Any]) -> list[Any]:
    """The outputs of that name, in that order. MemoryError where memory does not suffice; the session is as it was."""
    with _memory():
        return list(session.run(outputs, inputs))


@contextmanager
def _memory() -> Iterator[None]:
    try:
        yield
    except Exception as problem:
        if any(words in str(problem) for words in _SAID):
            raise MemoryError("ONNX Runtime had not memory enough") from problem
        raise
