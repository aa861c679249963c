"""Mixing the pictures of a batch with each other, targets alike: mixup and cutmix, by torchvision."""

from collections.abc import Callable

import torch
from torchvision.transforms import v2

from handful.v1.bundle_pb2 import Recipe

Mixing = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def build(recipe: Recipe, num_classes: int) -> Mixing | None:
    """Mixes float32[n, 3, size, size] and int64[n] to the like and shares float32[n, classes]; None where the recipe
    mixes nothing. It draws from torch's global random state, which a checkpoint holds.
    """
    kinds: list[v2.Transform] = []
    if recipe.mixup:
        kinds.append(v2.MixUp(alpha=recipe.mixup, num_classes=num_classes))
    if recipe.cutmix:
        kinds.append(v2.CutMix(alpha=recipe.cutmix, num_classes=num_classes))
    return v2.RandomChoice(kinds) if kinds else None
