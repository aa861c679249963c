"""`python -m benchmarks.peers.rayserve FOLDER PORT WORKERS BATCH`: an exported zip behind Ray Serve.

More than one worker is served as Ray's guide to performance has it: with RAY_SERVE_THROUGHPUT_OPTIMIZED.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

os.environ["RAY_SERVE_THROUGHPUT_OPTIMIZED"] = "1" if int(sys.argv[3]) > 1 else "0"
import ray
from ray import serve
from starlette.requests import Request

from benchmarks.peers.classifier import MAX_BATCH_SECONDS, Answer, Classifier, predictions

folder, port, workers, batch = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
OBJECT_STORE_BYTES = 100 * 1024 * 1024


@serve.deployment
class Pictures:
    def __init__(self, folder: str) -> None:
        self.classifier = Classifier(Path(folder))

    async def __call__(self, request: Request) -> dict[str, Any]:
        return predictions(self.classifier.answer([await request.body()])[0])


@serve.deployment
class Batched:
    def __init__(self, folder: str) -> None:
        self.classifier = Classifier(Path(folder))

    @serve.batch(max_batch_size=batch, batch_wait_timeout_s=MAX_BATCH_SECONDS)
    async def answer(self, pictures: list[bytes]) -> list[Answer]:
        return self.classifier.answer(pictures)

    async def __call__(self, request: Request) -> dict[str, Any]:
        return predictions(await self.answer(await request.body()))


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    ray.init(num_cpus=cores, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    deployment: Any = Pictures if batch == 1 else Batched
    serve.run(deployment.options(num_replicas=workers).bind(str(folder)))
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
