"""Answers as the contract has them."""

from handful.bundle.predictor import best
from handful.errors import HandfulError
from handful.v1 import inference_pb2
from services.inference.answering import Answer, Segment
from services.inference.loading import Model
from services.inference.promising import is_unsure

DEFAULT_TOP_K = 5


def predict_response(
    version: str, model: Model, answer: Answer, top_k: int, min_confidence: float | None = None
) -> inference_pb2.PredictResponse:
    """The answer of a version by its name; of `top_k` 0 the default many classes. What is no surer than
    `min_confidence` is unsure.
    """
    top_k = top_k or DEFAULT_TOP_K
    return inference_pb2.PredictResponse(
        unknown=answer.unknown,
        distance=answer.distance,
        max_distance=answer.max_distance,
        model_version=version,
        predictions=predictions(answer, model, top_k),
        segments=[_segment(one, model, top_k, min_confidence) for one in answer.segments],
        unsure=is_unsure(answer, min_confidence),
        min_confidence=min_confidence,
    )


def predict_error(error: HandfulError) -> inference_pb2.PredictError:
    return inference_pb2.PredictError(
        code=error.code.value[0],
        reason=error.reason,
        message=error.message,
        retry_after_milliseconds=max(int(error.facts.get("pushback_ms", 0)), 0),
    )


def predictions(answer: Answer, model: Model, top_k: int) -> list[inference_pb2.Prediction]:
    """Classes by falling score."""
    answers = best(model.head.labels, answer.probabilities, top_k)
    return [inference_pb2.Prediction(label=label, score=score) for label, score in answers]


def _segment(one: Segment, model: Model, top_k: int, min_confidence: float | None) -> inference_pb2.Segment:
    answer = one.answer
    return inference_pb2.Segment(
        start_seconds=one.start,
        end_seconds=one.end,
        predictions=[] if answer is None else predictions(answer, model, top_k),
        unknown=answer is not None and answer.unknown,
        distance=None if answer is None else answer.distance,
        unsure=answer is not None and is_unsure(answer, min_confidence),
    )
