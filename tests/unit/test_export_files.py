"""What stands in an export: one graph that answers as the model, a card, licences, a zip that is always the same."""

import dataclasses
import hashlib
import json
import re
import resource
import shutil
import stat
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper, parser
from safetensors.numpy import load, save

from handful import bundle as bundled
from handful.bundle import images
from handful.bundle.heads import LinearHead
from handful.errors import FailedPrecondition
from handful.v1.bundle_pb2 import WEIGHTS_RANDOM, Head
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.architectures import ARCHITECTURES
from services.trainer.exports import archive, building, card, contents
from services.trainer.exports.bundle import Bundle, Unreadable
from services.trainer.exports.formats import DEFAULT, FORMATS
from services.trainer.exports.integers import views
from services.trainer.exports.merging import merge
from services.trainer.worker.pretrained import offered
from tests import whole_bundles
from tests.browsing import node, with_vendor
from tests.whole_bundles import LABELS, Parts

ROOT = Path(__file__).parents[2]
BARE = ROOT / ".venv-export" / "bin" / "python"
LOCKS = ("requirements-export.lock", "requirements.lock")
NORMALIZATIONS = [Head.NORMALIZATION_NONE, Head.NORMALIZATION_CENTER_L2]


@pytest.fixture(scope="module")
def parts() -> Parts:
    return whole_bundles.make()


def made(bundle: Bundle) -> dict[str, bytes]:
    """The files of an export in the default format."""
    return building.make(bundle, FORMATS[DEFAULT])[0]


@pytest.fixture(scope="module")
def files(parts: Parts) -> dict[str, bytes]:
    return made(parts.bundle)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_the_merged_graph_answers_as_backbone_and_head(normalization: Head.Normalization.ValueType) -> None:
    """Probabilities, logits and features of one graph are those of the two parts, at any batch size."""
    parts = whole_bundles.make(normalization)
    head = LinearHead.from_bytes(parts.model.head, parts.files["head.safetensors"])
    session = ort.InferenceSession(merge(parts.graph, head), providers=["CPUExecutionProvider"])
    pixels = load(parts.files["golden.safetensors"])["pixels"]
    expected = ort.InferenceSession(parts.graph).run(["features"], {"pixels": pixels})[0]
    for count in (1, len(pixels)):
        probabilities, logits, features = session.run(None, {"pixels": pixels[:count]})
        np.testing.assert_array_equal(features, expected[:count])
        np.testing.assert_allclose(logits, head.logits(expected[:count]), atol=1e-4)
        np.testing.assert_allclose(probabilities, head.probabilities(expected[:count]), atol=1e-6)


