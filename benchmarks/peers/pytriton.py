"""`python -m benchmarks.peers.pytriton FOLDER PORT WORKERS BATCH`: an exported zip behind Triton, by PyTriton."""

import json
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
from pytriton.decorators import batch as batched
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.peers.classifier import Classifier, predictions
from benchmarks.peers.processes import free_port


def inference(folder: Path) -> Any:
    """What runs one instance."""
    classifier = Classifier(folder)

    @batched
    def infer(pictures: Any) -> dict[str, Any]:
        answers = classifier.answer([one[0] for one in pictures])
        return {"answers": np.array([[json.dumps(predictions(one)).encode()] for one in answers], object)}

    return infer


def main() -> None:
    folder, port, workers, batch = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    # Triton's own process for Python looks for the library of this very interpreter, and may find another one.
    os.environ["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
    http, metrics = free_port(), free_port()
    config = TritonConfig(
        http_address="127.0.0.1", http_port=http, grpc_address="127.0.0.1", grpc_port=port, metrics_port=metrics
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="pictures",
            infer_func=[inference(folder) for _ in range(workers)],
            inputs=[Tensor(name="pictures", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="answers", dtype=bytes, shape=(1,))],
            # Without a batch size it is as PyTriton has it: 4, of what waits.
            config=ModelConfig(max_batch_size=batch, batcher=DynamicBatcher()) if batch else ModelConfig(),
        )
        triton.serve()


if __name__ == "__main__":
    main()
