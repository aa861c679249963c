"""`python -m benchmarks.peers.mlserver FOLDER PORT WORKERS BATCH`: an exported zip behind MLServer."""

import asyncio
import json
import sys
from pathlib import Path

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from benchmarks.peers.classifier import MAX_BATCH_SECONDS, Classifier, predictions
from benchmarks.peers.processes import free_port


class Pictures(MLModel):
    async def load(self) -> bool:
        self.classifier = Classifier(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Of one picture, or of several where they are batched."""
        answers = self.classifier.answer(list(payload.inputs[0].data))
        data = [json.dumps(predictions(one)).encode() for one in answers]
        output = ResponseOutput(name="answers", shape=[len(data), 1], datatype="BYTES", data=data)
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main() -> None:
    folder, port, workers, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    settings = Settings(
        host="127.0.0.1",
        http_port=free_port(),
        grpc_port=port,
        metrics_port=free_port(),
        parallel_workers=workers,
        debug=False,
    )
    model = ModelSettings(
        name="pictures",
        implementation="benchmarks.peers.mlserver.Pictures",
        parameters=ModelParameters(uri=folder),
        max_batch_size=batch if batch > 1 else 0,
        max_batch_time=MAX_BATCH_SECONDS if batch > 1 else 0.0,
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(main())
