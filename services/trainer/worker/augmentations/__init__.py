"""Training views: random variants of a picture, with torchvision's transforms."""

import torch
from torchvision.transforms import v2

from handful.v1.bundle_pb2 import AUTO_AUGMENTATION_TRIVIAL_AUGMENT, Recipe


def build(recipe: Recipe, size: int) -> v2.Transform:
    """A transform of uint8[3, size, size]: crop, flips, rotation, colour jitter, TrivialAugment, erasing, each as
    strong as the recipe says, and none that it does not have.

    It draws from torch's global random state, which a checkpoint holds.
    """
    steps: list[v2.Transform] = []
    if 0 < recipe.crop_scale < 1:
        steps.append(v2.RandomResizedCrop(size, scale=(recipe.crop_scale, 1.0)))
    steps.append(v2.RandomHorizontalFlip(recipe.horizontal_flip))
    if recipe.vertical_flip:
        steps.append(v2.RandomVerticalFlip(recipe.vertical_flip))
    steps.append(v2.RandomRotation(recipe.rotation_degrees))
    steps.append(v2.ColorJitter(recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue))
    if recipe.auto_augmentation == AUTO_AUGMENTATION_TRIVIAL_AUGMENT:
        steps.append(v2.TrivialAugmentWide())
    if recipe.random_erasing:
        steps.append(v2.RandomErasing(recipe.random_erasing))
    return v2.Compose(steps)


def views(transform: v2.Transform, pixels: torch.Tensor) -> torch.Tensor:
    """A view of each picture, uint8[n, 3, size, size]; every picture draws for itself."""
    return torch.stack([transform(picture) for picture in pixels])
