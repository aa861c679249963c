"""How a picture travels to a server and its answer back: what is sent is made before the clock runs, what came back is
read after it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.peers.classifier import TOP, Answer
from handful.v1.inference_pb2 import PredictRequest, PredictResponse
from services.inference.oip.v2.open_inference_pb2 import ModelInferRequest, ModelInferResponse

_BOUNDARY = "picture"


@dataclass(frozen=True)
class Wire:
    """A way of calling: `path` is one of HTTP/1.1, or a method of gRPC; `write` makes a request's body of a picture and
    of the model's name, `read` an answer of a response's.
    """

    protocol: str
    path: str
    write: Callable[[bytes, str], bytes]
    read: Callable[[bytes], Answer]
    content_type: str = ""


def _read_json(body: bytes) -> Answer:
    found = json.loads(body)
    # Of several pictures there are several answers, also of one.
    answer = found[0] if isinstance(found, list) else found
    return [(one["label"], one["score"]) for one in answer["predictions"]]


def http(path: str) -> Wire:
    """The picture's bytes as the body."""
    return Wire("http", path, lambda picture, _: picture, _read_json, "image/jpeg")


def http_form(path: str, field: str) -> Wire:
    """The picture as a file of a form, as browsers and `curl -F` send it."""
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="picture.jpg"\r\n'
    before, after = f"{head}Content-Type: image/jpeg\r\n\r\n".encode(), f"\r\n--{_BOUNDARY}--\r\n".encode()
    content_type = f"multipart/form-data; boundary={_BOUNDARY}"
    return Wire("http", path, lambda picture, _: before + picture + after, _read_json, content_type)


def open_inference() -> Wire:
    """The Open Inference Protocol: a picture is the one element of a tensor of bytes, and so is the answer in JSON."""

    def write(picture: bytes, _: str) -> bytes:
        tensor = ModelInferRequest.InferInputTensor(name="pictures", datatype="BYTES", shape=[1, 1])
        raw = len(picture).to_bytes(4, "little") + picture
        return ModelInferRequest(model_name="pictures", inputs=[tensor], raw_input_contents=[raw]).SerializeToString()

    def read(body: bytes) -> Answer:
        response = ModelInferResponse.FromString(body)
        raw = response.raw_output_contents
        return _read_json(raw[0][4:] if raw else response.outputs[0].contents.bytes_contents[0])

    return Wire("grpc", "/inference.GRPCInferenceService/ModelInfer", write, read)


def handful() -> Wire:
    """Our own contract."""

    def write(picture: bytes, model: str) -> bytes:
        return PredictRequest(model=f"projects/default/models/{model}", image=picture, top_k=TOP).SerializeToString()

    def read(body: bytes) -> Answer:
        return [(one.label, one.score) for one in PredictResponse.FromString(body).predictions]

    return Wire("grpc", "/handful.v1.InferenceService/Predict", write, read)
