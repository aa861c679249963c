"""OpenVINO, for x86 and ARM processors.

Importing it tells Google Analytics of it and writes to ~/intel, unless the variable CI is set; so its telemetry is kept
from being imported, and nothing else here imports OpenVINO.
"""

import importlib.metadata
import sys
from collections import deque
from typing import Any

import numpy as np

from handful.bundle.heads import Floats
from handful.bundle.predictor import Pixels
from handful.bundle.sounds import Inputs

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

FEATURES, FEATURE_MAP = "features", "feature_map"


class OpenVino:
    """See `Runtime`."""

    @property
    def version(self) -> str | None:
        try:
            return importlib.metadata.version("openvino")
        except importlib.metadata.PackageNotFoundError:
            return None

    def load(self, graph: bytes, num_callers: int) -> "OpenVinoBody":
        import openvino  # 25 MB and a tenth of a second, which a server that does not use it does not pay

        core = openvino.Core()
        properties = {
            # Unset it is bfloat16 where the processor has that, and probabilities are others by .05.
            "INFERENCE_PRECISION_HINT": "f32",
            # A stream serves one caller at a time, on its caller's thread.
            "NUM_STREAMS": num_callers,
            "INFERENCE_NUM_THREADS": num_callers,
            "ENABLE_CPU_PINNING": False,
        }
        return OpenVinoBody(core.compile_model(core.read_model(graph), "CPU", properties))


class OpenVinoBody:
    """See `Body`. A call takes one of the requests that are free, or makes one."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._names = {name for output in compiled.outputs for name in output.names}
        self._free: deque[Any] = deque()

    def of(self, inputs: Inputs) -> Floats:
        return self._run(inputs, FEATURES)[0]

    def features(self, pixels: Pixels) -> Floats:
        return self.of({"pixels": pixels})

    def mapped(self, pixels: Pixels) -> tuple[Floats, Floats | None]:
        if FEATURE_MAP not in self._names:
            return self.features(pixels), None
        features, feature_map = self._run({"pixels": pixels}, FEATURES, FEATURE_MAP)
        return features, feature_map

    def _run(self, inputs: Inputs, *names: str) -> list[Floats]:
        try:
            request = self._free.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        request.infer(inputs, share_inputs=True)
        # Copied: the next call writes over them.
        outputs = [np.array(request.get_tensor(name).data) for name in names]
        self._free.append(request)
        return outputs
