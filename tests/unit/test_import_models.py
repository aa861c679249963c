"""Models out of zips: checked against their manifest, tried, and only then stored, where no other model is touched."""

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import parser
from PIL import Image
from safetensors.numpy import load, save

from handful.bundle import manifest
from handful.bundle.heads import LinearHead
from handful.errors import FailedPrecondition, HandfulError, InvalidArgument
from handful.v1.bundle_pb2 import (
    BACKBONE_PRECISION_INT8,
    BACKBONE_PRECISION_UNSPECIFIED,
    Head,
    ImagePreprocessing,
    Notice,
)
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.exports import archive, building
from services.trainer.exports.formats import DEFAULT
from services.trainer.imports.taking import take
from tests import whole_bundles
from tests.hostile_zips import HOSTILE
from tests.whole_bundles import Parts

Change = Callable[[Parts], object]
Array = npt.NDArray[Any]
CORRUPT, UNSUPPORTED, DISAGREES = "CORRUPT_MODEL", "UNSUPPORTED_MODEL", "MODEL_DISAGREES"


def refusal(store: FilesystemStore, path: Path, kind: type[HandfulError] = InvalidArgument) -> str:
    """The reason of a refusal that left nothing in the store."""
    before = list(store.keys(""))
    with pytest.raises(kind) as caught:
        take(store, "default", path)
    assert list(store.keys("")) == before
    return caught.value.reason


@pytest.mark.parametrize("normalization", [Head.NORMALIZATION_NONE, Head.NORMALIZATION_CENTER_L2])
def test_what_was_exported_comes_back(
    store: FilesystemStore, tmp_path: Path, normalization: Head.Normalization.ValueType
) -> None:
    """An export gives the bundle back byte for byte, in another project and store, and can be exported again."""
    parts = whole_bundles.make(normalization)
    parts.store(store)
    first = building.fetch(store, "default", parts.sha256, DEFAULT, tmp_path / "a.zip")
    other = FilesystemStore(tmp_path / "other")
    assert take(other, "elsewhere", tmp_path / "a.zip") == (parts.described, parts.files["evaluation.json"])
    prefix = f"projects/elsewhere/bundles/{parts.sha256}/"
    found = {f"bundle/{key.removeprefix(prefix)}": other.get(key) for key in other.keys("")}
    assert found == parts.entries()
    assert building.fetch(other, "elsewhere", parts.sha256, DEFAULT, tmp_path / "b.zip") == first


def test_what_is_there_is_not_stored_twice(store: FilesystemStore, tmp_path: Path) -> None:
    """A graph that the store has, shared or in the project, is used; the bundle has none of its own then."""
    parts = whole_bundles.make()
    parts.zip(tmp_path / "a.zip")
    parts.store(store)
    take(store, "default", tmp_path / "a.zip")
    bundled = f"bundles/{parts.sha256}/backbone"
    assert not any(bundled in key for key in store.keys(""))
    take(store, "elsewhere", tmp_path / "a.zip")  # which may not read what is the first project's own
    assert [key.rpartition("/")[2] for key in store.keys("projects/elsewhere/") if bundled in key] == [
        "backbone.onnx",
        "backbone.safetensors",
    ]


def test_no_graph_is_replaced(store: FilesystemStore, tmp_path: Path) -> None:
    """A model that calls its backbone as another one is called brings its own graph, and leaves the other's alone."""
    parts = whole_bundles.make()
    key = f"backbones/{parts.model.backbone.backbone_id}/{manifest.sha256(b'first')}.onnx"
    store.put(key, b"first")
    parts.zip(tmp_path / "a.zip")
    take(store, "default", tmp_path / "a.zip")
    assert list(store.keys("backbones/")) == [key]
    assert store.get(key) == b"first"
    assert store.get(f"projects/default/bundles/{parts.sha256}/backbone.onnx") == parts.graph


def backbone(**fields: object) -> Change:
    def change(parts: Parts) -> None:
        for name, value in fields.items():
            setattr(parts.model.backbone, name, value)

    return change


def integers(**fields: object) -> Change:
    """A backbone in integers, as its recipe says, but for something."""

    def change(parts: Parts) -> None:
        parts.model.recipe.backbone_precision = BACKBONE_PRECISION_INT8
        whole = {"precision": BACKBONE_PRECISION_INT8, "quantizer": "qdq0", "weights_origin": "pretrained"}
        backbone(**{**whole, **fields})(parts)

    return change


