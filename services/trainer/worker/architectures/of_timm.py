"""Bodies of timm's networks: convolutional ones, whose features are the mean of their last map, and transformers, whose
features are what timm pools of their tokens (the class token, or an attention pool).
"""

from typing import Any

import timm
import torch
from timm.models.vision_transformer import checkpoint_filter_fn

from services.trainer.architectures import TorchNetwork
from services.trainer.worker import efficientnet_lite
from services.trainer.worker.pretrained.torch_files import Arrays


class TimmBody(torch.nn.Module):
    """A network of timm's up to its pooled features: float32[n, width] and float32[n, width, rows, columns]."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        last: torch.Tensor = self.network.forward_features(images)
        if last.dim() == 4:  # noqa: PLR2004 - a map, not tokens
            return last.mean(dim=(2, 3)), last
        features: torch.Tensor = self.network.forward_head(last)
        rows, columns = self.network.patch_embed.grid_size
        patches = last[:, self.network.num_prefix_tokens :].transpose(1, 2)
        return features, patches.reshape(last.shape[0], -1, rows, columns)


def build(network: TorchNetwork, tensors: Arrays | None) -> torch.nn.Module:
    """The body of a network of timm's."""
    built: Any = timm.create_model(network.name, pretrained=False, **network.options)
    built.reset_classifier(0)
    if tensors is not None:
        built.load_state_dict(_state_dict(network, built, tensors))
    return TimmBody(built)


def _state_dict(network: TorchNetwork, built: Any, tensors: Arrays) -> dict[str, torch.Tensor]:
    """What a weights file has of the body, by timm's names."""
    if network.name in efficientnet_lite.BLOCKS:
        state = efficientnet_lite.state(network.name, tensors)
        return {name.removeprefix("network."): torch.tensor(array) for name, array in state.items()}
    theirs = {name: torch.tensor(array) for name, array in tensors.items()}
    # Embeddings of positions in pictures of another size are interpolated.
    return dict(checkpoint_filter_fn(theirs, built))
