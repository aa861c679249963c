"""EfficientNets (Tan and Le, 2019; https://arxiv.org/abs/1905.11946) as torchvision builds them, and EfficientNet-Lites
(TensorFlow authors, 2020; https://github.com/tensorflow/tpu) as timm does.
"""

from typing import Any

import timm
import torch
import torchvision

from services.trainer.worker import efficientnet_lite
from services.trainer.worker.pretrained.torch_files import Arrays


class TimmBody(torch.nn.Module):
    """A network of timm's up to its pooled features: float32[n, width] and float32[n, width, rows, columns]."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        feature_map: torch.Tensor = self.network.forward_features(images)
        return feature_map.mean(dim=(2, 3)), feature_map


class TorchvisionBody(torch.nn.Module):
    """The same of a network of torchvision's."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        feature_map: torch.Tensor = self.network.features(images)
        return feature_map.mean(dim=(2, 3)), feature_map


def build_lite(name: str, tensors: Arrays | None) -> torch.nn.Module:
    """An EfficientNet-Lite."""
    network: Any = timm.create_model(name, pretrained=False)
    network.reset_classifier(0)
    body = TimmBody(network)
    if tensors is not None:
        body.load_state_dict(_state_dict(efficientnet_lite.state(name, tensors)))
    return body


def build(name: str, tensors: Arrays | None) -> torch.nn.Module:
    """An EfficientNet of torchvision, whose names the weights file has."""
    network: Any = torchvision.models.get_model(name, weights=None)
    if tensors is not None:
        network.load_state_dict(_state_dict(tensors))
    network.classifier = torch.nn.Identity()
    return TorchvisionBody(network)


def _state_dict(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(array) for name, array in arrays.items()}
