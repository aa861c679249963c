"""The whole line on a folder of pictures: accuracy, cost of retraining, and the baseline beside it, in one run.

usage: line.py [FOLDER]   (default: ../shared/data/catsdogs; train/ and val/ folders of class folders)
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from handful import Client
from handful.cli.stack import Stack
from handful.folders import find
from handful.v1.bundle_pb2 import SPLIT_TRAIN
from handful.v1.trainer_pb2 import TrainingRunEvent

ADDED = 5


def measure(client: Client, dataset: str, name: str, **fields: Any) -> float:
    """Trains once and prints what came of it; the seconds it took."""
    started = time.perf_counter()
    run = client.train(dataset, **fields)
    lags, features, memory = [0.0], "", 0.0
    for event in run.watch():
        if not isinstance(event, TrainingRunEvent):
            continue
        if event.HasField("epoch_completed"):
            lags.append(time.time() - event.time.ToNanoseconds() / 1e9)
            memory = {one.name: one.value for one in event.epoch_completed.metrics}["peak_memory_bytes"]
        if event.HasField("features_ready"):
            ready = event.features_ready
            features = f"features_computed={ready.features_computed} features_cached={ready.features_cached}"
    seconds = time.perf_counter() - started
    version = client.evaluation(run.result().model_version).evaluation
    figures = {one.name: one.value for one in version.metrics}
    print(
        f"{name:34} val/accuracy {figures['val/accuracy']:.3f}  val/loss {figures['val/loss']:.3f}  {seconds:6.1f} s  "
        f"worker peak {memory / 1e6:5.0f} MB  {len(lags) - 1:3d} epochs, latest after {max(lags):.2f} s  {features}"
    )
    return seconds


def main(folder: Path) -> None:
    home = Path(tempfile.mkdtemp(prefix="handful-bench-"))
    with Stack.on_free_ports(home) as stack, Client(stack.addresses) as client:
        client.push("photos", folder)
        measure(client, "photos", "fast, first run (builds the graph)")
        fast = measure(client, "photos", "fast, again")
        grown = home / "grown"
        for file in [file for file in find(folder) if file.split == SPLIT_TRAIN][:ADDED]:
            # Mirrored, so that they are pictures the dataset does not have.
            from PIL import Image, ImageOps

            path = grown / "train" / file.label / f"mirrored-{file.path.stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            ImageOps.mirror(Image.open(file.path)).save(path)
        client.push("photos", grown)
        measure(client, "photos", f"fast, after adding {ADDED} pictures")
        client.push("original", folder)
        eval_mode = measure(client, "original", "baseline, body in eval mode", preset="baseline")
        measure(client, "original", "baseline, frozen_mode=TRAIN", preset="baseline", frozen_mode="TRAIN")
        print(f"baseline (eval mode) / fast (features cached): {eval_mode / fast:.0f} x the time")
    shutil.rmtree(home)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data/catsdogs"))
