"""Manifests as bytes: canonical JSON, the same for the same content, and where things lie."""

import hashlib
import json

import numpy as np
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo

from handful.bundle import manifest
from handful.v1.bundle_pb2 import (
    MODALITY_IMAGE,
    SPLIT_TRAIN,
    SPLIT_VAL,
    Backbone,
    DatasetManifest,
    DatasetManifestExample,
    Evaluation,
    Head,
    ImagePreprocessing,
    Metric,
    ModelManifest,
    Notice,
    Parity,
    Recipe,
)

SHA = "0123456789abcdef" * 4
DATASET = DatasetManifest(
    format=manifest.DATASET_FORMAT,
    modality=MODALITY_IMAGE,
    labels=["fox", "Füchse", "狐"],
    examples=[
        DatasetManifestExample(content_sha256=SHA, label="狐", split=SPLIT_TRAIN, group="a"),
        DatasetManifestExample(content_sha256=SHA[::-1], label="fox", split=SPLIT_VAL, group="b"),
    ],
)
MODEL = ModelManifest(
    format=manifest.MODEL_FORMAT,
    modality=MODALITY_IMAGE,
    labels=["a", 'a "quoted" \\ label\n'],
    backbone=Backbone(
        backbone_id=SHA, preprocessing=ImagePreprocessing(fit=ImagePreprocessing.FIT_CENTER_CROP, resize=256, size=224)
    ),
    head=Head(normalization=Head.NORMALIZATION_CENTER_L2),
    recipe=Recipe(preset="fast", seed=2**40, num_epochs=0, regularization_c=0.1),
    notices=[Notice(reason="TOPPED_UP", message="a: 3 → 50")],
    parity=Parity(num_examples=4, max_abs_diff=1.25e-7, bound=1e-3),
)
EVALUATION = Evaluation(metrics=[Metric(name="val/loss", value=0.1), Metric(name="val/accuracy", value=1 / 3)])
MESSAGES = [DATASET, MODEL, EVALUATION, DatasetManifest(format=manifest.DATASET_FORMAT)]


def test_the_bytes_of_a_manifest_are_known() -> None:
    """The bytes are UTF-8 JSON with sorted keys, without spaces, escapes and defaults, on every machine the same."""
    expected = (
        '{"examples":['
        f'{{"content_sha256":"{SHA}","group":"a","label":"狐","split":"SPLIT_TRAIN"}},'
        f'{{"content_sha256":"{SHA[::-1]}","group":"b","label":"fox","split":"SPLIT_VAL"}}'
        '],"format":"handful.dataset/1","labels":["fox","Füchse","狐"],"modality":"MODALITY_IMAGE"}'
    )
    assert manifest.to_bytes(DATASET) == expected.encode()


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.DESCRIPTOR.name)
def test_a_manifest_comes_back_as_it_was(message: Message) -> None:
    """Reading the bytes gives the same message, and writing that gives the same bytes."""
    data = manifest.to_bytes(message)
    again = manifest.from_bytes(type(message), data)
    assert again == message
    assert manifest.to_bytes(again) == data


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.DESCRIPTOR.name)
def test_keys_are_sorted_at_every_depth(message: Message) -> None:
    """Parsing the bytes and writing them sorted changes nothing."""
    data = manifest.to_bytes(message)
    assert json.dumps(json.loads(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() == data


def test_an_optional_field_that_is_set_to_its_default_stays_set() -> None:
    """A resolved recipe says zero where zero was used, and nothing where a field has no part in it."""
    recipe = manifest.from_bytes(Recipe, manifest.to_bytes(Recipe(preset="baseline", seed=0, brightness=0.0)))
    assert (recipe.HasField("seed"), recipe.HasField("brightness")) == (True, True)
    assert not recipe.HasField("contrast")


def test_the_order_of_construction_does_not_matter() -> None:
    """Equal content gives equal bytes in whatever order maps were filled and fields were set."""
    written = set()
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(40)
        message = ErrorInfo()
        message.metadata.update({f"key-{number}": f"value {number}" for number in order[:seed]})
        message.reason = "SOME"
        message.metadata.update({f"key-{number}": f"value {number}" for number in order[seed:]})
        written.add(manifest.to_bytes(message))
    assert len(written) == 1


def test_the_wire_form_does_not_matter() -> None:
    """A message that was sent over the wire has the bytes of the one that was sent."""
    assert manifest.to_bytes(ModelManifest.FromString(MODEL.SerializeToString())) == manifest.to_bytes(MODEL)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"{}}",
        b"null",
        b"3",
        b"[]",
        b'"text"',
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"labels":"fox"}',
        b'{"labels":[3]}',
        b'{"format":"a","format":"b"}',
        b'{"examples":[7]}',
    ],
    ids=lambda data: repr(data[:20]),
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    """Bytes that are no JSON object of the kind asked for raise ValueError, and nothing else."""
    with pytest.raises(ValueError):  # noqa: PT011 - that it is a ValueError is all that is promised
        manifest.from_bytes(DatasetManifest, data)


def test_unknown_fields_are_passed_over() -> None:
    """A manifest of a newer version, with fields this one does not know, can be read."""
    data = b'{"format":"handful.dataset/1","colour":{"r":1},"labels":["fox"]}'
    assert list(manifest.from_bytes(DatasetManifest, data).labels) == ["fox"]


def test_the_hash_is_of_the_bytes() -> None:
    """A manifest is identified by the SHA-256 of its bytes, in lower-case hex."""
    data = manifest.to_bytes(MODEL)
    assert manifest.sha256(data) == hashlib.sha256(data).hexdigest()


def test_a_graph_has_its_places() -> None:
    """A backbone's files are shared, the project's own, or an imported bundle's, and are looked for in this order."""
    backbone = Backbone(backbone_id="b", graph_sha256="g", weights_file_sha256="w")
    shared, own = ("backbones/b/g.onnx", "projects/p/backbones/b/g.onnx")
    assert manifest.graph_keys("p", backbone) == (shared, own)
    assert manifest.graph_keys("p", backbone, SHA) == (shared, own, f"projects/p/bundles/{SHA}/backbone.onnx")
    assert manifest.weights_keys("p", backbone, SHA) == (
        "backbones/b/w.safetensors",
        "projects/p/backbones/b/w.safetensors",
        f"projects/p/bundles/{SHA}/backbone.safetensors",
    )


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (manifest.blob_key("p", SHA), f"projects/p/blobs/{SHA}"),
        (manifest.dataset_manifest_key("p", SHA), f"projects/p/manifests/{SHA}.json"),
        (manifest.bundle_key("p", SHA, "head.safetensors"), f"projects/p/bundles/{SHA}/head.safetensors"),
        (manifest.pointer_key("p"), "projects/p/aliases.json"),
    ],
)
def test_keys_stay_what_they_are(key: str, expected: str) -> None:
    """Objects that were stored once are found for ever."""
    assert key == expected


@pytest.mark.parametrize("data", [b"{}", b'{"format":"handful.dataset/2"}', b'{"format":"handful.model/1"}'])
def test_a_format_that_is_not_known_is_refused(data: bytes) -> None:
    """A manifest of another kind, or of a version to come, is not read as if it were ours."""
    with pytest.raises(ValueError, match=r"handful\.dataset/1"):
        manifest.from_bytes(DatasetManifest, data)
