"""Half an hour of everything at once against one inference server: does it gather memory, descriptors or threads?

usage: soak.py [--minutes 30] [--rate 20] [--plant [BYTES]]

Calls begin at random moments, so many a second: pictures and sounds, batches, streams, explanations, the Open Inference
Protocol, hostile files, models that are not there, requests that are none, calls that are given up or have no time,
connections of their own. Meanwhile an alias moves every two seconds, every third time to a version that cannot be
served. The time begins once the server has measured its runtimes, which takes memory of its own. Sixty times it rests:
the same few questions are asked and nothing else, until the server has finished what nobody waits for any more and has
given back what it freed (`soaking/resting.py`), and what it holds then is what counts (`soaking/judging.py`). It ends
by 1 where an answer is none of those expected, or the judgement is against the server. At last the same call is made
some thousand times, which tells in seconds, and surer, what is kept of each. `--plant` starts a server that keeps a
kilobyte of every request, or so many bytes (`soaking/keeping.py`): that is what catches it.
"""

import argparse
import asyncio
import io
import itertools
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from grpc import StatusCode, aio
from PIL import Image

from benchmarks.soaking.judging import Sample, judge
from benchmarks.soaking.resting import seen
from handful.v1.inference_pb2 import ExplainRequest, PredictBatchRequest, PredictRequest, StreamPredictRequest
from handful.v1.inference_pb2_grpc import InferenceServiceStub
from services.inference.oip.v2 import open_inference_pb2 as oip
from services.inference.oip.v2.open_inference_pb2_grpc import GRPCInferenceServiceStub
from services.shared.objects.filesystem import FilesystemStore
from tests import real_bundles, sound_bundles
from tests.bundles import COLOURS, point, publish
from tests.inference_process import InferenceProcess, inference
from tests.processes import until
from tests.rpc.test_open_inference import raw_bytes
from tests.rpc.test_switching import BAD

RESTS = 60
BURST_CALLS, CALLERS, MAX_KEPT_BYTES = 4000, 8, 300
SWITCH_SECONDS = 2.0
CALL_SECONDS = 20.0
MEASURED_SECONDS = 900.0
# What a server, or its caller's clock, says where more is asked than the machine can do.
TOO_MUCH = {StatusCode.RESOURCE_EXHAUSTED, StatusCode.DEADLINE_EXCEEDED}
MODEL = "projects/default/models/{}"


