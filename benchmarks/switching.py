"""What callers of the inference service notice while versions and servers change under them: nothing, or it ends by 1.

usage: switching.py [--switches N] [--rate N] [--bad N] [--batches N] [--restarts N]

One server process, one open-loop caller with the channel of the SDK: calls begin at their times, whether or not others
have been answered. The model says a picture's colour, and the labels of each version carry its number, so that answers
show which version computed them. About 15 minutes.

- switches: an alias moves to another version, and on once all calls are answered by that.
- bad: it moves to versions that disagree with their golden inputs, cannot be run, or are not there.
- poisoned: batches of eight, one of them broken, beside each other; the seven others answer as they do alone.
- restarts: two servers, each stopped and started again in turn, the next after a while (the manifests wait longer).
"""

import argparse
import asyncio
import io
import itertools
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from grpc import aio
from PIL import Image

from handful.channel import OPTIONS
from handful.v1 import inference_pb2_grpc
from handful.v1.inference_pb2 import PredictBatchRequest, PredictRequest, PredictResponse
from services.shared.objects.filesystem import FilesystemStore
from tests.bundles import COLOURS, mean_colour, point, publish
from tests.inference_servers import Servers
from tests.rpc.test_switching import BAD

Stub: TypeAlias = "inference_pb2_grpc.InferenceServiceAsyncStub"
FLOWERS = "projects/default/models/flowers"
# The longest that a switch may take to be followed, and a while before the next.
FOLLOWED_SECONDS = 2.0
PAUSE_SECONDS = 0.2
CALL_SECONDS = 20.0
# More than the 2 s after which a channel of the SDK tries a server again.
READY_SECONDS = 3.0
PER_BATCH = 8


@dataclass
class Heard:
    """What a caller was told."""

    versions: Counter[int] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    milliseconds: list[float] = field(default_factory=list)
    last: int = 0

    def __str__(self) -> str:
        ms = np.array(self.milliseconds or [0])
        failed = f"{self.failed.total()} failed {dict(self.failed) if self.failed else ''}".rstrip()
        return (
            f"{len(self.milliseconds)} answers, {failed}, {self.wrong} not of the version they name; "
            f"p50 {np.median(ms):.1f} ms, p99 {np.quantile(ms, 0.99):.1f} ms, most {ms.max():.0f} ms"
        )

    def end(self, what: str) -> None:
        print(f"{what}: {self}", flush=True)
        if self.failed or self.wrong:
            sys.exit(1)


@asynccontextmanager
async def served(home: Path, count: int = 1) -> AsyncIterator[tuple[Servers, Stub]]:
    servers = await asyncio.to_thread(Servers, home, count)
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in servers.ports)
    try:
        async with aio.insecure_channel(target, options=OPTIONS) as channel:
            yield servers, inference_pb2_grpc.InferenceServiceStub(channel)
    finally:
        await asyncio.to_thread(servers.stop)


async def call(stub: Stub, picture: bytes, heard: Heard) -> None:
    started = time.perf_counter()
    try:
        answer = await stub.Predict(PredictRequest(model=FLOWERS, image=picture, top_k=1), timeout=CALL_SECONDS)
    except aio.AioRpcError as problem:
        heard.failed[f"{problem.code().name}: {problem.details()}"] += 1
        return
    heard.milliseconds.append(1e3 * (time.perf_counter() - started))
    version = int(answer.model_version.rpartition("/")[2])
    heard.versions[version] += 1
    heard.last = version
    heard.wrong += answer.predictions[0].label != f"red {version}"


async def asked_until(done: asyncio.Event, stub: Stub, rate: float, heard: Heard) -> None:
    """Calls at an even rate, until it is done and all of them were answered."""
    calls, started = [], time.perf_counter()
    for number in itertools.count():
        if done.is_set():
            break
        calls.append(asyncio.create_task(call(stub, red(), heard)))
        await asyncio.sleep(max(0.0, started + (number + 1) / rate - time.perf_counter()))
    await asyncio.gather(*calls)


async def beside(stub: Stub, rate: float, change: Callable[[Heard], Awaitable[None]]) -> Heard:
    """What callers heard while something changed."""
    heard, done = Heard(), asyncio.Event()
    asking = asyncio.create_task(asked_until(done, stub, rate, heard))
    await until(lambda: heard.last == 1, 10)
    try:
        await change(heard)
    finally:
        done.set()
        await asking
    return heard


async def until(is_so: Callable[[], bool], seconds: float) -> float:
    """Seconds until something was so; it ends where that takes too long."""
    started = time.perf_counter()
    while not is_so():
        if time.perf_counter() - started > seconds:
            sys.exit(f"not within {seconds:g} s")
        await asyncio.sleep(0.005)
    return time.perf_counter() - started


