"""YOLO by Ultralytics, through real services: trained, watched, served, exported, cancelled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handful import Client
from handful.bundle.manifest import bundle_key, from_bytes
from handful.cli.stack import Stack
from handful.errors import FailedPrecondition, InvalidArgument
from handful.run import Run
from handful.v1.bundle_pb2 import ModelManifest
from handful.v1.trainer_pb2 import Progress, TrainingRun, TrainingRunEvent
from tests.e2e.test_export import IN_TORCH, alike, bare, run, serve
from tests.processes import alive, of_home, parent_of, until

pytestmark = [
    pytest.mark.skipif(find_spec("ultralytics") is None, reason="the extra yolo is not installed"),
    pytest.mark.timeout(600),
]
RED, BLUE = (210, 50, 50), (50, 50, 210)
RANDOM: dict[str, Any] = {"architecture": "yolo11n_cls", "weights": "RANDOM"}
FIGURES = {"train/loss", "val/loss", "val/accuracy", "val/precision_macro", "val/recall_macro", "val/f1_macro"}
FIGURES |= {"learning_rate", "seconds", "examples_per_second", "peak_memory_bytes", "eta_seconds"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, picture: Callable[..., bytes]) -> Path:
    """Two classes that a colour tells apart; some pictures are of 8 x 6 dots, which Ultralytics takes for corrupt."""
    made = tmp_path_factory.mktemp("colours")
    for label, colour, first in (("red", RED, 0), ("blue", BLUE, 100)):
        (made / label).mkdir()
        for seed in range(first, first + 12):
            size = (8, 6) if seed % 6 == 0 else (64, 48)
            (made / label / f"{seed}.png").write_bytes(picture(seed, colour, size, "PNG"))
    return made


@pytest.fixture(scope="module")
def client(stack: Stack, folder: Path) -> Iterator[Client]:
    with Client(stack.addresses) as client:
        client.push("yolo", folder)
        yield client


@dataclass(frozen=True)
class Ended:
    """A run that is over, with its events and what it published."""

    run: TrainingRun
    events: list[TrainingRunEvent]
    manifest: ModelManifest

    @property
    def epochs(self) -> list[dict[str, float]]:
        completed = [event.epoch_completed for event in self.events if event.HasField("epoch_completed")]
        return [{metric.name: metric.value for metric in one.metrics} for one in completed]


def train(client: Client, stack: Stack, **fields: Any) -> Ended:
    run = client.train("yolo", promote=True, **RANDOM, **fields)
    events = [event for event in run.watch() if isinstance(event, TrainingRunEvent)]
    ended = run.training_run
    assert ended.state == TrainingRun.STATE_SUCCEEDED, ended.failure
    versions = {one.name: one.manifest_sha256 for one in client.model_versions(ended.model)}
    digest = versions[ended.model_version]
    manifest = stack.home / "store" / bundle_key("default", digest, "manifest.json")
    return Ended(ended, events, from_bytes(ModelManifest, manifest.read_bytes()))


def jobs(home: Path) -> dict[int, Path]:
    """The processes that run Ultralytics for a worker of a home, with the folders they run in."""
    ours, found = of_home(home), {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            trains = b"services.trainer.worker.yolo.child" in (folder / "cmdline").read_bytes().split(b"\0")
            if trains and parent_of(int(folder.name)) in ours:
                found[int(folder.name)] = (folder / "cwd").readlink()
        except OSError:
            continue  # it has just ended
    return found


@pytest.fixture(scope="module")
def trained(client: Client, stack: Stack) -> Ended:
    """All of it trained, for three epochs."""
    return train(client, stack, preset="baseline", freeze="NONE", num_epochs=3, learning_rate=1e-3, target_size=11)


def test_every_epoch_streams_with_our_figures(trained: Ended, client: Client) -> None:
    """Epochs arrive as they end, with precision, recall and F1; the model's own are those of the last."""
    assert [event.epoch for event in trained.events if event.HasField("epoch_completed")] == [1, 2, 3]
    assert all(epoch.keys() >= FIGURES for epoch in trained.epochs)
    assert trained.epochs[-1]["train/loss"] < trained.epochs[0]["train/loss"]
    times = [event.time.ToMilliseconds() for event in trained.events if event.HasField("epoch_completed")]
    assert times == sorted(set(times))
    evaluation = client.evaluation(trained.run.model_version).evaluation
    measured = {metric.name: metric.value for metric in evaluation.metrics}
    assert measured["val/loss"] == pytest.approx(trained.epochs[-1]["val/loss"])
    assert np.sum([row.counts for row in evaluation.confusion_matrix]) == 4
    assert [one.num_examples for one in evaluation.classes] == [2, 2]


def test_the_model_says_under_which_licence_it_is(trained: Ended) -> None:
    """The manifest names it, and a notice says what it asks; repeats of small classes are said as well."""
    assert trained.manifest.license == "AGPL-3.0-only"
    assert trained.manifest.backbone.weights_origin == "trained"
    assert [one.reason for one in trained.manifest.notices] == [
        "TOPPED_UP",
        "TOPPED_UP",
        "COPYLEFT",
        "UNKNOWN_NOT_TOLD",
    ]
    assert trained.manifest.parity.max_abs_diff <= 1e-3


def test_the_worker_itself_never_loads_it(trained: Ended) -> None:
    """OpenCV and Polars, which Ultralytics loads, are not in the worker that had it train."""
    worker_id = next(event.attempt_started.worker_id for event in trained.events if event.HasField("attempt_started"))
    maps = Path(f"/proc/{worker_id.split('-')[-2]}/maps").read_text()
    assert "onnxruntime" in maps
    assert not any(name in maps for name in ("cv2", "polars", "ultralytics"))


