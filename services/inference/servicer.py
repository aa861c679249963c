"""InferenceService: decodes requests, has them answered, encodes answers."""

from grpc import aio

from handful.bundle.predictor import best
from handful.errors import InvalidArgument
from handful.v1 import inference_pb2, inference_pb2_grpc
from services.inference.answering import Answer, Segment
from services.inference.batching import Batcher
from services.inference.explanations.encoding import evidence_map, nearest_example
from services.inference.explanations.explaining import Explainer
from services.inference.loading import Model
from services.inference.switching import Models

DEFAULT_TOP_K = 5
SHOWN_LABELS = 10
Context = aio.ServicerContext[object, object]


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    def __init__(self, models: Models, batcher: Batcher, explainer: Explainer) -> None:
        self._models = models
        self._batcher = batcher
        self._explainer = explainer

    async def Predict(self, request: inference_pb2.PredictRequest, context: Context) -> inference_pb2.PredictResponse:
        if request.top_k < 0:
            raise InvalidArgument.fields([("top_k", "must not be negative")])
        ref, model = await self._models.get(request.model)
        answer = await self._batcher.answer(_data(request, model), model)
        top_k = request.top_k or DEFAULT_TOP_K
        return inference_pb2.PredictResponse(
            unknown=answer.unknown,
            distance=answer.distance,
            max_distance=answer.max_distance,
            model_version=ref.name,
            predictions=_predictions(answer, model, top_k),
            segments=[_segment(one, model, top_k) for one in answer.segments],
        )

    async def Explain(self, request: inference_pb2.ExplainRequest, context: Context) -> inference_pb2.ExplainResponse:
        ref, model = await self._models.get(request.model)
        labels = model.head.labels
        found = await self._explainer.explain(_data(request, model), model, _label(request.label, labels))
        return inference_pb2.ExplainResponse(
            model_version=ref.name,
            predictions=_predictions(found.answer, model, len(labels)),
            unknown=found.answer.unknown,
            label=labels[found.label],
            evidence=evidence_map(found.places),
            nearest_examples=[nearest_example(one, labels) for one in found.nearest],
        )


def _label(label: str, labels: tuple[str, ...]) -> int | None:
    if not label:
        return None
    if label not in labels:
        shown = ", ".join(labels[:SHOWN_LABELS]) + (", ..." if len(labels) > SHOWN_LABELS else "")
        raise InvalidArgument.fields([("label", f"is no class of the model; it has {shown}")])
    return labels.index(label)


def _data(request: inference_pb2.PredictRequest | inference_pb2.ExplainRequest, model: Model) -> bytes:
    """The file that is asked about; InvalidArgument where it is not of the model's modality."""
    if model.head.of_sounds:
        if request.image:
            raise InvalidArgument.fields([("image", "must be empty: the model understands sounds; send `sound`")])
        return request.sound
    if request.sound:
        raise InvalidArgument.fields([("sound", "must be empty: the model understands pictures; send `image`")])
    return request.image


def _predictions(answer: Answer, model: Model, top_k: int) -> list[inference_pb2.Prediction]:
    answers = best(model.head.labels, answer.probabilities, top_k)
    return [inference_pb2.Prediction(label=label, score=score) for label, score in answers]


def _segment(one: Segment, model: Model, top_k: int) -> inference_pb2.Segment:
    answer = one.answer
    return inference_pb2.Segment(
        start_seconds=one.start,
        end_seconds=one.end,
        predictions=[] if answer is None else _predictions(answer, model, top_k),
        unknown=answer is not None and answer.unknown,
        distance=None if answer is None else answer.distance,
    )
