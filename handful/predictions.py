"""Files that a model is asked about: what they show or are of, and why it says so."""

from pathlib import Path

from handful.calls import call
from handful.channel import MEBIBYTE
from handful.errors import InvalidArgument
from handful.folders import is_sound
from handful.v1.inference_pb2 import ExplainRequest, ExplainResponse, PredictRequest, PredictResponse
from handful.v1.inference_pb2_grpc import InferenceServiceStub

File = Path | str | bytes
# As the service takes them.
MAX_BYTES = 32 * MEBIBYTE


def predict(stub: InferenceServiceStub, model: str, file: File, top_k: int) -> PredictResponse:
    answer: PredictResponse = call(stub.Predict, PredictRequest(model=model, top_k=top_k, **_content(file)))
    return answer


def explain(stub: InferenceServiceStub, model: str, file: File, label: str) -> ExplainResponse:
    answer: ExplainResponse = call(stub.Explain, ExplainRequest(model=model, label=label, **_content(file)))
    return answer


def _content(file: File) -> dict[str, bytes]:
    """The field of a request that takes the file, and its bytes."""
    data = file if isinstance(file, bytes) else Path(file).read_bytes()
    field = "sound" if is_sound(data) else "image"
    if len(data) > MAX_BYTES:
        message = f"{field}: The file has {len(data) / MEBIBYTE:.0f} MiB; at most {MAX_BYTES // MEBIBYTE} are taken."
        raise InvalidArgument(message, reason="FILE_TOO_LARGE")
    return {field: data}
