"""Models that are asked for often and cannot be had: the store is asked seldom, and all are well once it has them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from grpc import aio

from handful.bundle import manifest
from handful.v1 import inference_pb2_grpc
from handful.v1.inference_pb2 import PredictRequest
from services.inference.loading import Loader
from services.inference.pointers import MISSING_SECONDS
from services.inference.pool import PATIENCE_SECONDS
from services.shared.objects.filesystem import FilesystemStore
from services.shared.server import MEBIBYTE
from tests.bundles import COLOURS, point, publish
from tests.servers import reason, serving

Stub: TypeAlias = "inference_pb2_grpc.InferenceServiceAsyncStub"
MODEL = "projects/default/models/flowers"
CALLERS, ROUNDS = 20, 5


class CountingStore(FilesystemStore):
    """Files, and how often each was read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.reads = Counter[str]()

    def get(self, key: str, sha256: str | None = None) -> bytes:
        self.reads[key] += 1
        return super().get(key, sha256)

    def get_if_changed(self, key: str, tag: str | None) -> tuple[bytes, str] | None:
        self.reads[key] += 1
        return super().get_if_changed(key, tag)


@pytest.fixture
def counting(tmp_path: Path) -> CountingStore:
    return CountingStore(tmp_path / "store")


@pytest.fixture
async def stub(counting: CountingStore) -> AsyncIterator[Stub]:
    async with serving(counting, Loader(counting, MEBIBYTE)) as stub:
        yield stub


async def answers(stub: Stub, image: bytes) -> set[str]:
    """What many are told who ask at once, and again, and again: OK, or the reason of a refusal."""

    async def ask() -> str:
        try:
            await stub.Predict(PredictRequest(model=MODEL, image=image), timeout=20)
        except aio.AioRpcError as problem:
            return reason(problem)
        return "OK"

    return {answer for _ in range(ROUNDS) for answer in await asyncio.gather(*(ask() for _ in range(CALLERS)))}


@pytest.mark.parametrize("missing", ["manifest.json", "head.safetensors", "graph"])
async def test_a_broken_model_is_read_once_however_often_it_is_asked_for(
    counting: CountingStore, stub: Stub, picture: Callable[..., bytes], missing: str
) -> None:
    """A hundred calls for a model of which something is missing make one reading of each of its objects; five seconds
    later a model that was mended is served.
    """
    image, digest = picture(1, COLOURS["red"]), publish(counting)
    point(counting, {"flowers": [digest]})
    key = manifest.bundle_key("default", digest, missing)
    if missing == "graph":
        key = next(counting.keys("backbones/"))
    good = counting.get(key)
    counting.delete(key)
    counting.reads.clear()
    assert await answers(stub, image) == {"BLOB_CORRUPT"}
    assert max(reads for one, reads in counting.reads.items() if one != manifest.pointer_key("default")) == 1
    counting.put(key, good)
    await asyncio.sleep(PATIENCE_SECONDS)
    assert await answers(stub, image) == {"OK"}


async def test_a_model_that_is_not_there_is_seldom_looked_for(
    counting: CountingStore, stub: Stub, picture: Callable[..., bytes]
) -> None:
    """A hundred calls for a name that nobody gave make a few readings of the project's pointer; soon after the model is
    published it answers.
    """
    image, pointer = picture(1, COLOURS["red"]), manifest.pointer_key("default")
    began = asyncio.get_running_loop().time()
    assert await answers(stub, image) == {"RESOURCE_NOT_FOUND"}
    took = asyncio.get_running_loop().time() - began
    assert 1 <= counting.reads[pointer] <= 1 + took / MISSING_SECONDS
    point(counting, {"flowers": [publish(counting)]})
    await asyncio.sleep(1.5 * MISSING_SECONDS)
    assert await answers(stub, image) == {"OK"}