def test_it_serves_and_leaves_as_it_was_trained(trained: Ended, client: Client, folder: Path, tmp_path: Path) -> None:
    """Served, exported as ONNX, and built again by PyTorch it answers alike; the licences are in the zip."""
    assert trained.run.model_version
    pictures = [next((folder / label).glob("*.png")) for label in ("red", "blue")]
    served = serve(client, trained.run.model_version, pictures)
    made = client.export(trained.run.model_version, tmp_path)
    with zipfile.ZipFile(made.path) as archive:
        archive.extractall(tmp_path / "unpacked")
    unpacked = tmp_path / "unpacked"
    assert {path.stem for path in (unpacked / "LICENSES").iterdir()} == {"Apache-2.0", "AGPL-3.0-only"}
    assert "under AGPL-3.0-only" in (unpacked / "README.md").read_text()
    run(bare(), unpacked / "predict.py", "--self-test")
    command = [sys.executable, "-c", IN_TORCH, *map(str, pictures)]
    alone = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    told = subprocess.run(command, cwd=unpacked, env=alone, capture_output=True, text=True, check=True).stdout
    alike([json.loads(line) for line in told.splitlines() if line.startswith("{")], served, 1e-3)
    back = client.import_model(made.path, "yolo-back")
    alike(serve(client, back.name, pictures), served, 1e-6)


def test_a_frozen_body_stays_and_its_head_is_trained(client: Client, stack: Stack) -> None:
    """With freeze BODY the published body is the random one that the seed gives; `fast` finds the same features."""
    fields = {"num_epochs": 2, "learning_rate": 1e-2, "target_size": 0, "seed": 7}
    frozen = train(client, stack, preset="baseline", freeze="BODY", **fields)
    assert len(frozen.epochs) == 2
    assert all(epoch.keys() >= FIGURES for epoch in frozen.epochs)
    assert frozen.manifest.backbone.weights_origin == "random"
    fast = train(client, stack, preset="fast", seed=7)
    assert fast.manifest.backbone.weights_sha256 == frozen.manifest.backbone.weights_sha256
    assert fast.manifest.license == "AGPL-3.0-only"
    assert {metric.name: metric.value for metric in fast.run.metrics}["val/accuracy"] == 1.0


def test_it_has_other_input_sizes(client: Client, stack: Stack) -> None:
    """Its trainer, and `fast`, take pictures as large as the recipe says; both publish a body of that size."""
    fields = {"num_epochs": 1, "target_size": 0, "seed": 7, "input_size": 96}
    for ended in (
        train(client, stack, preset="baseline", freeze="NONE", **fields),
        train(client, stack, preset="baseline", freeze="BODY", **fields),
        train(client, stack, preset="fast", seed=7, input_size=96),
    ):
        assert (ended.manifest.recipe.input_size, ended.manifest.backbone.preprocessing.size) == (96, 96)


def fitting(run: Run, home: Path) -> tuple[int, Path]:
    """Waits until Ultralytics trains: its process, and the folder it runs in."""
    for said in run.watch():
        if isinstance(said, Progress) and said.phase == "fitting" and said.completed:
            break
    ((pid, folder),) = jobs(home).items()
    return pid, folder


def test_a_cancelled_run_leaves_nothing_behind(client: Client, stack: Stack) -> None:
    """Cancelled in the middle of an epoch it ends as CANCELLED, its process and its folder are gone."""
    run = client.train("yolo", preset="baseline", freeze="NONE", num_epochs=1000, **RANDOM)
    pid, folder = fitting(run, stack.home)
    run.cancel()
    until(lambda: not alive(pid), "the process is gone")
    until(lambda: not folder.exists(), "its folder is gone")
    with pytest.raises(FailedPrecondition) as ended:
        run.result()
    assert ended.value.reason == "CANCELLED"


def test_a_worker_that_is_killed_leaves_nothing_behind(own_stack: Stack, folder: Path) -> None:
    """Even where the worker has no time to tidy up, Ultralytics ends with it, and takes its folder along."""
    with own_stack, Client(own_stack.addresses) as client:
        client.push("yolo", folder)
        run = client.train("yolo", preset="baseline", freeze="NONE", num_epochs=1000, **RANDOM)
        pid, job = fitting(run, own_stack.home)
        os.kill(parent_of(pid), signal.SIGKILL)
        until(lambda: not alive(pid), "the process is gone")
        until(lambda: not job.exists(), "its folder is gone")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"preset": "fine_tune"}, "architecture"),
        ({"preset": "baseline", "rotation_degrees": 10}, "rotation_degrees"),
        ({"preset": "baseline", "frozen_mode": "TRAIN"}, "frozen_mode"),
        ({"preset": "baseline", "brightness": 0.1, "contrast": 0.3}, "contrast"),
        ({"preset": "baseline", "mixup": 0.2}, "mixup"),
    ],
    ids=str,
)
def test_what_ultralytics_cannot_do_is_refused_by_field(client: Client, fields: dict[str, Any], field: str) -> None:
    """A recipe that its trainer has no way to follow is refused before anything is queued."""
    with pytest.raises(InvalidArgument) as refused:
        client.train("yolo", **RANDOM, **fields)
    assert [name for name, _ in refused.value.violations] == [f"recipe.{field}"]
