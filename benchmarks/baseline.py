"""`fast` against the recipe it replaces, on the same pictures and the same weights, in one run: accuracy, time, memory.

usage: baseline.py [FOLDER] [--draws N] [--only costs|accuracies]
       (default: ../shared/data/catsdogs, 3; train/ and val/ of class folders)

Trains on train/ and measures on val/: once on all of train/, and N times on 15 pictures per class drawn from it, the
same for each recipe. `baseline` is the preset, with its body in eval mode and, as a plain script leaves it, in train
mode; the script itself is `naive.py`. Seconds are those from a worker's claim to SUCCEEDED, with its imports done, and
the script's after its imports. Memory is the most a process had resident. About 20 minutes on two cores.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from handful import Client
from handful.cli.stack import Stack
from handful.folders import find
from handful.v1.bundle_pb2 import SPLIT_TRAIN
from handful.v1.trainer_pb2 import TrainingRunEvent

FEW = 15
FAST_DRAWS = 20
RECIPES: dict[str, dict[str, Any]] = {
    "fast": {},
    "baseline, eval mode": {"preset": "baseline"},
    "baseline, train mode": {"preset": "baseline", "frozen_mode": "TRAIN"},
}


@dataclass(frozen=True)
class Cost:
    """What one training cost, and the memory its process held before it began."""

    accuracy: float
    seconds: float
    peak_bytes: float
    imports_bytes: float

    @property
    def own_bytes(self) -> float:
        return self.peak_bytes - self.imports_bytes


def memory(pid: int, which: str) -> int:
    """Bytes resident in a process: now ("VmRSS"), or at most so far ("VmHWM")."""
    found = re.search(rf"{which}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


def train(client: Client, dataset: str, **fields: Any) -> tuple[float, float, int]:
    """Trains once: the accuracy on val/, the seconds from the claim to the end, and the process of the worker."""
    run = client.train(dataset, **fields)
    events = [event for event in run.watch() if isinstance(event, TrainingRunEvent)]
    (claimed,) = (event for event in events if event.HasField("attempt_started"))
    seconds = (events[-1].time.ToNanoseconds() - claimed.time.ToNanoseconds()) / 1e9
    figures = client.evaluation(run.result().model_version).evaluation.metrics
    accuracy = next(one.value for one in figures if one.name == "val/accuracy")
    return accuracy, seconds, int(claimed.attempt_started.worker_id.split("-")[-2])


@contextmanager
def fresh(home: Path, *pushed: tuple[str, Path]) -> Iterator[Client]:
    """A stack of its own with one worker, and datasets in it."""
    with Stack.on_free_ports(home) as stack, Client(stack.addresses) as client:
        for name, folder in pushed:
            client.push(name, folder)
        yield client
    shutil.rmtree(home)


def _noise(folder: Path) -> Path:
    chance = np.random.default_rng(0)
    for number in range(8):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return folder


def drawn(folder: Path, place: Path, seed: int) -> Path:
    """FEW pictures of every class of train/, and all of val/, in a folder of their own."""
    by_class = defaultdict(list)
    for file in find(folder):
        if file.split == SPLIT_TRAIN:
            by_class[file.label].append(file.path)
    for label, paths in by_class.items():
        (place / "train" / label).mkdir(parents=True)
        for position in np.random.default_rng(seed).permutation(len(paths))[:FEW]:
            path = sorted(paths)[position]
            (place / "train" / label / path.name).symlink_to(path.resolve())
    (place / "val").symlink_to((folder / "val").resolve())
    return place


def costs_of_fast(place: Path, folder: Path) -> tuple[Cost, Cost]:
    """With nothing cached, and again, on a worker that has trained on pictures of noise before: it has its imports."""
    noise = _noise(place / "noise")
    with fresh(place / "fast", ("noise", noise), ("photos", folder)) as client:
        pid = train(client, "noise")[2]
        before = memory(pid, "VmRSS")
        costs = []
        for _ in range(2):
            accuracy, seconds, pid = train(client, "photos")
            costs.append(Cost(accuracy, seconds, memory(pid, "VmHWM"), before))
    return costs[0], costs[1]


def costs_of_script(folder: Path, *arguments: str) -> tuple[Cost, float]:
    """And the seconds of its validation, of which it does ten."""
    command = [sys.executable, str(Path(__file__).with_name("naive.py")), str(folder), *arguments]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    cost = Cost(found["accuracy"], found["seconds"], found["peak_bytes"], found["imports_bytes"])
    return cost, found["validation_seconds"]


def accuracies(place: Path, folder: Path, draws: int) -> dict[str, list[float]]:
    """Of each recipe on each draw of FEW pictures per class; of `fast` on more of them."""
    found: dict[str, list[float]] = defaultdict(list)
    for draw in range(max(draws, FAST_DRAWS)):
        pictures = drawn(folder, place / f"draw{draw}", draw)
        with fresh(place / f"home{draw}", ("photos", pictures)) as client:
            for name, fields in RECIPES.items():
                if name == "fast" or draw < draws:
                    found[name].append(train(client, "photos", **fields)[0])
    return found


def report_costs(name: str, cost: Cost) -> None:
    print(
        f"{name:34} accuracy {cost.accuracy:.3f}  {cost.seconds:7.2f} s  peak {cost.peak_bytes / 1e6:6.0f} MB, "
        f"of it {cost.own_bytes / 1e6:5.0f} MB over its imports"
    )


def compare_costs(place: Path, folder: Path) -> None:
    """On all of train/: seconds and memory of `fast` and of the script."""
    cold, warm = costs_of_fast(place, folder)
    script, validation = costs_of_script(folder)
    train_mode, _ = costs_of_script(folder, "--train-mode")
    report_costs("fast, nothing cached", cold)
    report_costs("fast, again", warm)
    report_costs("script, body in eval mode", script)
    report_costs("script, body in train mode", train_mode)
    without = script.seconds - validation
    print(
        f"the script takes {script.seconds / cold.seconds:.1f} x as long as fast with nothing cached, "
        f"{script.seconds / warm.seconds:.0f} x as long as again; "
        f"without its validation {without / cold.seconds:.1f} x and {without / warm.seconds:.0f} x"
    )
    print(
        f"memory, fast / script: {cold.peak_bytes / script.peak_bytes:.2f}; "
        f"over what the imports hold: {cold.own_bytes / script.own_bytes:.2f}"
    )


def compare_accuracies(place: Path, folder: Path, draws: int) -> None:
    """Preset against preset, on all of train/ and on the draws."""
    with fresh(place / "all", ("photos", folder)) as client:
        full = {name: train(client, "photos", **fields)[0] for name, fields in RECIPES.items()}
        larger = train(client, "photos", architecture="efficientnet_lite2")[0]
        print(f"fast, efficientnet_lite2, all of train/: {larger:.3f}", flush=True)
    few = accuracies(place, folder, draws)
    for name in RECIPES:
        values = few[name]
        error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
        ahead = np.mean(few["fast"][: len(values)]) - np.mean(values)
        print(
            f"{name:22} all of train/ {full[name]:.3f} ({full['fast'] - full[name]:+.3f} for fast)   {FEW} per class "
            f"{np.mean(values):.3f} ± {error:.3f}, {len(values)} draws ({ahead:+.3f} for fast on the same)"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=Path("../shared/data/catsdogs"))
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--only", choices=("costs", "accuracies"))
    given = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="handful-bench-"))
    if given.only != "accuracies":
        compare_costs(place, given.folder)
    if given.only != "costs":
        compare_accuracies(place, given.folder, given.draws)
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
