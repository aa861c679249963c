"""A merged graph as OpenVINO's intermediate representation, and that on the golden inputs. It is for a limited process,
which alone imports OpenVINO here.

Importing it tells Google Analytics of it and writes to ~/intel, so its telemetry is kept from being imported.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from handful.bundle.heads import Floats
from handful.bundle.sounds import Inputs

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

FILES = ("model.xml", "model.bin")
# As the runner in the export has it.
PROPERTIES = {"INFERENCE_PRECISION_HINT": "f32"}


def convert(graph: bytes) -> dict[str, bytes]:
    """The graph with the same inputs and outputs, its numbers in float32. Raises what OpenVINO raises."""
    import openvino

    with TemporaryDirectory(prefix="handful-openvino-") as folder:
        whole = openvino.Core().read_model(graph)
        for place, layer in enumerate(whole.get_ordered_ops()):
            if layer.get_type_name() != "Parameter":
                layer.set_friendly_name(f"layer_{place}")  # else it counts layers through the life of the process
        openvino.save_model(whole, Path(folder) / FILES[0], compress_to_fp16=False)
        return {name: (Path(folder) / name).read_bytes() for name in FILES}


def network(files: Mapping[str, bytes]) -> Callable[[Inputs], Floats]:
    """A function from inputs by name to probabilities float32[n, classes]."""
    import openvino

    core = openvino.Core()
    weights = openvino.Tensor(np.frombuffer(files[FILES[1]], np.uint8))
    request = core.compile_model(core.read_model(files[FILES[0]], weights), "CPU", PROPERTIES).create_infer_request()

    def answer(inputs: Inputs) -> Floats:
        request.infer(inputs)
        return np.array(request.get_tensor("probabilities").data)

    return answer