def preprocessing(**fields: object) -> Change:
    def change(parts: Parts) -> None:
        for name, value in fields.items():
            setattr(parts.model.backbone.preprocessing, name, value)

    return change


def labels(*names: str) -> Change:
    def change(parts: Parts) -> None:
        parts.model.labels[:] = names

    return change


def file(path: str, data: bytes) -> Change:
    return lambda parts: parts.files.__setitem__(path, data)


def replaced(path: str, old: bytes, new: bytes) -> Change:
    def change(parts: Parts) -> None:
        assert old in parts.files[path]
        parts.files[path] = parts.files[path].replace(old, new)

    return change


def golden(**changes: Callable[[Array], Array]) -> Change:
    def change(parts: Parts) -> None:
        arrays = load(parts.files["golden.safetensors"])
        arrays |= {name: np.ascontiguousarray(made(arrays[name])) for name, made in changes.items()}
        parts.files["golden.safetensors"] = save(arrays)

    return change


def head(**changes: Callable[[Array], Array]) -> Change:
    def change(parts: Parts) -> None:
        arrays = load(parts.files["head.safetensors"])
        arrays |= {name: np.ascontiguousarray(made(arrays[name])) for name, made in changes.items()}
        parts.files["head.safetensors"] = save(arrays)

    return change


def near(**changes: Callable[[Array], Array]) -> Change:
    def change(parts: Parts) -> None:
        arrays = load(parts.files["neighbours.safetensors"])
        arrays |= {name: np.ascontiguousarray(made(arrays[name])) for name, made in changes.items()}
        parts.files["neighbours.safetensors"] = save(arrays)

    return change


def first(rows: Array) -> Array:
    return rows[:1]


def png(_: object) -> Array:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 260), (1, 200, 3)).save(buffer, "PNG")
    return np.frombuffer(buffer.getvalue(), np.uint8)


def other_graph(parts: Parts) -> None:
    parts.graph = parts.graph.replace(b"Transpose", b"Transpoze")


