"""Explanations over the wire: what speaks for a class, the nearest training examples, and what is refused."""

import asyncio
import io

import numpy as np
import pytest
from grpc import StatusCode, aio
from PIL import Image

from handful.bundle.neighbours import Named, Neighbours
from handful.bundle.rows import HalfRows
from handful.errors import from_rpc_error
from handful.v1 import inference_pb2_grpc
from handful.v1.inference_pb2 import EvidenceMap, ExplainRequest, ExplainResponse
from services.inference.explanations.explaining import MAX_WAITING
from services.shared.objects.filesystem import FilesystemStore
from tests.bundles import COLOURS, GatedLoader, point, publish, without_map
from tests.servers import reason, serving

FLOWERS = "projects/default/models/flowers"


def halves() -> bytes:
    """A picture that is red on the left and blue on the right."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32], pixels[:, 32:] = COLOURS["red"], COLOURS["blue"]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


async def explain(stub: "inference_pb2_grpc.InferenceServiceAsyncStub", label: str = "") -> ExplainResponse:
    return await stub.Explain(ExplainRequest(model=FLOWERS, image=halves(), label=label), timeout=20)


@pytest.mark.parametrize(("label", "red"), [("red", 1), ("blue", -1)])
@pytest.mark.parametrize("with_map", [True, False])
async def test_the_place_of_a_colour_speaks_for_its_class(
    store: FilesystemStore,
    inference_stub: "inference_pb2_grpc.InferenceServiceAsyncStub",
    label: str,
    red: int,
    *,
    with_map: bool,
) -> None:
    """And against the other's; from the feature map exactly where there is one, else by covering places."""
    point(store, {"flowers": [publish(store, graph=None if with_map else without_map())]})
    response = await explain(inference_stub, label)
    found = response.evidence
    assert response.label == label
    assert found.method == (EvidenceMap.METHOD_CLASS_ACTIVATION if with_map else EvidenceMap.METHOD_OCCLUSION)
    values = np.array(found.values).reshape(found.rows, found.columns)
    left, right = values[:, : found.columns // 2], values[:, -(found.columns // 2) :]
    assert (np.sign(left) == red).all()
    assert (np.sign(right) == -red).all()
    drawn = np.asarray(Image.open(io.BytesIO(found.png)))
    assert min(drawn.shape[:2]) >= 448
    assert (drawn[224, 100] != drawn[224, -100]).any()


async def test_the_best_class_is_explained_where_none_is_named(
    store: FilesystemStore, inference_stub: "inference_pb2_grpc.InferenceServiceAsyncStub"
) -> None:
    point(store, {"flowers": [publish(store)]})
    response = await explain(inference_stub)
    assert response.model_version == f"{FLOWERS}/versions/1"
    assert response.label == response.predictions[0].label
    assert sum(one.score for one in response.predictions) == pytest.approx(1)
    assert not response.nearest_examples


async def test_the_nearest_training_examples_are_named(
    store: FilesystemStore, inference_stub: "inference_pb2_grpc.InferenceServiceAsyncStub"
) -> None:
    named = Named.of([digit * 64 for digit in "0123"], np.array([0, 0, 2, 2]))
    rows = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 1], [0, 1, 0]], np.float16)
    rows /= np.linalg.norm(rows.astype(np.float32), axis=1, keepdims=True).astype(np.float16)
    point(store, {"flowers": [publish(store, known=Neighbours(HalfRows(rows), 2, 0.5, named))]})
    near = (await explain(inference_stub)).nearest_examples
    assert near[0].content_sha256 == "0" * 64
    assert near[0].label == "red"
    assert [one.distance for one in near] == sorted(one.distance for one in near)
    assert near[0].distance == pytest.approx(0.02, abs=0.02)


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (ExplainRequest(image=b"no picture"), "UNSUPPORTED_FORMAT"),
        (ExplainRequest(sound=b"RIFF"), "must be empty"),
        (ExplainRequest(image=halves(), label="rose"), "it has red, green, blue"),
    ],
)
async def test_what_cannot_be_explained_is_refused(
    store: FilesystemStore,
    inference_stub: "inference_pb2_grpc.InferenceServiceAsyncStub",
    request_: ExplainRequest,
    why: str,
) -> None:
    point(store, {"flowers": [publish(store)]})
    request_.model = FLOWERS
    with pytest.raises(aio.AioRpcError) as caught:
        await inference_stub.Explain(request_, timeout=20)
    assert caught.value.code() == StatusCode.INVALID_ARGUMENT
    assert why in f"{reason(caught.value)} {from_rpc_error(caught.value)}"


async def test_some_wait_and_more_are_refused_until_callers_give_up(store: FilesystemStore) -> None:
    loader = GatedLoader(store)
    point(store, {"flowers": [publish(store)]})
    async with serving(store, loader) as stub:
        waiting = [asyncio.create_task(explain(stub)) for _ in range(MAX_WAITING)]
        await asyncio.to_thread(loader.gate.entered.wait, 10)
        # However many of these come before the last of those, one is too many.
        waiting.extend(asyncio.create_task(explain(stub)) for _ in range(2))
        done, others = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        refused = done.pop().exception()
        assert isinstance(refused, aio.AioRpcError)
        assert (refused.code(), reason(refused)) == (StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        for one in others:
            one.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        loader.gate.opened.set()
        assert (await explain(stub)).label in COLOURS
