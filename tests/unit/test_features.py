"""Features: computed once per content and backbone, kept in the store, and never taken from a broken object."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from handful.bundle.manifest import blob_key, sha256
from handful.bundle.predictor import Backbone, to_pixels
from handful.v1.bundle_pb2 import MODALITY_IMAGE
from handful.v1.bundle_pb2 import Backbone as BackboneMessage
from services.shared.objects import ObjectCorrupt, ObjectMissing
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.worker.examples import Example, Examples
from services.trainer.worker.features import Features
from tests.bundles import FEATURE_WIDTH, PREPROCESSING, mean_colour

NUM_EXAMPLES = 6
GRAPH = mean_colour()


@pytest.fixture
def pictures(picture: Callable[..., bytes]) -> list[bytes]:
    return [picture(seed, (40 * seed, 100, 200)) for seed in range(NUM_EXAMPLES)]


@pytest.fixture
def examples(store: FilesystemStore, pictures: list[bytes]) -> Examples:
    for data in pictures:
        for project in ("default", "other"):
            store.put(blob_key(project, sha256(data)), data)
    return examples_of("default", pictures)


def examples_of(project: str, pictures: list[bytes]) -> Examples:
    train = tuple(Example(sha256(data), 0, "") for data in pictures)
    return Examples(project, MODALITY_IMAGE, ("a", "b"), train, ())


def features_of(store: FilesystemStore, examples: Examples, backbone_id: str = "b1", threads: int = 2) -> Features:
    message = BackboneMessage(backbone_id=backbone_id, preprocessing=PREPROCESSING, feature_width=FEATURE_WIDTH)
    return Features(store, store, examples, message, GRAPH, threads)


def nothing() -> None:
    pass


def stored(store: FilesystemStore, project: str = "default") -> list[str]:
    return sorted(store.keys(f"projects/{project}/features/"))


@pytest.mark.parametrize("threads", [1, 4])
def test_features_are_those_of_the_backbone_in_order(
    store: FilesystemStore, examples: Examples, pictures: list[bytes], threads: int
) -> None:
    """Each row is what the backbone makes of that example, in the order asked for, from however many threads."""
    rows = features_of(store, examples, threads=threads).of(examples.train[::-1], nothing)
    expected = Backbone(GRAPH).features(np.stack([to_pixels(data, PREPROCESSING) for data in pictures[::-1]]))
    np.testing.assert_array_equal(rows, expected)
    assert rows.dtype == np.float32


def test_features_are_computed_once(store: FilesystemStore, examples: Examples) -> None:
    """A second run over the same examples computes nothing and has the same numbers, bit for bit."""
    first = features_of(store, examples)
    rows = first.of(examples.train, nothing)
    assert (first.counts.computed, first.counts.cached) == (NUM_EXAMPLES, 0)
    second = features_of(store, examples)
    np.testing.assert_array_equal(second.of(examples.train, nothing), rows)
    assert (second.counts.computed, second.counts.cached) == (0, NUM_EXAMPLES)


def test_only_new_examples_are_computed(
    store: FilesystemStore, examples: Examples, picture: Callable[..., bytes]
) -> None:
    """A run with one more picture computes one picture."""
    features_of(store, examples).of(examples.train, nothing)
    data = picture(99, (1, 2, 3))
    store.put(blob_key("default", sha256(data)), data)
    again = features_of(store, examples)
    again.of((*examples.train, Example(sha256(data), 1, "")), nothing)
    assert (again.counts.computed, again.counts.cached) == (1, NUM_EXAMPLES)


def test_cached_features_need_no_picture(store: FilesystemStore, examples: Examples) -> None:
    """Where the features are known the picture is not read."""
    rows = features_of(store, examples).of(examples.train, nothing)
    for example in examples.train:
        store.delete(blob_key("default", example.content_sha256))
    np.testing.assert_array_equal(features_of(store, examples).of(examples.train, nothing), rows)


@pytest.mark.parametrize(("project", "backbone_id"), [("default", "b2"), ("other", "b1")])
def test_other_backbones_and_other_projects_have_other_features(
    store: FilesystemStore, examples: Examples, pictures: list[bytes], project: str, backbone_id: str
) -> None:
    """What one backbone, or one project, computed is not taken by another."""
    features_of(store, examples).of(examples.train, nothing)
    before = stored(store)
    others = examples_of(project, pictures)
    again = features_of(store, others, backbone_id)
    again.of(others.train, nothing)
    assert (again.counts.computed, again.counts.cached) == (NUM_EXAMPLES, 0)
    assert len({*before, *stored(store, project)}) == 2 * NUM_EXAMPLES


def test_a_broken_object_is_computed_again(store: FilesystemStore, examples: Examples) -> None:
    """A cached object with any one byte wrong, cut off or empty is computed again and replaced."""
    one = examples.train[:1]
    rows = features_of(store, examples).of(one, nothing)
    key = stored(store)[0]
    good = store.get(key)
    flipped = [good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :] for at in range(len(good))]
    for broken in (b"", b"text", good[:-1], good[: len(good) // 2], good + b"\x00", *flipped):
        store.put(key, broken)
        again = features_of(store, examples, threads=1)
        np.testing.assert_array_equal(again.of(one, nothing), rows)
        assert (again.counts.computed, again.counts.cached) == (1, 0), broken
        assert store.get(key) == good


def test_every_example_is_a_step(store: FilesystemStore, examples: Examples) -> None:
    """The step is called once for every example, computed or found, and the counts never run behind it."""
    for _ in range(2):
        features = features_of(store, examples)
        counted: list[int] = []
        features.of(examples.train, lambda: counted.append(features.counts.computed + features.counts.cached))  # noqa: B023
        assert len(counted) == NUM_EXAMPLES
        assert all(count >= step for step, count in enumerate(counted, 1))


def test_a_step_that_raises_stops_the_work(store: FilesystemStore, examples: Examples) -> None:
    """A cancelled run computes no more than what its threads had begun, and what it computed is kept."""

    def cancel() -> None:
        raise KeyError("cancelled")

    many = examples.train * 50
    features = features_of(store, examples, threads=1)
    with pytest.raises(KeyError, match="cancelled"):
        features.of(many, cancel)
    assert features.counts.computed + features.counts.cached < len(many)
    assert len(stored(store)) == features.counts.computed >= 1


def test_an_example_that_is_not_there_ends_the_run(store: FilesystemStore, examples: Examples) -> None:
    """A missing or damaged picture is an error, never features of something else."""
    missing, damaged = examples.train[0], examples.train[1]
    store.delete(blob_key("default", missing.content_sha256))
    store.put(blob_key("default", damaged.content_sha256), b"something else")
    with pytest.raises(ObjectMissing):
        features_of(store, examples).of([missing], nothing)
    with pytest.raises(ObjectCorrupt):
        features_of(store, examples).of([damaged], nothing)
    assert stored(store) == []


def test_two_runs_at_once_agree(store: FilesystemStore, examples: Examples) -> None:
    """Two workers computing the same examples at the same time both get whole rows."""
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(features_of(store, examples).of, examples.train * 3, nothing) for _ in range(4)]
    first, *others = [run.result() for run in runs]
    for rows in others:
        np.testing.assert_array_equal(rows, first)
    assert len(stored(store)) == NUM_EXAMPLES
