"""What pictures show, by the model in this folder. It needs numpy, onnxruntime and Pillow; see requirements.txt.

`python predict.py some.jpg other.png` prints the best classes of each picture, with `--json` as one object per line.
`python predict.py --self-test` tells whether the model answers here as it did where it was made.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Without this ONNX Runtime tells Microsoft of its use, from 1.32 on; it is read when the runtime is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime
from images import BadImage, Preprocessing, decode, fit

HERE = Path(__file__).resolve().parent
# How far an answer may be from the one that was stored.
MAX_DIFFERENCE = 1e-3
# Decoders of JPEG round differently.
MAX_LEVELS = 4


class Model:
    """The network, its labels, and how pictures come to it."""

    def __init__(self, folder: Path = HERE) -> None:
        id2label = _json(folder / "labels.json")["id2label"]
        self.labels = [id2label[str(index)] for index in range(len(id2label))]
        self.preprocessing = Preprocessing(**_json(folder / "preprocessing.json")["image"])
        self._session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])

    def pixels(self, picture: bytes) -> npt.NDArray[np.uint8]:
        """uint8[size, size, 3] of a JPEG, PNG or WebP file. BadImage where it is none."""
        return np.asarray(fit(decode(picture, self.preprocessing.draft), self.preprocessing))

    def probabilities(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """float32[n, classes] of uint8[n, size, size, 3]; each row sums to 1."""
        answers: npt.NDArray[np.float32] = self._session.run(["probabilities"], {"pixels": pixels})[0]
        return answers

    def predict(self, picture: bytes, top: int) -> list[dict[str, Any]]:
        """The most probable classes of a picture, best first."""
        row = self.probabilities(self.pixels(picture)[None])[0]
        order = np.argsort(-row, kind="stable")[:top]
        return [{"label": self.labels[index], "score": float(row[index])} for index in order]


def self_test(model: Model, folder: Path = HERE) -> dict[str, Any]:
    """The model's answers to the golden pictures, against those that were stored with it."""
    with np.load(folder / "golden.npz", allow_pickle=False) as golden:
        pixels, expected, picture = (golden[name] for name in ("pixels", "probabilities", "picture"))
    answers = np.concatenate([model.probabilities(one[None]) for one in pixels])
    agreement = float((answers.argmax(axis=1) == expected.argmax(axis=1)).mean())
    difference = float(np.abs(answers - expected).max())
    levels = int(np.abs(model.pixels(picture.tobytes()).astype(int) - pixels[0]).max())
    passed = agreement == 1 and difference <= MAX_DIFFERENCE and levels <= MAX_LEVELS
    return {
        "self_test": "passed" if passed else "failed",
        "golden": len(expected),
        "top1_agreement": agreement,
        "max_abs_diff": difference,
        "max_pixel_diff": levels,
        "onnxruntime": onnxruntime.__version__,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="What pictures show.")
    parser.add_argument("pictures", nargs="*", type=Path, metavar="IMAGE", help="JPEG, PNG or WebP")
    parser.add_argument("--top", type=int, default=3, help="classes per picture (default: 3)")
    parser.add_argument("--json", action="store_true", help="one JSON object per picture")
    parser.add_argument("--self-test", action="store_true", help="try the model on the pictures that came with it")
    given = parser.parse_args()
    if given.self_test == bool(given.pictures):
        parser.error("give pictures, or --self-test")
    model = Model()
    if given.self_test:
        report = self_test(model)
        print(json.dumps(report))
        return 0 if report["self_test"] == "passed" else 1
    return max([_show(model, path, given) for path in given.pictures])


def _show(model: Model, path: Path, given: argparse.Namespace) -> int:
    try:
        best = model.predict(path.read_bytes(), given.top)
    except (BadImage, OSError) as bad:
        print(f"{path}: {bad.message if isinstance(bad, BadImage) else bad.strerror}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps({"file": str(path), "predictions": best}, ensure_ascii=False))
    else:
        print(f"{path}: " + "  ".join(f"{one['label']} {one['score']:.3f}" for one in best))
    return 0


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
