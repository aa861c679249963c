"""`python -m services.inference.runtimes.measuring RUNTIMES CAP SECONDS THREADS`: how long runtimes take for a graph,
in a process of its own, so that what is not chosen takes no memory of the server, and what crashes not its life.

Standard input brings a number of bytes in eight, and then a safetensors file: `graph`, and inputs as `{place}/{name}`.
Standard output's last line is JSON. When standard input ends, so does the process.
"""

import json
import math
import os
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from handful.bundle.heads import Floats
from handful.bundle.sounds import Inputs
from services.inference.runtimes import DEFAULT, LONE_THREADS, RUNTIMES, WIDE, Body
from services.shared import parent

# Two float32 runtimes differ by some 1e-6 of the largest feature.
MAX_RELATIVE_DIFFERENCE = 1e-4
MAX_ROUNDS = 20
LONE_SECONDS = 0.5
NICENESS = 10


def pack(graph: bytes, inputs: Sequence[Inputs]) -> bytes:
    """What is written to standard input."""
    named = {
        f"{place}/{name}": np.ascontiguousarray(array)
        for place, one in enumerate(inputs)
        for name, array in one.items()
    }
    data = save({"graph": np.frombuffer(graph, np.uint8), **named})
    return struct.pack("<Q", len(data)) + data


def _unpack(data: bytes) -> tuple[bytes, list[Inputs]]:
    tensors = load(data)
    graph = tensors.pop("graph").tobytes()
    inputs: dict[int, dict[str, Any]] = {}
    for key, array in tensors.items():
        place, _, name = key.partition("/")
        inputs.setdefault(int(place), {})[name] = array
    return graph, [inputs[place] for place in sorted(inputs)]


def measure(
    names: Sequence[str], graph: bytes, inputs: Sequence[Inputs], cap: int, seconds: float, threads: int = 1
) -> dict[str, Any]:
    """`refused`: by runtime why it may not serve the graph. `rows`: of each other runtime and number of pictures at
    once, [runtime, number, milliseconds of processor time for each picture]; sounds go alone. A number is left out
    where features are not bit for bit those of each picture alone. `alone`: of each that may have several of so many
    threads for one picture, [runtime, threads, milliseconds until it is done].
    """
    reference = RUNTIMES[DEFAULT].load(graph, 1)
    expected = np.concatenate([reference.of(one) for one in inputs])
    bodies: dict[str, Body] = {}
    refused: dict[str, str] = {}
    for name in names:
        try:
            body = reference if name == DEFAULT else RUNTIMES[name].load(graph, 1)
            difference = _difference(body, inputs, expected)
        except Exception as problem:  # noqa: BLE001 - each library has its own
            refused[name] = repr(problem)[:200]
            continue
        if difference <= MAX_RELATIVE_DIFFERENCE:
            bodies[name] = body
        else:
            refused[name] = f"features differ by {difference:.1e} of the largest"
    rows = _times(bodies, inputs, cap, seconds)
    wide = threads >= LONE_THREADS and _is_of_pictures(inputs)
    alone = [row for name in bodies if wide and name in WIDE for row in _alone(name, bodies[name], graph, inputs)]
    return {"rows": rows, "alone": alone, "refused": refused}


def _difference(body: Body, inputs: Sequence[Inputs], expected: Floats) -> float:
    got = np.concatenate([body.of(one) for one in inputs])
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def _times(bodies: Mapping[str, Body], inputs: Sequence[Inputs], cap: int, seconds: float) -> list[list[Any]]:
    """The least of some rounds in which all take turns, within about so many seconds of processor time."""
    ends = time.process_time() + seconds
    times = {(name, 1): _time(body, inputs[0]) for name, body in bodies.items()}
    slowest = max(times.values(), default=0.0)
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if size == 1 or (size <= cap and _is_of_pictures(inputs))]
    # What would take half of the time for one round is not tried.
    sizes = [size for size in sizes if size == 1 or size * slowest * len(bodies) < seconds / 4]
    batches = {size: _batch(inputs, size) for size in sizes}
    allowed = [
        (name, size) for name, body in bodies.items() for size in sizes if _same(body, inputs, batches[size], size)
    ]
    for _ in range(MAX_ROUNDS):
        for name, size in allowed:
            took = _time(bodies[name], batches[size])
            times[name, size] = min(took, times.get((name, size), took))
        if time.process_time() >= ends:
            break
    return [[name, size, 1e3 * took / size] for (name, size), took in sorted(times.items())]


def _alone(name: str, narrow: Body, graph: bytes, inputs: Sequence[Inputs]) -> list[list[Any]]:
    """On one thread and on several in turns, the least of some rounds; none where a bit is another."""
    wide = WIDE[name].load(graph, 1)
    if not all(np.array_equal(wide.of(one), narrow.of(one)) for one in inputs):
        return []
    took = {1: math.inf, LONE_THREADS: math.inf}
    ends = time.monotonic() + LONE_SECONDS
    for _ in range(MAX_ROUNDS):
        for threads, body in ((1, narrow), (LONE_THREADS, wide)):
            began = time.monotonic()
            body.of(inputs[0])
            took[threads] = min(took[threads], time.monotonic() - began)
        if time.monotonic() >= ends:
            break
    return [[name, threads, 1e3 * least] for threads, least in took.items()]


def _time(body: Body, inputs: Inputs) -> float:
    # Of the whole process: it counts other threads of a library, and not what else the machine does.
    began = time.process_time()
    body.of(inputs)
    return time.process_time() - began


def _is_of_pictures(inputs: Sequence[Inputs]) -> bool:
    return set(inputs[0]) == {"pixels"}


def _batch(inputs: Sequence[Inputs], size: int) -> Inputs:
    if size == 1:
        return inputs[0]
    return {"pixels": np.concatenate([inputs[place % len(inputs)]["pixels"] for place in range(size)])}


def _same(body: Body, inputs: Sequence[Inputs], batch: Inputs, size: int) -> bool:
    alone = np.concatenate([body.of(inputs[place % len(inputs)]) for place in range(size)])
    return np.array_equal(body.of(batch), alone)


def main() -> None:
    names, cap, seconds, threads = sys.argv[1].split(","), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    os.nice(NICENESS)
    (length,) = struct.unpack("<Q", sys.stdin.buffer.read(8))
    graph, inputs = _unpack(sys.stdin.buffer.read(length))
    parent.when_gone(lambda: os._exit(1))
    print(json.dumps(measure(names, graph, inputs, cap, seconds, threads)))  # noqa: T201 - it is its answer


if __name__ == "__main__":
    main()