def picture(width: int, height: int, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(width).integers(-40, 40, (height, width, 3)) + np.array(COLOURS["red"])
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


SMALL, LARGE = picture(500, 375), picture(2400, 1600, "PNG")
TONE, BROKEN = sound_bundles.tone("low"), SMALL[:-2000]


class Calls:
    """Every kind of call. Each gives the status that it ended with; in band, the worst."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = aio.insecure_channel(address, options=[("grpc.max_send_message_length", -1)])
        self.ours, self.theirs = InferenceServiceStub(self.channel), GRPCInferenceServiceStub(self.channel)

    async def predict(self, model: str = "real", seconds: float = CALL_SECONDS, **data: Any) -> None:
        await self.ours.Predict(PredictRequest(model=MODEL.format(model), **data), timeout=seconds)

    async def batch(self) -> None:
        request = PredictBatchRequest(model=MODEL.format("flowers"), images=[SMALL, BROKEN, SMALL, b""])
        await self.ours.PredictBatch(request, timeout=CALL_SECONDS)

    async def stream(self) -> None:
        request = PredictRequest(model=MODEL.format("flowers"), image=SMALL)
        requests = [StreamPredictRequest(request_id=str(number), predict=request) for number in range(5)]
        async for _ in self.ours.StreamPredict(iter(requests), timeout=CALL_SECONDS):
            pass

    async def dropped_stream(self) -> None:
        request = PredictRequest(model=MODEL.format("real"), image=SMALL)
        answers = self.ours.StreamPredict(itertools.repeat(StreamPredictRequest(predict=request), 20), timeout=20)
        async for _ in answers:
            answers.cancel()
            return

    async def explain(self, model: str, **data: Any) -> None:
        await self.ours.Explain(ExplainRequest(model=MODEL.format(model), **data), timeout=CALL_SECONDS)

    async def infer(self) -> None:
        await self.theirs.ModelInfer(_asking(SMALL, SMALL), timeout=CALL_SECONDS)

    async def infer_stream(self) -> None:
        requests = [_asking(SMALL), _asking(BROKEN), _asking(SMALL)]
        async for _ in self.theirs.ModelStreamInfer(iter(requests), timeout=CALL_SECONDS):
            pass

    async def index(self) -> None:
        await self.theirs.RepositoryIndex(oip.RepositoryIndexRequest(), timeout=CALL_SECONDS)
        await self.theirs.ModelStatistics(oip.ModelStatisticsRequest(), timeout=CALL_SECONDS)
        await self.theirs.ModelMetadata(oip.ModelMetadataRequest(name="flowers"), timeout=CALL_SECONDS)

    async def given_up(self) -> None:
        call = self.ours.Predict(PredictRequest(model=MODEL.format("real"), image=SMALL), timeout=CALL_SECONDS)
        await asyncio.sleep(0.02 * random.random())  # noqa: S311 - not a secret
        call.cancel()

    async def malformed(self) -> None:
        method: Any = self.channel.unary_unary("/handful.v1.InferenceService/Predict")
        await method(b"\xff\xff\xff", timeout=CALL_SECONDS)

    async def connected(self) -> None:
        async with aio.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            request = PredictRequest(model=MODEL.format("flowers"), image=SMALL)
            await InferenceServiceStub(channel).Predict(request, timeout=CALL_SECONDS)

    async def fill_pools(self) -> None:
        """Threads come with the first work that finds none free."""
        requests = [oip.RepositoryIndexRequest(repository_name=f"projects/p{number}") for number in range(64)]
        await asyncio.gather(*(self.theirs.RepositoryIndex(one, timeout=CALL_SECONDS) for one in requests))

    async def until_measured(self, server: InferenceProcess) -> None:
        """Every model is asked for, and every network's runtimes are measured."""
        await self.rest()
        await self.predict("voices", sound=TONE)
        await asyncio.to_thread(
            until, lambda: server.events.count("runtimes measured") == 3, "all are measured", MEASURED_SECONDS
        )

    async def rest(self) -> None:
        """The same calls each time, so that the same is in memory."""
        for model in ("flowers", "real"):
            await self.predict(model, image=SMALL)

    def kinds(self) -> dict[str, tuple[int, Callable[[], Awaitable[None]], set[StatusCode]]]:
        """By name: how often of a hundred or so, the call, and what it may end with."""
        ok, bad = {StatusCode.OK}, {StatusCode.INVALID_ARGUMENT}
        return {
            "pictures": (24, lambda: self.predict(image=SMALL), ok),
            "small network": (20, lambda: self.predict("flowers", image=SMALL), ok),
            "large pictures": (2, lambda: self.predict("flowers", image=LARGE), ok),
            "sounds": (6, lambda: self.predict("voices", sound=TONE), ok),
            "batches": (8, self.batch, ok),
            "streams": (6, self.stream, ok),
            "streams given up": (3, self.dropped_stream, ok),
            "explanations": (3, lambda: self.explain("real", image=SMALL), ok),
            "of sounds": (2, lambda: self.explain("voices", sound=TONE), ok),
            "open inference": (8, self.infer, ok),
            "its streams": (4, self.infer_stream, ok),
            "its lists": (2, self.index, ok),
            "given up": (8, self.given_up, ok),
            "without time": (3, lambda: self.predict(seconds=0.003, image=SMALL), ok | {StatusCode.DEADLINE_EXCEEDED}),
            "connections": (3, self.connected, ok),
            "broken": (4, lambda: self.predict(image=BROKEN), bad),
            "of another kind": (2, lambda: self.predict("voices", image=SMALL), bad),
            "no message": (2, self.malformed, bad),
            "no model": (2, lambda: self.predict("nobody", image=SMALL), {StatusCode.NOT_FOUND}),
        }


def _asking(*files: bytes) -> oip.ModelInferRequest:
    tensor = oip.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[len(files)])
    return oip.ModelInferRequest(model_name="flowers", inputs=[tensor], raw_input_contents=[raw_bytes(*files)])


