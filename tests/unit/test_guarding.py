"""What requests of the Open Inference Protocol would become, told from their bytes."""

import pytest
from google.protobuf.message import DecodeError

from services.inference.oip.guarding import MAX_FIELDS, MAX_PACKED_BYTES, check
from services.inference.oip.v2 import open_inference_pb2 as oip

Request = oip.ModelInferRequest


def request(count: int = 1, **contents: object) -> Request:
    tensor = Request.InferInputTensor(name="image", datatype="BYTES", shape=[count])
    if contents:
        tensor.contents.CopyFrom(oip.InferTensorContents(**contents))  # type: ignore[arg-type]
    return Request(model_name="flowers", model_version="1", id="x", inputs=[tensor])


def test_requests_of_every_form_pass() -> None:
    """Raw and typed, with parameters and outputs, numbers of every width."""
    whole = request(32, bytes_contents=[b"a picture"] * 32)
    whole.parameters["timeout"].int64_param = 5
    whole.outputs.add(name="probabilities").parameters["classification"].int64_param = 3
    for one in (whole, request(2, fp32_contents=[0.5] * 1000, fp64_contents=[1.0], int64_contents=[-1, 2**62])):
        check(one.SerializeToString())
        one.raw_input_contents.append(bytes(100_000))
        check(one.SerializeToString())
    check(b"")


def test_what_nobody_needs_is_not_parsed() -> None:
    """Messages, elements, parameters and numbers without end."""
    endless = {str(number): oip.InferParameter() for number in range(MAX_FIELDS)}
    many = [
        Request(inputs=[Request.InferInputTensor()] * (MAX_FIELDS + 1)),
        request(1, bytes_contents=[b""] * MAX_FIELDS),
        Request(inputs=[Request.InferInputTensor(parameters=endless)]),
        request(1, uint_contents=[1] * (MAX_PACKED_BYTES + 1)),
    ]
    for one in many:
        with pytest.raises(DecodeError):
            check(one.SerializeToString())


@pytest.mark.parametrize("data", [b"\xff", b"\x0b", b"\x08" + b"\xff" * 20, b"\x2a", b"\x2a\x7f\x0a"])
def test_what_is_no_message_is_told(data: bytes) -> None:
    with pytest.raises(DecodeError):
        check(data)
