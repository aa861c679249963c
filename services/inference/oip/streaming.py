"""Many requests on one stream, answered one after another; what is wrong with one stands in its answer."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing

from handful.errors import HandfulError, ResourceExhausted
from services.inference.many import answered
from services.inference.oip.v2 import open_inference_pb2 as oip
from services.shared.streams import in_time, until_draining

MAX_STREAMS = 1000


class Streams:
    """Serves every stream of this process. `draining` is set when the server is about to stop."""

    def __init__(
        self, answer: Callable[[oip.ModelInferRequest], Awaitable[oip.ModelInferResponse]], draining: asyncio.Event
    ) -> None:
        self._answer = answer
        self._draining = draining
        self._open = 0

    async def serve(
        self, requests: AsyncIterator[oip.ModelInferRequest]
    ) -> AsyncGenerator[oip.ModelStreamInferResponse, None]:
        """An answer to each request."""
        if self._open >= MAX_STREAMS:
            raise ResourceExhausted(f"{MAX_STREAMS} streams are open. Try again later.", reason="TOO_MANY_STREAMS")
        self._open += 1
        try:
            patient = in_time(requests, "Open the stream again.", reason="STREAM_IDLE")
            async with aclosing(until_draining(patient, self._draining)) as coming:
                async for request in coming:
                    yield await self._one(request)
        finally:
            self._open -= 1

    async def _one(self, request: oip.ModelInferRequest) -> oip.ModelStreamInferResponse:
        answer = await answered(request, self._answer)
        if isinstance(answer, HandfulError):
            return _failed(request, f"{answer.code.name}: {answer.message}")
        answer.parameters["triton_final_response"].bool_param = True
        return oip.ModelStreamInferResponse(infer_response=answer)


def _failed(request: oip.ModelInferRequest, message: str) -> oip.ModelStreamInferResponse:
    return oip.ModelStreamInferResponse(
        error_message=message, infer_response=oip.ModelInferResponse(model_name=request.model_name, id=request.id)
    )
