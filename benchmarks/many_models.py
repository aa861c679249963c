"""A thousand models on one backbone, on one server: what they cost beside a single one.

usage: many_models.py [--models 1000] [--seconds 10] [--examples 0]

EfficientNet-Lite0 with its real weights; heads of five classes of random numbers. With `--examples 15` each model also
knows so many training examples of each class, to say `unknown` and name the nearest, and was measured on as many, to
promise few wrong answers, as those are that are trained here.
The server has a core and a thread of its own, where there are two cores. Printed: from its start until it listens, its
memory then, with one model, and with all; how long the first answer of each takes, one after another; and answers per
second to 32 callers who wait for their answers, of one model and of all at random, in turns.
"""

import argparse
import asyncio
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
from grpc import aio

from benchmarks.lanes import picture
from handful.bundle.neighbours import Named, Neighbours
from handful.bundle.rows import CoarseRows
from handful.v1 import inference_pb2_grpc
from handful.v1.bundle_pb2 import ErrorControl
from handful.v1.inference_pb2 import PredictRequest
from services.shared.objects.filesystem import FilesystemStore
from tests import real_bundles
from tests.bundles import point
from tests.inference_process import InferenceProcess, inference

Stub: TypeAlias = "inference_pb2_grpc.InferenceServiceAsyncStub"
CALLERS = 32
ROUNDS = 5
SETTLED_SECONDS = 20.0
TARGETS = "targets: 0.97 of one model's throughput, 60 kB each, 50 ms for a first answer, ready in 2 s, 260 MB"


def known(examples: int, seed: int) -> Neighbours | None:
    """As many random training examples of each class."""
    if not examples:
        return None
    count, chance = examples * real_bundles.NUM_CLASSES, np.random.default_rng(seed)
    rows = chance.normal(size=(count, real_bundles.ROW.feature_width))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    contents = [f"{number:064x}" for number in range(count)]
    return Neighbours(CoarseRows.of(rows), 3, 0.5, Named.of(contents, np.arange(count) % real_bundles.NUM_CLASSES))


def publish(store: FilesystemStore, body: bytes, number: int, examples: int) -> str:
    """The SHA-256 of its manifest."""
    return real_bundles.publish(store, body, seed=number, known=known(examples, number), control=measured(examples))


def measured(examples: int) -> ErrorControl | None:
    """As of a model that answered one in twenty of as many wrongly."""
    count = examples * real_bundles.NUM_CLASSES
    if not count:
        return None
    wrong = count // 20
    return ErrorControl(num_groups=count, min_confidences=np.linspace(0.9, 0, wrong + 1), errors=range(wrong + 1))


async def ask(stub: Stub, model: str, image: bytes) -> float:
    """Milliseconds until the answer is there."""
    began = time.perf_counter()
    await stub.Predict(PredictRequest(model=f"projects/default/models/{model}", image=image), timeout=60)
    return 1e3 * (time.perf_counter() - began)


async def throughput(stub: Stub, models: list[str], image: bytes, seconds: float) -> float:
    """Answers per second."""
    ends, answered, chance = time.perf_counter() + seconds, 0, random.Random(0)  # noqa: S311 - not a secret

    async def caller() -> None:
        nonlocal answered
        while time.perf_counter() < ends:
            await ask(stub, chance.choice(models), image)
            answered += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return answered / seconds


async def measure(server: InferenceProcess, models: list[str], seconds: float) -> None:
    image = picture(500, 375)
    async with aio.insecure_channel(server.address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        first = await ask(stub, models[0], image)
        await asyncio.sleep(SETTLED_SECONDS)  # the network is measured beside
        await throughput(stub, models[:1], image, seconds)
        one = server.memory_bytes
        before = server.cpu_seconds
        cold = np.array([await ask(stub, model, image) for model in models[1:]])
        between = server.cpu_seconds
        warm = np.array([await ask(stub, models[0], image) for _ in range(200)])
        computed = 1e3 * (between - before) / len(cold), 1e3 * (server.cpu_seconds - between) / len(warm)
        added = (server.memory_bytes - one) / 1e3 / len(cold)
        print(f"first answer of the first model, with its network: {first:.0f} ms")
        for name, found, computing in zip(("first answers", "answers after that"), (cold, warm), computed, strict=True):
            p50, p99 = np.quantile(found, (0.5, 0.99))
            print(
                f"{name}: p50 {p50:.1f}, p99 {p99:.1f}, most {found.max():.1f} ms; {computing:.1f} ms of them computed"
            )
        held = f"{one / 1e6:.0f} MB with one model, {server.memory_bytes / 1e6:.0f} MB with {len(models)}"
        print(f"memory: {held}: {added:.1f} kB each", flush=True)
        ratios = []
        for _ in range(ROUNDS):
            alone = await throughput(stub, models[:1], image, seconds)
            together = await throughput(stub, models, image, seconds)
            ratios.append(together / alone)
            print(f"  {alone:.1f} answers/s of one model, {together:.1f} of {len(models)}", flush=True)
        print(f"throughput of {len(models)} models: {np.median(ratios):.3f} of one's (median of {ROUNDS})")
        print(f"memory after that: {server.memory_bytes / 1e6:.0f} MB")


@contextmanager
def on_own_core(home: Path) -> Iterator[tuple[InferenceProcess, float]]:
    """The server, and seconds until it listened."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    began = time.perf_counter()
    settings = {"HANDFUL_INFERENCE_THREADS": "1", "HANDFUL_INFERENCE_QUEUE": str(2 * CALLERS)}
    with inference(home, **settings) as server:
        took = time.perf_counter() - began
        os.sched_setaffinity(0, cores[1:] or cores)
        yield server, took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--examples", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="handful-bench-") as folder:
        store, body = FilesystemStore(Path(folder) / "store"), real_bundles.graph()
        models = {f"m{number:04}": [publish(store, body, number, given.examples)] for number in range(given.models)}
        point(store, models)
        sizes = [one.stat().st_size for one in (Path(folder) / "store" / "projects").rglob("*.safetensors")]
        print(f"{len(models)} models; {sum(sizes) / 1e3 / len(models):.1f} kB each on disk, but for manifests")
        with on_own_core(Path(folder)) as (server, took):
            print(f"it listens {took:.1f} s after its start, at {server.memory_bytes / 1e6:.0f} MB", flush=True)
            asyncio.run(measure(server, list(models), given.seconds))
    print(TARGETS)


if __name__ == "__main__":
    main()
