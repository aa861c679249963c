"""The model of an exported zip as every peer runs it: decoding by the zip's own images.py, ONNX Runtime on one thread.

It runs in the environments of all peers, and so needs numpy, onnxruntime and Pillow alone. `python -m
benchmarks.peers.classifier FOLDER PICTURES THREADS SECONDS` answers the pictures of a folder without any server, and
prints what that costs and the answers as one line of JSON.
"""

import importlib.util
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

Pixels = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]
Answer = list[tuple[str, float]]

TOP = 5
# Where a peer makes batches: what a picture may wait for others.
MAX_BATCH_SECONDS = 0.002


class Classifier:
    """Any number of threads may call it."""

    def __init__(self, folder: Path) -> None:
        self._images = _images(folder / "images.py")
        self.labels: list[str] = list(_json(folder / "labels.json")["id2label"].values())
        self._preprocessing = self._images.Preprocessing(**_json(folder / "preprocessing.json")["image"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(folder / "model.onnx", options, ["CPUExecutionProvider"])

    def pixels(self, picture: bytes) -> Pixels:
        """uint8[size, size, 3] of a JPEG file."""
        how = self._preprocessing
        return np.asarray(self._images.fit(self._images.decode(picture, how.draft), how))

    def probabilities(self, pixels: Pixels) -> Probabilities:
        """float32[n, classes] of uint8[n, size, size, 3]."""
        rows: Probabilities = self._session.run(["probabilities"], {"pixels": pixels})[0]
        return rows

    def answer(self, pictures: Sequence[bytes]) -> list[Answer]:
        """The best classes of each picture, all in one forward pass."""
        rows = self.probabilities(np.stack([self.pixels(one) for one in pictures]))
        return [self._best(row) for row in rows]

    def _best(self, row: Probabilities) -> Answer:
        order = np.argsort(-row, kind="stable")[:TOP]
        return [(self.labels[index], float(row[index])) for index in order]


def predictions(answer: Answer) -> dict[str, Any]:
    """An answer as peers that speak JSON send it."""
    return {"predictions": [{"label": label, "score": score} for label, score in answer]}


def _images(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("images", path)
    assert spec is not None  # noqa: S101 - it is a file of Python
    assert spec.loader is not None  # noqa: S101 - the same
    module = importlib.util.module_from_spec(spec)
    sys.modules["images"] = module  # dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    folder, pictures, threads, seconds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    classifier = Classifier(folder)
    files = [path.read_bytes() for path in sorted(pictures.iterdir())]
    answers = [classifier.answer([one])[0] for one in files]
    counts = [0] * threads
    began, wall = time.process_time(), time.perf_counter()

    def work(place: int) -> None:
        while time.perf_counter() < wall + seconds:
            classifier.answer([files[(place + counts[place]) % len(files)]])
            counts[place] += 1

    workers = [threading.Thread(target=work, args=(place,)) for place in range(threads)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    cost = (time.process_time() - began) / sum(counts)
    rate = sum(counts) / (time.perf_counter() - wall)
    print(json.dumps({"cpu_seconds": cost, "rate": rate, "answers": answers}))


if __name__ == "__main__":
    main()
