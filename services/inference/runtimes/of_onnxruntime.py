"""ONNX Runtime, as training uses it."""

from handful.bundle import runtime
from handful.bundle.predictor import Backbone


class OnnxRuntime:
    """See `Runtime`. Any number may call a session."""

    @property
    def version(self) -> str | None:
        return runtime.VERSION

    def load(self, graph: bytes, num_callers: int) -> Backbone:  # noqa: ARG002 - the same for any number
        return Backbone(graph)
