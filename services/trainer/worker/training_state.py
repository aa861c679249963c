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

# What torch raises where it is given something else than a checkpoint of the network.
_NOT_TAKEN = (LookupError, AttributeError, TypeError, ValueError, RuntimeError, pickle.UnpicklingError, EOFError)


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
    is of another network. Of another run's checkpoint early stopping takes up nothing.
    """
    if not work.claim.HasField("checkpoint"):
        return 0
    checkpoint = work.claim.checkpoint
    data = work.store.get(checkpoint.key, checkpoint.sha256)
    try:
        state = load_checkpoint(data)
        _check(work, state, labels)
        _restore(work, training, state)
        return int(state["epoch"])
    except _NOT_TAKEN as problem:
        if is_out_of_memory(problem):
            raise
        raise WeightsMismatch(
            f"The checkpoint of epoch {checkpoint.epoch} does not fit the run's network, or is of a release that this "
            "one cannot read. Train anew."
        ) from problem


def _check(work: Work, state: dict[str, Any], labels: Sequence[str]) -> None:
    found = (state.get("architecture", work.recipe.architecture), state.get("labels", list(labels)))
    if found != (work.recipe.architecture, list(labels)):
        raise ValueError(f"it is of {found}")


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