# What is wrong with a model whose manifest agrees with its files.
WRONG: dict[str, tuple[Change, str]] = {
    "no kind": (lambda parts: setattr(parts.model, "modality", 0), UNSUPPORTED),
    "a new format": (lambda parts: setattr(parts.model, "format", "handful.model/3"), UNSUPPORTED),
    "one class": (labels("red"), UNSUPPORTED),
    "no classes": (labels(), UNSUPPORTED),
    "a class twice": (labels("red", "red", "blue"), UNSUPPORTED),
    "a class without a name": (labels("red", "", "blue"), UNSUPPORTED),
    "a class with a control": (labels("red", "a\nb", "blue"), UNSUPPORTED),
    "a class turned around": (labels("red", "a\u202eb", "blue"), UNSUPPORTED),
    "more classes than rows": (labels("red", "green", "blue", "black"), UNSUPPORTED),
    "no word of the data": (
        lambda parts: setattr(parts.model, "dataset_manifest_sha256", "../../blobs/x"),
        UNSUPPORTED,
    ),
    "no word of the examples": (lambda parts: parts.model.examples.pop(), UNSUPPORTED),
    "another recipe": (lambda parts: setattr(parts.model.recipe, "preset", "x" * 10_000), UNSUPPORTED),
    "a recipe of another network": (lambda parts: setattr(parts.model.recipe, "architecture", "x"), UNSUPPORTED),
    "weights without a hash": (backbone(weights_sha256="x"), UNSUPPORTED),
    "many figures": (lambda parts: figures(parts, 100), CORRUPT),
    "a large evaluation": (lambda parts: figures(parts, 100_000), CORRUPT),
    "a large plot": (file("plots/loss.png", b"\x89PNG\r\n\x1a\n" + bytes(10**6)), CORRUPT),
    "no head": (lambda parts: parts.files.pop("head.safetensors"), UNSUPPORTED),
    "no golden pictures": (lambda parts: parts.files.pop("golden.safetensors"), UNSUPPORTED),
    "a file of another kind": (file("setup.py", b"import os"), UNSUPPORTED),
    "a file of no name of ours": (file("plots/a-curve.png", b"\x89PNG\r\n\x1a\n"), UNSUPPORTED),
    "another head": (lambda parts: setattr(parts.model.head, "normalization", 7), UNSUPPORTED),
    "another architecture": (backbone(architecture="alexnet_2000"), UNSUPPORTED),
    "another width": (backbone(feature_width=7), UNSUPPORTED),
    "integers that nothing made": (integers(quantizer=""), UNSUPPORTED),
    "integers by something odd": (integers(quantizer="../../etc"), UNSUPPORTED),
    "integers that are floats": (integers(precision=BACKBONE_PRECISION_UNSPECIFIED), UNSUPPORTED),
    "integers of weights that were trained": (integers(weights_origin="trained"), UNSUPPORTED),
    "weights from elsewhere": (backbone(weights_origin="the moon"), UNSUPPORTED),
    "another size than asked for": (lambda parts: setattr(parts.model.recipe, "input_size", 96), UNSUPPORTED),
    "no fit": (preprocessing(fit=ImagePreprocessing.FIT_UNSPECIFIED), UNSUPPORTED),
    "a crop larger than the picture": (preprocessing(resize=1), UNSUPPORTED),
    "a huge input": (preprocessing(size=1_000_000, resize=1_000_000), UNSUPPORTED),
    "an input of no size": (preprocessing(size=0), UNSUPPORTED),
    "a negative draft": (preprocessing(draft=-1), UNSUPPORTED),
    "another filter": (preprocessing(filter="lanczos"), UNSUPPORTED),
    "an operator that is none": (other_graph, UNSUPPORTED),
    "no evaluation": (file("evaluation.json", b"{}"), CORRUPT),
    "an evaluation that is none": (file("evaluation.json", b"[]"), UNSUPPORTED),
    "an evaluation of other classes": (replaced("evaluation.json", b"red", b"rat"), CORRUPT),
    "an evaluation with more in it": (replaced("evaluation.json", b'{"classes"', b'{"a":1,"classes"'), UNSUPPORTED),
    "an accuracy that is no number": (replaced("evaluation.json", b'"value":1.0', b'"value":"NaN"'), CORRUPT),
    "a parity that is no number": (lambda parts: setattr(parts.model.parity, "bound", np.inf), CORRUPT),
    "a promise that is no number": (lambda parts: promise(parts, np.nan), CORRUPT),
    "a plot that is a page": (file("plots/loss.png", b"<script>"), CORRUPT),
    "a head that is none": (file("head.safetensors", b"\x80\x04."), CORRUPT),
    "a head without a bias": (lambda parts: without(parts, "bias"), CORRUPT),
    "a head of other classes": (head(weight=lambda one: one[:2], bias=lambda one: one[:2]), CORRUPT),
    "a head of other features": (head(weight=lambda one: one[:, :5], mean=lambda one: one[:5]), CORRUPT),
    "a head of integers": (head(bias=lambda one: one.astype(np.int64)), CORRUPT),
    "a head without a number": (head(bias=lambda one: one * np.nan), CORRUPT),
    "weights that are none": (lambda parts: setattr(parts, "weights", b"\x80\x04."), CORRUPT),
    "weights without a number": (
        lambda parts: setattr(parts, "weights", save({"a": np.full(3, np.nan, np.float32)})),
        CORRUPT,
    ),
    "golden pictures of another size": (golden(pixels=lambda one: one[:, 1:]), CORRUPT),
    "golden pictures without answers": (golden(probabilities=lambda one: one[:1]), CORRUPT),
    "no golden picture": (golden(pixels=lambda one: one[:0], probabilities=lambda one: one[:0]), CORRUPT),
    "many golden pictures": (
        golden(pixels=lambda one: one.repeat(50, 0), probabilities=lambda one: one.repeat(50, 0)),
        CORRUPT,
    ),
    "golden floats": (golden(pixels=lambda one: one.astype(np.float32)), CORRUPT),
    "a golden file that is none": (golden(picture=lambda one: one[:100]), CORRUPT),
    "neighbours that are none": (file("neighbours.safetensors", b"\x80\x04."), CORRUPT),
    "neighbours of other features": (near(centre=lambda one: one[:5]), CORRUPT),
    "neighbours of other levels": (near(codes=lambda one: one[:, :64]), CORRUPT),
    "fewer neighbours than count": (
        near(**dict.fromkeys(("codes", "along", "scales", "contents", "labels"), first)),
        CORRUPT,
    ),
    "neighbours of other lengths": (near(scales=first), CORRUPT),
    "neighbours without a number": (near(along=lambda one: one * np.float32(np.nan)), CORRUPT),
    "a neighbour of no class": (near(labels=lambda one: np.full_like(one, 99)), CORRUPT),
    "a neighbour of a class before the first": (near(labels=lambda one: np.full_like(one, -1)), CORRUPT),
    "a promise of nothing": (lambda parts: parts.model.error_control.SetInParent(), CORRUPT),
    "no neighbours": (lambda parts: parts.files.pop("neighbours.safetensors"), UNSUPPORTED),
    "no word of the neighbours": (lambda parts: parts.model.ClearField("neighbours"), UNSUPPORTED),
    "other answers": (golden(probabilities=lambda one: one + np.float32(0.01)), DISAGREES),
    "other best classes": (golden(probabilities=lambda one: one[:, ::-1]), DISAGREES),
    "another golden file": (golden(picture=png), DISAGREES),
    "another head than answered": (head(weight=lambda one: -one), DISAGREES),
}


