"""Presets side by side, with their defaults and on the same pictures: accuracy on pictures that the model has not seen,
what it calls unknown, seconds.

usage: presets.py [RECIPE ...] [--per-class N] [--draws N] [--test N]
       (default: "preset=fast" "preset=quality" "preset=fine_tune" "preset=baseline"; 15, 3, 100; needs ../shared)

With challenger_epochs in a recipe of `quality`, what both answered out of fold, and how often the challenger won.

Draws N cats and N dogs to train on, a fifth as many to validate, and up to 100 others to test on. Fine-tuning takes
minutes a draw on a CPU. It calls the code that a worker runs, without services.
"""

import argparse
import shutil
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import cast

import numpy as np

from benchmarks.pools import PHOTOGRAPHS
from benchmarks.unknown import strangers
from handful.bundle.heads import Floats
from handful.bundle.images import fit
from handful.bundle.manifest import blob_key, graph_keys, sha256
from handful.bundle.predictor import Backbone, plain
from handful.folders import find
from handful.recipe import recipe
from handful.v1.bundle_pb2 import MODALITY_IMAGE
from handful.v1.trainer_pb2 import Progress, TrainingRunEvent
from handful.v1.worker_pb2 import Checkpoint, Claim
from services.shared.objects import get_first
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.architectures import DEFAULT_ARCHITECTURE
from services.trainer.recipes import resolve
from services.trainer.worker import session
from services.trainer.worker.examples import Example, Examples
from services.trainer.worker.pretrained import PretrainedWeights
from services.trainer.worker.reporting import Reporter
from services.trainer.worker.work import Trained, Work

RECIPES = ("preset=fast", "preset=quality", "preset=fine_tune", "preset=baseline")
LABELS = ("cat", "dog")


class Silent:
    """Tells nobody."""

    def event(self, event: TrainingRunEvent) -> None:
        pass

    def progress(self, progress: Progress) -> None:
        pass

    def checkpoint(self, checkpoint: Checkpoint) -> list[str]:
        return [checkpoint.key]

    def check(self) -> None:
        pass


def drawn(store: FilesystemStore, per_class: int, num_test: int, seed: int) -> tuple[Examples, tuple[Example, ...]]:
    """What a run gets, and what it is tested on."""
    random, split = np.random.default_rng(seed), per_class + max(1, per_class // 5)
    chosen: list[list[Example]] = [[], [], []]
    for index, label in enumerate(LABELS):
        files = [file.path for file in find(PHOTOGRAPHS) if file.label == label]
        for rank, place in enumerate(random.permutation(len(files))[: split + num_test // 2]):
            data = files[place].read_bytes()
            store.put(blob_key("default", sha256(data)), data)
            kind = 0 if rank < per_class else 1 if rank < split else 2
            chosen[kind].append(Example(sha256(data), index, sha256(data)))
    train, val, test = map(tuple, chosen)
    return Examples("default", MODALITY_IMAGE, LABELS, train, val), test


def features(store: FilesystemStore, trained: Trained, test: tuple[Example, ...]) -> tuple[Floats, Floats]:
    """Of the test pictures, and of pictures of something else entirely, as they are served."""
    keys = graph_keys("default", trained.backbone)
    backbone, how = Backbone(get_first(store, keys, trained.backbone.graph_sha256)), trained.backbone.preprocessing
    own = [trained.examples.pixels(store, one, how) for one in test]
    others = [np.asarray(fit(one, plain(how))) for each in strangers(Path("../shared")).values() for one in each[:15]]
    rows = [np.concatenate([backbone.features(one[None]) for one in each]) for each in (own, others)]
    return rows[0], rows[1]


def figures(words: str, per_class: int, num_test: int, seed: int) -> dict[str, float]:
    place = Path(tempfile.mkdtemp(prefix="handful-bench-"))
    store = FilesystemStore(place)
    examples, test = drawn(store, per_class, num_test, seed)
    fields = dict(one.split("=") for one in words.split())
    asked = resolve(recipe({**fields, "seed": seed}), DEFAULT_ARCHITECTURE)
    claim = Claim(training_run="projects/default/trainingRuns/bench", attempt=1, recipe=asked)
    reporter = cast("Reporter", Silent())
    work = Work(claim, store, PretrainedWeights(store), reporter, threads=2, cache=store)
    started = time.perf_counter()
    trained = session.trainer(asked)(work, examples)
    found = {"seconds": time.perf_counter() - started}
    own, others = features(store, trained, test)
    right = trained.head.probabilities(own).argmax(axis=1) == [one.label for one in test]
    found["accuracy"] = float(right.mean())
    if trained.cross_validation is not None and trained.cross_validation.HasField("challenge"):
        ended = trained.cross_validation.challenge
        found |= {"champion out of fold": ended.champion_accuracy, "challenger": ended.challenger_accuracy}
        found["challenger won"] = float(ended.won)
    known = trained.neighbours
    if known is not None:
        found["false unknown"] = float((known.distances(own) > known.max_distance).mean())
        found["strangers unknown"] = float((known.distances(others) > known.max_distance).mean())
    shutil.rmtree(place)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--per-class", type=int, default=15)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--test", type=int, default=100)
    given = parser.parse_args()
    for words in given.recipes:
        found = defaultdict(list)
        for seed in range(given.draws):
            for name, value in figures(words, given.per_class, given.test, seed).items():
                found[name].append(value)
        shown = "  ".join(f"{name} {np.mean(values):.3f}" for name, values in found.items())
        print(f"{given.per_class} per class, {given.draws} draws, {words:30} {shown}", flush=True)


if __name__ == "__main__":
    main()