def test_features_without_length_have_probabilities() -> None:
    """Features that are the training mean itself, which no scaling can lengthen, are no division by zero."""
    graph = parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18]>
        nothing (uint8[n,1,1,3] pixels) => (float[n,1,1,3] features, float[n,1,1,3] feature_map) {
            numbers = Cast<to = 1>(pixels)
            features = Sub(numbers, numbers)
            feature_map = Identity(numbers)
        }"""
    )
    del graph.graph.output[0].type.tensor_type.shape.dim[1:3]
    graph.graph.node[1].op_type, graph.graph.node[1].output[0] = "Sub", "nothing"
    axes = parser.parse_node("axes = Constant<value = int64[2] {1, 2}>()")
    graph.graph.node.extend([axes, parser.parse_node("features = Squeeze(nothing, axes)")])
    zeros, weight = np.zeros(3, np.float32), np.ones((2, 3), np.float32)
    head = LinearHead(Head.NORMALIZATION_CENTER_L2, weight, np.zeros(2, np.float32), zeros)
    session = ort.InferenceSession(merge(graph.SerializeToString(), head), providers=["CPUExecutionProvider"])
    answers = session.run(["probabilities"], {"pixels": np.zeros((1, 1, 1, 3), np.uint8)})[0]
    np.testing.assert_allclose(answers, [[0.5, 0.5]], atol=1e-6)


def test_equal_files_are_equal_bytes(files: dict[str, bytes], tmp_path: Path) -> None:
    """A zip says nothing of when and where it was written, and opens everywhere; nothing in it is compressed."""
    archive.write(tmp_path / "one.zip", files)
    archive.write(tmp_path / "other.zip", dict(reversed(files.items())))
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "other.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as opened:
        assert opened.testzip() is None
        entries = opened.infolist()
        assert {entry.filename: opened.read(entry) for entry in entries} == files
    assert [entry.filename for entry in entries] == sorted(files)
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert all(stat.S_ISREG(entry.external_attr >> 16) for entry in entries)
    assert all(entry.compress_size == entry.file_size for entry in entries)


def test_equal_bundles_are_exported_equally(files: dict[str, bytes]) -> None:
    """Files hang on the bundle alone, and not on the time of day, which zip counts in steps of two seconds."""
    time.sleep(2)
    assert made(whole_bundles.make().bundle) == files
    assert made(whole_bundles.make(seed=1).bundle) != files


def test_the_bundle_is_in_it(parts: Parts, files: dict[str, bytes]) -> None:
    """All that the bundle is made of is there, byte for byte."""
    assert {name: data for name, data in files.items() if name.startswith("bundle/")} == parts.entries()


def test_pictures_are_opened_by_the_code_that_served(files: dict[str, bytes]) -> None:
    """images.py is the file that training and serving use."""
    assert files["images.py"] == (ROOT / "handful" / "bundle" / "images.py").read_bytes()


def test_classes_are_told_both_ways(files: dict[str, bytes]) -> None:
    """labels.json has the classes by index, and the indices by class."""
    assert json.loads(files["labels.json"]) == {
        "id2label": {"0": "blue", "1": "green", "2": "red"},
        "label2id": {"blue": 0, "green": 1, "red": 2},
    }


def test_preprocessing_is_told(files: dict[str, bytes]) -> None:
    """preprocessing.json has what images.py takes, and the numbers of the normalisation."""
    row, told = whole_bundles.ROW, json.loads(files["preprocessing.json"])
    assert (told["mean"], told["std"]) == (list(row.mean), list(row.std))
    how = images.Preprocessing(**told["image"])
    assert (how.fit, how.size, how.resize) == ("center_crop", row.preprocessing.size, row.preprocessing.resize)


def test_golden_pictures_need_no_pickle(parts: Parts, files: dict[str, bytes], tmp_path: Path) -> None:
    """golden.npz has the arrays of the bundle, and opens where pickles are not allowed."""
    (tmp_path / "golden.npz").write_bytes(files["golden.npz"])
    with np.load(tmp_path / "golden.npz", allow_pickle=False) as opened:
        for name, array in load(parts.files["golden.safetensors"]).items():
            np.testing.assert_array_equal(opened[name], array)


def test_it_needs_what_we_need() -> None:
    """requirements.txt asks for the versions that pyproject.toml asks for; the lock to try it in is part of ours."""
    asked = [one for part in ("", "onnx") for one in (contents.SHIPPED / part / "requirements.txt").read_text().split()]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(asked) < set(extras["bundle"])
    assert (contents.SHIPPED / "openvino" / "requirements.txt").read_text().split() == extras["openvino"][1:]
    pins = [set(re.findall(r"^\S+==\S+", (ROOT / name).read_text(), re.MULTILINE)) for name in LOCKS]
    assert {pin.partition("==")[0] for pin in pins[0]} >= {re.split(r"[>=]", one)[0] for one in asked}
    assert pins[0] <= pins[1]


def test_licences_come_with_it(files: dict[str, bytes]) -> None:
    """The licence of our code is the repository's; every licence of the catalogue's weights has its text."""
    assert files["LICENSES/Apache-2.0.txt"] == (ROOT / "LICENSE").read_bytes()
    for row in ARCHITECTURES.values():
        assert row.weights is None or (card.LICENSES / f"{row.weights.license}.txt").read_text()


def test_the_card_says_what_it_is(parts: Parts, files: dict[str, bytes]) -> None:
    """README.md has classes with their counts, figures, recipe, data, licences and limits."""
    text = files["README.md"].decode()
    for said in (
        "# Image classifier: blue, green, red",
        "| blue | 15 | 5 | 1.000 | 1.000 | 1.000 |",
        "| `val/accuracy` | 1.0000 |",
        "It was measured on 15 pictures.",
        "| recipe: preset | baseline |",
        parts.model.dataset_manifest_sha256,
        offered(whole_bundles.ROW).sha256,
        "python predict.py --self-test",
    ):
        assert said in text
    assert {name for name in files if f"`{name}`" not in text and "/" not in name} == {"README.md"}


def test_names_of_classes_stay_words() -> None:
    """A label that is Markdown or HTML is shown as it is."""
    labels = ("<script>", "a|b", "`rm`", "**[x](y)**")
    text = made(whole_bundles.make(labels=labels).bundle)["README.md"].decode()
    assert r"# Image classifier: \<script\>, a\|b, \`rm\`, \*\*\[x\]\(y\)\*\*" in text


def test_random_weights_have_no_terms() -> None:
    """Where no weights of others were used, their licence is not claimed."""
    parts = whole_bundles.make()
    parts.model.recipe.weights = WEIGHTS_RANDOM
    text = made(parts.written().bundle)["README.md"].decode()
    assert offered(whole_bundles.ROW).sha256 not in text


def test_nothing_measured_is_said() -> None:
    """A model without validation examples says that it was not measured."""
    parts = whole_bundles.make()
    measured = b'[{"name":"val/accuracy","value":1.0}]'
    parts.files["evaluation.json"] = parts.files["evaluation.json"].replace(measured, b"[]")
    assert "That is not known" in made(parts.written().bundle)["README.md"].decode()


@pytest.fixture
def stored(parts: Parts, store: FilesystemStore) -> FilesystemStore:
    parts.store(store)
    return store


def test_an_export_is_made_once(parts: Parts, stored: FilesystemStore, tmp_path: Path) -> None:
    """The store keeps what was made: later ones are read, and made again only where they are lost or damaged."""
    made = building.fetch(stored, "default", parts.sha256, DEFAULT, tmp_path / "first.zip")
    data = (tmp_path / "first.zip").read_bytes()
    assert (made.sha256, made.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert (made.num_golden, made.top1_agreement) == (whole_bundles.NUM_GOLDEN, 1.0)
    assert made.max_abs_diff <= 1e-6
    prefix = f"projects/default/exports/{parts.sha256}/{building.exporter()}/{DEFAULT}"
    assert list(stored.keys(f"{prefix}")) == [f"{prefix}.zip", f"{prefix}.json"]
    head = f"projects/default/bundles/{parts.sha256}/head.safetensors"
    stored.delete(head)  # nothing could be built of the bundle now
    assert building.fetch(stored, "default", parts.sha256, DEFAULT, tmp_path / "second.zip") == made
    assert (tmp_path / "second.zip").read_bytes() == data
    stored.put(head, parts.files["head.safetensors"])
    for suffix in (".zip", ".json"):
        stored.put(prefix + suffix, b"{}")
        assert building.fetch(stored, "default", parts.sha256, DEFAULT, tmp_path / "third.zip") == made
        assert (tmp_path / "third.zip").read_bytes() == data == stored.get(f"{prefix}.zip")


def test_other_code_is_another_exporter() -> None:
    """What computes an export, or is carried in one, is told from what was: stored zips are not taken for its own."""
    within = (f"{bundled.__name__}.", "services.trainer.exports.")
    loaded = {Path(str(one.__file__)) for name, one in list(sys.modules.items()) if name.startswith(within)}
    assert {"rows.py", "neighbours.py", "images.py", "merging.py"} <= {path.name for path in loaded}
    assert loaded <= set(building.sources())


def disagreeing(change: str) -> Parts:
    parts = whole_bundles.make()
    golden = load(parts.files["golden.safetensors"])
    probabilities = golden["probabilities"].copy()
    if change == "a little":
        probabilities[0] += np.array([0.002, -0.002, 0])
    elif change == "another class":
        probabilities[1] = probabilities[1][::-1]
    else:
        probabilities[2, 0] = np.nan
    parts.files["golden.safetensors"] = save({**golden, "probabilities": np.ascontiguousarray(probabilities)})
    return parts.written()


@pytest.mark.parametrize("change", ["a little", "another class", "not a number"])
def test_what_disagrees_is_not_exported(store: FilesystemStore, tmp_path: Path, change: str) -> None:
    """A graph whose answers are not the stored ones is refused, and nothing is kept."""
    digest = disagreeing(change).store(store)
    with pytest.raises(FailedPrecondition) as caught:
        building.fetch(store, "default", digest, DEFAULT, tmp_path / "a.zip")
    assert caught.value.reason == "EXPORT_DISAGREES"
    assert list(store.keys("projects/default/exports/")) == []
    assert not (tmp_path / "a.zip").exists()


@pytest.mark.parametrize("file", ["head.safetensors", "evaluation.json", "golden.safetensors"])
def test_what_is_none_of_ours_is_unreadable(store: FilesystemStore, tmp_path: Path, file: str) -> None:
    """A bundle that is whole and holds something else than a model is told from one that is damaged."""
    parts = whole_bundles.make()
    parts.files[file] = b"something else"
    digest = parts.written().store(store)
    with pytest.raises(Unreadable):
        building.fetch(store, "default", digest, DEFAULT, tmp_path / "a.zip")


@pytest.fixture(scope="module")
def unpacked(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(files, tmp_path_factory.mktemp("unpacked"))


def unpack(files: dict[str, bytes], folder: Path) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def predict(folder: Path, *arguments: object, python: Path = BARE) -> "subprocess.CompletedProcess[str]":
    """predict.py where nothing but its requirements is installed."""
    if not python.is_file():
        pytest.skip("there is no .venv-export; make setup makes it")
    command = [str(python), "-B", str(folder / "predict.py"), *map(str, arguments)]
    with TemporaryDirectory() as home:
        done = subprocess.run(command, env={"HOME": home}, capture_output=True, text=True, timeout=60, check=False)
        # OpenVINO's telemetry writes there before it calls.
        assert list(Path(home).iterdir()) == []
    return done


def test_an_export_tests_itself(unpacked: Path) -> None:
    """Without anything of ours it answers as it did, and says so in one line."""
    done = predict(unpacked, "--self-test")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["self_test"], report["golden"], report["top1_agreement"]) == ("passed", whole_bundles.NUM_GOLDEN, 1)
    assert report["max_abs_diff"] <= 1e-6
    assert report["max_pixel_diff"] == 0


@pytest.mark.parametrize("wanted", [name for name in FORMATS if name != DEFAULT])
def test_every_format_tests_itself(parts: Parts, tmp_path: Path, wanted: str) -> None:
    """It runs by its own code, says how near it is, names its files, has the licences and no bundle."""
    files, (measured,) = building.make(parts.bundle, FORMATS[wanted])
    unpack(files, tmp_path)
    report = self_tested(wanted, tmp_path)
    assert (report["self_test"], report["golden"]) == ("passed", whole_bundles.NUM_GOLDEN)
    assert report["max_abs_diff"] <= FORMATS[wanted].max_abs_diff
    told = json.loads(files["export.json"])
    assert (told["format"], told["measured"]["flips"]) == (wanted, measured.flips)
    assert told["measured"]["max_abs_diff"] >= measured.max_abs_diff
    text = files["README.md"].decode()
    assert FORMATS[wanted].title in text
    assert {name for name in files if f"`{name}`" not in text and "/" not in name} == {"README.md"}
    assert files["LICENSES/Apache-2.0.txt"] == (ROOT / "LICENSE").read_bytes()
    assert not [name for name in files if name.startswith("bundle/")]
    assert building.make(parts.bundle, FORMATS[wanted])[0] == files


def self_tested(wanted: str, folder: Path) -> dict[str, Any]:
    """What the code of an export in the format says of itself."""
    if wanted == "browser":
        script: dict[str, Any] = json.loads(node("predict.mjs", "--self-test", cwd=with_vendor(folder)))
        return script
    done = predict(folder, "--self-test", python=Path(sys.executable) if wanted == "openvino" else BARE)
    assert (done.returncode, done.stderr) == (0, "")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("wanted", ["onnx-fp16", "openvino"])
def test_a_network_may_not_suit_a_format(wanted: str) -> None:
    """Of a network with operators that a format's library does not know that is said, and no more."""
    parts, graph = whole_bundles.make(), whole_bundles.graph()
    graph.graph.node[-1].output[0] = "before"
    graph.graph.node.append(helper.make_node("Optional", ["before"], ["maybe"]))
    graph.graph.node.append(helper.make_node("OptionalGetElement", ["maybe"], ["features"]))
    parts.graph = graph.SerializeToString()
    bundle = parts.written().bundle
    assert made(bundle)
    with pytest.raises(FailedPrecondition) as caught:
        building.make(bundle, FORMATS[wanted])
    assert caught.value.reason == "FORMAT_UNSUITABLE"
    assert str(caught.value).endswith(f"the format {FORMATS[wanted].title} does not know.")


