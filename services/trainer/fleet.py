"""Which workers there are, as far as this process has heard: for refusing at once what none of them can do."""

import time

from handful.errors import FailedPrecondition
from handful.v1.bundle_pb2 import WEIGHTS_PRETRAINED, Recipe
from handful.v1.worker_pb2 import Capabilities

# A worker asks for work or reports far more often than this.
SILENT_SECONDS = 60.0


def suits(recipe: Recipe, capabilities: Capabilities) -> bool:
    """Whether a worker can do what a recipe asks for."""
    return recipe.weights != WEIGHTS_PRETRAINED or recipe.architecture in capabilities.pretrained


class Fleet:
    """Workers that were heard of lately, with what they can do."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, Capabilities]] = {}

    def asked(self, worker_id: str, capabilities: Capabilities) -> None:
        """A worker asked for work."""
        self._seen[worker_id] = (time.monotonic(), capabilities)

    def reported(self, worker_id: str | None) -> None:
        """A worker reported on its run."""
        if worker_id in self._seen:
            self._seen[worker_id] = (time.monotonic(), self._seen[worker_id][1])

    def check(self, recipe: Recipe) -> None:
        """FailedPrecondition where there are workers and none can do what the recipe asks for."""
        since = time.monotonic() - SILENT_SECONDS
        self._seen = {worker: one for worker, one in self._seen.items() if one[0] >= since}
        if self._seen and not any(suits(recipe, capabilities) for _, capabilities in self._seen.values()):
            raise FailedPrecondition(
                f"No worker has the pretrained weights of {recipe.architecture}. Install the package that "
                "ListArchitectures names beside a worker, or train with weights=RANDOM.",
                reason="WEIGHTS_UNAVAILABLE",
            )
