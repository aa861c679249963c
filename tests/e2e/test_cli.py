"""The command line, as people meet it: what it prints, and a line with what to do where something is wrong."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from handful import Client
from handful.bundle.manifest import blob_key, from_bytes
from handful.cli.stack import Stack
from handful.v1.bundle_pb2 import ImagePreprocessing, ModelManifest
from services.shared.objects.filesystem import FilesystemStore

HERE = Path(__file__).parent
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def handful(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).parent / "handful"), *map(str, arguments)]
    surroundings = {**os.environ, "COLUMNS": "160", **environment}
    return subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def cli(stack: Stack) -> Cli:
    """`handful` against the shared services."""
    addresses = {f"HANDFUL_{name.upper()}": address for name, address in vars(stack.addresses).items()}
    return lambda *arguments: handful(*arguments, **addresses)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, picture: Callable[..., bytes]) -> Path:
    """Two classes of pictures, and a file that is none."""
    folder = tmp_path_factory.mktemp("tulips")
    for seed in range(16):
        path = folder / ("tulip" if seed % 2 else "grass") / f"{seed}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture(seed, (200, 60, 60) if seed % 2 else (60, 200, 60)))
    for name in ("notes.txt", "[draft].txt"):
        (folder / "tulip" / name).write_text("not a picture")
    return folder


def test_five_minutes(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    """Push, train, look and predict work as the help says, and each says what comes next."""
    pushed = cli("push", pictures, "--dataset", "tulips")
    assert pushed.returncode == 0
    assert "notes.txt: The file is not a JPEG, PNG or WebP picture." in pushed.stdout
    assert "[draft].txt: The file is not a JPEG, PNG or WebP picture." in pushed.stdout
    assert "2 classes, 12 examples to train, 4 to validate" in pushed.stdout
    assert "handful train tulips" in pushed.stdout

    trained = cli("train", "tulips", "num_epochs=50")
    assert trained.returncode == 0, trained.stderr
    assert "epoch   1" in trained.stdout
    assert "projects/default/models/tulips/versions/1, 100.0% of 4 validation examples right" in trained.stdout

    original = tmp_path / "params.json"
    original.write_text(json.dumps({"num_epochs": 1, "learning_rate": 1e-3, "batch_size": 8, "weight_decay": 1e-4}))
    textbook = cli("train", "tulips", "--params", original, "target_size=0", "--promote")
    assert "tulips@production now" in textbook.stdout, textbook.stderr
    assert "tulips@production is version 1 now" in cli("promote", "tulips", 1).stdout
    assert "handful promote tulips 1 --alias staging" in cli("promote", "tulips@staging", 1).stderr
    assert "versions/9. Versions, newest first: 2, 1." in cli("promote", "tulips", 9).stderr

    measured = cli("evaluate", "tulips", "tulips", "--plots", tmp_path / "plots")
    assert measured.returncode == 0, measured.stderr
    assert "12 examples were left out, because the model was trained on them." in measured.stdout
    assert "100.0% of 4 unseen examples right" in measured.stdout
    assert (tmp_path / "plots" / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")

    assert "succeeded" in cli("runs").stdout
    assert "production" in cli("models").stdout
    assert "not tried; `handful architectures` says how much each needs" in cli("recipes").stdout
    listed = {one["name"]: one for one in json.loads(cli("architectures", "--json").stdout)}
    assert listed["efficientnet_lite0"]["weights"] == "present"
    assert listed["vgg16"]["weights"] == "not_offered"
    (line,) = (line for line in cli("architectures").stdout.splitlines() if line.startswith("resnet50\t"))
    assert line.split("\t")[1:3] == ["224 px (64-640)", "23.5 M"]
    assert not [line for line in cli("recipes").stdout.splitlines() if line.endswith("  ")]  # nothing is padded
    assert "queued" in cli("train", "tulips", "--detach").stdout
    assert "succeeded" in cli("watch", "tulips").stdout
    assert cli("cancel", "tulips").stdout.endswith(": succeeded\n")  # what is over stays as it ended
    answered = cli("predict", "tulips@production", pictures / "tulip" / "1.jpg", pictures / "tulip" / "notes.txt")
    assert "1.jpg: tulip" in answered.stdout
    assert "(tulips version 1)" in answered.stdout
    said = f"handful: {pictures / 'tulip' / 'notes.txt'}: The file is not a JPEG, PNG or WebP picture.\n"
    assert (answered.returncode, answered.stderr) == (2, said)


def test_architectures_say_how_examples_come_to_them(cli: Cli) -> None:
    """As JSON every one has its preprocessing: of pictures and of sounds."""
    listed = {one["name"]: one for one in json.loads(cli("architectures", "--json").stdout)}
    assert all(one["preprocessing"] for one in listed.values())
    how = listed["efficientnet_lite0"]["preprocessing"]
    assert (how["fit"], how["resize"], how["size"]) == ("center_crop", 256, 224)
    assert listed["speech_embedding"]["preprocessing"]["spectrograms"][0]["sample_rate"] == 16_000


def test_a_folder_is_predicted(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    """Every picture in a folder is a row of a table, or a line of JSON; what is none is counted, what is hidden passed
    by; and what cannot be predicted is one line each, with exit code 2.
    """
    cli("push", pictures, "--dataset", "tulips")
    assert cli("train", "tulips", "--model", "fields").returncode == 0
    (tmp_path / "new" / "deep").mkdir(parents=True)
    (tmp_path / "new" / ".hidden").mkdir()
    for place in ("a.jpg", "deep/b.jpg", ".hidden/c.jpg"):
        shutil.copy(pictures / "tulip" / "1.jpg", tmp_path / "new" / place)
    (tmp_path / "new" / "notes.txt").write_text("none")
    listed = cli("predict", "fields", tmp_path / "new")
    assert (listed.returncode, "neither pictures nor sounds: 1\n" in listed.stderr) == (0, True)
    header, *rows = [line.split("\t") for line in listed.stdout.splitlines()]
    assert header == ["file", "label", "score", "unknown"]
    assert [row[:2] for row in rows] == [[str(tmp_path / "new" / place), "tulip"] for place in ("a.jpg", "deep/b.jpg")]
    wary = cli("predict", "fields", tmp_path / "new", "--max-wrong", "50%").stdout.splitlines()
    assert [line.split("\t")[3:] for line in wary] == [["unknown", "unsure"], ["", ""], ["", ""]]
    refused = cli("predict", "fields", tmp_path / "new", "--max-wrong", "0.1%")
    assert (refused.returncode, "it takes 999 examples of different groups" in refused.stderr) == (2, True)
    assert "unsure of none" in cli("predict", "fields", tmp_path / "new", "--max-wrong", "50%").stderr
    (line,) = cli("predict", "fields", tmp_path / "new" / "a.jpg", "--json").stdout.splitlines()
    told = json.loads(line)
    assert (told["label"], told["unknown"], len(told["predictions"])) == ("tulip", False, 2)
    assert told["model_version"] == "projects/default/models/fields/versions/1"
    missing = cli("predict", "fields", tmp_path / "gone.jpg", tmp_path / "new" / "a.jpg")
    assert "a.jpg: tulip" in missing.stdout
    assert missing.stderr == f"handful: {tmp_path / 'gone.jpg'}: There is no such file or folder.\n"
    absent = cli("predict", "no-such-model", tmp_path / "new")
    assert (absent.returncode, absent.stdout) == (2, "")
    sound = tmp_path / "x.wav"
    sound.write_bytes(b"RIFF\0\0\0\0WAVEfmt ")
    wrong = cli("predict", "fields", sound)
    assert wrong.stderr == f"handful: {sound}: It is a sound, and the model understands pictures.\n"
    assert (missing.returncode, wrong.returncode) == (2, 2)


@pytest.mark.parametrize("share", ["few", "-1%", "-1", "0", "5", "150%", "nan"])
def test_a_share_that_is_none_is_answered_with_one(share: str) -> None:
    """Whatever stands there instead, one line says what to write."""
    refused = handful("predict", "flowers", "a.jpg", "--max-wrong", share)
    assert refused.returncode == 2
    assert refused.stderr.endswith("argument --max-wrong: write a share between 0% and 100%, such as 5% or 0.05\n")


def test_a_folder_that_is_not_meant_is_not_sent(stack: Stack, cli: Cli, pictures: Path, tmp_path: Path) -> None:
    """Where a folder does not look like class folders, what it holds and what is expected is said, and nothing is sent
    where nobody can be asked; with --yes it is. What is hidden is never sent, and counted.
    """
    for place in ("home/Documents/a.txt", "home/Documents/b.txt", "home/.cache/x.jpg", "home/Pictures/.thumbs/y.jpg"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("none")
    shutil.copy(pictures / "tulip" / "1.jpg", tmp_path / "home" / "Pictures")
    refused = cli("push", tmp_path / "home", "--dataset", "everything")
    assert refused.returncode == 2
    assert "Its folders: Documents, Pictures; files in them: 3. 2 of 3 files are neither pictures" in refused.stderr
    assert "cat/1.jpg dog/2.jpg" in refused.stderr
    with Client(stack.addresses) as client:
        assert not [one for one in client.datasets() if one.name.endswith("/everything")]
    assert "Its folders: Documents, Pictures;" in cli("demo", "--data", tmp_path / "home").stderr
    sent = cli("push", tmp_path / "home", "--dataset", "everything", "--yes")
    assert "skipped hidden files and folders, whose names begin with a dot: 2\n" in sent.stdout
    assert "a.txt: The file is not a JPEG" in sent.stdout
    assert "thumbs" not in sent.stdout


@pytest.mark.parametrize("command", ["recipes", "architectures"])
def test_who_reads_enough_may_go(stack: Stack, command: str) -> None:
    """As with `| head`: nothing is said of a pipe that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "HANDFUL_TRAINER": stack.addresses.trainer}
    program = [str(Path(sys.executable).parent / "handful"), command]
    done = subprocess.run(program, env=environment, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_drawing_says_what_a_model_looked_at(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    """And names the files it is most like; a class that the model does not have is refused."""
    cli("push", pictures, "--dataset", "explained")
    assert cli("train", "explained").returncode == 0
    why = cli("explain", "explained", pictures / "tulip" / "1.jpg", "--class", "tulip", "--out", tmp_path / "why.png")
    assert "orange speaks for tulip, blue against it." in why.stdout
    assert ".jpg (tulip, 0." in why.stdout
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")
    other = cli("explain", "explained", pictures / "tulip" / "1.jpg", "--class", "oak")
    assert (other.returncode, "label: is no class of the model" in other.stderr) == (2, True)


def test_a_run_is_gone_on_from(cli: Cli, pictures: Path) -> None:
    """One more epoch, with smaller steps, from where a run ended, is another version; `fast` says why it has none."""
    cli("push", pictures, "--dataset", "tulips")
    quick = ("preset=baseline", "num_epochs=1", "target_size=0", "--model", "further")
    assert cli("train", "tulips", *quick).returncode == 0
    more = cli("continue", "further", "learning_rate=1e-5", "--epochs", 1)
    assert "preset baseline on efficientnet_lite0: epochs 2 to 2" in more.stdout, more.stderr
    assert "goes on after epoch 1 of an earlier run" in more.stdout
    assert "further/versions/2" in more.stdout
    assert cli("train", "tulips", "--model", "seconds").returncode == 0
    assert (
        "name: was trained with preset fast, which has no checkpoints"
        in cli("continue", "seconds", "--epochs", 1).stderr
    )


def test_a_run_is_reported(stack: Stack, cli: Cli, pictures: Path, tmp_path: Path) -> None:
    """A page with what to expect, each class, plots, and pictures of labels that may be wrong, and no link outside;
    also where there is nothing to validate on, and where a picture is lost, which is said.
    """
    folder = tmp_path / "mislabelled"
    shutil.copytree(pictures, folder / "train", ignore=shutil.ignore_patterns("*.txt"))
    (folder / "train" / "tulip" / "1.jpg").rename(folder / "train" / "grass" / "1.jpg")
    cli("push", folder, "--dataset", "mislabelled")
    trained = cli("train", "mislabelled")
    assert trained.returncode == 0, trained.stderr
    assert "1.jpg is called grass; it looks like tulip" in trained.stdout
    told = cli("report", "mislabelled", "--out", tmp_path / "report.html")
    assert told.returncode == 0, told.stderr
    page = (tmp_path / "report.html").read_text()
    assert "<b>1.jpg</b><br>is called grass, looks like tulip" in page
    assert page.count("data:image/png;base64,") == 1  # there are no matrices of nothing
    assert "data:image/jpeg;base64," in page
    assert not re.search(r"(?:src|href)='(?!data:)|http|<script", page)
    (suspect,) = re.findall(r"<b>(\S+)</b><br>is called", page)
    with Client(stack.addresses) as client:
        content = next(one.content_sha256 for one in client.examples("mislabelled") if one.filename == suspect)
    store, key = FilesystemStore(stack.home / "store"), blob_key("default", content)
    lost = store.get(key)
    store.delete(key)
    try:
        assert cli("report", "mislabelled", "--out", tmp_path / "report.html").returncode == 0
    finally:
        store.put(key, lost)  # other datasets have it too
    assert f"{suspect} has no picture here: The stored picture is damaged" in (tmp_path / "report.html").read_text()
    assert "<td>seconds in all</td>" in page
    queued = [cli("train", "mislabelled", "preset=fine_tune", "num_epochs=1000", "--detach").stdout for _ in range(3)]
    assert " is queued behind " in queued[-1]  # while the first trains, the second waits
    stopped = [one.split()[-1] for one in reversed(queued)]
    for one in stopped:
        cli("cancel", one)
    untold = cli("report", stopped[-1])
    assert (untold.returncode, "it is cancel" in untold.stderr) == (2, True)
    assert cli("report", "mislabelled", "--out", tmp_path / "report.html").returncode == 0  # of what succeeded last
    refused = cli("report", "no-such-run")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_all_of_a_picture_counts_where_asked(stack: Stack, cli: Cli, pictures: Path, tmp_path: Path) -> None:
    """With fit=SQUASH nothing is cut off, in training, in serving and in an export, whose self-test passes."""
    cli("push", pictures, "--dataset", "tulips")
    trained = cli("train", "tulips", "fit=SQUASH", "--model", "squashed")
    assert trained.returncode == 0, trained.stderr
    assert "features: 16 computed" in trained.stdout
    assert "tulip" in cli("predict", "squashed", pictures / "tulip" / "1.jpg").stdout
    with Client(stack.addresses) as client, zipfile.ZipFile(client.export("squashed@production", tmp_path).path) as one:
        made = from_bytes(ModelManifest, one.read("bundle/manifest.json"))
    assert made.backbone.preprocessing.fit == made.recipe.fit == ImagePreprocessing.FIT_SQUASH


def test_runs_are_compared(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    """A model's runs stand in a table with what differs, in JSON, and on a page with drawings and no link outside."""
    cli("push", pictures, "--dataset", "tulips")
    for strength in (0.5, 2):
        assert cli("train", "tulips", f"regularization_c={strength}", "--model", "side-by-side").returncode == 0
    report = tmp_path / "report.html"
    compared = cli("compare", "side-by-side", "--html", report)
    assert compared.returncode == 0, compared.stderr
    header, *rows = [line.split("\t") for line in compared.stdout.splitlines()[:3]]
    assert (header[3], [row[3] for row in rows]) == ("regularization_c", ["2.0", "0.5"])
    assert all({"1.000", "0.510 to 1.000", "4"} <= set(row) for row in rows)
    page = report.read_text()
    assert page.count("<polyline") == 4  # train/loss and val/loss of both
    assert page.count("<rect") == 8  # F1, seconds, memory and parameters of both
    assert "recipe and data" not in page  # which are the same
    assert page.count("<title>tulips/1 0.5</title>") == 2
    assert "http" not in page
    assert len(json.loads(cli("compare", "side-by-side", "--json").stdout)["training_runs"]) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("train", "nothing"), "There is no dataset nothing in projects/default. Datasets there: "),
        (("evaluate", "tulips", "nothing"), "To make it: handful push FOLDER --dataset nothing\n"),
        (("evaluate", "tulips", HERE), f"{HERE} is a folder: push it first: handful push {HERE} --dataset NAME\n"),
        (("train", "tulips", "architecture=q"), "more, which `handful recipes` has, not q\n"),
        (("train", "tulips", "epochs=3"), "recipe.epochs: there is no such field; did you mean num_epochs?"),
        (("train", "tulips", "num_epochs=-1"), "recipe.num_epochs: must be between 1 and 10000, not -1"),
        (("train", "tulips", "num_epochs"), "Write recipe fields as FIELD=VALUE"),
        (("train", "tulips", "learning_rate=nan"), "recipe.learning_rate: must be between 1e-08 and 1, not nan"),
        (
            ("train", "tulips", "architecture=resnet5"),
            "recipe.architecture: there is no resnet5; did you mean resnet50?",
        ),
        (("train", "tulips", "weights=maybe"), "recipe.weights: must be one of PRETRAINED, RANDOM, AUTO, not maybe"),
        (("predict", "no-such-model", __file__), "There is no model no-such-model in projects/default. Models there: "),
        (("push", "/no/such/folder"), "/no/such/folder is not a folder."),
        (("continue", "nobody", "--epochs", 1), "There is no run nobody."),
        (("compare", "nobody"), "There is no training run or model nobody with one."),
        (("watch", "nobody"), "There is no run nobody."),
    ],
)
def test_what_is_wrong_is_said_in_a_line(cli: Cli, pictures: Path, arguments: tuple[object, ...], says: str) -> None:
    """Errors name the field or the thing and what is allowed, with exit code 2 and no traceback."""
    cli("push", pictures, "--dataset", "tulips")
    done = cli(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_services_that_are_not_up_are_missed_by_name() -> None:
    """A client without services says in a line which it misses, where, and how to start them."""
    done = handful("runs", HANDFUL_TRAINER="127.0.0.1:9")
    assert done.returncode == 2
    assert done.stderr == (
        "handful: The trainer service does not answer at 127.0.0.1:9. Start all services here with `handful up`; "
        "if they run elsewhere, set HANDFUL_TRAINER to its host:port.\n"
    )


def test_why_a_run_failed_is_said_once(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    """An evaluation with nothing left to measure on fails, in one line with the reason."""
    shutil.copytree(pictures, tmp_path / "learnt" / "train", ignore=shutil.ignore_patterns("*.txt"))
    assert "groups found: 16, in 16 files\n" in cli("push", tmp_path / "learnt", "--groups", r"^(\d+)").stdout
    assert cli("train", "learnt").returncode == 0
    failed = cli("evaluate", "learnt", "learnt")
    assert failed.returncode == 1
    assert failed.stdout.count("failed") == 1, failed.stdout
    assert re.search(r"^failed No example is left: ", failed.stdout, re.MULTILINE), failed.stdout


def test_what_may_be_left_out_is_not_asked_for() -> None:
    """`handful train` alone asks for a dataset, and for nothing that it can do without."""
    assert handful("train").stderr.endswith("the following arguments are required: dataset\n")


def test_a_push_that_is_stopped_says_what_is_kept(stack: Stack, picture: Callable[..., bytes], tmp_path: Path) -> None:
    """Ctrl-C in the middle of a push ends it in a line that says how to go on, and what was stored is not lost."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        pytest.skip("Ctrl-C is ignored here, as a shell has its background jobs do; so do the processes they start")
    for seed in range(1000):
        path = tmp_path / "halfway" / "tulip" / f"{seed:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(seed, (200, 60, 60)))
    (tmp_path / "halfway" / "tulip" / "000.jpg").write_text("no picture")
    environment = {**os.environ, "HANDFUL_DATASET": stack.addresses.dataset}
    command = [str(Path(sys.executable).parent / "handful"), "push", str(tmp_path / "halfway")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as push:
        assert push.stdout is not None
        assert "000.jpg" in push.stdout.readline()  # it is under way
        push.send_signal(signal.SIGINT)
        said = push.communicate(timeout=60)[0]
    assert push.returncode == 130
    assert "push the folder again" in said


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """`handful up` says which address is taken and what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = handful("up", "--home", tmp_path, HANDFUL_DATASET=address)
    assert done.returncode == 2
    assert f"Something listens on {address} already" in done.stderr


@pytest.mark.parametrize("service", ["dataset", "trainer", "inference", "trainer.worker"])
def test_bad_settings_are_all_named(service: str, tmp_path: Path) -> None:
    """A service that cannot start names every bad variable at once, with exit code 2."""
    bad = {
        "HANDFUL_HOME": str(tmp_path),
        "HANDFUL_LOG_LEVEL": "loud",
        "HANDFUL_PARENT_PIPE": "maybe",
    }
    command = [sys.executable, "-m", f"services.{service}"]
    done = subprocess.run(command, env={**os.environ, **bad}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert "HANDFUL_LOG_LEVEL='loud': must be one of debug, info, warning, error" in done.stderr
    assert "must be true or false" in done.stderr
