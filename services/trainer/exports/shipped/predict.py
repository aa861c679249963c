"""What pictures show, by the model in this folder. It needs what requirements.txt names.

`python predict.py some.jpg other.png` prints the best classes of each picture, with `--json` as one object per line.
`python predict.py --max-wrong 5% some.jpg` says `unsure` where an answer is not sure enough for that; README.md says
what is promised.
`python predict.py --self-test` tells whether the model answers here as it did where it was made.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import promise
from error_control import is_unsure
from images import BadImage, Preprocessing, decode, fit
from runner import NAME, Network

HERE = Path(__file__).resolve().parent
# Decoders of JPEG round differently.
MAX_LEVELS = 4


class Model:
    """The network, its labels, and how pictures come to it."""

    def __init__(self, folder: Path = HERE) -> None:
        id2label = _json(folder / "labels.json")["id2label"]
        self.labels = [id2label[str(index)] for index in range(len(id2label))]
        self.preprocessing = Preprocessing(**_json(folder / "preprocessing.json")["image"])
        self._neighbours = Neighbours(folder / "neighbours.npz") if (folder / "neighbours.npz").exists() else None
        self._network = Network(folder)

    def pixels(self, picture: bytes) -> npt.NDArray[np.uint8]:
        """uint8[size, size, 3] of a JPEG, PNG or WebP file. BadImage where it is none."""
        return np.asarray(fit(decode(picture, self.preprocessing.draft), self.preprocessing))

    def probabilities(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """float32[n, classes] of uint8[n, size, size, 3]; each row sums to 1."""
        answers: npt.NDArray[np.float32] = self._network.run(["probabilities"], {"pixels": pixels})[0]
        return answers

    def predict(self, picture: bytes, top: int, confidence: float | None = None) -> dict[str, Any]:
        """The most probable classes of a picture, best first, whether it is like nothing that was trained on, and
        whether the best is no surer than a confidence.
        """
        row, features = self._network.run(["probabilities", "features"], {"pixels": self.pixels(picture)[None]})
        order = np.argsort(-row[0], kind="stable")[:top]
        best = [{"label": self.labels[index], "score": float(row[0][index])} for index in order]
        known = self._neighbours is None or self._neighbours.distance(features[0]) <= self._neighbours.max_distance
        return {"predictions": best, "unknown": not known, "unsure": is_unsure(float(row[0].max()), confidence)}


class Neighbours:
    """The training examples' features, and how far from them a picture may be that is like them."""

    def __init__(self, file: Path) -> None:
        with np.load(file, allow_pickle=False) as stored:
            self.max_distance = float(stored["max_distance"])
            self._rows, self._nearest = stored["rows"].astype(np.float32), int(stored["nearest"])

    def distance(self, features: npt.NDArray[np.float32]) -> float:
        """One minus the mean cosine with the nearest, in [0, 2]."""
        cosines = self._rows @ (features / max(float(np.linalg.norm(features)), 1e-12))
        return 1 - float(np.sort(cosines)[-self._nearest :].mean())


def self_test(model: Model, folder: Path = HERE) -> dict[str, Any]:
    """The model's answers to the golden pictures, against those that were stored with it."""
    with np.load(folder / "golden.npz", allow_pickle=False) as golden:
        pixels, expected, picture = (golden[name] for name in ("pixels", "probabilities", "picture"))
    answers = np.concatenate([model.probabilities(one[None]) for one in pixels])
    agreement = float((answers.argmax(axis=1) == expected.argmax(axis=1)).mean())
    difference = float(np.abs(answers - expected).max())
    levels = int(np.abs(model.pixels(picture.tobytes()).astype(int) - pixels[0]).max())
    may = _json(folder / "export.json")
    same = agreement == 1 or not may["same_classes"]
    passed = same and difference <= may["max_abs_diff"] and levels <= MAX_LEVELS
    return {
        "self_test": "passed" if passed else "failed",
        "golden": len(expected),
        "top1_agreement": agreement,
        "max_abs_diff": difference,
        "max_pixel_diff": levels,
        "runtime": NAME,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="What pictures show.")
    parser.add_argument("pictures", nargs="*", type=Path, metavar="IMAGE", help="JPEG, PNG or WebP")
    parser.add_argument("--top", type=int, default=3, help="classes per picture (default: 3)")
    parser.add_argument("--json", action="store_true", help="one JSON object per picture")
    promise.add_to(parser)
    parser.add_argument("--self-test", action="store_true", help="try the model on the pictures that came with it")
    given = parser.parse_args()
    if given.self_test == bool(given.pictures):
        parser.error("give pictures, or --self-test")
    confidence = promise.min_confidence(HERE, parser, given.max_wrong)
    model = Model()
    if given.self_test:
        report = self_test(model)
        print(json.dumps(report))
        return 0 if report["self_test"] == "passed" else 1
    return max([_show(model, path, given, confidence) for path in given.pictures])


def _show(model: Model, path: Path, given: argparse.Namespace, confidence: float | None) -> int:
    try:
        answer = model.predict(path.read_bytes(), given.top, confidence)
    except (BadImage, OSError) as bad:
        print(f"{path}: {bad.message if isinstance(bad, BadImage) else bad.strerror}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps({"file": str(path), **answer}, ensure_ascii=False))
    else:
        shown = "  ".join(f"{one['label']} {one['score']:.3f}" for one in answer["predictions"])
        print(f"{path}: {promise.held_back(answer)}{shown}")
    return 0


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
