"""Files that a model is asked about: what they show or are of, and why it says so."""

from pathlib import Path

from handful.calls import call
from handful.folders import is_sound
from handful.v1.inference_pb2 import ExplainRequest, ExplainResponse, PredictRequest, PredictResponse
from handful.v1.inference_pb2_grpc import InferenceServiceStub

File = Path | str | bytes


def predict(stub: InferenceServiceStub, model: str, file: File, top_k: int) -> PredictResponse:
    answer: PredictResponse = call(stub.Predict, PredictRequest(model=model, top_k=top_k, **_content(file)))
    return answer


def explain(stub: InferenceServiceStub, model: str, file: File, label: str) -> ExplainResponse:
    answer: ExplainResponse = call(stub.Explain, ExplainRequest(model=model, label=label, **_content(file)))
    return answer


def _content(file: File) -> dict[str, bytes]:
    """The field of a request that takes the file, and its bytes."""
    data = file if isinstance(file, bytes) else Path(file).read_bytes()
    return {"sound" if is_sound(data) else "image": data}
