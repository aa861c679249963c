"""EfficientNets (Tan and Le, 2019; https://arxiv.org/abs/1905.11946) as torchvision builds them, and EfficientNet-Lites
(TensorFlow authors, 2020; https://github.com/tensorflow/tpu) as timm does.
"""

from typing import Any

import timm
import torch
import torchvision


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


def build_lite(name: str, tensors: dict[str, torch.Tensor] | None) -> torch.nn.Module:
    """An EfficientNet-Lite. The weights file names its tensors otherwise but lists them in timm's order, with the
    classifier last; its counters of batches have no match and no use.
    """
    network: Any = timm.create_model(name, pretrained=False)
    if tensors is not None:
        names = [one for one in network.state_dict() if not one.endswith("num_batches_tracked")]
        ours = [tensor for tensor in tensors.values() if tensor.dim() > 0]
        if len(names) != len(ours):
            raise ValueError(f"the weights file has {len(ours)} tensors, {name} {len(names)}")
        network.load_state_dict(dict(zip(names, ours, strict=True)), strict=False)
    network.reset_classifier(0)
    return TimmBody(network)


def build(name: str, tensors: dict[str, torch.Tensor] | None) -> torch.nn.Module:
    """An EfficientNet of torchvision, whose names the weights file has."""
    network: Any = torchvision.models.get_model(name, weights=None)
    if tensors is not None:
        network.load_state_dict(tensors)
    network.classifier = torch.nn.Identity()
    return TorchvisionBody(network)
