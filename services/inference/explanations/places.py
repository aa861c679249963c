"""Which places of an input speak for a class: numbers alone, no files and no pictures.

Everything is in units of evidence: a class's logit minus the mean logit of all classes. It is positive where a place
speaks for the class rather than for the others.
"""

from collections.abc import Callable, Sequence

import numpy as np

from handful.bundle.heads import Floats, LinearHead
from handful.v1.bundle_pb2 import Head

# Features that differ less from the mean over a map, as a share of the largest, are that mean but for rounding.
ROUNDING = 1e-4


def evidence(logits: Floats, label: int) -> Floats:
    """float32[n] of logits float32[n, classes]."""
    share: Floats = logits[:, label] - logits.mean(axis=1)
    return share


def class_activation(head: LinearHead, features: Floats, feature_map: Floats, label: int) -> Floats | None:
    """float32[rows, columns], what each place of a feature map adds to the class's evidence: the mean over all places
    is the evidence but for the head's bias. Exact, and so None where the features, float32[width], are not the mean of
    the map, float32[width, rows, columns]. B. Zhou et al., https://arxiv.org/abs/1512.04150, with the head's
    normalisation: an input's features are all scaled alike, so that is a factor.
    """
    if feature_map.shape[0] != len(features):
        return None
    difference = np.abs(feature_map.mean(axis=(1, 2)) - features).max()
    if not difference <= ROUNDING * max(float(np.abs(features).max()), 1e-12):
        return None
    direction = head.weight[label] - head.weight.mean(axis=0)
    activation: Floats = np.tensordot(direction, feature_map, axes=1).astype(np.float32)
    if head.normalization == Head.NORMALIZATION_CENTER_L2:
        length = max(float(np.linalg.norm(features - head.mean)), 1e-12)
        activation = (activation - direction @ head.mean) * np.float32(np.sqrt(len(features)) / length)
    return activation


def occlusion(
    whole: Floats,
    cells: Sequence[Callable[[], Floats]],
    label: int,
    gone: Callable[[], bool],
) -> Floats | None:
    """float32[cells], the evidence that is lost where a cell is covered: `whole` are the input's logits,
    float32[1, classes], and each cell gives those of the input without it. None once whoever asked is gone. M. Zeiler
    and R. Fergus, https://arxiv.org/abs/1311.2901, section 4.2.
    """
    lost = []
    for logits in cells:
        if gone():
            return None
        lost.append(float(evidence(whole, label)[0] - evidence(logits(), label)[0]))
    return np.array(lost, np.float32)
