"""Many requests on one stream, answered one after another; what is wrong with one stands in its answer."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing

from handful.errors import HandfulError
from services.inference.many import answered
from services.inference.oip.v2 import open_inference_pb2 as oip
from services.shared.streams import Streams

Answer = Callable[[oip.ModelInferRequest], Awaitable[oip.ModelInferResponse]]


async def serve(
    requests: AsyncIterator[oip.ModelInferRequest], answer: Answer, streams: Streams
) -> AsyncGenerator[oip.ModelStreamInferResponse, None]:
    """An answer to each request of a stream."""
    with streams.open(requests) as coming:
        async with aclosing(coming):
            async for request in coming:
                yield await _one(request, answer)


async def _one(request: oip.ModelInferRequest, ask: Answer) -> oip.ModelStreamInferResponse:
    answer = await answered(request, ask)
    if isinstance(answer, HandfulError):
        return _failed(request, f"{answer.code.name}: {answer.message}")
    answer.parameters["triton_final_response"].bool_param = True
    return oip.ModelStreamInferResponse(infer_response=answer)


def _failed(request: oip.ModelInferRequest, message: str) -> oip.ModelStreamInferResponse:
    return oip.ModelStreamInferResponse(
        error_message=message, infer_response=oip.ModelInferResponse(model_name=request.model_name, id=request.id)
    )
