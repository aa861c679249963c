"""Sounds from files to answers: pushed, trained, watched, asked about, measured, taken out and in again."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import soundfile
from PIL import Image

from handful import Client
from handful.bundle.manifest import bundle_key, from_bytes
from handful.cli.stack import Stack
from handful.errors import FailedPrecondition, InvalidArgument
from handful.v1.bundle_pb2 import MODALITY_SOUND, ModelManifest
from handful.v1.inference_pb2 import EvidenceMap
from handful.v1.trainer_pb2 import Architecture, TrainingRun, TrainingRunEvent
from services.inference.oip.v2 import open_inference_pb2 as oip
from services.inference.oip.v2.open_inference_pb2_grpc import GRPCInferenceServiceStub
from services.trainer.sound_architectures import AUTO, CANDIDATES, SOUND_ARCHITECTURES
from tests.e2e.test_export import bare, run

RATE = 16_000
KINDS = {"beep": 900.0, "hum": 130.0}
PER_CLASS = 6
# What spectrograms alone make of a piece takes milliseconds; networks take half a second.
QUICK = "by-log-mel-statistics"


def wave(kind: str, seed: int, seconds: float = 1.0) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A tone in noise; every seed has another pitch and level."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    tone = np.sin(2 * np.pi * KINDS[kind] * random.uniform(0.9, 1.1) * time)
    return random.uniform(0.1, 0.4) * tone + random.normal(0, 0.02, len(time))


def encoded(samples: np.ndarray[tuple[int], np.dtype[np.float64]], kind: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format=kind)
    return buffer.getvalue()


LONG = np.concatenate([wave("beep", 2000, 6), np.zeros(6 * RATE), wave("hum", 2001, 6)])


@dataclass(frozen=True)
class Trained:
    """A model of beeps and hums, by the default recipe, and what its run said."""

    client: Client
    stack: Stack
    run: TrainingRun
    events: list[TrainingRunEvent]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beeps and hums of three voices, in files of every format."""
    folder = tmp_path_factory.mktemp("sounds")
    for kind in KINDS:
        (folder / kind).mkdir()
        for seed in range(PER_CLASS):
            suffix = ("wav", "flac", "ogg")[seed % 3]
            voice = "abc"[seed // 2]
            data = encoded(wave(kind, seed + 100 * (kind == "hum")), suffix.upper())
            (folder / kind / f"{seed}_{voice}_.{suffix}").write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def trained(stack: Stack, folder: Path) -> Iterator[Trained]:
    with Client(stack.addresses) as client:
        version = client.push("noises", folder, groups="_([a-z])_").version
        assert version.modality == MODALITY_SOUND
        assert {(one.num_train, one.num_val) for one in version.classes} == {(4, 2)}
        training = client.train("noises")
        assert training.training_run.recipe.architecture == AUTO
        events = [one for one in training.watch() if isinstance(one, TrainingRunEvent)]
        client.train("noises", model=QUICK, architecture="log_mel_statistics").result()
        yield Trained(client, stack, training.result(), events)


def test_the_default_chooses_its_architecture_and_says_so(trained: Trained) -> None:
    """A notice has every candidate's figure, the recipe is settled, and the manifest says how sounds come to it."""
    (notice,) = [one.notice for one in trained.events if one.notice.reason == "ARCHITECTURE_CHOSEN"]
    assert all(candidate in notice.message for candidate in CANDIDATES)
    (settled,) = [one.recipe_settled.recipe for one in trained.events if one.HasField("recipe_settled")]
    assert settled.architecture in CANDIDATES
    assert f"{settled.architecture} was taken" in notice.message
    assert trained.run.recipe == settled
    (ready,) = [one.features_ready for one in trained.events if one.HasField("features_ready")]
    # The training examples by each candidate, the validation examples by the chosen one alone.
    assert ready.features_computed == 8 * len(CANDIDATES) + 4
    assert ready.features_cached == 8
    version = next(one for one in trained.client.model_versions("noises") if one.name == trained.run.model_version)
    stored = trained.stack.home / "store" / bundle_key("default", version.manifest_sha256, "manifest.json")
    model = from_bytes(ModelManifest, stored.read_bytes())
    assert model.modality == MODALITY_SOUND
    assert model.backbone.sound_preprocessing == SOUND_ARCHITECTURES[settled.architecture].preprocessing
    assert [one.reason for one in model.notices if one.reason == "ARCHITECTURE_CHOSEN"]


def test_new_sounds_are_told_apart(trained: Trained) -> None:
    """Sounds that were never seen get the right class, whatever file they are in; a short one has no segments."""
    for kind in KINDS:
        for seed, suffix in enumerate(("WAV", "FLAC", "OGG", "MP3"), start=1000):
            answer = trained.client.predict("noises", encoded(wave(kind, seed), suffix))
            assert answer.predictions[0].label == kind
            assert not answer.segments


def test_sounds_are_taken_by_the_open_inference_protocol(trained: Trained) -> None:
    """A model of sounds takes files as `sound`, and gives the probabilities that Predict gives; it takes no pixels."""
    files = [encoded(wave(kind, 1000), "FLAC") for kind in KINDS]
    tensor = oip.ModelInferRequest.InferInputTensor(name="sound", datatype="BYTES", shape=[len(files)])
    tensor.contents.bytes_contents.extend(files)
    with grpc.insecure_channel(trained.stack.addresses.inference) as channel:
        stub = GRPCInferenceServiceStub(channel)
        config = stub.ModelConfig(oip.ModelConfigRequest(name="noises")).config
        labels = json.loads(config.parameters["labels"].string_value)
        output = stub.ModelInfer(oip.ModelInferRequest(model_name="noises", inputs=[tensor])).outputs[0]
        tensor.name = "image"
        for request in (
            oip.ModelInferRequest(model_name="noises", inputs=[tensor]),
            oip.ModelInferRequest(model_name="noises.pixels", inputs=[tensor]),
        ):
            with pytest.raises(grpc.RpcError, match=r"must be sound|takes no pixels"):
                stub.ModelInfer(request)
    scores = np.array(output.contents.fp32_contents).reshape(output.shape)
    assert [labels[best] for best in scores.argmax(axis=1)] == list(KINDS)
    for row, file in zip(scores, files, strict=True):
        alone = {one.label: one.score for one in trained.client.predict("noises", file, top_k=99).predictions}
        assert row.tolist() == pytest.approx([alone[label] for label in labels])


def test_a_long_sound_says_what_is_heard_when(trained: Trained) -> None:
    """Beeps, then nothing, then a hum: segments in order, an empty one where nothing is heard."""
    answer = trained.client.predict(QUICK, encoded(LONG, "FLAC"), top_k=1)
    assert [(one.start_seconds, one.end_seconds) for one in answer.segments] == [(0, 6), (6, 12), (12, 18)]
    assert [[each.label for each in one.predictions] for one in answer.segments] == [["beep"], [], ["hum"]]
    assert len(answer.predictions) == 1


@pytest.mark.parametrize(("label", "seconds"), [("beep", (0, 6)), ("hum", (12, 18))])
def test_the_piece_that_speaks_for_a_class_is_explained(trained: Trained, label: str, seconds: tuple[int, int]) -> None:
    """Of a long sound the piece in which the class is heard, in bands by times."""
    answer = trained.client.explain(QUICK, encoded(LONG, "FLAC"), label)
    found = answer.evidence
    assert (answer.label, found.method) == (label, EvidenceMap.METHOD_OCCLUSION)
    assert (found.start_seconds, found.end_seconds) == seconds
    assert len(found.values) == found.rows * found.columns
    assert len(found.band_hertz) == found.rows + 1
    assert max(found.values) > 0
    assert Image.open(io.BytesIO(found.png)).format == "PNG"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(np.zeros(RATE)), "SILENT"),
        (encoded(np.ones(10)), "SOUND_TOO_SHORT"),
        (b"RIFF....WAVE and words", "CORRUPT_MEDIA"),
        (b"", "CORRUPT_MEDIA"),
    ],
)
def test_what_is_no_sound_is_refused(trained: Trained, data: bytes, reason: str) -> None:
    """Nothing to hear, or no sound at all: INVALID_ARGUMENT with the reason."""
    request = data or b"fLaC"
    with pytest.raises(InvalidArgument) as caught:
        trained.client.predict("noises", request)
    assert caught.value.reason == reason


