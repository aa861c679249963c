"""What each runtime takes for each backbone at hand, and what the server chooses; then a server's start: seconds until
it is ready, of them of the processor, and its memory when ready, after its first answer, and with many callers.

Times are of the processor, on one thread, and the least of some rounds in turns, so that other work on the machine
matters little; those of a picture that is alone are by the clock, and want a machine that does nothing else.
"""

import tempfile
import time
from pathlib import Path

import grpc
import numpy as np

from handful.v1 import inference_pb2_grpc
from handful.v1.inference_pb2 import PredictRequest
from services.inference.runtimes import RUNTIMES
from services.inference.runtimes.choosing import AUTO, allowed, pick
from services.inference.runtimes.measuring import measure
from services.shared import cores
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.architectures import ARCHITECTURES
from tests import real_bundles
from tests.bundles import point
from tests.inference_process import inference
from tests.processes import until

LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
CAP, SECONDS = 8, 4.0
MEGABYTE = 1e6
MODEL = "projects/default/models/shared"


def table(architecture: str) -> None:
    size = ARCHITECTURES[architecture].preprocessing.size
    random = np.random.default_rng(0)
    inputs = [{"pixels": random.integers(0, 256, (1, size, size, 3), dtype=np.uint8)} for _ in range(4)]
    found = measure(allowed(AUTO), real_bundles.graph(architecture), inputs, CAP, SECONDS, cores.usable())
    choice = pick(found["rows"], found["alone"])
    for name in RUNTIMES:
        times = "  ".join(f"{took:5.1f} ({count})" for of, count, took in found["rows"] if of == name)
        print(f"{architecture:20} {name:12} {times or found['refused'].get(name, 'not installed')}")
    for name, threads, took in found["alone"]:
        print(f"{architecture:20} {name:12} {took:5.1f} until one alone is done, on {threads}")
    print(f"{architecture:20} chosen: {choice.runtime}, {choice.cap} at once, one alone on {choice.threads}")


def start(home: Path, named: str) -> None:
    store = FilesystemStore(home / "store")
    point(store, {"shared": [real_bundles.publish(store, real_bundles.graph())]})
    began = time.perf_counter()
    with inference(home, HANDFUL_INFERENCE_RUNTIME=named, HANDFUL_INFERENCE_THREADS="2") as server:
        ready, spent, memory = time.perf_counter() - began, server.cpu_seconds, [server.memory_bytes]
        with grpc.insecure_channel(server.address) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            request = PredictRequest(model=MODEL, image=real_bundles.picture())
            began = time.perf_counter()
            stub.Predict(request, timeout=60)
            first = time.perf_counter() - began
            memory.append(server.memory_bytes)
            until(lambda: "runtimes measured" in server.events, "it is measured", 120)
            time.sleep(3)  # what was chosen takes over
            for _ in range(10):
                asking = [stub.Predict.future(request, timeout=60) for _ in range(16)]
                for one in asking:
                    one.result()
            memory.append(server.memory_bytes)
    sizes = ", ".join(f"{one / MEGABYTE:.0f}" for one in memory)
    print(
        f"server with {named:12} ready after {ready:.1f} s ({spent:.1f} s of the processor), first answer after "
        f"{1e3 * first:.0f} ms, memory {sizes} MB"
    )


def main() -> None:
    for name, runtime in RUNTIMES.items():
        print(f"{name} {runtime.version or 'is not installed'}")
    print(
        "milliseconds for a picture (of so many at once); memory when ready, after an answer, and with 16 calls at once"
    )
    for architecture in LITES:
        table(architecture)
    for named in (AUTO, *(name for name, runtime in RUNTIMES.items() if runtime.version)):
        with tempfile.TemporaryDirectory(prefix="handful-bench-") as folder:
            start(Path(folder), named)


if __name__ == "__main__":
    main()
