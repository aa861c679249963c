"""A model on its way: out of one home as a zip, run without Handful and without torch, and into another home."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handful import Client
from handful.cli.stack import Stack
from handful.errors import FailedPrecondition, InvalidArgument
from handful.exchange import Exported
from services.trainer.exports.formats import FORMATS
from tests.browsing import browser, node, site, with_sharp, with_vendor
from tests.processes import stack_in

ROOT = Path(__file__).parents[2]
BARE = ROOT / ".venv-export" / "bin" / "python"
# Prints the probabilities of pictures, by the PyTorch module of an export.
IN_TORCH = """
import json, sys, torch
from pathlib import Path
from model import Classifier
classifier = Classifier()
with torch.inference_mode():
    for path in sys.argv[1:]:
        row = classifier(classifier.pixels(Path(path).read_bytes())[None])[0].tolist()
        print(json.dumps(dict(zip(classifier.labels, row))))
"""
Answers = list[dict[str, float]]


@dataclass(frozen=True)
class Out:
    """A model that was exported, its zip unpacked, and what the server answers."""

    made: Exported
    folder: Path
    pictures: list[Path]
    served: Answers


def bare() -> Path:
    if not BARE.is_file():
        pytest.skip("there is no .venv-export; make setup makes it")
    return BARE


def run(*command: object, cwd: Path | None = None) -> str:
    """What a program prints that knows nothing of this repository."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HANDFUL"))}
    words = list(map(str, command))
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def serve(client: Client, model: str, pictures: list[Path]) -> Answers:
    return [{one.label: one.score for one in client.predict(model, path).predictions} for path in pictures]


def alike(one: Answers, other: Answers, within: float) -> None:
    """The same best class for every picture, and probabilities that differ by no more."""
    assert [max(answer, key=answer.__getitem__) for answer in one] == [max(a, key=a.__getitem__) for a in other]
    assert len(one) == len(other) > 0
    for here, there in zip(one, other, strict=True):
        assert here == pytest.approx(there, abs=within)


def take_out(client: Client, model: str, pictures: list[Path], folder: Path) -> Out:
    made = client.export(f"{model}@production", folder)
    with zipfile.ZipFile(made.path) as archive:
        archive.extractall(folder / "unpacked")
    return Out(made, folder / "unpacked", pictures, serve(client, model, pictures))


# Where the code of a format is run: with what it needs alone, or where its runtime is.
PYTHON: dict[str, Callable[[], Path]] = {"onnx-fp16": bare, "onnx-int8": bare, "openvino": lambda: Path(sys.executable)}


