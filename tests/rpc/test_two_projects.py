"""Two projects on one server and one network: what one asks too much is not the other's loss."""

import asyncio
from collections.abc import AsyncIterator
from statistics import median
from typing import TypeAlias

import pytest
from grpc import aio

from handful.v1 import inference_pb2_grpc
from handful.v1.inference_pb2 import PredictRequest
from services.inference.loading import Loader
from services.shared.objects.filesystem import FilesystemStore
from services.shared.server import MEBIBYTE
from tests import real_bundles
from tests.bundles import point
from tests.servers import reason, serving

Stub: TypeAlias = "inference_pb2_grpc.InferenceServiceAsyncStub"
QUEUE, FLOODING, ASKED = 16, 40, 30


class Flood:
    """Callers of one project who ask again at once, whatever they are told."""

    def __init__(self, stub: Stub, image: bytes) -> None:
        self._stub = stub
        self._image = image
        self.answered = self.refused = 0
        self.full = asyncio.Event()
        self._callers = [asyncio.create_task(self._ask()) for _ in range(FLOODING)]

    async def _ask(self) -> None:
        request = PredictRequest(model="projects/flood/models/flowers", image=self._image)
        while True:
            try:
                await self._stub.Predict(request, timeout=20)
                self.answered += 1
            except aio.AioRpcError as problem:
                if reason(problem) != "OVERLOADED":
                    raise
                self.refused += 1
                self.full.set()
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        for caller in self._callers:
            caller.cancel()
        ended = await asyncio.gather(*self._callers, return_exceptions=True)
        assert {type(one) for one in ended} == {asyncio.CancelledError}


@pytest.fixture
async def stub(store: FilesystemStore) -> AsyncIterator[Stub]:
    body = real_bundles.graph()
    for project in ("flood", "quiet"):
        point(store, {"flowers": [real_bundles.publish(store, body, project=project)]}, project=project)
    async with serving(store, Loader(store, 64 * MEBIBYTE), QUEUE) as stub:
        yield stub


async def test_a_project_that_floods_does_not_starve_another(stub: Stub) -> None:
    """While one project's callers fill the queue, and most are refused, every call of another is answered, and as soon
    as the pass that is under way is over: not after all that wait.
    """
    image, overtaken = real_bundles.picture(), []
    request = PredictRequest(model="projects/quiet/models/flowers", image=image)
    await stub.Predict(request, timeout=60)
    flood = Flood(stub, image)
    await asyncio.wait_for(flood.full.wait(), 20)
    for _ in range(ASKED):
        before = flood.answered
        await stub.Predict(request, timeout=20)
        overtaken.append(flood.answered - before)
    await flood.stop()
    assert flood.refused > ASKED
    assert flood.answered > ASKED
    assert median(overtaken) <= QUEUE / 2
