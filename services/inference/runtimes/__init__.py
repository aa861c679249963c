"""What runs a backbone's graph: libraries, by name. Which of them serves a graph is measured (`choosing`).

Add one: a module here with a class that is a `Runtime`, a line in `RUNTIMES`, and a word in the setting
`HANDFUL_INFERENCE_RUNTIME`.
"""

from typing import Protocol

from handful.bundle.heads import Floats
from handful.bundle.predictor import Pixels
from handful.bundle.sounds import Inputs
from services.inference.runtimes.of_onnxruntime import OnnxRuntime
from services.inference.runtimes.of_openvino import OpenVino


class Body(Protocol):
    """A graph that is ready to run, in float32, on one thread per call, its caller's, unless it is one of `WIDE`. Calls
    may come from several threads at once.
    """

    def of(self, inputs: Inputs) -> Floats:
        """float32[n, feature_width] of the graph's inputs by name; of a sound n is 1."""

    def features(self, pixels: Pixels) -> Floats:
        """float32[n, feature_width] of uint8[n, size, size, 3]."""

    def mapped(self, pixels: Pixels) -> tuple[Floats, Floats | None]:
        """The features, and float32[n, channels, rows, columns] that they were made of; None where the graph gives no
        such map.
        """


class Runtime(Protocol):
    """A library that runs graphs. It is imported when it first loads one."""

    @property
    def version(self) -> str | None:
        """Its version; None where it is not installed."""

    def load(self, graph: bytes, num_callers: int) -> Body:
        """A graph, for about so many callers at once. Raises what the library raises."""


# The first is always there: what fits heads uses it too.
RUNTIMES: dict[str, Runtime] = {"onnxruntime": OnnxRuntime(), "openvino": OpenVino()}
DEFAULT = next(iter(RUNTIMES))
# What runs a picture that is alone on the whole server, on so many threads, where that is the faster and gives the same
# bits as the runtime of that name.
LONE_THREADS = 2
WIDE: dict[str, Runtime] = {"onnxruntime": OnnxRuntime(LONE_THREADS)}
