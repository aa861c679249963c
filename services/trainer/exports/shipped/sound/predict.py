"""What sounds are of, by the model in this folder. It needs what requirements.txt names.

`python predict.py some.wav other.mp3` prints the best classes of each sound, with `--json` as one object per line; of a
long one also those of each of its segments.
`python predict.py --max-wrong 5% some.wav` says `unsure` where an answer is not sure enough for that; README.md says
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
from recordings import BadSound, check_heard, decode, is_silent, silent
from runner import NAME, Network
from sounds import Spectrogram, inputs, pieces

HERE = Path(__file__).resolve().parent

Samples = npt.NDArray[np.float32]


class Model:
    """The network, its labels, and how sounds come to it."""

    def __init__(self, folder: Path = HERE) -> None:
        id2label = _json(folder / "labels.json")["id2label"]
        self.labels = [id2label[str(index)] for index in range(len(id2label))]
        preprocessing = _json(folder / "preprocessing.json")
        self._piece_seconds = float(preprocessing["piece_seconds"])
        self._spectrograms = [Spectrogram(**one) for one in preprocessing["spectrograms"]]
        self._neighbours = Neighbours(folder / "neighbours.npz") if (folder / "neighbours.npz").exists() else None
        self._network = Network(folder)

    def run(self, samples: Samples, rate: int) -> tuple[Samples, Samples]:
        """Probabilities float32[classes] and features of a piece: samples float32[n] at a rate in Hz."""
        taken = inputs(samples, rate, self._spectrograms)
        probabilities, features = self._network.run(["probabilities", "features"], taken)
        return probabilities[0], features[0]

    def predict(self, sound: bytes, top: int, confidence: float | None = None) -> dict[str, Any]:
        """The most probable classes of a WAV, FLAC, OGG or MP3 file, best first, whether it is like nothing that was
        trained on, and whether the best is no surer than a confidence; of several pieces also those of each, with none
        where nothing is heard. BadSound.
        """
        recording = decode(sound)
        check_heard(recording)
        cut = pieces(len(recording.samples), recording.rate, self._piece_seconds)
        parts = [(start / recording.rate, end / recording.rate, recording.samples[start:end]) for start, end in cut]
        heard = [None if is_silent(part) else self.run(part, recording.rate) for _, _, part in parts]
        spoken = [one for one in heard if one is not None]
        if not spoken:
            raise silent()
        rows, features = zip(*spoken, strict=True)
        answer = self._said(np.mean(rows, axis=0), features, top, confidence)
        if len(parts) == 1:
            return answer
        nothing: dict[str, Any] = {"predictions": [], "unknown": False, "unsure": False}
        segments = [
            {"start": start, "end": end, **(nothing if one is None else self._said(one[0], one[1:], top, confidence))}
            for (start, end, _), one in zip(parts, heard, strict=True)
        ]
        return {**answer, "segments": segments}

    def _said(self, row: Samples, features: tuple[Samples, ...], top: int, confidence: float | None) -> dict[str, Any]:
        order = np.argsort(-row, kind="stable")[:top]
        best = [{"label": self.labels[index], "score": float(row[index])} for index in order]
        near = self._neighbours
        known = near is None or min(map(near.distance, features)) <= near.max_distance
        return {"predictions": best, "unknown": not known, "unsure": is_unsure(float(row.max()), confidence)}


class Neighbours:
    """The training examples' features, and how far from them a sound may be that is like them."""

    def __init__(self, file: Path) -> None:
        with np.load(file, allow_pickle=False) as stored:
            self.max_distance = float(stored["max_distance"])
            self._rows, self._nearest = stored["rows"].astype(np.float32), int(stored["nearest"])

    def distance(self, features: npt.NDArray[np.float32]) -> float:
        """One minus the mean cosine with the nearest, in [0, 2]."""
        cosines = self._rows @ (features / max(float(np.linalg.norm(features)), 1e-12))
        return 1 - float(np.sort(cosines)[-self._nearest :].mean())


def self_test(model: Model, folder: Path = HERE) -> dict[str, Any]:
    """The model's answers to the golden sounds, against those that were stored with it."""
    with np.load(folder / "golden.npz", allow_pickle=False) as golden:
        expected = golden["probabilities"]
        found = [decode(golden[f"sound_{place}"].tobytes()) for place in range(len(expected))]
    answers = np.stack([model.run(one.samples, one.rate)[0] for one in found])
    agreement = float((answers.argmax(axis=1) == expected.argmax(axis=1)).mean())
    difference = float(np.abs(answers - expected).max())
    may = _json(folder / "export.json")
    passed = (agreement == 1 or not may["same_classes"]) and difference <= may["max_abs_diff"]
    return {
        "self_test": "passed" if passed else "failed",
        "golden": len(expected),
        "top1_agreement": agreement,
        "max_abs_diff": difference,
        "runtime": NAME,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="What sounds are of.")
    parser.add_argument("sounds", nargs="*", type=Path, metavar="SOUND", help="WAV, FLAC, OGG or MP3")
    parser.add_argument("--top", type=int, default=3, help="classes per sound (default: 3)")
    parser.add_argument("--json", action="store_true", help="one JSON object per sound")
    promise.add_to(parser)
    parser.add_argument("--self-test", action="store_true", help="try the model on the sounds that came with it")
    given = parser.parse_args()
    if given.self_test == bool(given.sounds):
        parser.error("give sounds, or --self-test")
    confidence = promise.min_confidence(HERE, parser, given.max_wrong)
    model = Model()
    if given.self_test:
        report = self_test(model)
        print(json.dumps(report))
        return 0 if report["self_test"] == "passed" else 1
    return max([_show(model, path, given, confidence) for path in given.sounds])


def _show(model: Model, path: Path, given: argparse.Namespace, confidence: float | None) -> int:
    try:
        answer = model.predict(path.read_bytes(), given.top, confidence)
    except (BadSound, OSError) as bad:
        print(f"{path}: {bad.message if isinstance(bad, BadSound) else bad.strerror}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps({"file": str(path), **answer}, ensure_ascii=False))
    else:
        print(f"{path}: {_line(answer)}")
        for one in answer.get("segments", ()):
            print(f"  {one['start']:6.1f} to {one['end']:6.1f} s: {_line(one)}")
    return 0


def _line(answer: dict[str, Any]) -> str:
    shown = "  ".join(f"{one['label']} {one['score']:.3f}" for one in answer["predictions"])
    return f"{promise.held_back(answer)}{shown or 'nothing'}"


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
