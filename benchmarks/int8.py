"""What a backbone in integers is worth beside the same in float32: accuracy with heads of its own, what runtimes take
for it and how far their answers are apart, sizes; and, of the default network, training and serving by real services.

usage: int8.py [FOLDER] [--seconds S] [--rounds N]   (default: ../shared/data/catsdogs, 4 s, 3 rounds)

Heads are fitted on 15 and on 50 pictures per class that are drawn 20 times, and tested on all others. Times of a
forward pass are of the processor, on one thread, the least of some rounds in turns. The server has two threads;
callers, 1, 8 and 32 of them in a process of their own, share the machine with it, and models take turns.
"""

import argparse
import base64
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.backbones import DRAWS, accuracy
from handful import Client
from handful.bundle.heads import Floats
from handful.bundle.predictor import to_pixels
from handful.cli.stack import Stack
from handful.folders import find
from handful.v1.bundle_pb2 import WEIGHTS_PRETRAINED, BackbonePrecision, Recipe
from handful.v1.inference_pb2 import PredictRequest
from services.inference.runtimes import DEFAULT, RUNTIMES
from services.inference.runtimes.choosing import AUTO, allowed, pick
from services.inference.runtimes.measuring import measure
from services.shared.objects.filesystem import FilesystemStore
from services.shared.settings import read
from services.trainer import quantizing
from services.trainer.architectures import ARCHITECTURES, ArchitectureRow
from services.trainer.worker import backbones
from services.trainer.worker.children import Children
from services.trainer.worker.logistic_regression import fit
from services.trainer.worker.pretrained import opened
from services.trainer.worker.settings import WorkerSettings
from tests.inference_process import InferenceProcess, inference
from tests.processes import until

PRECISIONS = ("FLOAT32", "INT8")
PER_CLASS = (15, 50)
CALLERS = (1, 8, 32)
CAP, MEASURED_SECONDS = 8, 4.0
Labels = npt.NDArray[np.int64]


def bodies(row: ArchitectureRow, store: FilesystemStore) -> dict[str, tuple[bytes, float]]:
    """By precision the graph, and the seconds until it was there; that of integers is made from the other."""
    weights, found = opened(read(WorkerSettings)), {}
    for name in PRECISIONS:
        recipe = Recipe(architecture=row.id, weights=WEIGHTS_PRETRAINED)
        recipe.backbone_precision = BackbonePrecision.Value(f"BACKBONE_PRECISION_{name}")
        began = time.perf_counter()
        graph = backbones.find(store, weights, recipe, row.preprocessing, "bench", Children())[1]
        found[name] = graph, time.perf_counter() - began
    return found


def apart(mine: Floats, theirs: Floats, labels: Labels) -> str:
    """How far answers of heads fitted on some features are from theirs on others of the same pictures."""
    furthest, flips = [], []
    for draw in range(DRAWS):
        random = np.random.default_rng(draw)
        train = np.concatenate([random.permutation(np.flatnonzero(labels == one))[:15] for one in np.unique(labels)])
        head = fit(mine[train], labels[train], len(np.unique(labels)), 1.0, 200, lambda _: None)
        here, there = head.probabilities(mine), head.probabilities(theirs)
        furthest.append(np.abs(here - there).max())
        flips.append((here.argmax(axis=1) != there.argmax(axis=1)).mean())
    return f"dp at most {max(furthest):.3f}, median {np.median(furthest):.3f}; other best class {np.mean(flips):.2%}"


def accuracies(features: Floats, labels: Labels) -> str:
    cells = []
    for n in PER_CLASS:
        found = [accuracy(features, labels, n, draw) for draw in range(DRAWS)]
        cells.append(f"{np.mean(found):.3f} ± {np.std(found) / np.sqrt(DRAWS):.3f} at {n}")
    return ", ".join(cells)


