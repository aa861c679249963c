"""Gradient training that is killed and taken up again, against training that is not: the same weights, bit for bit.

usage: resume.py [--kills N] [--seeds N] [--at-once N]

For `baseline` and `fine_tune`, and each of 3 seeds, a run is trained twice undisturbed, and then 5 times so that its
worker is killed (SIGKILL): soon after the checkpoint of epoch 1, of epoch 2, and so on; another goes on. Compared are
the SHA-256 of the head and of the body that were published, and every figure of every epoch to the last digit; `fast`,
which has no checkpoints, is trained twice. The first difference ends it with status 1. Pictures are made up: nothing
here depends on what is learned.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from handful import Client
from handful.bundle import manifest
from handful.cli.stack import Stack
from handful.history import History
from handful.v1.bundle_pb2 import ModelManifest
from handful.v1.trainer_pb2 import Failure, TrainingRunEvent
from tests.campaigns import worker_pid

DATASET = "stripes"
PRESETS: dict[str, dict[str, Any]] = {
    "baseline": {"batch_size": 3, "target_size": 0},
    # Everything that draws random numbers or has a past.
    "fine_tune": {"batch_size": 3, "mixup": 0.4, "cutmix": 1.0, "random_erasing": 0.5, "early_stopping_epochs": 9},
}
LATE_SECONDS = 0.3


@dataclass(frozen=True)
class Outcome:
    """What a run made, as far as it hangs on numbers; and after which epoch it was taken up, 0 for not at all."""

    head_sha256: str
    body_sha256: str
    figures: tuple[tuple[int, str, float], ...]
    resumed_after: int = 0

    def same(self, other: "Outcome") -> bool:
        mine, theirs = ((one.head_sha256, one.body_sha256, one.figures) for one in (self, other))
        return mine == theirs


def train(home: Path, client: Client, kill_after: int = 0, late: float = 0.0, **fields: Any) -> Outcome | None:
    """Trains once; if wanted, its first worker is killed after the checkpoint of an epoch. None where the machine was
    so busy that workers were taken for lost three times.
    """
    events: list[TrainingRunEvent] = []
    run = client.train(DATASET, **fields)
    for event in run.watch():
        if not isinstance(event, TrainingRunEvent):
            continue
        events.append(event)
        if event.HasField("checkpoint_saved") and (event.epoch, event.attempt) == (kill_after, 1):
            time.sleep(late)
            started = next(one for one in events if one.HasField("attempt_started"))
            with suppress(ProcessLookupError):
                os.kill(worker_pid(started), signal.SIGKILL)
    if run.training_run.failure.reason == Failure.REASON_WORKER_LOST:
        return None
    version = run.result().model_version
    starts = [one for one in events if one.HasField("attempt_started")]
    digest = next(one.manifest_sha256 for one in client.model_versions(version.split("/")[3]) if one.name == version)
    stored = home / "store" / manifest.bundle_key("default", digest, "manifest.json")
    model = manifest.from_bytes(ModelManifest, stored.read_bytes())
    figures = tuple(
        (epoch.epoch, one.name, one.value)
        for epoch in History(events).epochs
        for one in epoch.metrics
        if one.name.startswith(("train/", "val/", "cv/", "learning_rate"))
    )
    head = next(file.sha256 for file in model.files if file.path == "head.safetensors")
    resumed = starts[-1].attempt_started.resumed_after_epoch
    return Outcome(head, model.backbone.weights_file_sha256, figures, resumed)


def undisturbed(home: Path, client: Client, **fields: Any) -> Outcome:
    """A run in one attempt; others do not count."""
    while True:
        outcome = train(home, client, **fields)
        if outcome is not None and not outcome.resumed_after:
            return outcome


def killed(home: Path, client: Client, kill_after: int, chance: Random, **fields: Any) -> Outcome:
    """A run that was killed in time, and so was taken up; one that was done sooner does not count."""
    while True:
        outcome = train(home, client, kill_after, chance.uniform(0, LATE_SECONDS), **fields)
        if outcome is not None and outcome.resumed_after:
            return outcome


def check(outcomes: Sequence[Outcome], what: str) -> Outcome:
    """The first, where all are the same; else it ends."""
    for number, one in enumerate(outcomes):
        if not one.same(outcomes[0]):
            sys.exit(f"{what}: run {number} differs from run 0\n{one}\n{outcomes[0]}")
    return outcomes[0]


def compare(home: Path, client: Client, kills: int, seeds: int, at_once: int) -> Iterator[str]:
    fast = [undisturbed(home, client, preset="fast") for _ in range(2)]
    check(fast, "fast")
    yield f"fast       twice: {len(fast[0].figures)} figures the same, head {fast[0].head_sha256[:12]}"
    for preset, fields in PRESETS.items():
        for seed in range(seeds):
            how = {"preset": preset, "num_epochs": kills + 1, "seed": seed, **fields}
            with ThreadPoolExecutor(at_once) as pool:
                straight = [pool.submit(undisturbed, home, client, **how) for _ in range(2)]
                chances = [(after, Random(f"{seed} {after}")) for after in range(1, kills + 1)]  # noqa: S311 - moments
                taken_up = [pool.submit(killed, home, client, *chance, **how) for chance in chances]
            outcomes = [one.result() for one in (*straight, *taken_up)]
            first = check(outcomes, f"{preset}, seed {seed}")
            after = ", ".join(str(one.resumed_after) for one in outcomes[2:])
            yield (
                f"{preset:10} seed {seed}: twice undisturbed the same; killed {kills} times, taken up after "
                f"epochs {after}: the same {len(first.figures)} figures, head {first.head_sha256[:12]}, "
                f"body {first.body_sha256[:12]}"
            )


def pictures(folder: Path) -> Path:
    for number in range(10):
        split, label = ("val" if number > 5 else "train"), ("even", "odd")[number % 2]
        path = folder / split / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=3)
    given = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="handful-resume-"))
    stack = Stack.on_free_ports(home)
    stack.environment |= {"HANDFUL_WORKERS": str(given.at_once), "HANDFUL_WORKER_THREADS": "1"}
    started = time.perf_counter()
    with stack, Client(stack.addresses) as client:
        client.push(DATASET, pictures(home / "pictures"))
        for said in compare(home, client, given.kills, given.seeds, given.at_once):
            print(f"{said}  ({time.perf_counter() - started:.0f} s)", flush=True)
    shutil.rmtree(home)


if __name__ == "__main__":
    main()
