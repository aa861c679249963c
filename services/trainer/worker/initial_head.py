"""What gradient training starts the head from: the head that `fast` would fit (LP-FT: linear probing, then fine-tuning;
Kumar et al., 2022, https://arxiv.org/abs/2202.10054). A random head's first gradients would spoil a good body.
"""

import numpy as np
import numpy.typing as npt
import torch

from handful.bundle.heads import Floats, LinearHead
from handful.v1.bundle_pb2 import Recipe
from services.trainer.presets import FAST
from services.trainer.recipes import resolve
from services.trainer.worker import logistic_regression
from services.trainer.worker.networks import VALIDATION_BATCH, Network
from services.trainer.worker.work import Work


def fit(
    work: Work, network: Network, pixels: torch.Tensor, labels: npt.NDArray[np.int64], num_classes: int
) -> LinearHead:
    """The head, with the defaults of `fast`, on the features of the plain pictures uint8[n, 3, size, size]."""
    fast = resolve(Recipe(preset=FAST), work.recipe.architecture)
    return logistic_regression.fit(
        features(work, network, pixels),
        labels,
        num_classes,
        fast.regularization_c,
        fast.num_epochs,
        lambda _: work.reporter.check(),
    )


def features(work: Work, network: Network, pixels: torch.Tensor) -> Floats:
    """float32[n, feature_width] of plain pictures uint8[n, 3, size, size], with progress on the way."""
    batches = [np.zeros((0, network.row.feature_width), np.float32)]
    for batch in torch.split(pixels, VALIDATION_BATCH) if len(pixels) else ():
        work.progress("features", (len(batches) - 1) * VALIDATION_BATCH, len(pixels))
        batches.append(network.features_to_measure(batch).cpu().numpy())
    return np.concatenate(batches)
