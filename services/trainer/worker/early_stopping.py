"""The best epoch so far by val/loss, with its weights, and whether it is time to stop."""

import copy
import math
from typing import Any

from services.trainer.worker.networks import Network


class EarlyStopping:
    """Keeps the weights of the best epoch where a recipe has a patience, in epochs; of no use where that is 0."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.epoch = 0
        self.loss = math.inf
        self._weights: dict[str, Any] = {}

    def look(self, epoch: int, loss: float | None, network: Network) -> None:
        """An epoch ended with this val/loss; None where there are no validation examples."""
        if self.patience and loss is not None and loss < self.loss:
            self.epoch, self.loss = epoch, loss
            self._weights = copy.deepcopy(network.state_dict())

    def is_over(self, epoch: int) -> bool:
        """Whether training stops with this epoch."""
        return bool(self.epoch) and epoch - self.epoch >= self.patience

    def restore(self, network: Network) -> None:
        """The best epoch's weights, where there is one."""
        if self.epoch:
            network.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "loss": self.loss, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.loss, self._weights = state["epoch"], state["loss"], state["weights"]
