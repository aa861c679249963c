"""From an inference request to what is asked: files or pixels, and outputs. Whatever is not as it must be is an
InvalidArgument that names the field and says what to send.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from handful.bundle.predictor import Pixels
from handful.errors import InvalidArgument
from services.inference.oip.describing import PROBABILITIES, Tensor
from services.inference.oip.v2 import open_inference_pb2 as oip
from services.inference.promising import checked

# Before an element of a raw BYTES tensor stands its length.
LENGTH_BYTES = 4
_CLASSIFICATION = "classification"
MAX_ERROR_RATE = "max_error_rate"
ERROR_RATE_FIELD = f"parameters[{MAX_ERROR_RATE}]"
_CONTENTS = {"BYTES": "bytes_contents", "UINT8": "uint_contents"}


@dataclass(frozen=True)
class Wanted:
    """An output that is wanted; of `classes` most probable classes where that is not 0."""

    tensor: Tensor
    classes: int = 0


def files_or_pixels(request: oip.ModelInferRequest, expected: Tensor, max_batch: int) -> Sequence[bytes | Pixels]:
    """The elements of the request's one input: files, or uint8[size, size, 3] each."""
    tensor = _the_input(request, expected)
    count = _count(tensor.shape, expected, max_batch)
    raw = _raw(request, tensor)
    if expected.is_pixels:
        return list(_pixels(tensor, raw, (count, *expected.dims)))
    return _typed_files(tensor, count) if raw is None else _raw_files(raw, count)


def is_typed(request: oip.ModelInferRequest) -> bool:
    """Whether tensors stand in `contents`, and are expected back there."""
    return not request.raw_input_contents


def outputs(request: oip.ModelInferRequest, given: Sequence[Tensor]) -> list[Wanted]:
    """The outputs that are wanted; all of them where none is named."""
    if not request.outputs:
        return [Wanted(one) for one in given]
    known, wanted = {one.name: one for one in given}, dict[str, Wanted]()
    for index, one in enumerate(request.outputs):
        field = f"outputs[{index}]"
        if one.name not in known:
            raise _bad(f"{field}.name", f"must be one of {', '.join(known)}")
        if one.name in wanted:
            raise _bad(f"{field}.name", f"must not name {one.name} a second time")
        wanted[one.name] = Wanted(known[one.name], _classes(one, field))
    return list(wanted.values())


def timeout(request: oip.ModelInferRequest) -> float | None:
    """How many seconds the request may take, where it says so."""
    seconds = None
    for key, value in request.parameters.items():
        field = f"parameters[{key}]"
        if key.startswith("sequence_"):
            raise _bad(field, "must not be set: models have no memory of earlier requests")
        if key == "timeout":
            microseconds = value.int64_param or value.uint64_param
            if microseconds < 1:
                raise _bad(field, "must be a whole number of microseconds, at least 1")
            seconds = microseconds / 1e6
    return seconds


def max_error_rate(request: oip.ModelInferRequest) -> float | None:
    """The largest share of wrong answers that is wanted, if any; text, where a client has no doubles."""
    if MAX_ERROR_RATE not in request.parameters:
        return None
    value = request.parameters[MAX_ERROR_RATE]
    try:
        rate = float(value.string_param) if value.HasField("string_param") else value.double_param
    except ValueError:
        rate = math.nan
    return checked(rate, ERROR_RATE_FIELD)


def _the_input(request: oip.ModelInferRequest, expected: Tensor) -> oip.ModelInferRequest.InferInputTensor:
    if len(request.inputs) != 1:
        raise _bad("inputs", f"must be one tensor, {expected.name}; there are {len(request.inputs)}")
    tensor = request.inputs[0]
    if tensor.name != expected.name:
        raise _bad("inputs[0].name", f"must be {expected.name}")
    if tensor.datatype != expected.datatype:
        raise _bad("inputs[0].datatype", f"must be {expected.datatype}")
    _no_shared_memory(list(tensor.parameters), "inputs[0]")
    return tensor


