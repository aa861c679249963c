"""New versions under the same alias, over the wire: good ones take over, and bad ones change nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from grpc import StatusCode, aio
from safetensors.numpy import load, save

from handful.bundle import golden, manifest
from handful.bundle.heads import LinearHead
from handful.bundle.predictor import Backbone as Body
from handful.errors import from_rpc_error
from handful.v1 import inference_pb2_grpc
from handful.v1.bundle_pb2 import Backbone, Head
from handful.v1.inference_pb2 import PredictRequest, PredictResponse
from services.inference.loading import Loader
from services.inference.switching import PATIENCE_SECONDS
from services.shared.objects.filesystem import FilesystemStore
from services.shared.server import MEBIBYTE
from tests.bundles import COLOURS, FEATURE_WIDTH, PREPROCESSING, golden_inputs, mean_colour, point, publish
from tests.servers import serving

Stub: TypeAlias = "inference_pb2_grpc.InferenceServiceAsyncStub"
FLOWERS = "projects/default/models/flowers"
RED = np.eye(FEATURE_WIDTH, dtype=np.float32) * 0.02


def head(weight: npt.NDArray[np.float32], bias: float = 0) -> LinearHead:
    width = weight.shape[1]
    given = np.full(len(weight), bias, np.float32)
    return LinearHead(Head.NORMALIZATION_NONE, weight, given, np.zeros(width, np.float32))


def lying() -> Mapping[str, bytes]:
    """Its answers to the golden inputs were others."""
    return {golden.FILE: golden_inputs(head(RED), [2e-3])}


def misread() -> Mapping[str, bytes]:
    """Its golden picture comes to other pixels."""
    stored = load(golden_inputs(head(RED)))
    stored["pixels"] = stored["pixels"] + np.uint8(9)
    stored["probabilities"] = head(RED).probabilities(stored["pixels"].mean(axis=(1, 2)).astype(np.float32))
    return {golden.FILE: save(stored)}


def infinite() -> Mapping[str, bytes]:
    """Its head is no number."""
    return {"head.safetensors": head(RED * np.float32("nan")).to_bytes()}


def wide() -> Mapping[str, bytes]:
    """Its head is for another backbone."""
    return {"head.safetensors": head(np.zeros((3, FEATURE_WIDTH + 1), np.float32)).to_bytes()}


def garbled() -> Mapping[str, bytes]:
    """Its golden inputs are none."""
    return {golden.FILE: b"roses are red"}


BAD = {one.__name__: one for one in (lying, misread, infinite, wide, garbled)}


@pytest.fixture
async def stub(store: FilesystemStore) -> AsyncIterator[Stub]:
    async with serving(store, Loader(store, MEBIBYTE)) as stub:
        yield stub


async def predict(stub: Stub, picture: bytes, model: str = FLOWERS) -> PredictResponse:
    return await stub.Predict(PredictRequest(model=model, image=picture), timeout=20)


async def becomes(stub: Stub, picture: bytes, version: int, seconds: float = 2) -> list[int]:
    """Asks until a version answers, which is promised within two seconds; the versions that did until then."""
    answered: list[int] = []
    async with asyncio.timeout(seconds):
        while version not in answered:
            answered.append(int((await predict(stub, picture)).model_version.rpartition("/")[2]))
    return answered


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_version_changes_nothing(
    store: FilesystemStore, stub: Stub, picture: Callable[..., bytes], name: str
) -> None:
    """A version that disagrees with its golden inputs, or cannot be run, is refused by its name with its reason; the
    one before answers on under the alias; a good one after it takes over.
    """
    red = picture(1, COLOURS["red"])
    versions = [publish(store), publish(store, files=BAD[name]()), publish(store, ["RED", "GREEN", "BLUE"])]
    point(store, {"flowers": versions}, generation=1)
    first = await predict(stub, red)
    point(store, {"flowers": versions}, generation=2, aliases={"production": 2})
    await asyncio.sleep(1.2)
    assert [await predict(stub, red) for _ in range(20)] == [first] * 20
    with pytest.raises(aio.AioRpcError) as caught:
        await predict(stub, red, f"{FLOWERS}/versions/2")
    error = from_rpc_error(caught.value)
    disagrees = {"lying", "misread", "infinite"}
    assert error.code == StatusCode.FAILED_PRECONDITION
    assert error.reason == ("MODEL_DISAGREES" if name in disagrees else "CANNOT_RUN")
    point(store, {"flowers": versions}, generation=3, aliases={"production": 3})
    assert set(await becomes(stub, red, 3)) <= {1, 3}


@pytest.mark.parametrize("damage", ["graph", "head", "gone"])
async def test_a_broken_version_changes_nothing(
    store: FilesystemStore, stub: Stub, picture: Callable[..., bytes], damage: str
) -> None:
    """The same of a version whose graph is none, whose head was changed, or that is not there at all; once it is mended
    it takes over.
    """
    red = picture(1, COLOURS["red"])
    graph = b"no graph" if damage == "graph" else mean_colour("other")
    bad = publish(store, ["RED", "GREEN", "BLUE"], graph)
    key = manifest.bundle_key("default", bad, "manifest.json" if damage == "gone" else "head.safetensors")
    good = store.get(key)
    if damage != "graph":
        store.delete(key) if damage == "gone" else store.put(key, good[:-1] + b"\x07")
    versions = [publish(store), bad]
    point(store, {"flowers": versions}, generation=1)
    first = await predict(stub, red)
    point(store, {"flowers": versions}, generation=2, aliases={"production": 2})
    await asyncio.sleep(1.2)
    assert [await predict(stub, red) for _ in range(20)] == [first] * 20
    if damage == "graph":
        return
    store.put(key, good)
    assert set(await becomes(stub, red, 2, PATIENCE_SECONDS + 2)) <= {1, 2}


async def test_a_rollback_is_followed(store: FilesystemStore, stub: Stub, picture: Callable[..., bytes]) -> None:
    """An alias that moves on and back, a few times, is followed each time; no call fails meanwhile."""
    red = picture(1, COLOURS["red"])
    versions = [publish(store), publish(store, ["RED", "GREEN", "BLUE"])]
    point(store, {"flowers": versions})
    await predict(stub, red)
    for generation, version in enumerate((2, 1, 2, 1), 2):
        point(store, {"flowers": versions}, generation=generation, aliases={"production": version})
        answered = await becomes(stub, red, version)
        assert answered == sorted(answered, key=lambda one: one == version)


async def test_what_was_tried_is_not_tried_again(store: FilesystemStore, picture: Callable[..., bytes]) -> None:
    """With memory for one model only, a model that was dropped and is loaded again needs its golden inputs no more."""
    digests = [publish(store), publish(store, "abc")]
    point(store, {"flowers": digests[:1], "trees": digests[1:]})
    async with serving(store, Loader(store, 1)) as stub:
        for model in ("flowers", "trees"):
            await predict(stub, picture(), f"projects/default/models/{model}")
        for digest in digests:
            store.delete(manifest.bundle_key("default", digest, golden.FILE))
        for model in ("flowers", "trees"):
            await predict(stub, picture(), f"projects/default/models/{model}")


def test_golden_inputs_are_read_as_they_were_written() -> None:
    """A head agrees with its own golden inputs exactly, and one that is a little off by as much."""
    stored = golden.Golden.from_bytes(golden_inputs(head(RED), [1e-4]), Backbone(preprocessing=PREPROCESSING))
    backbone = Body(mean_colour())
    assert stored.levels == 0
    assert stored.difference(lambda one: head(RED).probabilities(backbone.of(one))) == pytest.approx(1e-4, rel=0.01)


async def test_the_first_golden_input_is_enough_on_a_graph_that_was_tried(
    store: FilesystemStore, stub: Stub, picture: Callable[..., bytes]
) -> None:
    """All of them are computed on a graph that is new to the server; then one, which refuses a wrong head as before."""
    red, late = picture(1, COLOURS["red"]), {golden.FILE: golden_inputs(head(RED), [0, 2e-3])}
    point(store, {"flowers": [publish(store, files=late), publish(store), publish(store, ["a", "b", "c"], files=late)]})
    with pytest.raises(aio.AioRpcError, match="answers otherwise"):
        await predict(stub, red, f"{FLOWERS}/versions/1")
    for number in (2, 3):
        assert (await predict(stub, red, f"{FLOWERS}/versions/{number}")).predictions