def figures(parts: Parts, count: int) -> None:
    evaluation = parts.bundle.evaluation
    for number in range(count):
        evaluation.metrics.add(name=f"val/figure_{number}", value=number)
    parts.files["evaluation.json"] = manifest.to_bytes(evaluation)


def promise(parts: Parts, confidence: float) -> None:
    evaluation = parts.bundle.evaluation
    evaluation.error_rate_promises.add(max_error_rate=0.05, min_confidence=confidence)
    parts.files["evaluation.json"] = manifest.to_bytes(evaluation)


def without(parts: Parts, name: str) -> None:
    arrays = load(parts.files["head.safetensors"])
    del arrays[name]
    parts.files["head.safetensors"] = save(arrays)


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_refused(store: FilesystemStore, tmp_path: Path, wrong: str) -> None:
    """A model that agrees with its manifest, and is none of ours or answers otherwise, is refused by its reason."""
    parts = whole_bundles.make()
    WRONG[wrong][0](parts)
    parts.written().zip(tmp_path / "a.zip")
    assert refusal(store, tmp_path / "a.zip") == WRONG[wrong][1]


def test_every_byte_is_held_against_the_manifest(store: FilesystemStore, tmp_path: Path) -> None:
    """A file that was changed, left out, or belongs to another model is refused."""
    entries, others = whole_bundles.make().entries(), whole_bundles.make(seed=1).entries()
    for name in set(entries) - {"bundle/manifest.json"}:
        changes = [{**entries, name: entries[name][:-1] + b"\x07"}, {**entries, name: b""}, {**entries}]
        del changes[2][name]
        if others[name] != entries[name]:
            changes.append({**entries, name: others[name]})
        for changed in changes:
            archive.write(tmp_path / "a.zip", changed)
            assert refusal(store, tmp_path / "a.zip") == CORRUPT


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b" " + data,
        lambda data: data.replace(b":", b": ", 1),
        lambda data: data[:-1] + b',"zzz":1}',
        lambda data: data.replace(b'"backbone":', b'"backbone":{},"backbone":', 1),
        lambda data: data[: len(data) // 2],
        lambda _: b"{}",
        lambda _: b"[" * 100_000,
        lambda _: b'{"format":"handful.dataset/1"}',
        lambda _: b"!!python/object/apply:os.system ['touch canary']",
    ],
    ids=["a space", "more space", "a field more", "a field twice", "cut", "empty", "deep", "a dataset", "a program"],
)
def test_a_manifest_is_as_we_write_it(store: FilesystemStore, tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    """A manifest with other bytes than this version would write for it is of another version, or of another's hand."""
    entries = whole_bundles.make().entries()
    entries["bundle/manifest.json"] = change(entries["bundle/manifest.json"])
    archive.write(tmp_path / "a.zip", entries)
    assert refusal(store, tmp_path / "a.zip") == UNSUPPORTED


def test_a_backbone_is_called_what_it_is(store: FilesystemStore, tmp_path: Path) -> None:
    """An id that is another backbone's, or none, is refused: features are kept under it."""
    parts = whole_bundles.make()
    for name in ("0" * 64, "", "../../aliases", whole_bundles.make(seed=1).model.backbone.backbone_id):
        parts.model.backbone.backbone_id = name
        parts.described = manifest.to_bytes(parts.model)
        parts.zip(tmp_path / "a.zip")
        assert refusal(store, tmp_path / "a.zip") == UNSUPPORTED


def test_what_cannot_be_run_is_refused(store: FilesystemStore, tmp_path: Path) -> None:
    """A graph that is in order, and asks for more memory than there is, ends as its process does that has no more."""
    model = whole_bundles.graph()
    model.graph.node.extend(
        parser.parse_node(text)
        for text in (
            "many = Constant<value = int64[2] {3000000, 3000000}>()",
            "ones = ConstantOfShape(many)",
            "sum = ReduceSum<keepdims = 0>(ones)",
            "more = Add(colours, sum)",
        )
    )
    product = next(node for node in model.graph.node if node.op_type == "MatMul")
    product.output[0], model.graph.node[-1].input[0], model.graph.node[-1].output[0] = "product", "product", "features"
    parts = whole_bundles.make()
    parts.graph = model.SerializeToString()
    parts.written().zip(tmp_path / "a.zip")
    with pytest.raises(MemoryError):
        refusal(store, tmp_path / "a.zip", FailedPrecondition)


def test_notices_and_words_of_all_languages_come_along(store: FilesystemStore, tmp_path: Path) -> None:
    """What a manifest may say, it may say in an import too."""
    parts = whole_bundles.make(labels=("\u732b", "\u72ac", "na\u00efve caf\u00e9"))
    parts.model.notices.append(Notice(reason="TOPPED_UP", message="\u732b: 3 training examples repeated to 50."))
    parts.written().zip(tmp_path / "a.zip")
    assert take(store, "default", tmp_path / "a.zip")[0] == parts.described


def test_an_imported_head_is_the_head(store: FilesystemStore, tmp_path: Path) -> None:
    """What is read back computes what was exported, to the last bit."""
    parts = whole_bundles.make()
    parts.zip(tmp_path / "a.zip")
    take(store, "default", tmp_path / "a.zip")
    stored = store.get(f"projects/default/bundles/{parts.sha256}/head.safetensors")
    features = np.random.default_rng(1).normal(size=(4, whole_bundles.WIDTH)).astype(np.float32)
    here, there = (LinearHead.from_bytes(parts.model.head, data) for data in (stored, parts.files["head.safetensors"]))
    np.testing.assert_array_equal(here.probabilities(features), there.probabilities(features))


TAKE_ALL = """
import sys
from pathlib import Path
from handful.errors import HandfulError
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.imports.taking import take
print("ready")
for path in sorted(Path(sys.argv[1]).glob("*.zip")):
    try:
        take(FilesystemStore(Path(sys.argv[1]) / "store"), "default", path)
        print("OK")
    except HandfulError as refused:
        print(refused.reason)
"""


def test_nothing_is_run_fetched_or_written(tmp_path: Path) -> None:
    """Whatever is in the zips, no program is started, no connection made, and no file written but in the store."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not on this machine")
    parts = whole_bundles.make()
    for number, (make, _) in enumerate(HOSTILE.values()):
        (tmp_path / f"hostile-{number:03}.zip").write_bytes(make(parts.entries()))
    for number, (change, _) in enumerate(WRONG.values()):
        wrong = whole_bundles.make()
        change(wrong)
        wrong.written().zip(tmp_path / f"wrong-{number:03}.zip")
    parts.zip(tmp_path / "z.zip")
    calls = "trace=execve,execveat,fork,vfork,connect,sendto,openat,open,creat,rename,unlink,mkdir,symlink,link"
    command = [strace, "-f", "-qq", "-e", calls, "-o", str(tmp_path / "calls")]
    command += [sys.executable, "-B", "-c", TAKE_ALL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=True)
    answers = done.stdout.splitlines()
    assert answers == ["ready", *(reason for _, reason in (*HOSTILE.values(), *WRONG.values())), "OK"]
    called = [line.split(maxsplit=1)[1] for line in (tmp_path / "calls").read_text().splitlines()]
    assert [line for line in called if line.startswith(("execve", "fork", "vfork", "connect", "sendto"))][1:] == []
    writing = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|^(creat|rename|unlink|mkdir|symlink|link)")
    writes = [line for line in called if writing.search(line)]
    assert [line for line in writes if f'"{tmp_path}/store' not in line and '"/dev/' not in line] == []