def _count(shape: Sequence[int], expected: Tensor, max_batch: int) -> int:
    """How many pictures or sounds a tensor of this shape has."""
    told = ", ".join(["n", *map(str, expected.dims)])
    if not expected.is_pixels:
        told = f"n] or [{told}"
    fits = tuple(shape[1:]) == expected.dims or (len(shape) == 1 and not expected.is_pixels)
    if not fits or not 1 <= shape[0] <= max_batch:
        raise _bad("inputs[0].shape", f"must be [{told}] with n from 1 to {max_batch}; send more in several requests")
    return shape[0]


def _raw(request: oip.ModelInferRequest, tensor: oip.ModelInferRequest.InferInputTensor) -> bytes | None:
    """The raw content of the one input; None where it is typed."""
    if not request.raw_input_contents:
        return None
    if tensor.contents.ListFields():
        raise _bad("inputs[0].contents", "must be empty where raw_input_contents is set; send one of them")
    if len(request.raw_input_contents) != 1:
        raise _bad("raw_input_contents", f"must be one per input: 1, not {len(request.raw_input_contents)}")
    return request.raw_input_contents[0]


def _typed(tensor: oip.ModelInferRequest.InferInputTensor, count: int) -> Sequence[bytes] | Sequence[int]:
    """The typed elements, which are of the tensor's datatype and as many as they must be."""
    allowed = _CONTENTS[tensor.datatype]
    filled = [field.name for field, _ in tensor.contents.ListFields()]
    if filled and filled != [allowed]:
        raise _bad("inputs[0].contents", f"must hold {tensor.datatype} in {allowed}, not in {', '.join(filled)}")
    elements: Sequence[bytes] | Sequence[int] = getattr(tensor.contents, allowed)
    if len(elements) != count:
        raise _bad(
            f"inputs[0].contents.{allowed}", f"must have {count} elements, as its shape says, not {len(elements)}"
        )
    return elements


def _typed_files(tensor: oip.ModelInferRequest.InferInputTensor, count: int) -> list[bytes]:
    return [bytes(one) for one in _typed(tensor, count)]


def _raw_files(raw: bytes, count: int) -> list[bytes]:
    files: list[bytes] = []
    position = 0
    while position < len(raw):
        begin = position + LENGTH_BYTES
        position = begin + int.from_bytes(raw[position:begin], "little")
        if position > len(raw) or begin > len(raw) or len(files) == count:
            break
        files.append(raw[begin:position])
    if position != len(raw) or len(files) != count:
        message = f"must be {count} elements, each after its length in {LENGTH_BYTES} bytes, little-endian, and no more"
        raise _bad("raw_input_contents[0]", message)
    return files


def _pixels(tensor: oip.ModelInferRequest.InferInputTensor, raw: bytes | None, shape: tuple[int, ...]) -> Pixels:
    """uint8[n, size, size, 3]."""
    count = math.prod(shape)
    if raw is None:
        numbers = np.array(_typed(tensor, count), np.uint32)
        if numbers.max() > np.iinfo(np.uint8).max:
            raise _bad("inputs[0].contents.uint_contents", "must be from 0 to 255")
        return numbers.astype(np.uint8).reshape(shape)
    if len(raw) != count:
        raise _bad("raw_input_contents[0]", f"must have {count} bytes, as its shape says, not {len(raw)}")
    return np.frombuffer(raw, np.uint8).reshape(shape)


def _classes(one: oip.ModelInferRequest.InferRequestedOutputTensor, field: str) -> int:
    """How many of the most probable classes are wanted in place of the output; 0 where it is wanted itself."""
    _no_shared_memory(list(one.parameters), field)
    if _CLASSIFICATION not in one.parameters:
        return 0
    number = one.parameters[_CLASSIFICATION]
    if one.name != PROBABILITIES or number.int64_param < 1:
        raise _bad(f"{field}.parameters[{_CLASSIFICATION}]", f"must be at least 1 (int64), of {PROBABILITIES} alone")
    return number.int64_param


def _no_shared_memory(parameters: Sequence[str], field: str) -> None:
    for key in parameters:
        if key.startswith("shared_memory"):
            raise _bad(f"{field}.parameters[{key}]", "must not be set: memory is not shared; send the contents")


def _bad(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument.fields([(field, problem)])
