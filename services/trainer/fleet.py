"""Which workers there are, as far as this process has heard: for refusing at once what none of them can do."""

import time

from handful.errors import FailedPrecondition
from handful.v1.bundle_pb2 import WEIGHTS_PRETRAINED, Recipe
from handful.v1.worker_pb2 import Capabilities

# A worker asks for work or reports far more often than this.
SILENT_SECONDS = 60.0


class Fleet:
    """Workers that were heard of lately, with what they can do."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, Capabilities]] = {}

    def heard(self, worker_id: str, capabilities: Capabilities) -> None:
        self._seen[worker_id] = (time.monotonic(), capabilities)

    def check(self, recipe: Recipe) -> None:
        """FailedPrecondition where there are workers and none has the weights that the recipe asks for."""
        since = time.monotonic() - SILENT_SECONDS
        self._seen = {worker: one for worker, one in self._seen.items() if one[0] >= since}
        if recipe.weights != WEIGHTS_PRETRAINED or not self._seen:
            return
        if not any(recipe.architecture in capabilities.pretrained for _, capabilities in self._seen.values()):
            raise FailedPrecondition(
                f"No worker has the pretrained weights of {recipe.architecture}. Install the package that "
                "ListArchitectures names beside a worker, or train with weights=RANDOM.",
                reason="WEIGHTS_UNAVAILABLE",
            )