@dataclass
class Heard:
    """How calls ended, by kind and status; and what was not expected."""

    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: Counter[tuple[str, str]] = field(default_factory=Counter)

    async def one(self, kind: str, call: Callable[[], Awaitable[None]], expected: set[StatusCode]) -> None:
        status, said = StatusCode.OK, ""
        try:
            await call()
        except aio.AioRpcError as problem:
            status, said = problem.code(), problem.details() or ""
        self.ended[kind, status.name] += 1
        if status not in expected | TOO_MUCH:
            self.wrong[kind, f"{status.name}: {said}"] += 1


async def ask(server: InferenceProcess, given: argparse.Namespace) -> tuple[Heard, list[Sample]]:
    """Calls at random moments until it is time, with rests; how they ended, and what was seen at rest."""
    chance, heard, calls = random.Random(0), Heard(), Calls(server.address)  # noqa: S311 - not a secret
    kinds, under_way, samples = calls.kinds(), set[asyncio.Task[None]](), list[Sample]()
    names, weights = list(kinds), [weight for weight, _, _ in kinds.values()]
    await calls.fill_pools()
    await calls.until_measured(server)
    began = time.monotonic()
    period = 60 * given.minutes / RESTS
    for number in range(RESTS):
        # Where rests take long, as on a busy machine, it is asked in between all the same, and all takes longer.
        ends = max(began + (number + 1) * period, time.monotonic() + period / 2)
        while time.monotonic() < ends:
            kind = chance.choices(names, weights)[0]
            task = asyncio.create_task(heard.one(kind, *kinds[kind][1:]))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            await asyncio.sleep(chance.expovariate(given.rate))
        await asyncio.gather(*under_way)
        await calls.rest()
        samples.append((time.monotonic() - began, *await seen(server)))
        print("{:6.0f} s {} bytes resident, {} descriptors, {} threads".format(*samples[-1]), flush=True)
    await calls.channel.close()
    return heard, samples


async def burst(server: InferenceProcess) -> float:
    """Bytes that the server keeps of each of many equal calls: of the last of three bursts, when nothing is new."""
    calls, tiny = Calls(server.address), picture(40, 30)

    async def caller() -> None:
        for _ in range(BURST_CALLS // CALLERS):
            await calls.predict("flowers", image=tiny)

    held = [0]
    for _ in range(3):
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        held.append((await seen(server))[0])
    await calls.channel.close()
    return (held[-1] - held[-2]) / BURST_CALLS


async def switch(store: FilesystemStore, models: dict[str, list[str]]) -> None:
    """For ever: the alias of all models moves on."""
    for number in itertools.count(2):
        await asyncio.sleep(SWITCH_SECONDS)
        point(store, models, generation=number, aliases={"production": 1 + number % 3})


async def soak(server: InferenceProcess, store: FilesystemStore, models: dict[str, list[str]], given: Any) -> bool:
    switching = asyncio.create_task(switch(store, models))
    heard, samples = await ask(server, given)
    switching.cancel()
    kept = await burst(server)
    await asyncio.gather(switching, return_exceptions=True)
    kinds = {kind for kind, _ in heard.ended}
    for kind in sorted(kinds):
        print(f"{kind}: {dict(sorted((status, many) for (one, status), many in heard.ended.items() if one == kind))}")
    print(f"not expected: {dict(heard.wrong) or 'none'}")
    print(
        f"of each of {BURST_CALLS} equal calls afterwards it keeps {kept:.0f} bytes, at most {MAX_KEPT_BYTES} allowed"
    )
    return judge(samples) and kept <= MAX_KEPT_BYTES and not heard.wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--plant", type=int, nargs="?", const=1024, metavar="BYTES")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="handful-soak-") as folder:
        home = Path(folder)
        store = FilesystemStore(home / "store")
        models = published(store)
        point(store, models)
        planted = ("-m", "benchmarks.soaking.keeping", str(given.plant))
        program = planted if given.plant else ("-m", "services.inference")
        with inference(home, program) as server:
            sys.exit(0 if asyncio.run(soak(server, store, models, given)) else 1)


def published(store: FilesystemStore) -> dict[str, list[str]]:
    """Models of three versions, the third of one of which cannot be served."""
    body = real_bundles.graph()
    return {
        "flowers": [publish(store), publish(store, ["RED", "GREEN", "BLUE"]), publish(store, files=BAD["lying"]())],
        "real": [real_bundles.publish(store, body)] * 3,
        "voices": [sound_bundles.publish(store)] * 3,
    }


if __name__ == "__main__":
    main()
