"""What runs the network of this folder: OpenVINO, on a CPU."""

import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Importing OpenVINO would tell Google Analytics of it and write to ~/intel; without this package it cannot.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
import openvino  # noqa: E402

NAME = f"openvino {importlib.metadata.version('openvino')}"
# Else it is bfloat16 where the processor has that, and answers are others.
PROPERTIES = {"INFERENCE_PRECISION_HINT": "f32"}


class Network:
    """`model.xml`, with its numbers in `model.bin`."""

    def __init__(self, folder: Path) -> None:
        self._request = openvino.Core().compile_model(folder / "model.xml", "CPU", PROPERTIES).create_infer_request()

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Any]) -> list[Any]:
        """Outputs of those names, in that order, of inputs by name."""
        self._request.infer(dict(inputs))
        return [np.array(self._request.get_tensor(name).data) for name in outputs]