def network(row: ArchitectureRow, files: list[Path], labels: Labels) -> None:
    pixels = [to_pixels(file.read_bytes(), row.preprocessing)[None] for file in files]
    features: dict[str, Floats] = {}
    graphs = bodies(row, FilesystemStore(tempfile.mkdtemp(prefix="handful-bench-")))
    for precision, (graph, seconds) in graphs.items():
        by_runtime = {}
        for name in allowed(AUTO):
            body = RUNTIMES[name].load(graph, 1)
            by_runtime[name] = np.concatenate([body.features(one) for one in pixels])
        features[precision] = by_runtime[DEFAULT]
        right = accuracies(features[precision], labels)
        print(f"{row.id} {precision}: {right}; {len(graph) / 1e6:.1f} MB; ready after {seconds:.1f} s")
        rest = measure(allowed(AUTO), graph, [{"pixels": one} for one in pixels[:4]], CAP, MEASURED_SECONDS)
        for name, others in by_runtime.items():
            times = "  ".join(f"{took:.2f} ms ({count})" for of, count, took in rest["rows"] if of == name)
            print(f"  {name:12} {times or 'refused: ' + rest['refused'][name]}")
            if name != DEFAULT:
                print(f"  {'':12} heads of {DEFAULT}: {apart(by_runtime[DEFAULT], others, labels)}")
        choice = pick(rest["rows"])
        print(f"  chosen: {choice.runtime}, {choice.cap} at once", flush=True)
    print(f"  heads of FLOAT32 on INT8: {apart(features['FLOAT32'], features['INT8'], labels)}")
    shown = pixels[:: len(pixels) // quantizing.NUM_PICTURES]
    of_these = RUNTIMES[DEFAULT].load(quantizing.quantize(graphs["FLOAT32"][0], shown), 1)
    seen = np.concatenate([of_these.features(one) for one in pixels])
    print(f"  INT8 with ranges of {len(shown)} of these very photographs: {accuracies(seen, labels)}", flush=True)


def trained(home: Path, folder: Path) -> None:
    """Models of the default network in both precisions in a home folder, with the seconds from claim to success."""
    with Stack.on_free_ports(home) as stack, Client(stack.addresses) as client:
        until(lambda: any((home / "store" / "backbones").rglob("*.onnx")), "the default backbone is there", 120)
        client.push("pictures", folder)
        for precision in PRECISIONS:
            run = client.train("pictures", model=precision.lower(), backbone_precision=precision).result()
            seconds = (run.finish_time.ToNanoseconds() - run.start_time.ToNanoseconds()) / 1e9
            used = client.evaluation(run.model_version).evaluation
            phases = ", ".join(f"{one.phase} {one.seconds:.1f}" for one in used.resources.phases if one.seconds > 0.05)
            figure = next(one.value for one in used.metrics if one.name == "val/accuracy")
            print(f"trained in {precision}, features cold: {seconds:.1f} s ({phases}); val/accuracy {figure:.3f}")


class Callers:
    """Callers of one model, in a process of their own."""

    def __init__(self, server: InferenceProcess, model: str, pictures: list[bytes]) -> None:
        command = [sys.executable, "-m", "benchmarks.peers.load"]
        self._server = server
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        name = f"projects/default/models/{model}"
        requests = [PredictRequest(model=name, image=one).SerializeToString() for one in pictures]
        path = "/handful.v1.InferenceService/Predict"
        setup = {"protocol": "grpc", "address": server.address, "path": path}
        self._tell(setup | {"bodies": [base64.b64encode(one).decode() for one in requests]})

    def ask(self, callers: int, seconds: float) -> tuple[float, float, float]:
        """Answers per second, seconds of the server's processor time for each, and their median latency."""
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        spent = self._server.cpu_seconds
        self._tell({"callers": callers, "seconds": seconds})
        found = json.loads(self._process.stdout.readline())
        if found["failed"]:
            sys.exit(f"{found['failed']} calls failed: {found['why']}")
        spent = self._server.cpu_seconds - spent
        return found["answered"] / found["seconds"], spent / found["answered"], found["p50"]

    def close(self) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._process.stdin.close()
        self._process.wait(30)

    def _tell(self, line: dict[str, object]) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._process.stdin.write(f"{json.dumps(line)}\n")
        self._process.stdin.flush()


def served(home: Path, pictures: list[bytes], seconds: float, rounds: int) -> None:
    found = defaultdict(list)
    with inference(home, HANDFUL_INFERENCE_THREADS="2") as server:
        asking = {precision: Callers(server, precision.lower(), pictures) for precision in PRECISIONS}
        for one in asking.values():
            one.ask(1, 0)
        until(lambda: server.events.count("runtimes measured") == len(PRECISIONS), "graphs are measured", 300)
        time.sleep(3)  # what was chosen takes over
        for _ in range(rounds):
            for callers in CALLERS:
                for precision, one in asking.items():
                    found[precision, callers].append(one.ask(callers, seconds))
        for one in asking.values():
            one.close()
    for callers in CALLERS:
        medians = []
        for precision in PRECISIONS:
            rate, cpu, p50 = (statistics.median(column) for column in zip(*found[precision, callers], strict=True))
            medians.append((rate, cpu))
            print(
                f"{callers:2} callers, {precision:7}: {rate:5.1f} answers/s, {1e3 * cpu:5.2f} ms of the server's "
                f"processor for each, median latency {1e3 * p50:.1f} ms"
            )
        (rate, cpu), (rate8, cpu8) = medians
        print(
            f"{callers:2} callers, INT8 / FLOAT32: answers {rate8 / rate:.2f}, processor {cpu8 / cpu:.2f}", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=Path("../shared/data/catsdogs"))
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    found = find(given.folder)
    names = sorted({file.label for file in found})
    labels = np.array([names.index(file.label) for file in found])
    files = [file.path for file in found]
    for row in ARCHITECTURES.values():
        if row.int8:
            network(row, files, labels)
    with tempfile.TemporaryDirectory(prefix="handful-bench-") as folder:
        home = Path(folder)
        trained(home, given.folder)
        served(home, [file.read_bytes() for file in files[:: len(files) // 16]], given.seconds, given.rounds)


if __name__ == "__main__":
    main()
