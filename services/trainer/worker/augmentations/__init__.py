"""Training views: random variants of a picture, with torchvision's transforms."""

import torch
from torchvision.transforms import v2

from handful.v1.bundle_pb2 import Recipe


def build(recipe: Recipe) -> v2.Transform:
    """A transform of uint8[3, size, size]: flip, rotation, colour jitter, each as strong as the recipe says.

    It draws from torch's global random state, which a checkpoint holds.
    """
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(recipe.horizontal_flip),
            v2.RandomRotation(recipe.rotation_degrees),
            v2.ColorJitter(brightness=recipe.brightness, contrast=recipe.contrast, saturation=recipe.saturation),
        ]
    )


def views(transform: v2.Transform, pixels: torch.Tensor) -> torch.Tensor:
    """A view of each picture, uint8[n, 3, size, size]; every picture draws for itself."""
    return torch.stack([transform(picture) for picture in pixels])
