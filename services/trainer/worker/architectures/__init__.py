"""What builds the architectures of the catalogue: one builder per library, which every row of that library shares.

Add a library: a module here, and a line in `BUILDERS`.
"""

from collections.abc import Callable
from typing import Protocol

import torch

from services.trainer.architectures import TorchNetwork
from services.trainer.worker.architectures import of_timm, of_torchvision, of_ultralytics
from services.trainer.worker.pretrained.torch_files import Arrays


class Body(Protocol):
    """A network without its classifier, a torch module."""

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features float32[n, feature_width] and feature map float32[n, feature_width, rows, columns] of normalised
        images float32[n, 3, size, size].
        """


# By library. Each builds the body of a network, with random weights from torch's current seed, and loads the tensors of
# a weights file, by name in its order, where given.
BUILDERS: dict[str, Callable[[TorchNetwork, Arrays | None], torch.nn.Module]] = {
    "timm": of_timm.build,
    "torchvision": of_torchvision.build,
    "ultralytics": of_ultralytics.build,
}


def build(network: TorchNetwork, tensors: Arrays | None) -> torch.nn.Module:
    """The body of a network of the catalogue."""
    return BUILDERS[network.library](network, tensors)
