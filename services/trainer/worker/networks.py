"""A network that gradient training works on: a body, which it changes or not, and a linear head."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from handful.bundle.heads import Floats, LinearHead
from handful.v1 import bundle_pb2
from handful.v1.bundle_pb2 import Head, Recipe
from services.trainer import input_sizes
from services.trainer.architectures import ArchitectureRow
from services.trainer.presets import FINE_TUNE
from services.trainer.worker import backbones
from services.trainer.worker.pretrained import PretrainedWeights

VALIDATION_BATCH = 16


# Batch normalisations of every kind have no other base in common.
_NORMALISATIONS = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.LayerNorm)  # noqa: SLF001


@dataclass
class Block:
    """A part of a body that is frozen, or has a learning rate, as a whole."""

    modules: list[torch.nn.Module]
    # Weights that belong to none of its modules.
    alone: list[torch.nn.Parameter]

    def weights(self) -> list[torch.nn.Parameter]:
        return [*self.alone, *(weight for module in self.modules for weight in module.parameters())]


@dataclass
class Network:
    """A body and a head on a device. `frozen` are the blocks of the body that are left alone. `follows_batches` says
    whether what is not frozen runs in train mode, where batch normalisation follows the batches.

    Of features that the head takes as they are, `center` is None; else it is the mean, float32[feature_width], that is
    taken off them before they are scaled to the length sqrt(feature_width), as `handful.bundle.heads.normalize` does.
    """

    body: torch.nn.Module
    head: torch.nn.Linear
    row: ArchitectureRow
    device: torch.device
    frozen: tuple[torch.nn.Module, ...]
    trains_body: bool
    follows_batches: bool
    center: torch.Tensor | None = None

    @property
    def changes(self) -> bool:
        """Whether training changes the body: its weights, or, in train mode, its batch statistics."""
        return self.trains_body or self.follows_batches

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32[n, 3, size, size], as the body takes them, of uint8[n, 3, size, size]."""
        mean = torch.tensor(self.row.mean, device=self.device).view(1, 3, 1, 1)
        std = torch.tensor(self.row.std, device=self.device).view(1, 3, 1, 1)
        return (pixels.to(self.device).float() / 255 - mean) / std

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """float32[n, feature_width]."""
        features: torch.Tensor = self.body(images.contiguous(memory_format=torch.channels_last))[0]
        return features

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits float32[n, classes]."""
        if self.center is not None:
            centred = features - self.center
            length = centred.norm(dim=1, keepdim=True).clamp_min(1e-12)
            features = centred * (features.shape[1] ** 0.5 / length)
        return self.head(features)  # type: ignore[no-any-return]

    def logits_to_train(self, images: torch.Tensor) -> torch.Tensor:
        """With the body as training has it."""
        self.body.train(self.follows_batches)
        for block in self.frozen:
            block.eval()
        with torch.set_grad_enabled(self.trains_body):
            features = self.features(images)
        return self.classify(features)

    @torch.no_grad()
    def features_to_measure(self, pixels: torch.Tensor) -> torch.Tensor:
        """With the body as it will serve."""
        self.body.eval()
        return torch.cat([self.features(self.images(batch)) for batch in torch.split(pixels, VALIDATION_BATCH)])

    @torch.no_grad()
    def probabilities(self, features: torch.Tensor) -> Floats:
        """float32[n, classes] of the features of some pictures."""
        probabilities: Floats = self.classify(features).softmax(dim=1).cpu().numpy()
        return probabilities

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Whether everything that training changes consists of numbers."""
        state = self.state_dict()
        return all(bool(torch.isfinite(one).all()) for part in ("head", "body") for one in state[part].values())

    @torch.no_grad()
    def take(self, head: LinearHead) -> None:
        """Goes on from a head that was fitted on centred features."""
        self.head.weight.copy_(torch.from_numpy(head.weight))
        self.head.bias.copy_(torch.from_numpy(head.bias))
        self.center = torch.from_numpy(head.mean).to(self.device)

    def state_dict(self) -> dict[str, Any]:
        """What training changes."""
        body = self.body.state_dict() if self.changes else {}
        center = {} if self.center is None else {"center": self.center}
        return {"head": self.head.state_dict(), "body": body, **center}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` of such a network gave; of a body that had not been changed there is nothing."""
        self.head.load_state_dict(state["head"])
        if state["body"]:
            self.body.load_state_dict(state["body"])
        if "center" in state:
            self.center = state["center"].to(self.device)

    def linear_head(self) -> LinearHead:
        """The head as it is published."""
        weight, bias = self.head.weight.detach().cpu().numpy(), self.head.bias.detach().cpu().numpy()
        if self.center is None:
            return LinearHead(Head.NORMALIZATION_NONE, weight, bias, np.zeros(self.row.feature_width, np.float32))
        return LinearHead(Head.NORMALIZATION_CENTER_L2, weight, bias, self.center.cpu().numpy())


def build(recipe: Recipe, weights: PretrainedWeights, num_classes: int) -> Network:
    """The recipe's network with a random head. WeightsUnavailable."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    row = input_sizes.row(recipe)
    body = backbones.build_body(recipe, weights)
    body = body.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    trains_body = recipe.freeze != bundle_pb2.FREEZE_BODY
    body.requires_grad_(trains_body)
    frozen_blocks = blocks(body)[: recipe.frozen_blocks]
    for weight in (weight for block in frozen_blocks for weight in block.weights()):
        weight.requires_grad_(False)  # noqa: FBT003 - torch's own signature
    frozen = [module for block in frozen_blocks for module in block.modules]
    torch.manual_seed(recipe.seed)
    head = torch.nn.Linear(row.feature_width, num_classes).to(device)
    return Network(body, head, row, device, tuple(frozen), trains_body, _follows_batches(recipe))


def blocks(body: torch.nn.Module) -> list[Block]:
    """The blocks of a body from its input on: its parts that have weights, in order, where a sequence, and whatever has
    more than half of the weights, stands for its own parts. A normalisation belongs to what it follows, and weights
    that stand alone (the embeddings of a transformer) to the first block.
    """
    found: list[Block] = []
    alone = _open(body, _count(body) / 2, found)
    found[0].alone.extend(alone)
    return found


def _open(module: torch.nn.Module, much: float, found: list[Block]) -> list[torch.nn.Parameter]:
    """Adds the parts of a module to what was found; the weights that belong to none of them."""
    alone = list(module.parameters(recurse=False))
    for part in module.children():
        if not _count(part):
            continue
        if isinstance(part, _NORMALISATIONS) and found:
            found[-1].modules.append(part)
        elif any(True for _ in part.children()) and (isinstance(part, torch.nn.Sequential) or _count(part) > much):
            alone += _open(part, much, found)
        else:
            found.append(Block([part], []))
    return alone


def _count(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _follows_batches(recipe: Recipe) -> bool:
    if recipe.preset == FINE_TUNE:
        # Statistics of a million pictures are better than those of eight; a random network has none yet.
        return recipe.weights == bundle_pb2.WEIGHTS_RANDOM
    return recipe.freeze == bundle_pb2.FREEZE_NONE or recipe.frozen_mode == bundle_pb2.FROZEN_MODE_TRAIN
