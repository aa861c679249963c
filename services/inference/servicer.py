"""InferenceService: decodes requests, has them answered, encodes answers."""

from grpc import aio

from handful.bundle.predictor import best
from handful.errors import InvalidArgument
from handful.v1 import inference_pb2, inference_pb2_grpc
from services.inference.batching import Batcher
from services.inference.loading import Loader
from services.inference.pointers import Pointers

DEFAULT_TOP_K = 5
Context = aio.ServicerContext[object, object]


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    def __init__(self, pointers: Pointers, loader: Loader, batcher: Batcher) -> None:
        self._pointers = pointers
        self._loader = loader
        self._batcher = batcher

    async def Predict(self, request: inference_pb2.PredictRequest, context: Context) -> inference_pb2.PredictResponse:
        if request.top_k < 0:
            raise InvalidArgument.fields([("top_k", "must not be negative")])
        ref = await self._pointers.resolve(request.model)
        model = await self._loader.load(ref)
        answer = await self._batcher.answer(request.image, model)
        answers = best(model.head.labels, answer.probabilities, request.top_k or DEFAULT_TOP_K)
        return inference_pb2.PredictResponse(
            unknown=answer.unknown,
            distance=answer.distance,
            max_distance=answer.max_distance,
            model_version=ref.name,
            predictions=[inference_pb2.Prediction(label=label, score=score) for label, score in answers],
        )