def test_a_picture_is_refused_by_its_field(trained: Trained) -> None:
    """A model of sounds names the field that a picture came in."""
    with pytest.raises(InvalidArgument) as caught:
        trained.client.predict("noises", b"\x89PNG\r\n\x1a\n")
    assert [field for field, _ in caught.value.violations] == ["image"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"architecture": "efficientnet_lite0"}, "recipe.architecture"),
        ({"preset": "fine_tune"}, "recipe.preset"),
        ({"preset": "baseline"}, "recipe.preset"),
        ({"weights": "RANDOM"}, "recipe.weights"),
        ({"architecture": "speech_embedding", "weights": "AUTO"}, "recipe.weights"),
    ],
)
def test_a_recipe_that_does_not_fit_sounds_is_refused(trained: Trained, fields: dict[str, Any], field: str) -> None:
    """The field is named, and nothing is queued."""
    with pytest.raises(InvalidArgument) as caught:
        trained.client.train("noises", **fields)
    assert [named for named, _ in caught.value.violations] == [field]


def test_sounds_and_pictures_do_not_mix(trained: Trained, folder: Path, tmp_path: Path) -> None:
    """Neither in a folder, nor in a dataset, nor in a recipe, nor in an evaluation."""
    client, png = trained.client, b"\x89PNG\r\n\x1a\n" + bytes(30)
    shutil.copytree(folder, tmp_path / "mixed")
    for number in range(PER_CLASS):
        (tmp_path / "mixed" / "hum" / f"{number}.png").write_bytes(png)
    with pytest.raises(InvalidArgument, match="pictures or sounds, not both"):
        client.push("mixed", tmp_path / "mixed")
    client.create_dataset("pictured")
    with pytest.raises(FailedPrecondition, match="holds pictures, and these are sounds"):
        client.push("pictured", folder)
    from PIL import Image

    for seed, label in enumerate("aabb"):
        (tmp_path / "some" / label).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (seed * 60, 0, 0)).save(tmp_path / "some" / label / f"{seed}.png")
    client.push("pictured", tmp_path / "some")
    for architecture in ("speech_embedding", AUTO):
        with pytest.raises(InvalidArgument) as caught:
            client.train("pictured", architecture=architecture)
        assert [field for field, _ in caught.value.violations] == ["recipe.architecture"]
    with pytest.raises(InvalidArgument) as caught:
        client.evaluate(trained.run.model_version, "pictured")
    assert [field for field, _ in caught.value.violations] == ["dataset"]


