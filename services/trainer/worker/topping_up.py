"""What an epoch of gradient training goes through: small classes are repeated, and the run says so."""

import numpy as np
import numpy.typing as npt

from services.trainer.worker.examples import Examples, targets
from services.trainer.worker.work import Work


def positions(work: Work, examples: Examples) -> npt.NDArray[np.int64]:
    """Positions of training examples: every one once, those of small classes repeated up to `target_size`; int64[n]."""
    labels, target = targets(examples.train), work.recipe.target_size
    found = []
    for index, label in enumerate(examples.labels):
        members = np.flatnonzero(labels == index)
        if 0 < len(members) < target:
            work.notice("TOPPED_UP", f"{label}: {len(members)} training examples repeated to {target}.")
            members = np.resize(members, target)
        found.append(members)
    return np.concatenate(found)
