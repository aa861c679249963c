"""What a model has learnt from is nothing to measure it on: contents and groups of every version it was trained on."""

from dataclasses import dataclass, field
from typing import cast

from handful.bundle import manifest
from handful.v1.bundle_pb2 import MODALITY_IMAGE, SPLIT_TRAIN, SPLIT_VAL, DatasetManifest, DatasetManifestExample
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.worker.examples import Example, Examples
from services.trainer.worker.unseen import unseen
from services.trainer.worker.work import Work


@dataclass
class Asked:
    """A store, and what was noticed."""

    store: FilesystemStore
    project: str = "default"
    notices: list[str] = field(default_factory=list)

    def notice(self, reason: str, _message: str) -> None:
        self.notices.append(reason)


def sealed(store: FilesystemStore, *examples: tuple[str, "int", str]) -> str:
    """The SHA-256 of a version of (content, split, group)."""
    rows = [DatasetManifestExample(content_sha256=c, label="x", split=s, group=g) for c, s, g in examples]  # type: ignore[arg-type]
    data = manifest.to_bytes(DatasetManifest(format=manifest.DATASET_FORMAT, labels=["x"], examples=rows))
    digest = manifest.sha256(data)
    store.put(manifest.dataset_manifest_key("default", digest), data)
    return digest


def left(asked: Asked, examples: Examples, *manifests: str) -> list[str]:
    found = unseen(cast("Work", asked), examples.val, examples, manifests)
    return [one.content_sha256 for one in found]


def test_a_group_with_something_that_was_learnt_is_left_out(store: FilesystemStore) -> None:
    """A speaker who was trained on in an earlier version is not measured on in a later one, not even by a recording
    that is new; nor is what shares a group with a training example of the earlier version.
    """
    earlier = sealed(store, ("a", SPLIT_TRAIN, "s1"), ("b", SPLIT_TRAIN, "s2"), ("c", SPLIT_VAL, "s3"))
    val = (Example("new-of-s1", 0, "g1"), Example("a", 0, "g1"), Example("c", 0, "g3"), Example("d", 0, "g4"))
    later = Examples("default", MODALITY_IMAGE, ("x",), (Example("b", 0, "g2"),), val)
    asked = Asked(store)
    assert left(asked, later, earlier) == ["c", "d"]
    assert asked.notices == ["SEEN_IN_TRAINING"]


def test_examples_without_groups_stand_for_themselves(store: FilesystemStore) -> None:
    earlier = sealed(store, ("a", SPLIT_TRAIN, "a"))
    val = (Example("a", 0, ""), Example("b", 0, ""))
    asked = Asked(store)
    assert left(asked, Examples("default", MODALITY_IMAGE, ("x",), (), val), earlier) == ["b"]


def test_what_is_not_known_is_said(store: FilesystemStore) -> None:
    asked = Asked(store)
    later = Examples("default", MODALITY_IMAGE, ("x",), (), (Example("a", 0, "g"),))
    assert left(asked, later, "0" * 64) == ["a"]
    assert asked.notices == ["TRAINING_DATA_UNKNOWN"]
