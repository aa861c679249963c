"""Everything that changes from step to step of gradient training, as a checkpoint and back. It takes no steps.

A checkpoint holds weights, the optimiser's past, the choice of an epoch, and torch's random state, the only one that is
drawn from; and of which network and classes it is. What a release before this one did not write yet is done without.
"""

import hashlib
import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from services.trainer.worker import checkpoints
from services.trainer.worker.early_stopping import EarlyStopping
from services.trainer.worker.memory import is_out_of_memory
from services.trainer.worker.networks import Network
from services.trainer.worker.optimisation import Optimiser
from services.trainer.worker.weights import load_checkpoint
from services.trainer.worker.work import WeightsMismatch, Work

# What comes of something else than a checkpoint where one is looked for. The RuntimeErrors of torch are none of these
# but when it reads a file: in a network that fits they are a device's.
_NO_CHECKPOINT = (LookupError, AttributeError, TypeError, ValueError)
_UNREADABLE = (*_NO_CHECKPOINT, RuntimeError, pickle.UnpicklingError, EOFError)


@dataclass
class Training:
    """What a checkpoint is of."""

    network: Network
    optimiser: Optimiser
    stopping: EarlyStopping


def save(work: Work, training: Training, labels: Sequence[str], epoch: int) -> None:
    """Has the epoch's checkpoint stored and committed."""
    state = {
        "epoch": epoch,
        "architecture": work.recipe.architecture,
        "labels": list(labels),
        **training.network.state_dict(),
        "optimizer": training.optimiser.state_dict(),
        "stopping": training.stopping.state_dict(),
        "random": torch.get_rng_state(),
        "accelerator_random": torch.cuda.get_rng_state_all(),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    work.checkpoint(epoch, data, hashlib.sha256(data).hexdigest())


def resume(work: Work, training: Training, labels: Sequence[str]) -> int:
    """The epoch that the checkpoint of the claim ends with, its state restored; 0 without one. WeightsMismatch where it
    is of another network; what a device raises goes through. Of another run's checkpoint early stopping takes up
    nothing.
    """
    if not work.claim.HasField("checkpoint"):
        return 0
    checkpoint = work.claim.checkpoint
    data = work.store.get(checkpoint.key, checkpoint.sha256)
    try:
        state = _read(data)
        _check(work, training.network, state, labels)
        _restore(work, training, state)
        return int(state["epoch"])
    except _NO_CHECKPOINT as problem:
        raise WeightsMismatch(
            f"The checkpoint of epoch {checkpoint.epoch} does not fit the run's network, or is of a release that this "
            "one cannot read. Train anew."
        ) from problem


def _read(data: bytes) -> dict[str, Any]:
    """What a checkpoint holds; ValueError where it is none."""
    try:
        return load_checkpoint(data)
    except _UNREADABLE as problem:
        if is_out_of_memory(problem):
            raise
        raise ValueError("it cannot be read") from problem


def _check(work: Work, network: Network, state: dict[str, Any], labels: Sequence[str]) -> None:
    """ValueError, or another of _NO_CHECKPOINT, where it is not of this network."""
    found = (state.get("architecture", work.recipe.architecture), state.get("labels", list(labels)))
    if found != (work.recipe.architecture, list(labels)):
        raise ValueError(f"it is of {found}")
    if state["body"] and not network.changes:
        raise ValueError("it has a body that was changed, and this one stays as it is")
    parts = {"head": network.head, "body": network.body} if state["body"] else {"head": network.head}
    for name, module in parts.items():
        if _shapes(state[name]) != _shapes(module.state_dict()):
            raise ValueError(f"its {name} has other weights")
    if "center" in state and state["center"].shape != (network.row.feature_width,):
        raise ValueError("its center is of other features")
    if state["random"].shape != torch.get_rng_state().shape:
        raise ValueError("its random state is of another generator")


def _shapes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _restore(work: Work, training: Training, state: dict[str, Any]) -> None:
    training.network.load_state_dict(state)
    if not training.optimiser.load_state_dict(state["optimizer"]):
        message = "The optimiser began anew: what it had kept is of another one, or of other weights."
        work.notice("OPTIMIZER_ANEW", message)
    if checkpoints.is_own(work.claim) and "stopping" in state:
        training.stopping.load_state_dict(state["stopping"])
    torch.set_rng_state(state["random"])
    random = state.get("accelerator_random", [])
    if random and len(random) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(random)
