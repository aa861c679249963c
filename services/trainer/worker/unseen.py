"""What a model has learnt from is nothing to measure it on: leaving it out, and saying so."""

from collections.abc import Iterable, Sequence

from services.trainer import learnt
from services.trainer.worker.examples import Example, Examples
from services.trainer.worker.work import Work


def unseen(work: Work, wanted: Sequence[Example], examples: Examples, manifests: Iterable[str]) -> tuple[Example, ...]:
    """Those wanted of a version's examples that no training example of some dataset manifests, given by SHA-256, has a
    group in common with, in those manifests or in this version; with notices of what was left out, and of what could
    not be.
    """
    seen: set[str] = set()
    for digest in manifests:
        contents = learnt.contents(work.store, work.project, digest)
        if contents is None:
            message = (
                "It is not known here what the model was trained on; some of these examples may have been among it."
            )
            work.notice("TRAINING_DATA_UNKNOWN", message)
        else:
            seen |= contents
    left = learnt.without(seen, wanted, (*examples.train, *examples.val))
    if len(left) < len(wanted):
        message = f"{len(wanted) - len(left)} examples were left out, because the model was trained on them."
        work.notice("SEEN_IN_TRAINING", message)
    return left
