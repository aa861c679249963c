"""Bodies of torchvision's networks: convolutional ones, whose features are the mean of their last map, and vision
transformers, whose features are the class token.
"""

from typing import Any

import torch
import torchvision

from services.trainer.architectures import TorchNetwork
from services.trainer.worker.pretrained.torch_files import Arrays

# Heads that serve training alone; the networks are built without them, the weights files have them.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


class ConvolutionalBody(torch.nn.Module):
    """All layers up to the pooling, and the mean of their map: float32[n, width] and float32[n, width, rows, columns].

    ConvNeXt normalises the mean before its classifier; the others do not, and AlexNet's and VGG's fully connected
    layers belong to the classifier.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        feature_map = images
        for name, layer in self.network.named_children():
            if name == "avgpool":
                break
            feature_map = layer(feature_map)
        if isinstance(self.network, torchvision.models.ConvNeXt):
            return self.network.classifier(feature_map.mean(dim=(2, 3), keepdim=True)).flatten(1), feature_map
        return feature_map.mean(dim=(2, 3)), feature_map


class TransformerBody(torch.nn.Module):
    """A vision transformer up to its class token, and its other tokens as a map: of the same shapes."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        patches = self.network._process_input(images)  # noqa: SLF001 - what its own forward begins with
        first = self.network.class_token.expand(patches.shape[0], -1, -1)
        tokens = self.network.encoder(torch.cat([first, patches], dim=1))
        side = self.network.image_size // self.network.patch_size
        return tokens[:, 0], tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))


def build(network: TorchNetwork, tensors: Arrays | None) -> torch.nn.Module:
    """The body of a network of torchvision's, whose names the weights file has."""
    built: Any = torchvision.models.get_model(network.name, weights=None, **network.options)
    if tensors is not None:
        ours = {name: array for name, array in tensors.items() if not name.startswith(_AUXILIARY)}
        built.load_state_dict({name: torch.tensor(array) for name, array in ours.items()})
    if isinstance(built, torchvision.models.VisionTransformer):
        built.heads = torch.nn.Identity()
        return TransformerBody(built)
    if isinstance(built, torchvision.models.ConvNeXt):
        built.classifier = built.classifier[0]
    elif hasattr(built, "classifier"):
        built.classifier = torch.nn.Identity()
    else:
        built.fc = torch.nn.Identity()
    return ConvolutionalBody(built)