def test_it_is_measured_on_other_sounds(trained: Trained, tmp_path: Path) -> None:
    """An evaluation computes what is new, and its figures are those of answers."""
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        for seed in range(3000, 3004):
            (tmp_path / kind / f"{seed}.wav").write_bytes(encoded(wave(kind, seed)))
    trained.client.push("others", tmp_path)
    ended = trained.client.evaluate(trained.run.model_version, "others").result()
    assert {one.name: one.value for one in ended.metrics}["val/accuracy"] == 1.0


def test_every_architecture_of_sounds_trains_and_answers(trained: Trained) -> None:
    """Each row of the catalogue becomes a model that names a new sound."""
    listed = {one.id: one for one in trained.client.architectures() if one.modality == MODALITY_SOUND}
    assert set(listed) == set(SOUND_ARCHITECTURES)
    assert listed["log_mel_statistics"].weights_state == Architecture.WEIGHTS_STATE_NOT_NEEDED
    for architecture in listed:
        model = f"by-{architecture.replace('_', '-')}"
        trained.client.train("noises", model=model, architecture=architecture).result()
        answer = trained.client.predict(model, encoded(wave("hum", 4000)))
        assert answer.predictions[0].label == "hum"


@pytest.fixture(scope="module")
def unpacked(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An export of the model, and the folder it was unpacked to."""
    folder = tmp_path_factory.mktemp("out")
    made = trained.client.export("noises@production", folder)
    assert made.export.top1_agreement == 1
    with zipfile.ZipFile(made.path) as archive:
        archive.extractall(folder / "unpacked")
    return made.path, folder / "unpacked"


def test_an_export_runs_without_torch(trained: Trained, unpacked: tuple[Path, Path], tmp_path: Path) -> None:
    """In an environment of numpy, onnxruntime and soundfile it tests itself, and answers as the server."""
    python = bare()
    if subprocess.run([python, "-c", "import soundfile"], capture_output=True, check=False).returncode:
        pytest.skip(".venv-export is of before there were sounds; make setup makes it anew")
    report = json.loads(run(python, unpacked[1] / "predict.py", "--self-test"))
    assert (report["self_test"], report["top1_agreement"]) == ("passed", 1)
    (tmp_path / "long.flac").write_bytes(encoded(LONG, "FLAC"))
    here = json.loads(run(python, unpacked[1] / "predict.py", "--json", tmp_path / "long.flac"))
    there = trained.client.predict("noises", tmp_path / "long.flac", top_k=3)
    assert (here["unknown"], len(here["segments"])) == (there.unknown, len(there.segments))
    for mine, theirs in zip(here["segments"], there.segments, strict=True):
        expected = {one.label: one.score for one in theirs.predictions}
        assert {one["label"]: one["score"] for one in mine["predictions"]} == pytest.approx(expected, abs=1e-3)
        assert mine["unknown"] == theirs.unknown


def mixed(seed: int, hum: float, seconds: float = 1.0) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A beep that is partly a hum."""
    return (1 - hum) * wave("beep", seed, seconds) + hum * wave("hum", seed + 50, seconds)


def test_each_segment_of_a_sound_is_unsure_by_its_own_score(trained: Trained, tmp_path: Path) -> None:
    """By its export as where it is served, and the sound by the mean of them; where nothing is heard nothing is."""
    client, sounds = trained.client, tmp_path / "sounds"
    for kind in KINDS:
        (sounds / kind).mkdir(parents=True)
        for seed, other in enumerate((0, 0.1, 0.3, 0.5, 0.55, 0.7) * 2):
            samples = mixed(seed, other if kind == "beep" else 1 - other)
            (sounds / kind / f"{seed}.wav").write_bytes(encoded(samples))
    client.push("doubtful", sounds)
    client.train("doubtful", architecture="log_mel_statistics").result()
    with zipfile.ZipFile(client.export("doubtful@production", tmp_path).path) as archive:
        archive.extractall(tmp_path / "unpacked")
    heard = [mixed(2000 + seed, hum, 6) for seed, hum in enumerate((0, 0.3, 0.5, 0.7, 1))]
    asked = tmp_path / "asked.wav"
    asked.write_bytes(encoded(np.concatenate([*heard[:2], np.zeros(6 * RATE), *heard[2:]])))

    held_back = []
    for rate in (0.1, 0.3, 0.5):
        found = run(bare(), tmp_path / "unpacked" / "predict.py", "--json", "--max-wrong", rate, asked)
        here, there = json.loads(found), client.predict("doubtful@production", asked, max_error_rate=rate)
        unsure = [one.unsure for one in there.segments]
        assert [one["unsure"] for one in here["segments"]] == unsure
        assert here["unsure"] == there.unsure == (there.predictions[0].score <= there.min_confidence)
        assert [bool(one.predictions) for one in there.segments] == [True, True, False, True, True, True]
        assert not unsure[2]
        held_back.append(sum(unsure))
    assert 0 < held_back[0] < len(heard)
    assert held_back == sorted(held_back, reverse=True)


@pytest.mark.parametrize("wanted", ["onnx-fp16", "onnx-int8"])
def test_sounds_in_fewer_bits(trained: Trained, tmp_path: Path, wanted: str) -> None:
    """The formats carry sounds too; the zip tests itself."""
    made = trained.client.export("noises@production", tmp_path, format_name=wanted)
    with zipfile.ZipFile(made.path) as archive:
        archive.extractall(tmp_path / "unpacked")
    report = json.loads(run(bare(), tmp_path / "unpacked" / "predict.py", "--self-test"))
    assert (report["self_test"], report["top1_agreement"]) == ("passed", 1)


def test_a_format_that_carries_no_sound_says_so(trained: Trained, tmp_path: Path) -> None:
    """The page for browsers has no spectrograms: the list says so, and who asks all the same is refused in one line."""
    told = {one.name: one.refusal for one in trained.client.export_formats("noises@production")}
    assert told.pop("browser") == "It cannot carry models of sounds."
    assert set(told.values()) == {""}
    with pytest.raises(FailedPrecondition) as caught:
        trained.client.export("noises@production", tmp_path, format_name="browser")
    assert caught.value.reason == "FORMAT_UNSUITABLE"


def test_an_import_answers_the_same(trained: Trained, unpacked: tuple[Path, Path]) -> None:
    """The zip becomes a version of another model, which answers as the first."""
    version = trained.client.import_model(unpacked[0], "noises-arrived")
    assert list(version.labels) == sorted(KINDS)
    sound = encoded(wave("beep", 5000))
    first, second = (trained.client.predict(model, sound) for model in ("noises", "noises-arrived"))
    assert list(first.predictions) == list(second.predictions)
    assert first.distance == second.distance


def test_the_command_line_speaks_of_sounds(trained: Trained, tmp_path: Path) -> None:
    """`handful predict` shows the segments of a long sound, a line each."""
    (tmp_path / "long.wav").write_bytes(encoded(np.concatenate([wave("beep", 1, 6), wave("hum", 2, 6)])))
    handful = Path(sys.executable).parent / "handful"
    addresses = {f"HANDFUL_{name.upper()}": address for name, address in vars(trained.stack.addresses).items()}
    done = subprocess.run(
        [handful, "predict", QUICK, tmp_path / "long.wav"],
        env={"PATH": "", "PYTHONPATH": str(Path(__file__).parents[2]), **addresses},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()[1:]
    assert first.strip().startswith("0.0 to    6.0 s: beep")
    assert second.strip().startswith("6.0 to   12.0 s: hum")
