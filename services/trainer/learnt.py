"""What a model learnt from, as the versions of datasets that it was trained on tell, and what that leaves of others. It
does not know who measures what on the rest.
"""

from collections.abc import Collection, Iterable
from typing import Protocol, TypeVar

from handful.bundle import manifest
from handful.v1.bundle_pb2 import SPLIT_TRAIN, DatasetManifest
from services.shared.objects import ObjectMissing, ObjectStore


class Example(Protocol):
    """A picture or sound by its content, and the group that splits never divide."""

    @property
    def content_sha256(self) -> str: ...

    @property
    def group(self) -> str: ...


Kind = TypeVar("Kind", bound=Example)


def contents(store: ObjectStore, project: str, digest: str) -> set[str] | None:
    """The contents that a model learnt from, of a dataset manifest given by SHA-256, with all that shares a group with
    them; None where the manifest is not in this store.
    """
    try:
        data = store.get(manifest.dataset_manifest_key(project, digest), digest)
    except ObjectMissing:
        return None
    sealed = manifest.from_bytes(DatasetManifest, data)
    groups = {one.group for one in sealed.examples if one.split == SPLIT_TRAIN}
    return {one.content_sha256 for one in sealed.examples if one.group in groups}


def without(seen: Collection[str], wanted: Iterable[Kind], version: Iterable[Example]) -> tuple[Kind, ...]:
    """Those wanted of a version's examples that are not among the contents seen, nor share a group with one that is."""
    groups = {_group(one) for one in version if one.content_sha256 in seen}
    return tuple(one for one in wanted if one.content_sha256 not in seen and _group(one) not in groups)


def _group(example: Example) -> str:
    return example.group or example.content_sha256
