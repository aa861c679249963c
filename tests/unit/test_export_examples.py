"""What is in fewer bits is tried on examples that the model was validated on, and that nothing of it was made of."""

import dataclasses
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from handful.bundle import manifest, runtime
from handful.bundle.heads import Floats
from handful.bundle.predictor import to_inputs
from handful.bundle.sounds import Inputs
from handful.errors import FailedPrecondition
from handful.v1.bundle_pb2 import SPLIT_TRAIN, SPLIT_VAL, DatasetManifest
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.exports import building, contents, unseen
from services.trainer.exports.formats import FORMATS, Bound
from tests import whole_bundles
from tests.whole_bundles import LABELS, NUM_GOLDEN, SIZE, Parts

GOLDEN = range(NUM_GOLDEN)  # the seeds of the pictures that are a bundle's golden inputs
INTEGERS = FORMATS["onnx-int8"]


def sealed(store: FilesystemStore, val: Iterable[int], train: Iterable[int] = (), together: Iterable[int] = ()) -> str:
    """The SHA-256 of a stored version of pictures by their seeds, whose files are stored too; some share a group."""
    described, group = DatasetManifest(format=manifest.DATASET_FORMAT, labels=LABELS), set(together)
    for seeds, split in ((val, SPLIT_VAL), (train, SPLIT_TRAIN)):
        for seed in seeds:
            digest = content(seed)
            store.put(manifest.blob_key("default", digest), whole_bundles.picture(seed))
            shared = "together" if seed in group else digest
            described.examples.add(content_sha256=digest, label=LABELS[0], split=split, group=shared)
    data = manifest.to_bytes(described)
    store.put(manifest.dataset_manifest_key("default", manifest.sha256(data)), data)
    return manifest.sha256(data)


def content(seed: int) -> str:
    return manifest.sha256(whole_bundles.picture(seed))


def published(store: FilesystemStore, dataset: str, *earlier: str) -> Parts:
    """A bundle in the store of a model that learnt from the version of a dataset, and from others before."""
    parts = whole_bundles.make()
    parts.model.dataset_manifest_sha256 = dataset
    parts.model.earlier_dataset_manifest_sha256s.extend(earlier)
    parts.written().store(store)
    return parts


def looked_at(store: FilesystemStore, parts: Parts) -> list[bytes]:
    return [one["pixels"].tobytes() for one in unseen.read(store, "default", parts.bundle)]


def pixels(*seeds: int) -> list[bytes]:
    backbone = whole_bundles.make().model.backbone
    return [to_inputs(whole_bundles.picture(seed), backbone)["pixels"].tobytes() for seed in seeds]


def test_golden_inputs_are_not_among_them(store: FilesystemStore) -> None:
    """Ranges of integers are taken over these, so that they tell nothing of others."""
    parts = published(store, sealed(store, [*GOLDEN, 100, 101], [102]))
    assert looked_at(store, parts) == pixels(100, 101)
    assert looked_at(store, published(store, sealed(store, GOLDEN, [102]))) == []


def test_what_earlier_runs_learnt_from_is_not_among_them(store: FilesystemStore) -> None:
    """As in the run itself, with all that shares a group; golden inputs are the first of what is left by it."""
    earlier = sealed(store, [105], [100, 102])
    dataset = sealed(store, [100, 101, *GOLDEN, 103, 104], [102], together=[100, 101])
    assert looked_at(store, published(store, dataset, earlier)) == pixels(103, 104)
    assert looked_at(store, published(store, dataset, earlier, manifest.sha256(b"elsewhere"))) == []


def test_a_file_that_is_lost_or_damaged_is_passed_over(store: FilesystemStore, tmp_path: Path) -> None:
    """The others are looked at, and the export is made."""
    parts = published(store, sealed(store, [*GOLDEN, 100, 101, 102, 103], [104]))
    store.delete(manifest.blob_key("default", content(100)))
    store.put(manifest.blob_key("default", content(102)), b"something else")
    assert looked_at(store, parts) == pixels(101, 103)
    assert building.fetch(store, "default", parts.sha256, "onnx-fp16", tmp_path / "a.zip").num_examples == 2


NUM_UNSEEN = NUM_GOLDEN + unseen.MOST + 6


@pytest.mark.parametrize(("wanted", "num"), [("onnx-fp16", unseen.MOST), ("onnx-int8", unseen.MOST), ("openvino", 0)])
def test_what_is_only_near_is_tried_on_validation_examples(
    store: FilesystemStore, tmp_path: Path, wanted: str, num: int
) -> None:
    """And what came of it is told, on the card too: golden inputs are few."""
    parts = published(store, sealed(store, range(NUM_UNSEEN), [100]))
    made = building.fetch(store, "default", parts.sha256, wanted, tmp_path / "a.zip")
    assert made.num_examples == num
    with zipfile.ZipFile(tmp_path / "a.zip") as zipped:
        told, text = json.loads(zipped.read("export.json")), zipped.read("README.md").decode()
    assert ("that the model was validated on" in text) == ("measured_on_examples" in told) == (num > 0)
    if num:
        assert 0 < made.examples_max_abs_diff <= told["measured_on_examples"]["max_abs_diff"]
        assert made.examples_top1_agreement == 1 - told["measured_on_examples"]["flips"] / num


def test_of_an_imported_model_golden_inputs_must_do(store: FilesystemStore, tmp_path: Path) -> None:
    """Its dataset is elsewhere."""
    parts = published(store, manifest.sha256(b"elsewhere"))
    assert building.fetch(store, "default", parts.sha256, "onnx-int8", tmp_path / "a.zip").num_examples == 0


def colours() -> list[Inputs]:
    """Pictures of one colour each."""
    drawn = np.random.default_rng(0).integers(0, 256, (300, 3), dtype=np.uint8)
    return [{"pixels": np.broadcast_to(one, (1, SIZE, SIZE, 3)).copy()} for one in drawn]


def answers(graph: bytes, shown: list[Inputs]) -> Floats:
    session = runtime.session(graph)
    return np.concatenate([runtime.run(session, ["probabilities"], one)[0] for one in shown])


def test_one_of_few_may_get_another_class() -> None:
    """A share of few examples is none of them; two that are torn are more than one."""
    bundle, shown = whole_bundles.make().bundle, colours()
    export = building.make(bundle, INTEGERS)[0]["model.onnx"]
    others = answers(export, shown).argmax(axis=1) != answers(contents.merged(bundle), shown).argmax(axis=1)
    first, second, *_ = [one for one, other in zip(shown, others, strict=True) if other]
    same = [one for one, other in zip(shown, others, strict=True) if not other]
    assert building.make(bundle, INTEGERS, [first, *same[:2]])[1][1].flips == 1
    with pytest.raises(FailedPrecondition, match="2 of 4 best classes") as caught:
        building.make(bundle, INTEGERS, [first, second, *same[:2]])
    assert caught.value.reason == "EXPORT_DISAGREES"
    assert [INTEGERS.in_fewer_bits.most_flips(num) for num in (1, 39, 40, 60)] == [1, 1, 2, 3]  # type: ignore[union-attr]


def test_a_probability_may_not_be_too_far_on_any() -> None:
    """Whatever golden inputs say."""
    strict = dataclasses.replace(INTEGERS, in_fewer_bits=Bound(1e-9, 0.0))
    with pytest.raises(FailedPrecondition) as caught:
        building.make(whole_bundles.make().bundle, strict, colours()[:2])
    assert caught.value.reason == "EXPORT_DISAGREES"
