"""What runs the network of this folder: ONNX Runtime, on a CPU."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Without this ONNX Runtime tells Microsoft of its use, from 1.32 on; it is read when the runtime is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

NAME = f"onnxruntime {onnxruntime.__version__}"


class Network:
    """`model.onnx`."""

    def __init__(self, folder: Path) -> None:
        self._session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Any]) -> list[Any]:
        """Outputs of those names, in that order, of inputs by name."""
        return list(self._session.run(list(outputs), dict(inputs)))
