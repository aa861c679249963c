"""From answers to an inference response, raw or typed."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from handful.bundle.predictor import best
from services.inference.answering import Answer
from services.inference.oip.describing import DISTANCE, PROBABILITIES, UNSURE, Tensor
from services.inference.oip.reading import LENGTH_BYTES, Wanted
from services.inference.oip.v2 import open_inference_pb2 as oip
from services.inference.promising import is_unsure

Output = oip.ModelInferResponse.InferOutputTensor
Array = npt.NDArray[np.float32] | npt.NDArray[np.bool_]


def add_outputs(
    response: oip.ModelInferResponse,
    wanted: Sequence[Wanted],
    answers: Sequence[Answer],
    labels: tuple[str, ...],
    *,
    typed: bool,
    confidence: float | None = None,
) -> None:
    """Puts the outputs into the response. What is no surer than `confidence` is unsure."""
    if confidence is not None:
        response.parameters["min_confidence"].double_param = confidence
    for one in wanted:
        if one.classes:
            _add_classes(response, one, _classes(answers, labels, one.classes), typed=typed)
        else:
            _add_numbers(response, one.tensor, _numbers(one.tensor.name, answers, confidence), typed=typed)


def _add_numbers(response: oip.ModelInferResponse, tensor: Tensor, numbers: Array, *, typed: bool) -> None:
    output = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=numbers.shape)
    if not typed:
        response.raw_output_contents.append(numbers.tobytes())
    elif tensor.datatype == "BOOL":
        output.contents.bool_contents.extend(bool(one) for one in numbers.ravel())
    else:
        output.contents.fp32_contents.extend(float(one) for one in numbers.ravel())


def _numbers(name: str, answers: Sequence[Answer], confidence: float | None) -> Array:
    if name == PROBABILITIES:
        return np.stack([one.probabilities for one in answers]).astype("<f4")
    if name == DISTANCE:
        return np.array([[one.distance] for one in answers], "<f4")
    if name == UNSURE:
        return np.array([[is_unsure(one, confidence)] for one in answers], np.bool_)
    return np.array([[one.unknown] for one in answers], np.bool_)


def _classes(answers: Sequence[Answer], labels: tuple[str, ...], classes: int) -> list[list[bytes]]:
    """Of each answer the most probable classes, as Triton writes them."""
    numbers = {label: number for number, label in enumerate(labels)}
    found = [best(labels, one.probabilities, classes) for one in answers]
    return [[f"{score:f}:{numbers[label]}:{label}".encode() for label, score in row] for row in found]


def _add_classes(
    response: oip.ModelInferResponse, wanted: Wanted, rows: Sequence[Sequence[bytes]], *, typed: bool
) -> None:
    shape, elements = (len(rows), len(rows[0])), [one for row in rows for one in row]
    output = response.outputs.add(name=wanted.tensor.name, datatype="BYTES", shape=shape)
    if typed:
        output.contents.bytes_contents.extend(elements)
    else:
        raw = b"".join(len(one).to_bytes(LENGTH_BYTES, "little") + one for one in elements)
        response.raw_output_contents.append(raw)
