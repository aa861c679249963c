"""What a model has learnt from is nothing to measure it on: leaving it out, and saying so."""

from collections.abc import Iterable, Sequence

from handful.bundle import manifest
from handful.v1.bundle_pb2 import SPLIT_TRAIN, DatasetManifest
from services.shared.objects import ObjectMissing, ObjectStore
from services.trainer.worker.examples import Example, Examples
from services.trainer.worker.work import Work


def unseen(work: Work, wanted: Sequence[Example], examples: Examples, manifests: Iterable[str]) -> tuple[Example, ...]:
    """Those wanted of a version's examples that no training example of some dataset manifests, given by SHA-256, has a
    group in common with, in those manifests or in this version; with notices of what was left out, and of what could
    not be.
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
    groups = {_group(one) for one in (*examples.train, *examples.val) if one.content_sha256 in seen}
    left = tuple(one for one in wanted if one.content_sha256 not in seen and _group(one) not in groups)
    if len(left) < len(wanted):
        message = f"{len(wanted) - len(left)} examples were left out, because the model was trained on them."
        work.notice("SEEN_IN_TRAINING", message)
    return left


def _group(example: Example) -> str:
    return example.group or example.content_sha256


def _trained_on(store: ObjectStore, project: str, digest: str) -> set[str] | None:
    """The contents that a model learnt from; None where its dataset manifest is not in this store."""
    try:
        data = store.get(manifest.dataset_manifest_key(project, digest), digest)
    except ObjectMissing:
        return None
    sealed = manifest.from_bytes(DatasetManifest, data)
    groups = {one.group for one in sealed.examples if one.split == SPLIT_TRAIN}
    return {one.content_sha256 for one in sealed.examples if one.group in groups}