async def switches(home: Path, count: int, rate: float) -> None:
    """Every answer is of the version that it names, and every switch is followed."""
    store, versions = version_store(home, 2)
    took: list[float] = []

    async def change(heard: Heard) -> None:
        for generation in range(2, count + 2):
            wanted = 1 + (generation + 1) % 2
            point(store, {"flowers": versions}, generation=generation, aliases={"production": wanted})
            took.append(await until(lambda wanted=wanted: heard.last == wanted, FOLLOWED_SECONDS))  # type: ignore[misc]
            await asyncio.sleep(PAUSE_SECONDS)

    async with served(home) as (_, stub):
        heard = await beside(stub, rate, change)
    shares = ", ".join(f"{count} by version {version}" for version, count in sorted(heard.versions.items()))
    print(f"followed after {np.median(took):.2f} s (median), {max(took):.2f} s (most)")
    heard.end(f"{count} switches at {rate:g} calls/s ({shares})")


async def bad_versions(home: Path, count: int, rate: float) -> None:
    """Only version 1 answers."""
    store, good = version_store(home, 1)
    kinds = [publish(store, files=make()) for make in BAD.values()]
    kinds += [publish(store, graph=b"no graph"), "0" * 64]
    versions = [good[0], *itertools.islice(itertools.cycle(kinds), count)]

    async def change(_: Heard) -> None:
        for number in range(2, count + 2):
            point(store, {"flowers": versions}, generation=number, aliases={"production": number})
            await asyncio.sleep(FOLLOWED_SECONDS)

    async with served(home) as (_, stub):
        heard = await beside(stub, rate, change)
    heard.wrong += sum(answers for version, answers in heard.versions.items() if version != 1)
    heard.end(f"{count} bad versions at {rate:g} calls/s")


async def poisoned(home: Path, count: int) -> None:
    """Batches beside each other, so that the server's own batches are mixed."""
    version_store(home, 1)
    pictures = [picture(colour) for colour in COLOURS] * PER_BATCH
    heard = Heard()
    async with served(home) as (_, stub):
        request = PredictBatchRequest(model=FLOWERS, images=pictures[:PER_BATCH])
        alone = [one.prediction for one in (await stub.PredictBatch(request, wait_for_ready=True)).results]
        places = asyncio.Semaphore(4)

        async def batch(number: int) -> None:
            bad = number % PER_BATCH
            images = [b"\x89PNG and no more" if place == bad else one for place, one in enumerate(pictures[:PER_BATCH])]
            async with places:
                started = time.perf_counter()
                answer = await stub.PredictBatch(PredictBatchRequest(model=FLOWERS, images=images))
                heard.milliseconds.append(1e3 * (time.perf_counter() - started))
            for place, one in enumerate(answer.results):
                check(heard, one.prediction if one.HasField("prediction") else None, alone, place, bad)

        await asyncio.gather(*map(batch, range(count)))
    heard.end(f"{count} batches of {PER_BATCH} with one broken picture each")


def check(heard: Heard, found: PredictResponse | None, alone: Sequence[PredictResponse], place: int, bad: int) -> None:
    if place == bad:
        heard.wrong += found is not None
    elif found is None:
        heard.failed["a picture beside a broken one"] += 1
    else:
        heard.wrong += found != alone[place]


async def restarts(home: Path, count: int, rate: float) -> None:
    version_store(home, 1)
    async with served(home, 2) as (servers, stub):

        async def change(_: Heard) -> None:
            for place in [0, 1] * count:
                await asyncio.to_thread(servers.restart, place)
                await asyncio.sleep(READY_SECONDS)

        heard = await beside(stub, rate, change)
    heard.end(f"{count} rolling restarts of two servers at {rate:g} calls/s")


def version_store(home: Path, count: int) -> tuple[FilesystemStore, list[str]]:
    """A store with versions whose labels carry their numbers; the alias is at the first."""
    store = FilesystemStore(home / "store")
    versions = [
        publish(store, [f"{colour} {number}" for colour in COLOURS], mean_colour(f"version_{number}"))
        for number in range(1, count + 1)
    ]
    point(store, {"flowers": versions})
    return store, versions


def picture(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), COLOURS[colour]).save(file, "JPEG")
    return file.getvalue()


def red() -> bytes:
    return picture("red")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("switches", 200), ("bad", 20), ("batches", 1000), ("restarts", 20)):
        parser.add_argument(f"--{name}", type=int, default=default, help="0: leave it out")
    parser.add_argument("--rate", type=float, default=200.0, help="calls per second; for restarts half as many again")
    given = parser.parse_args()
    wanted: list[tuple[int, Callable[[Path], Coroutine[Any, Any, None]]]] = [
        (given.switches, lambda home: switches(home, given.switches, given.rate)),
        (given.bad, lambda home: bad_versions(home, given.bad, given.rate)),
        (given.batches, lambda home: poisoned(home, given.batches)),
        (given.restarts, lambda home: restarts(home, given.restarts, 1.5 * given.rate)),
    ]
    for count, run in wanted:
        if count:
            with tempfile.TemporaryDirectory(prefix="handful-switching-") as home:
                asyncio.run(run(Path(home)))


if __name__ == "__main__":
    main()
