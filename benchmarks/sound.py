"""Sounds by `fast`, over real services: the default, which chooses its architecture out of fold, and what each
architecture is worth by itself, on sounds that it was not chosen or trained on.

Spoken digits by a speaker who is not among the three to train on; five kinds of surroundings, whose recordings are none
of those to train on. Training examples are grouped by speaker, and by recording, as their names have it.

usage: sound.py [FOLDER]   (default: ../shared/data, with spoken-digits/ and env-sounds/ in it)
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

from handful import Client
from handful.cli.stack import Stack
from handful.folders import find
from handful.v1.bundle_pb2 import SPLIT_VAL
from handful.v1.trainer_pb2 import TrainingRunEvent

GROUPS = {"spoken-digits": r"_([a-z]+)_", "env-sounds": r"^\d-(\d+)-"}
ARCHITECTURES = ("auto", "speech_embedding", "spectrogram_lite0", "speech_and_spectrogram", "log_mel_statistics")


def measure(client: Client, dataset: str, architecture: str) -> str:
    """Trains once and prints what came of it; the model version."""
    started = time.perf_counter()
    run = client.train(dataset, model=f"{dataset}-{architecture.replace('_', '-')}", architecture=architecture)
    events = [event for event in run.watch() if isinstance(event, TrainingRunEvent)]
    notices = [f"{'':26}{one.notice.message}" for one in events if one.notice.reason == "ARCHITECTURE_CHOSEN"]
    ended = run.result()
    seconds = time.perf_counter() - started
    evaluation = client.evaluation(ended.model_version).evaluation
    figures = {one.name: one.value for one in evaluation.metrics}
    interval = evaluation.accuracy_interval
    print(
        f"  {architecture:24}val/accuracy {figures['val/accuracy']:.3f} ({interval.low:.2f} to {interval.high:.2f})  "
        f"out of fold {figures['cv/accuracy']:.3f}  val/loss {figures['val/loss']:.2f}  {seconds:5.1f} s",
        *notices,
        sep="\n",
        flush=True,
    )
    return ended.model_version


def ask(client: Client, model_version: str, folder: Path) -> None:
    """How long an answer takes, and whether it is that of training."""
    files = [file for file in find(folder) if file.split == SPLIT_VAL]
    client.predict(model_version, files[0].path)
    started = time.perf_counter()
    answers = [client.predict(model_version, file.path).predictions[0].label == file.label for file in files]
    each = (time.perf_counter() - started) / len(files)
    print(f"  asked about each file: {sum(answers) / len(answers):.3f} right, {1000 * each:.0f} ms an answer")


def main(folder: Path) -> None:
    home = Path(tempfile.mkdtemp(prefix="handful-bench-"))
    with Stack.on_free_ports(home) as stack, Client(stack.addresses) as client:
        for name, groups in GROUPS.items():
            if not (folder / name).is_dir():
                continue
            version = client.push(name, folder / name, groups=groups).version
            counts = [sum(getattr(one, split) for one in version.classes) for split in ("num_train", "num_val")]
            print(f"{name}: {len(version.classes)} classes, {counts[0]} to train, {counts[1]} to validate")
            versions = [measure(client, name, architecture) for architecture in ARCHITECTURES]
            ask(client, versions[0], folder / name)
    shutil.rmtree(home)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data"))
