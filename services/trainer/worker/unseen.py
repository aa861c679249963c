"""What a model has learnt from is nothing to measure it on: leaving it out, and saying so."""

from collections.abc import Iterable, Sequence

from handful.bundle import manifest
from handful.v1.bundle_pb2 import SPLIT_TRAIN, DatasetManifest
from services.shared.objects import ObjectMissing, ObjectStore
from services.trainer.worker.examples import Example
from services.trainer.worker.work import Work


def unseen(work: Work, examples: Sequence[Example], manifests: Iterable[str]) -> tuple[Example, ...]:
    """The examples that no training example of some dataset manifests, given by SHA-256, has a group in common with;
    with notices of what was left out, and of what could not be.
    """
    seen: set[str] = set()
    for digest in manifests:
        learnt = _trained_on(work.store, work.project, digest)
        if learnt is None:
            message = (
                "It is not known here what the model was trained on; some of these examples may have been among it."
            )
            work.notice("TRAINING_DATA_UNKNOWN", message)
        else:
            seen |= learnt
    left = tuple(one for one in examples if one.content_sha256 not in seen)
    if len(left) < len(examples):
        message = f"{len(examples) - len(left)} examples were left out, because the model was trained on them."
        work.notice("SEEN_IN_TRAINING", message)
    return left


def _trained_on(store: ObjectStore, project: str, digest: str) -> set[str] | None:
    """The contents that a model learnt from; None where its dataset manifest is not in this store."""
    try:
        data = store.get(manifest.dataset_manifest_key(project, digest), digest)
    except ObjectMissing:
        return None
    sealed = manifest.from_bytes(DatasetManifest, data)
    groups = {one.group for one in sealed.examples if one.split == SPLIT_TRAIN}
    return {one.content_sha256 for one in sealed.examples if one.group in groups}