@pytest.fixture(scope="module")
def out(stack: Stack, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Out:
    """Cats and dogs by `fast`, on the shared backbone, with all pictures that validate."""
    with Client(stack.addresses) as client:
        client.push("leaving", photographs)
        client.train("leaving").result()
        pictures = sorted((photographs / "val").rglob("*.jpg"))
        return take_out(client, "leaving", pictures, tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def private(stack: Stack, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Out:
    """Cats and dogs by `baseline`, whose body was trained too: ten of a class, one epoch."""
    few = tmp_path_factory.mktemp("few")
    for folder in (photographs / "train").iterdir():
        for path in sorted(folder.iterdir())[:10]:
            (few / folder.name).mkdir(exist_ok=True)
            shutil.copy(path, few / folder.name)
    with Client(stack.addresses) as client:
        client.push("private", few)
        client.train("private", preset="baseline", freeze="NONE", num_epochs=1, target_size=0).result()
        return take_out(client, "private", sorted(few.rglob("*.jpg")), tmp_path_factory.mktemp("private"))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Another home, without a worker: nothing was trained there, and nothing can be."""
    with stack_in(tmp_path_factory.mktemp("second")) as other:
        other.environment["HANDFUL_WORKERS"] = "0"
        with other, Client(other.addresses) as client:
            yield client


@pytest.fixture(params=["out", "private"])
def either(request: pytest.FixtureRequest) -> Out:
    made: Out = request.getfixturevalue(request.param)
    return made


def test_an_export_tests_itself_without_torch(either: Out) -> None:
    """In an environment that has numpy, onnxruntime, Pillow and what they need, the self-test passes."""
    looks = "import importlib.util as u; print([u.find_spec(name) for name in ('torch', 'handful')])"
    assert run(bare(), "-c", looks, cwd=either.folder) == "[None, None]\n"
    report = json.loads(run(bare(), either.folder / "predict.py", "--self-test"))
    assert (report["self_test"], report["top1_agreement"], report["max_pixel_diff"]) == ("passed", 1, 0)
    assert report["max_abs_diff"] <= 1e-3
    assert either.made.export.top1_agreement == 1
    assert either.made.export.max_abs_diff <= 1e-3


def test_an_export_answers_as_the_server(either: Out) -> None:
    """Every picture has the same best class as where it is served, and probabilities within a thousandth."""
    lines = run(bare(), either.folder / "predict.py", "--json", *either.pictures).splitlines()
    found = [{one["label"]: one["score"] for one in json.loads(line)["predictions"]} for line in lines]
    alike(found, either.served, 1e-3)


def test_the_pytorch_code_answers_as_the_server(either: Out) -> None:
    """model.py builds the network by its name, loads the weights, and answers the same."""
    lines = run(sys.executable, "-c", IN_TORCH, *either.pictures[::4], cwd=either.folder).splitlines()
    alike([json.loads(line) for line in lines], either.served[::4], 1e-3)


@pytest.mark.parametrize("wanted", PYTHON)
def test_another_format_answers_nearly_as_the_server(out: Out, stack: Stack, tmp_path: Path, wanted: str) -> None:
    """Of all pictures that validate: nearly the same probabilities, and hardly ever another best class."""
    with Client(stack.addresses) as client:
        made = client.export("leaving@production", tmp_path, format_name=wanted)
    assert made.path.name == f"leaving-1-{wanted}.zip"
    with zipfile.ZipFile(made.path) as archive:
        archive.extractall(tmp_path / "unpacked")
    lines = run(PYTHON[wanted](), tmp_path / "unpacked" / "predict.py", "--json", *out.pictures).splitlines()
    found = [{one["label"]: one["score"] for one in json.loads(line)["predictions"]} for line in lines]
    differences = [abs(here[one] - there[one]) for here, there in zip(found, out.served, strict=True) for one in there]
    flips = sum(
        max(one, key=one.__getitem__) != max(two, key=two.__getitem__)
        for one, two in zip(found, out.served, strict=True)
    )
    assert np.mean(differences) <= FORMATS[wanted].max_abs_diff
    assert flips <= len(found) / 50


def test_the_page_answers_nearly_as_the_server(out: Out, stack: Stack, tmp_path: Path) -> None:
    """In Chromium photographs get nearly the same probabilities as where they are served, and the same best class."""
    with Client(stack.addresses) as client:
        made = client.export("leaving@production", tmp_path, format_name="browser")
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(made.path) as archive:
        archive.extractall(folder)
    asked = "fetch('{}').then((file) => file.blob()).then((file) => page.classify(file))"
    found = []
    with site(with_vendor(folder)) as address, browser() as page:
        page.open(address)
        page.until("document.getElementById('note')?.textContent === 'Ready.'")
        report = page.value("import('./page.mjs').then((page) => page.selfTest())")
        assert (report["self_test"], report["top1_agreement"]) == ("passed", 1)
        for picture in out.pictures[::8]:
            shutil.copy(picture, folder)
            answer = page.value(f"import('./page.mjs').then((page) => {asked.format(picture.name)})")
            found.append({one["label"]: one["score"] for one in answer["predictions"]})
    alike(found, out.served[::8], 0.03)


def unpacked(client: Client, folder: Path, wanted: str) -> Path:
    """An export of the model in a format."""
    with zipfile.ZipFile(client.export("leaving@production", folder, format_name=wanted).path) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def unsure_as_served(client: Client, found: str, pictures: list[Path], rate: float) -> list[bool]:
    """Which of the pictures are unsure, by lines of an export's answers and, alike, where the model is served."""
    served = [client.predict("leaving@production", path, max_error_rate=rate) for path in pictures]
    here = [(one["predictions"][0]["label"], one["unsure"]) for one in map(json.loads, found.splitlines())]
    assert here == [(one.predictions[0].label, one.unsure) for one in served]
    return [one.unsure for one in served]


@pytest.mark.parametrize("wanted", ["onnx", "openvino"])
def test_an_export_is_unsure_where_the_server_is(out: Out, stack: Stack, tmp_path: Path, wanted: str) -> None:
    """Of photographs that it never saw, for several shares of wrong answers: the same class, or unsure alike."""
    pictures = out.pictures[::2]
    with Client(stack.addresses) as client:
        folder = unpacked(client, tmp_path, wanted)
        script, python = folder / "predict.py", bare() if wanted == "onnx" else Path(sys.executable)
        held_back = [
            sum(unsure_as_served(client, run(python, script, "--json", "--max-wrong", rate, *pictures), pictures, rate))
            for rate in (0.01, 0.02, 0.1)
        ]
    assert 0 < held_back[0] < len(pictures)
    assert held_back == sorted(held_back, reverse=True)


def test_the_script_for_node_is_unsure_where_the_server_is(out: Out, stack: Stack, tmp_path: Path) -> None:
    """Of what is wider than high and no JPEG its pixels are the same: so are all answers."""
    pictures = []
    for number, path in enumerate(out.pictures[::5]):
        with Image.open(path) as picture:
            pictures.append(tmp_path / f"{number}.png")
            picture.convert("RGB").crop((0, 0, picture.width, min(picture.size))).save(pictures[-1])
    with Client(stack.addresses) as client:
        folder = with_sharp(with_vendor(unpacked(client, tmp_path, "browser")))
        answers = node("predict.mjs", "--max-wrong", "1%", *pictures, cwd=folder).decode()
        assert 0 < sum(unsure_as_served(client, answers, pictures, 0.01)) < len(pictures)


def test_an_export_refuses_as_the_server(out: Out, stack: Stack) -> None:
    """What so few examples cannot promise, in the same words."""
    with Client(stack.addresses) as client, pytest.raises(FailedPrecondition) as caught:
        client.predict("leaving@production", out.pictures[0], max_error_rate=0.001)
    command = [bare(), out.folder / "predict.py", "--max-wrong", "0.1%", out.pictures[0]]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    why = caught.value.message.partition(": it takes 999 examples")[2]
    assert done.stderr == f"--max-wrong: 0.001 cannot be promised by this export: it takes 999 examples{why}\n"


def test_an_import_serves_the_same_answers(either: Out, second: Client) -> None:
    """In another home the zip becomes a version that answers as the one it was exported from."""
    model = either.made.path.stem.rpartition("-")[0]
    version = second.import_model(either.made.path, model)
    assert version.imported_from_sha256 == either.made.export.sha256
    alike(serve(second, model, either.pictures), either.served, 1e-6)
    again = second.export(version.name, either.folder / "again.zip")
    assert again.path.read_bytes() == either.made.path.read_bytes()


def test_a_zip_that_was_changed_is_refused(out: Out, second: Client, tmp_path: Path) -> None:
    """A byte of the weights that was changed on a disk is noticed, and the home is as it was."""
    data = bytearray(out.made.path.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "changed-1.zip").write_bytes(data)
    with pytest.raises(InvalidArgument) as caught:
        second.import_model(tmp_path / "changed-1.zip", "changed")
    assert caught.value.reason == "CORRUPT_ARCHIVE"
    assert "changed" not in [model.name.rpartition("/")[2] for model in second.models()]


def test_the_command_line_takes_models_out_and_in(out: Out, stack: Stack, tmp_path: Path) -> None:
    """`handful export` and `handful import` say what came of it and what comes next, and bad files get one line."""
    handful = Path(sys.executable).parent / "handful"
    addresses = {f"HANDFUL_{name.upper()}": address for name, address in vars(stack.addresses).items()}

    def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(handful), *map(str, arguments)]
        surroundings = {**os.environ, **addresses}
        return subprocess.run(
            command, cwd=tmp_path, env=surroundings, capture_output=True, text=True, timeout=120, check=False
        )

    exported = cli("export", "leaving")
    assert exported.returncode == 0, exported.stderr
    assert "leaving-1.zip: 4" in exported.stdout
    assert "100% of its answers are the model's" in exported.stdout
    assert "python predict.py FILE" in exported.stdout
    assert (tmp_path / "leaving-1.zip").read_bytes() == out.made.path.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["leaving-1.zip"]
    assert "new/folder/leaving-1.zip: 4" in cli("export", "leaving", "--out", "new/folder").stdout
    listed = cli("export", "--list").stdout.splitlines()
    assert [line.split("\t")[0] for line in listed] == ["format", *FORMATS]
    told = json.loads(cli("export", "leaving", "--list", "--json").stdout)
    assert [(one["name"], one["refusal"]) for one in told] == [(name, "") for name in FORMATS]

    imported = cli("import", "leaving-1.zip", "--model", "arrived")
    assert "projects/default/models/arrived/versions/1: 2 classes" in imported.stdout
    assert "It is arrived@production now. Next: handful predict arrived FILE" in imported.stdout
    again = cli("import", "leaving-1.zip")  # the model is the one that the file is called after
    assert "projects/default/models/leaving/versions/2: 2 classes" in again.stdout
    assert "leaving@production is still version 1. To serve this one: handful promote leaving 2" in again.stdout

    (tmp_path / "photo.zip").write_bytes(out.pictures[0].read_bytes())
    for arguments, says in (
        (("export", "nobody"), "There is no model projects/default/models/nobody."),
        (("export",), "Say which model to export, or --list for the formats there are."),
        (("export", "leaving", "--format", "coreml"), f"format: must be one of {', '.join(FORMATS)}"),
        (("import", "photo.zip"), "The file is not a model as it was exported."),
        (("import", "nothing.zip"), "nothing.zip: No such file or directory"),
        (("import", "leaving-1.zip", "--model", "A B"), "open.model_id: must match"),
    ):
        done = cli(*arguments)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        assert says in done.stderr
