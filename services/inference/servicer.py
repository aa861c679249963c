"""InferenceService: decodes requests, has them answered, encodes answers."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from grpc import aio

from handful.errors import HandfulError, InvalidArgument
from handful.v1 import inference_pb2, inference_pb2_grpc
from services.inference import many, promising
from services.inference.batching import Batcher
from services.inference.encoding import predict_error, predict_response, predictions
from services.inference.examples import Examples
from services.inference.explanations.encoding import evidence_map, nearest_example
from services.inference.explanations.explaining import Explainer
from services.inference.loading import Model
from services.inference.switching import Models
from services.shared.streams import Streams

SHOWN_LABELS = 10
MAX_BATCH = 64
Context = aio.ServicerContext[object, object]


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Answers with what `models` gives out of files, sent or in `examples`; `streams` bounds those that are open."""

    def __init__(
        self, models: Models, examples: Examples, batcher: Batcher, explainer: Explainer, streams: Streams
    ) -> None:
        self._models = models
        self._examples = examples
        self._batcher = batcher
        self._explainer = explainer
        self._streams = streams

    async def Predict(self, request: inference_pb2.PredictRequest, context: Context) -> inference_pb2.PredictResponse:
        return await self._predict(request)

    async def PredictBatch(
        self, request: inference_pb2.PredictBatchRequest, context: Context
    ) -> inference_pb2.PredictBatchResponse:
        _check_top_k(request.top_k)
        rate = promising.asked(request)
        ref, model = await self._models.get(request.model)
        confidence = promising.min_confidence(ref.name, model, rate)

        async def ask(file: bytes | str) -> inference_pb2.PredictResponse:
            data = await self._examples.read(model.project, file) if isinstance(file, str) else file
            answer = await self._batcher.answer(data, model)
            return predict_response(ref.name, model, answer, request.top_k, confidence)

        answers = await many.in_order(_files(request, model), ask)
        return inference_pb2.PredictBatchResponse(results=map(_result, answers))

    async def StreamPredict(
        self, request_iterator: AsyncIterator[inference_pb2.StreamPredictRequest], context: Context
    ) -> AsyncIterator[inference_pb2.StreamPredictResponse]:
        async def ask(request: inference_pb2.StreamPredictRequest) -> inference_pb2.PredictResponse:
            return await self._predict(request.predict)

        with self._streams.open(request_iterator) as requests:
            async with aclosing(many.as_they_come(requests, ask)) as answers:
                async for request, answer in answers:
                    yield _answered(request.request_id, answer)

    async def Explain(self, request: inference_pb2.ExplainRequest, context: Context) -> inference_pb2.ExplainResponse:
        ref, model = await self._models.get(request.model)
        labels = model.head.labels
        label, data = _label(request.label, labels), await self._data(request, model)
        with self._batcher.statistics.counting(model.version):
            found = await self._explainer.explain(data, model, label)
        return inference_pb2.ExplainResponse(
            model_version=ref.name,
            predictions=predictions(found.answer, model, len(labels)),
            unknown=found.answer.unknown,
            label=labels[found.label],
            evidence=evidence_map(found.places),
            nearest_examples=[nearest_example(one, labels) for one in found.nearest],
        )

    async def _predict(self, request: inference_pb2.PredictRequest) -> inference_pb2.PredictResponse:
        _check_top_k(request.top_k)
        rate = promising.asked(request)
        ref, model = await self._models.get(request.model)
        confidence = promising.min_confidence(ref.name, model, rate)
        answer = await self._batcher.answer(await self._data(request, model), model)
        return predict_response(ref.name, model, answer, request.top_k, confidence)

    async def _data(self, request: inference_pb2.PredictRequest | inference_pb2.ExplainRequest, model: Model) -> bytes:
        """The file that is asked about, sent or stored."""
        sent = _sent(request, model)
        if not request.content_sha256:
            return sent
        if sent:
            raise InvalidArgument.fields([("content_sha256", "must be empty where a file is sent")])
        return await self._examples.read(model.project, request.content_sha256)


def _check_top_k(top_k: int) -> None:
    if top_k < 0:
        raise InvalidArgument.fields([("top_k", "must not be negative")])


def _label(label: str, labels: tuple[str, ...]) -> int | None:
    if not label:
        return None
    if label not in labels:
        shown = ", ".join(labels[:SHOWN_LABELS]) + (", ..." if len(labels) > SHOWN_LABELS else "")
        raise InvalidArgument.fields([("label", f"is no class of the model; it has {shown}")])
    return labels.index(label)


def _sent(request: inference_pb2.PredictRequest | inference_pb2.ExplainRequest, model: Model) -> bytes:
    """The file that was sent; InvalidArgument where it is not of the model's modality."""
    if model.head.of_sounds:
        if request.image:
            raise InvalidArgument.fields([("image", "must be empty: the model understands sounds; send `sound`")])
        return request.sound
    if request.sound:
        raise InvalidArgument.fields([("sound", "must be empty: the model understands pictures; send `image`")])
    return request.image


def _files(request: inference_pb2.PredictBatchRequest, model: Model) -> Sequence[bytes | str]:
    """What a batch asks about: files, or which examples."""
    wanted, other = ("sounds", "images") if model.head.of_sounds else ("images", "sounds")
    if getattr(request, other):
        raise InvalidArgument.fields([(other, f"must be empty: send `{wanted}`, which the model understands")])
    files: Sequence[bytes | str] = getattr(request, wanted)
    if request.content_sha256s:
        if files:
            raise InvalidArgument.fields([("content_sha256s", f"must be empty where there are `{wanted}`")])
        files, wanted = request.content_sha256s, "content_sha256s"
    if not 0 < len(files) <= MAX_BATCH:
        raise InvalidArgument.fields([(wanted, f"must be 1 to {MAX_BATCH}, not {len(files)}")])
    return files


def _answered(
    request_id: str, answer: inference_pb2.PredictResponse | HandfulError
) -> inference_pb2.StreamPredictResponse:
    if isinstance(answer, HandfulError):
        return inference_pb2.StreamPredictResponse(request_id=request_id, error=predict_error(answer))
    return inference_pb2.StreamPredictResponse(request_id=request_id, prediction=answer)


def _result(answer: inference_pb2.PredictResponse | HandfulError) -> inference_pb2.PredictBatchResult:
    if isinstance(answer, HandfulError):
        return inference_pb2.PredictBatchResult(error=predict_error(answer))
    return inference_pb2.PredictBatchResult(prediction=answer)
