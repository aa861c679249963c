"""What a model takes and gives, in the words of the Open Inference Protocol and of Triton."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.inference.loading import LoadedHead
from services.inference.oip.v2 import open_inference_pb2 as oip
from services.inference.statistics import Counts, Duration

PLATFORM, BACKEND = "handful_bundle", "handful"
# Pictures or sounds in one request, at most; fewer where the queue is shorter.
MAX_BATCH = 32
PROBABILITIES, UNKNOWN, DISTANCE, UNSURE = "probabilities", "unknown", "distance", "unsure"
_TYPES = {"BYTES": oip.TYPE_STRING, "UINT8": oip.TYPE_UINT8, "FP32": oip.TYPE_FP32, "BOOL": oip.TYPE_BOOL}


@dataclass(frozen=True)
class Tensor:
    """An input or output; `dims` is its shape without the first dimension, which counts pictures or sounds."""

    name: str
    datatype: str
    dims: tuple[int, ...]

    @property
    def is_pixels(self) -> bool:
        return self.datatype == "UINT8"


# Given where a request asks for few wrong answers, which metadata cannot know.
UNSURE_TENSOR = Tensor(UNSURE, "BOOL", (1,))


def input_of(head: LoadedHead, *, pixels: bool) -> Tensor:
    """What the model takes."""
    if pixels:
        size = head.described.preprocessing.size
        return Tensor("pixels", "UINT8", (size, size, 3))
    return Tensor("sound" if head.of_sounds else "image", "BYTES", (1,))


def outputs_of(head: LoadedHead, *, pixels: bool) -> list[Tensor]:
    """What it gives. Of pixels probabilities alone: clients that send pixels expect one output."""
    outputs = [Tensor(PROBABILITIES, "FP32", (len(head.labels),))]
    if head.neighbours is None or pixels:
        return outputs
    return [*outputs, Tensor(UNKNOWN, "BOOL", (1,)), Tensor(DISTANCE, "FP32", (1,))]


def metadata(name: str, versions: Iterable[int], head: LoadedHead, *, pixels: bool) -> oip.ModelMetadataResponse:
    return oip.ModelMetadataResponse(
        name=name,
        versions=[str(number) for number in sorted(versions)],
        platform=PLATFORM,
        inputs=[_tensor(input_of(head, pixels=pixels))],
        outputs=[_tensor(one) for one in outputs_of(head, pixels=pixels)],
    )


def configuration(name: str, max_batch: int, head: LoadedHead, *, pixels: bool) -> oip.ModelConfig:
    taken, given = input_of(head, pixels=pixels), outputs_of(head, pixels=pixels)
    return oip.ModelConfig(
        name=name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=max_batch,
        input=[
            oip.ModelInput(
                name=taken.name,
                data_type=_TYPES[taken.datatype],
                format=oip.ModelInput.FORMAT_NHWC if taken.is_pixels else oip.ModelInput.FORMAT_NONE,
                dims=taken.dims,
            )
        ],
        output=[oip.ModelOutput(name=one.name, data_type=_TYPES[one.datatype], dims=one.dims) for one in given],
        parameters=_parameters(head.labels, None if head.neighbours is None else head.neighbours.max_distance),
    )


def statistics(name: str, number: str, counts: Counts) -> oip.ModelStatistics:
    return oip.ModelStatistics(
        name=name,
        version=number,
        last_inference=counts.last_ms,
        inference_count=counts.answers,
        execution_count=counts.passes,
        inference_stats=oip.InferStatistics(
            success=_duration(counts.success),
            fail=_duration(counts.fail),
            queue=_duration(counts.queue),
            compute_input=_duration(counts.decode),
            compute_infer=_duration(counts.network),
            compute_output=_duration(counts.head),
        ),
    )


def _duration(duration: Duration) -> oip.StatisticDuration:
    return oip.StatisticDuration(count=duration.count, ns=duration.ns)


def _tensor(tensor: Tensor) -> oip.ModelMetadataResponse.TensorMetadata:
    return oip.ModelMetadataResponse.TensorMetadata(
        name=tensor.name, datatype=tensor.datatype, shape=(-1, *tensor.dims)
    )


def _parameters(labels: Sequence[str], max_distance: float | None) -> dict[str, oip.ModelParameter]:
    facts = {"labels": json.dumps(list(labels), ensure_ascii=False)}
    if max_distance is not None:
        facts["max_distance"] = str(max_distance)
    return {key: oip.ModelParameter(string_value=value) for key, value in facts.items()}
