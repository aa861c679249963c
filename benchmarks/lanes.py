"""What small pictures notice of large ones, of a private network that is asked all it can, and of another project that
asks for ten times what the server can answer: their 50th and 99th percentiles without and with, in turns, on a server
of one thread that has a core of its own where there are two, and that is asked two fifths of the small pictures that it
can answer.

usage: lanes.py [SECONDS]   (of each turn; default 8)
"""

import asyncio
import io
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np
from grpc import aio
from PIL import Image

from handful.v1 import inference_pb2_grpc
from handful.v1.inference_pb2 import PredictRequest
from services.shared.objects.filesystem import FilesystemStore
from tests import real_bundles
from tests.bundles import point
from tests.inference_process import inference

ROUNDS = 3
LOAD = 0.4
LARGE_SHARE = 0.05
ASKING = 8
# Of the other project, in what the server can answer.
FLOOD = 10.0
MODEL = "projects/default/models/{}"
OTHER = "projects/other/models/shared"


def picture(width: int, height: int, **how: bool) -> bytes:
    """A JPEG of soft colours and some noise."""
    random = np.random.default_rng(width)
    soft = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((width, height))
    noisy = np.asarray(soft).astype(int) + random.integers(-9, 10, (height, width, 1))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85, **how)
    return buffer.getvalue()


async def ask_at_rate(
    stub: "inference_pb2_grpc.InferenceServiceAsyncStub",
    rate: float,
    seconds: float,
    files: list[bytes],
    model: str = MODEL.format("shared"),
) -> list[tuple[int, float]]:
    """Open loop: calls leave when it is their time, whatever became of earlier ones. Which file, and milliseconds; what
    was refused is left out.
    """
    random = np.random.default_rng(0)
    answered: list[tuple[int, float]] = []

    async def one(which: int) -> None:
        began = time.perf_counter()
        with suppress(aio.AioRpcError):
            await stub.Predict(PredictRequest(model=model, image=files[which]), timeout=20)
            answered.append((which, 1e3 * (time.perf_counter() - began)))

    calls = []
    began = time.perf_counter()
    for number in range(round(seconds * rate)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        which = 1 + int(random.integers(len(files) - 1)) if len(files) > 1 and random.random() < LARGE_SHARE else 0
        calls.append(asyncio.create_task(one(which)))
    await asyncio.gather(*calls)
    return answered


@asynccontextmanager
async def asking(
    stub: "inference_pb2_grpc.InferenceServiceAsyncStub", model: str, small: bytes
) -> AsyncIterator[list[int]]:
    """Some callers who ask a model again as soon as they are answered; how often they were."""
    answered = [0]

    async def one() -> None:
        while True:
            await stub.Predict(PredictRequest(model=MODEL.format(model), image=small), timeout=20)
            answered[0] += 1

    callers = [asyncio.create_task(one()) for _ in range(ASKING)]
    try:
        yield answered
    finally:
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)


def percentiles(answered: list[tuple[int, float]], *, large: bool) -> tuple[float, float]:
    times = [took for which, took in answered if (which > 0) == large] or [float("nan")]
    return float(np.percentile(times, 50)), float(np.percentile(times, 99))


async def measure(address: str, seconds: float) -> None:
    small, plain, progressive = picture(500, 375), picture(4000, 3000), picture(4000, 3000, progressive=True)
    print(f"small {len(small) // 1000} kB, large {len(plain) // 1000} kB and progressive {len(progressive) // 1000} kB")
    ratios: dict[str, list[float]] = {"large": [], "progressive": [], "private": [], "flood": []}
    lost = 0
    async with aio.insecure_channel(address, options=[("grpc.max_send_message_length", -1)]) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        for model in (MODEL.format("shared"), MODEL.format("private"), OTHER):
            await stub.Predict(PredictRequest(model=model, image=small), timeout=60)
        await asyncio.sleep(15)  # both graphs are measured
        async with asking(stub, "shared", small) as answered:
            await asyncio.sleep(seconds)
        rate = LOAD * answered[0] / seconds
        print(f"{answered[0] / seconds:.0f} a second at most; {rate:.1f} are asked")
        for number in range(ROUNDS):
            alone = await ask_at_rate(stub, rate, seconds, [small])
            with_large = await ask_at_rate(stub, rate, seconds, [small, plain])
            with_progressive = await ask_at_rate(stub, rate, seconds, [small, progressive])
            async with asking(stub, "private", small) as asked:
                with_private = await ask_at_rate(stub, rate, seconds, [small])
            with_flood, flooded = await asyncio.gather(
                ask_at_rate(stub, rate, seconds, [small]),
                ask_at_rate(stub, FLOOD * rate / LOAD, seconds, [small], OTHER),
            )
            lost += round(seconds * rate) - len(with_flood)
            base = percentiles(alone, large=False)
            print(f"round {number + 1}: small alone p50 {base[0]:.1f} p99 {base[1]:.1f} ms")
            turns = {"large": with_large, "progressive": with_progressive, "private": with_private, "flood": with_flood}
            beside = {
                "large": f"{percentiles(with_large, large=True)[0]:.0f} ms p50 of the large",
                "progressive": f"{percentiles(with_progressive, large=True)[0]:.0f} ms p50 of the large",
                "private": f"{asked[0] / seconds:.0f}/s of the private",
                "flood": f"{len(flooded) / seconds:.0f}/s of the other project",
            }
            for name, found_times in turns.items():
                found = percentiles(found_times, large=False)
                ratios[name].append(found[1] / base[1])
                print(f"  beside {name:12} p50 {found[0]:6.1f}  p99 {found[1]:6.1f} ms, {beside[name]}")
    for name, found_ratios in ratios.items():
        print(f"small p99 beside {name}: x {np.median(found_ratios):.2f} (median of {ROUNDS})")
    print(f"refused of the project beside the flood: {lost} of {ROUNDS * round(seconds * rate)}")


def main(seconds: float) -> None:
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="handful-bench-") as folder:
        home = Path(folder)
        store = FilesystemStore(home / "store")
        body = real_bundles.graph()
        point(
            store,
            {
                "shared": [real_bundles.publish(store, body)],
                "private": [real_bundles.publish(store, body, private=True)],
            },
        )
        other = real_bundles.publish(store, body, project="other")
        point(store, {"shared": [other]}, project="other")
        os.sched_setaffinity(0, cores[:1])
        with inference(home, HANDFUL_INFERENCE_THREADS="1") as server:
            os.sched_setaffinity(0, cores[-1:])
            print(f"server of one thread on core {cores[0]}, client on core {cores[-1]}")
            asyncio.run(measure(server.address, seconds))


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 8.0)
