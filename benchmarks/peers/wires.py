"""How a picture travels to a server and its answer back: what is sent is made before the clock runs, what came back is
read after it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.peers.classifier import TOP, Answer
from handful.v1.inference_pb2 import PredictRequest, PredictResponse

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
    return [(one["label"], one["score"]) for one in json.loads(body)["predictions"]]


def http(path: str) -> Wire:
    """The picture's bytes as the body."""
    return Wire("http", path, lambda picture, _: picture, _read_json, "image/jpeg")


def http_form(path: str, field: str) -> Wire:
    """The picture as a file of a form, as browsers and `curl -F` send it."""
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="picture.jpg"\r\n'
    before, after = f"{head}Content-Type: image/jpeg\r\n\r\n".encode(), f"\r\n--{_BOUNDARY}--\r\n".encode()
    content_type = f"multipart/form-data; boundary={_BOUNDARY}"
    return Wire("http", path, lambda picture, _: before + picture + after, _read_json, content_type)


def handful() -> Wire:
    """Our own contract."""

    def write(picture: bytes, model: str) -> bytes:
        return PredictRequest(model=f"projects/default/models/{model}", image=picture, top_k=TOP).SerializeToString()

    def read(body: bytes) -> Answer:
        return [(one.label, one.score) for one in PredictResponse.FromString(body).predictions]

    return Wire("grpc", "/handful.v1.InferenceService/Predict", write, read)
