"""Every call of the inference service while its store is away: what is in memory answers, all else is UNAVAILABLE."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from google.protobuf.message import Message
from grpc import aio

from handful.v1 import inference_pb2_grpc
from handful.v1.inference_pb2 import ExplainRequest, PredictBatchRequest, PredictRequest, StreamPredictRequest
from services.inference.oip.v2 import open_inference_pb2 as oip
from services.inference.oip.v2 import open_inference_pb2_grpc as oip_grpc
from services.shared.objects import ObjectStore, open_store
from tests.bundles import COLOURS, mean_colour, point, publish
from tests.minio_server import MinioServer
from tests.rpc.test_hostile_requests import told
from tests.rpc.test_open_inference import asking
from tests.servers import open_inference

Picture = Callable[..., bytes]


@pytest.fixture
def store(own_minio: MinioServer) -> ObjectStore:
    return open_store(own_minio.settings(seconds=2))


@pytest.fixture
async def channel(store: ObjectStore) -> AsyncIterator[aio.Channel]:
    point(store, {"warm": [publish(store)], "cold": [publish(store, graph=mean_colour("other"))]})
    async with open_inference(store) as where, aio.insecure_channel(where) as channel:
        yield channel


def requests(model: str, image: bytes) -> dict[str, Message]:
    """One of each call, about a model where it is about one."""
    name = f"projects/default/models/{model}"
    predict = PredictRequest(model=name, image=image)
    return {
        "Predict": predict,
        "PredictBatch": PredictBatchRequest(model=name, images=[image]),
        "StreamPredict": StreamPredictRequest(predict=predict),
        "Explain": ExplainRequest(model=name, image=image),
        "ModelInfer": asking(image, model=model),
        "ModelStreamInfer": asking(image, model=model),
        "ModelReady": oip.ModelReadyRequest(name=model),
        "ModelMetadata": oip.ModelMetadataRequest(name=model),
        "ModelConfig": oip.ModelConfigRequest(name=model),
    }


async def statuses(channel: aio.Channel, asked: dict[str, Message]) -> dict[str, str]:
    """How each call ends, all at once."""
    ours = inference_pb2_grpc.InferenceServiceStub(channel)
    theirs: Any = oip_grpc.GRPCInferenceServiceStub(channel)
    said = await asyncio.gather(
        *(told(ours if hasattr(ours, name) else theirs, name, request) for name, request in asked.items())
    )
    return {name: one.partition(":")[0] for name, one in zip(asked, said, strict=True)}


async def test_what_is_in_memory_outlives_its_store(
    own_minio: MinioServer, channel: aio.Channel, picture: Picture
) -> None:
    """For every call; and once the store is back, what was away is there without more."""
    image = picture(1, COLOURS["red"])
    warm, cold = requests("warm", image), requests("cold", image)
    assert await statuses(channel, warm) == dict.fromkeys(warm, "OK")
    own_minio.stop()
    everywhere: dict[str, Message] = {
        "ServerLive": oip.ServerLiveRequest(),
        "ServerReady": oip.ServerReadyRequest(),
        "ServerMetadata": oip.ServerMetadataRequest(),
        "RepositoryIndex": oip.RepositoryIndexRequest(),
        "ModelStatistics": oip.ModelStatisticsRequest(name="cold"),
    }
    kept = warm | everywhere
    assert await statuses(channel, kept) == dict.fromkeys(kept, "OK")
    assert await statuses(channel, cold) == dict.fromkeys(cold, "UNAVAILABLE")
    unread = {"RepositoryIndex": oip.RepositoryIndexRequest(repository_name="projects/other")}
    assert await statuses(channel, dict(unread)) == {"RepositoryIndex": "UNAVAILABLE"}
    own_minio.start()
    assert await statuses(channel, cold) == dict.fromkeys(cold, "OK")
