"""From a loss to a step: which weights learn how fast, by which optimiser, on which schedule, in which precision."""

import math
from contextlib import AbstractContextManager
from typing import Any

import torch

from handful.v1 import bundle_pb2
from handful.v1.bundle_pb2 import Recipe
from services.trainer.presets import FINE_TUNE
from services.trainer.worker.networks import Network, blocks

# Of the one-cycle schedule, as in Smith and Topin and in fastai: where it starts, and when it is at its height.
ONE_CYCLE_START = 1 / 25
ONE_CYCLE_RISE = 0.3

Groups = list[dict[str, Any]]


class Optimiser:
    """Takes the steps of a run. What it knows of the past is in `state_dict`; the schedule follows from the step's
    number alone.
    """

    def __init__(self, recipe: Recipe, network: Network, num_steps: int) -> None:
        self._recipe = recipe
        self._device = network.device.type
        self._num_steps = num_steps
        self._optimizer = _optimizer(recipe, network)
        self._weights = [one for group in self._optimizer.param_groups for one in group["params"]]
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._scaler = torch.amp.GradScaler(self._device, enabled=recipe.precision == bundle_pb2.PRECISION_FLOAT16)

    @property
    def learning_rate(self) -> float:
        """The step size of the last step: of the body's last block, or of the head where it alone is trained."""
        rate: float = self._optimizer.param_groups[0]["lr"]
        return rate

    def computing(self) -> AbstractContextManager[object]:
        """What the network computes in here, it computes in the recipe's precision."""
        types = {bundle_pb2.PRECISION_BFLOAT16: torch.bfloat16, bundle_pb2.PRECISION_FLOAT16: torch.float16}
        dtype = types.get(self._recipe.precision)
        return torch.autocast(self._device, dtype=dtype, enabled=dtype is not None)

    def step(self, loss: torch.Tensor, number: int) -> None:
        """Takes the step of a number, from 0."""
        factor = scheduled(self._recipe, number, self._num_steps)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        self._optimizer.zero_grad()
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self._recipe.gradient_clip_norm:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._weights, self._recipe.gradient_clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return {**self._optimizer.state_dict(), "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Takes up the past of steps that were taken before, and no step sizes and the like: those are the recipe's.
        False where it cannot: by another rule, or of other weights.
        """
        own = self._optimizer.state_dict()
        if _kind(own) != _kind(state):
            return False
        self._optimizer.load_state_dict({"state": state["state"], "param_groups": state["param_groups"]})
        for group, mine in zip(self._optimizer.param_groups, own["param_groups"], strict=True):
            group.update({name: value for name, value in mine.items() if name != "params"})
        if state.get("scaler"):
            self._scaler.load_state_dict(state["scaler"])
        return True


def _kind(state: dict[str, Any]) -> list[tuple[int, bool]]:
    """Which weights it is of, and of which rule: SGD has no betas, and Adam and AdamW keep the same."""
    return [(len(group["params"]), "betas" in group) for group in state["param_groups"]]


def scheduled(recipe: Recipe, number: int, num_steps: int) -> float:
    """What learning rates are multiplied by in the step of a number, from 0; in [0, 1]."""
    if recipe.schedule == bundle_pb2.SCHEDULE_ONE_CYCLE:
        top = max(round(ONE_CYCLE_RISE * num_steps), 1)
        if number < top:
            return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * (1 - _half_cosine(number / top))
        return _half_cosine((number - top) / (num_steps - top))
    warm = num_steps * recipe.warmup_epochs // recipe.num_epochs
    if number < warm:
        return (number + 1) / warm
    if recipe.schedule == bundle_pb2.SCHEDULE_COSINE:
        return _half_cosine((number - warm) / (num_steps - warm))
    return 1.0


def _half_cosine(share: float) -> float:
    """From 1 at 0 to 0 at 1."""
    return (1 + math.cos(math.pi * share)) / 2


def _optimizer(recipe: Recipe, network: Network) -> torch.optim.Optimizer:
    if recipe.preset != FINE_TUNE:
        modules = [network.head, network.body] if network.trains_body else [network.head]
        weights = [weight for module in modules for weight in module.parameters()]
        return torch.optim.Adam(weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    groups = parameter_groups(recipe, network)
    if recipe.optimizer == bundle_pb2.OPTIMIZER_SGD:
        return torch.optim.SGD(groups, lr=recipe.head_learning_rate, momentum=recipe.momentum)
    kind = torch.optim.Adam if recipe.optimizer == bundle_pb2.OPTIMIZER_ADAM else torch.optim.AdamW
    return kind(groups, lr=recipe.head_learning_rate)


def parameter_groups(recipe: Recipe, network: Network) -> Groups:
    """What is trained, from the last block to the first, then the head, each with learning rate and weight decay."""
    groups: Groups = []
    if network.trains_body:
        for depth, block in enumerate(reversed(blocks(network.body)[recipe.frozen_blocks :])):
            groups += _by_decay(recipe, block.weights(), recipe.learning_rate * recipe.layer_decay**depth)
    return groups + _by_decay(recipe, list(network.head.parameters()), recipe.head_learning_rate)


def _by_decay(recipe: Recipe, weights: list[torch.nn.Parameter], rate: float) -> Groups:
    """Matrices and filters decay; biases and norms, which have one dimension, do not."""
    decaying = [one for one in weights if one.dim() > 1]
    staying = [one for one in weights if one.dim() <= 1]
    return [
        {"params": some, "lr": rate, "weight_decay": decay}
        for some, decay in ((decaying, recipe.weight_decay), (staying, 0.0))
        if some
    ]
