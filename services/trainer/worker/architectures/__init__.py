"""What builds the architectures of the catalogue. Add one: a row in `services.trainer.architectures`, a line here."""

from collections.abc import Callable
from typing import Protocol

import torch

from services.trainer.worker.architectures import efficientnet
from services.trainer.worker.pretrained.torch_files import Arrays


class Body(Protocol):
    """A network without its classifier, a torch module."""

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features float32[n, feature_width] and feature map float32[n, feature_width, rows, columns] of normalised
        images float32[n, 3, size, size].
        """


# Each builds the body of the network that its library knows by a name, with random weights from torch's current seed,
# and loads the tensors of a weights file, by name in its order, where given.
BUILDERS: dict[str, Callable[[str, Arrays | None], torch.nn.Module]] = {
    "efficientnet_lite0": efficientnet.build_lite,
    "efficientnet_lite1": efficientnet.build_lite,
    "efficientnet_lite2": efficientnet.build_lite,
    "efficientnet_b0": efficientnet.build,
    "efficientnet_b7": efficientnet.build,
}
