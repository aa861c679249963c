"""What a network of the catalogue costs, counted on torch's meta device, which computes shapes and no numbers."""

import math
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from services.trainer.architectures import ArchitectureRow
from services.trainer.worker.architectures import build

PICTURES = 2
# Of the estimate of memory: the default batch of gradient training, and a weight, a gradient and Adam's two moments.
BATCH = 8
BYTES_PER_PARAMETER = 16


@dataclass(frozen=True)
class Figures:
    """As the catalogue gives them, and the shapes of features and feature map of two pictures."""

    num_parameters: int
    gflops: float
    training_memory_bytes: int
    features: tuple[int, ...]
    feature_map: tuple[int, ...]


def measure(row: ArchitectureRow) -> Figures:
    """One forward pass as training does it; what it keeps for the backward pass is counted once per storage."""
    size = row.preprocessing.size
    with torch.device("meta"):
        body = build(row.network, None).train()
    own = {one.untyped_storage()._cdata for one in (*body.parameters(), *body.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one), FlopCounterMode(display=False) as counter:
        features, feature_map = body(torch.empty(PICTURES, 3, size, size, device="meta"))
    num_parameters = sum(math.prod(one.shape) for one in body.parameters())
    per_picture = sum(one.nbytes() for one in kept.values()) // PICTURES
    return Figures(
        num_parameters,
        # The counter counts a multiplication and an addition as two.
        counter.get_total_flops() / 2 / PICTURES / 1e9,
        BYTES_PER_PARAMETER * num_parameters + BATCH * per_picture,
        tuple(features.shape),
        tuple(feature_map.shape),
    )
