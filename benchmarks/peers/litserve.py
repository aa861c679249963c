"""`python -m benchmarks.peers.litserve FOLDER PORT WORKERS BATCH`: an exported zip behind LitServe."""

import sys
from pathlib import Path
from typing import Annotated, Any

import litserve
from fastapi import File

from benchmarks.peers.classifier import MAX_BATCH_SECONDS, Answer, Classifier, predictions

folder, port, workers, batch = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])


class PictureApi(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002 - there is one
        self.classifier = Classifier(folder)

    def decode_request(self, request: Annotated[bytes, File()]) -> bytes:
        return request

    def predict(self, given: Any) -> Any:
        """Of one picture, or of several where they are batched."""
        return self.classifier.answer([given])[0] if isinstance(given, bytes) else self.classifier.answer(given)

    def encode_response(self, output: Answer) -> dict[str, Any]:
        return predictions(output)


if __name__ == "__main__":
    # With a timeout of 0, its default, a worker that makes batches asks an empty queue again and again without a pause,
    # and takes all of a core.
    api = PictureApi(max_batch_size=batch, batch_timeout=MAX_BATCH_SECONDS)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")
