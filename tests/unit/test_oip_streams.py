"""Streams of the Open Inference Protocol: how many there may be, and how they end."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from handful.errors import ResourceExhausted, Unavailable
from services.inference.oip.streaming import MAX_STREAMS, Streams
from services.inference.oip.v2 import open_inference_pb2 as oip


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
    stream = Streams(answer, draining).serve(requests(2, end))
    assert [(await anext(stream)).infer_response.id for _ in range(2)] == ["0", "1"]
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    draining.set()
    with pytest.raises(Unavailable) as caught:
        await waiting
    assert caught.value.reason == "SERVER_DRAINING"


async def test_streams_are_bounded() -> None:
    """One more stream than there may be is refused; one that ended makes room."""
    streams, end = Streams(answer, asyncio.Event()), asyncio.Event()
    opened = [streams.serve(requests(1, end)) for _ in range(MAX_STREAMS)]
    for one in opened:
        await anext(one)
    with pytest.raises(ResourceExhausted) as caught:
        await anext(streams.serve(requests(1, end)))
    assert caught.value.reason == "TOO_MANY_STREAMS"
    await opened.pop().aclose()
    opened.append(streams.serve(requests(1, end)))
    assert (await anext(opened[-1])).infer_response.id == "0"
    for one in opened:
        await one.aclose()
