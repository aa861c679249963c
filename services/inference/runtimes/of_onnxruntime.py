"""ONNX Runtime, as training uses it."""

from handful.bundle import runtime
from handful.bundle.predictor import Backbone


class OnnxRuntime:
    """See `Runtime`. Any number may call a session; each call has so many threads."""

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads

    @property
    def version(self) -> str | None:
        return runtime.VERSION

    def load(self, graph: bytes, num_callers: int) -> Backbone:  # noqa: ARG002 - the same for any number
        return Backbone(graph, self._threads)
