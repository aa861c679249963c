"""`python -m benchmarks.peers.bentoml FOLDER PORT WORKERS BATCH`: an exported zip behind BentoML.

The service is read again in every process that BentoML starts, and so is told by the environment what it serves. A file
of a form reaches it as a path: bytes are none of BentoML's inputs.
"""

import os
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    folder, port, workers, batch = sys.argv[1:]
    told = {"PEER_FOLDER": folder, "PEER_WORKERS": workers, "PEER_BATCH": batch}
    where = ["--host", "127.0.0.1", "--port", port, "--working-dir", str(Path.cwd())]
    served = "benchmarks.peers.bentoml:PictureService"
    os.execve(sys.executable, [sys.executable, "-m", "bentoml", "serve", served, *where], {**os.environ, **told})  # noqa: S606 - this very file

import bentoml

from benchmarks.peers.classifier import Classifier, predictions

BATCH = int(os.environ["PEER_BATCH"])
# Of an answer, at most: how long a picture waits for others BentoML learns by itself.
MAX_LATENCY_MS = 1000


@bentoml.service(workers=int(os.environ["PEER_WORKERS"]))
class PictureService:
    def __init__(self) -> None:
        self.classifier = Classifier(Path(os.environ["PEER_FOLDER"]))

    if BATCH == 1:

        @bentoml.api(route="/predict")
        def predict(self, pictures: Path) -> dict[str, Any]:
            return predictions(self.classifier.answer([pictures.read_bytes()])[0])

    else:

        @bentoml.api(route="/predict", batchable=True, max_batch_size=BATCH, max_latency_ms=MAX_LATENCY_MS)
        def predict_batch(self, pictures: list[Path]) -> list[dict[str, Any]]:
            return [predictions(one) for one in self.classifier.answer([path.read_bytes() for path in pictures])]
