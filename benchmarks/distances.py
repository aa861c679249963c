"""What it costs a server to tell how far a picture is from a model's training examples, beside rows of float16, as
models of earlier releases have them, and the plain way: these as float32 by numpy, and one product. Processor time of
each call, by two threads that do nothing in between for as long as a network would take; the least of some rounds in
turns.

usage: distances.py [--calls N]   (default: 100 of each thread in each round)
"""

import argparse
import threading
import time
from collections.abc import Callable

import numpy as np

from handful.bundle.neighbours import Neighbours
from handful.bundle.rows import CoarseRows, HalfRows

WIDTH, ROWS, THREADS, ROUNDS = 1280, (80, 320, 500), 2, 3
PAUSE_SECONDS = 0.008


def cost(work: Callable[[], object], calls: int) -> float:
    """Milliseconds of the processor for each call."""

    def go_on() -> None:
        for _ in range(calls):
            work()
            time.sleep(PAUSE_SECONDS)

    threads = [threading.Thread(target=go_on) for _ in range(THREADS)]
    began = time.process_time()
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return 1e3 * (time.process_time() - began) / (THREADS * calls)


def compare(count: int, calls: int) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(count, WIDTH)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    known, asked = Neighbours(CoarseRows.of(rows), 3, 1.0), rows[:1].copy()
    half = Neighbours(HalfRows(rows.astype(np.float16)), 3, 1.0)

    def plain() -> None:
        cosines = asked @ half.rows.plain().T
        1 - np.sort(cosines, axis=1)[:, -known.nearest :].mean(axis=1)

    ways = (lambda: known.distances(asked), lambda: half.distances(asked), plain)
    mine, halves, plainly = np.array([[cost(way, calls) for way in ways] for _ in range(ROUNDS)]).min(axis=0)
    print(f"{count:3} examples: {mine:.2f} ms, of float16 {halves:.2f} ms, the plain way {plainly:.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=100)
    given = parser.parse_args()
    for count in ROWS:
        compare(count, given.calls)


if __name__ == "__main__":
    main()
