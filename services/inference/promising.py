"""What a caller is promised who asks for few wrong answers, and which are held back for it."""

from handful.bundle import error_control
from handful.errors import FailedPrecondition, InvalidArgument
from handful.v1.inference_pb2 import PredictBatchRequest, PredictRequest
from services.inference.answering import Answer
from services.inference.loading import Model

_FIELD = "max_error_rate"


def asked(request: PredictRequest | PredictBatchRequest) -> float | None:
    """The largest share of wrong answers that the caller wants, if any; InvalidArgument where it is none."""
    return checked(request.max_error_rate) if request.HasField("max_error_rate") else None


def checked(rate: float, field: str = _FIELD) -> float:
    """The rate; InvalidArgument naming the field where it is none."""
    if not 0 < rate < 1:  # nor is NaN
        raise InvalidArgument.fields([(field, "must be above 0 and below 1, such as 0.05 for at most 5 % wrong")])
    return rate


def min_confidence(version: str, model: Model, rate: float | None, field: str = _FIELD) -> float | None:
    """The confidence up to which answers of the model are held back for that; None where no rate is wanted.
    FailedPrecondition naming the field where the model, a version by its name, cannot promise it.
    """
    if rate is None:
        return None
    known = model.head.error_control
    found = None if known is None else error_control.min_confidence(known, rate)
    if found is None:
        problem = f"{rate:g} cannot be promised by {version}: {error_control.why_not(known, rate)}"
        raise FailedPrecondition(f"{field}: {problem}", reason="ERROR_RATE_NOT_PROMISED", violations=[(field, problem)])
    return found


def is_unsure(answer: Answer, confidence: float | None) -> bool:
    """Whether an answer is to be held back."""
    return error_control.is_unsure(float(answer.probabilities.max()), confidence)
