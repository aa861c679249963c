"""Bodies of YOLO's classification networks, whose features are the mean of the map that their last convolution makes.
Only the process that `yolo/quarantine.py` starts builds them.
"""

from typing import Any

import torch

from services.trainer.architectures import TorchNetwork
from services.trainer.worker.pretrained.torch_files import Arrays


class UltralyticsBody(torch.nn.Module):
    """The layers of a network up to the pooling: float32[n, width] and float32[n, width, rows, columns]."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        *layers, last = self.network
        for layer in layers:
            images = layer(images)
        feature_map: torch.Tensor = last.conv(images)
        return feature_map.mean(dim=(2, 3)), feature_map


def network(network: TorchNetwork, num_classes: int, tensors: Arrays | None) -> Any:
    """The whole network, from its YAML, with a random linear layer in any case."""
    from ultralytics.nn.tasks import ClassificationModel

    built: Any = ClassificationModel(f"{network.name}.yaml", nc=num_classes, verbose=False)
    if tensors is not None:
        random = {name: tensor for name, tensor in built.state_dict().items() if ".linear." in name}
        ours = {name: torch.tensor(array) for name, array in tensors.items() if name not in random}
        built.load_state_dict(ours | random)
    return built


def take_linear(network: Any) -> torch.nn.Linear:
    """Takes the head off a network."""
    linear: torch.nn.Linear = network.model[-1].linear
    network.model[-1].linear = torch.nn.Identity()
    return linear


def build(row: TorchNetwork, tensors: Arrays | None) -> torch.nn.Module:
    """The body of a network of Ultralytics'."""
    built = network(row, 2, tensors)
    take_linear(built)
    return UltralyticsBody(built.model)
