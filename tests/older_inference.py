"""An inference server of a release before stored examples and few wrong answers could be asked for."""

from handful.v1.inference_pb2 import (
    ExplainRequest,
    ExplainResponse,
    PredictBatchRequest,
    PredictBatchResponse,
    PredictRequest,
    PredictResponse,
)
from services.inference.servicer import Context, InferenceServicer


class Older(InferenceServicer):
    """It does not know the fields, so it takes requests for such as lack them."""

    async def Predict(self, request: PredictRequest, context: Context) -> PredictResponse:  # noqa: N802 - so named there
        request.ClearField("content_sha256")
        request.ClearField("max_error_rate")
        return await super().Predict(request, context)

    async def PredictBatch(  # noqa: N802 - so named there
        self, request: PredictBatchRequest, context: Context
    ) -> PredictBatchResponse:
        request.ClearField("content_sha256s")
        request.ClearField("max_error_rate")
        return await super().PredictBatch(request, context)

    async def Explain(self, request: ExplainRequest, context: Context) -> ExplainResponse:  # noqa: N802 - so named there
        request.ClearField("content_sha256")
        return await super().Explain(request, context)
