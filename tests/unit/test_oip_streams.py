"""Streams of the Open Inference Protocol: what is answered, and how they end."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from handful.errors import Unavailable
from services.inference.oip.streaming import serve
from services.inference.oip.v2 import open_inference_pb2 as oip
from services.shared.streams import Streams


async def answer(request: oip.ModelInferRequest) -> oip.ModelInferResponse:
    return oip.ModelInferResponse(id=request.id)


async def requests(count: int, end: asyncio.Event) -> AsyncIterator[oip.ModelInferRequest]:
    """Some requests, and then none until the event is set."""
    for number in range(count):
        yield oip.ModelInferRequest(id=str(number))
    await end.wait()


async def test_a_stream_ends_when_the_server_stops() -> None:
    """What came is answered; a stream that waits for more is told that the server stops."""
    draining, end = asyncio.Event(), asyncio.Event()
    stream = serve(requests(2, end), answer, Streams(1, draining))
    assert [(await anext(stream)).infer_response.id for _ in range(2)] == ["0", "1"]
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    draining.set()
    with pytest.raises(Unavailable) as caught:
        await waiting
    assert caught.value.reason == "SERVER_DRAINING"
