"""Callers who go away at any moment: what they asked for is worked on no longer, and nothing of it is left."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import aio

from handful.v1 import inference_pb2_grpc
from handful.v1.inference_pb2 import ExplainRequest, PredictBatchRequest, PredictRequest, StreamPredictRequest
from services.inference.oip.v2 import open_inference_pb2_grpc as oip_grpc
from services.shared.objects.filesystem import FilesystemStore
from tests import real_bundles
from tests.bundles import point
from tests.inference_process import InferenceProcess, inference
from tests.rpc.test_metrics import read, sample
from tests.rpc.test_open_inference import asking

FLOWERS = "projects/default/models/flowers"
CALLS, AT_ONCE = 200, 20
# The longest that a caller waits before it goes: some are answered before, some are not heard of at all.
PATIENCE_SECONDS = 0.2
GONE_SECONDS = 0.25
LINES = ("shared", "private", "large", "explanations")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InferenceProcess]:
    store = FilesystemStore(tmp_path / "store")
    point(store, {"flowers": [real_bundles.publish(store, real_bundles.graph())]})
    # One whose measuring would take the machine for itself just then is no test of this.
    settings = {"HANDFUL_INFERENCE_RUNTIME": "onnxruntime", "HANDFUL_INFERENCE_METRICS_ADDRESS": "127.0.0.1:0"}
    with inference(tmp_path, **settings) as running:
        yield running


def begin(channel: aio.Channel, image: bytes, kind: int) -> Any:
    """A call of one of the kinds that there are."""
    ours: Any = inference_pb2_grpc.InferenceServiceStub(channel)
    theirs: Any = oip_grpc.GRPCInferenceServiceStub(channel)
    predict = PredictRequest(model=FLOWERS, image=image)
    match kind % 5:
        case 0:
            return ours.Predict(predict)
        case 1:
            return ours.PredictBatch(PredictBatchRequest(model=FLOWERS, images=[image] * 4))
        case 2:
            return ours.StreamPredict(iter([StreamPredictRequest(predict=predict)] * 4))
        case 3:
            return ours.Explain(ExplainRequest(model=FLOWERS, image=image))
    return theirs.ModelInfer(asking(*[image] * 4))


async def go_away(call: Any, seconds: float) -> None:
    await asyncio.sleep(seconds)
    call.cancel()


def waiting(server: InferenceProcess) -> float:
    port = next(int(str(line["port"])) for line in server.lines if "metrics" in str(line["event"]))
    found = read(port)
    return sum(sample(found, "handful_inference_waiting", line=line) for line in LINES)


async def test_nothing_is_left_of_calls_that_are_cancelled_at_random(server: InferenceProcess) -> None:
    """Of every kind, while they wait, are decoded or computed: a quarter of a second after the last one nobody waits
    any more, and who comes then is answered as by a server that nobody left.
    """
    image, patience = real_bundles.picture(), np.random.default_rng(0).uniform(0, PATIENCE_SECONDS, CALLS)
    async with aio.insecure_channel(server.address) as channel:
        expected = await begin(channel, image, 0)
        for first in range(0, CALLS, AT_ONCE):
            numbers = range(first, first + AT_ONCE)
            await asyncio.gather(*(go_away(begin(channel, image, number), patience[number]) for number in numbers))
        await asyncio.sleep(GONE_SECONDS)
        assert await asyncio.to_thread(waiting, server) == 0
        assert await begin(channel, image, 0) == expected
    assert not [line for line in server.lines if line["level"] == "error"]
