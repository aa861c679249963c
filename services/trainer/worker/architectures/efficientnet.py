"""EfficientNets. Lite (TensorFlow authors, 2020; https://github.com/tensorflow/tpu) as timm builds them."""

from typing import Any

import timm
import torch


class EfficientNetBody(torch.nn.Module):
    """The network up to its pooled features: float32[n, width] and float32[n, width, rows, columns]."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        feature_map: torch.Tensor = self.network.forward_features(images)
        return feature_map.mean(dim=(2, 3)), feature_map


def build_lite(name: str, tensors: list[torch.Tensor] | None) -> torch.nn.Module:
    """An EfficientNet-Lite of timm. The weights file's tensors stand in the order of timm's, with the classifier last."""
    network: Any = timm.create_model(name, pretrained=False)
    if tensors is not None:
        _load_in_order(network, tensors)
    network.reset_classifier(0)
    return EfficientNetBody(network)


def _load_in_order(network: torch.nn.Module, tensors: list[torch.Tensor]) -> None:
    # The file names its tensors otherwise but lists them in timm's order; counters of batches have no match and no use.
    names = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    ours = [tensor for tensor in tensors if tensor.dim() > 0]
    if len(names) != len(ours):
        raise ValueError(f"the weights file has {len(ours)} tensors, the network {len(names)}")
    network.load_state_dict(dict(zip(names, ours, strict=True)), strict=False)