def test_want_of_room_is_no_fault_of_the_network(parts: Parts) -> None:
    """What is written on the way to integers meets a limit, as on a full disk, and is told as what it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            building.make(parts.bundle, FORMATS["onnx-int8"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("side", [224, 299])
def test_views_are_as_large_as_the_picture(side: int) -> None:
    """Its middle too, where a side is not four quarters, as inception_v3's: two of each row and column from there."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    seen = [view["pixels"] for view in views({"pixels": pixels})]
    assert len({view.tobytes() for view in seen}) == 7
    assert {(view.shape, view.dtype) for view in seen} == {((1, side, side, 3), np.dtype(np.uint8))}
    part = slice(side // 4, side // 4 + (side + 1) // 2)
    np.testing.assert_array_equal(seen[-1][:, ::2, ::2], pixels[:, part, part])


def test_a_server_without_its_library_says_so() -> None:
    """A format is refused, and listed so, where the server has not what builds it."""
    lacking = dataclasses.replace(FORMATS["openvino"], built_with="nothing_of_that_name")
    assert "has no nothing_of_that_name" in lacking.message(None).refusal
    assert FORMATS["openvino"].message(None).refusal == ""


@pytest.mark.parametrize("wanted", FORMATS)
def test_a_format_has_its_bound(store: FilesystemStore, tmp_path: Path, wanted: str) -> None:
    """What is further from the model than the format may be is refused, with the figures."""
    parts = whole_bundles.make()
    golden = load(parts.files["golden.safetensors"])
    probabilities = golden["probabilities"] + np.array([1.0, -0.5, -0.5], np.float32) * 2 * FORMATS[wanted].max_abs_diff
    parts.files["golden.safetensors"] = save({**golden, "probabilities": probabilities.astype(np.float32)})
    with pytest.raises(FailedPrecondition) as caught:
        building.fetch(store, "default", parts.written().store(store), wanted, tmp_path / "a.zip")
    assert caught.value.reason == "EXPORT_DISAGREES"
    assert f"at most {FORMATS[wanted].max_abs_diff:.0e} may be" in str(caught.value)


@pytest.mark.parametrize("spoiled", ["golden.npz", "model.onnx", "preprocessing.json"])
def test_a_spoiled_export_fails_its_test(unpacked: Path, tmp_path: Path, spoiled: str) -> None:
    """Other answers, another graph or other preprocessing are noticed, with exit code 1."""
    shutil.copytree(unpacked, tmp_path / "spoiled")
    other = made(whole_bundles.make(seed=3).bundle)
    other["preprocessing.json"] = (unpacked / "preprocessing.json").read_bytes().replace(b"256", b"400")
    (tmp_path / "spoiled" / spoiled).write_bytes(other[spoiled])
    done = predict(tmp_path / "spoiled", "--self-test")
    assert (done.returncode, json.loads(done.stdout)["self_test"]) == (1, "failed")


def test_it_tells_what_is_like_nothing_it_knows(unpacked: Path, parts: Parts, tmp_path: Path) -> None:
    """A picture farther from the training examples than they are from each other is unknown, as when it is served."""
    shutil.copytree(unpacked, tmp_path / "strict")
    with np.load(unpacked / "neighbours.npz") as stored:
        arrays = {**stored, "max_distance": np.array(0.0)}
    np.savez(tmp_path / "strict" / "neighbours.npz", **arrays)
    (tmp_path / "a.jpg").write_bytes(whole_bundles.picture(99))
    done = predict(tmp_path / "strict", "--json", tmp_path / "a.jpg")
    assert json.loads(done.stdout)["unknown"] is True
    done = predict(tmp_path / "strict", tmp_path / "a.jpg")
    assert "a.jpg: unknown; of the classes most like: " in done.stdout
    described = parts.model.neighbours
    assert (arrays["nearest"], arrays["rows"].dtype) == (described.nearest, np.float32)


def test_it_predicts(unpacked: Path, parts: Parts, tmp_path: Path) -> None:
    """Pictures get their classes, best first; what is no picture gets a line, and exit code 1."""
    (tmp_path / "a.jpg").write_bytes(whole_bundles.picture(0))
    (tmp_path / "b.txt").write_text("no picture")
    row = load(parts.files["golden.safetensors"])["probabilities"][0]
    best = [LABELS[index] for index in row.argsort()[::-1]]
    done = predict(unpacked, "--json", "--top", 2, tmp_path / "a.jpg")
    predictions = json.loads(done.stdout)["predictions"]
    assert [one["label"] for one in predictions] == best[:2]
    assert predictions[0]["score"] == pytest.approx(row.max(), abs=1e-6)
    assert json.loads(done.stdout)["unknown"] is False
    done = predict(unpacked, tmp_path / "a.jpg", tmp_path / "b.txt", tmp_path / "none.jpg")
    assert done.stdout.startswith(f"{tmp_path}/a.jpg: {best[0]} {row.max():.3f}  {best[1]} ")
    assert "b.txt: The file is not a JPEG, PNG or WebP picture." in done.stderr
    assert "none.jpg: No such file or directory" in done.stderr
    assert done.returncode == 1
    assert predict(unpacked).returncode == 2
