"""Who is measured: how each is started, called, and in which configurations."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.peers import environments, wires
from benchmarks.peers.wires import Wire

ROOT = Path(__file__).parents[2]
OURS = "handful"
PEERS = ("litserve",)
# What our service logs once it has measured which runtime serves, and how many pictures at once.
MEASURED = "runtimes measured"
# Pictures in one forward pass, at most: what our own service takes by default.
BATCH = 8


@dataclass(frozen=True)
class Started:
    """What a configuration needs to run: a command and its environment."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Configuration:
    """One way to run one server. `start` makes its command of a folder with an exported zip, the home of our own
    services, and a port. Where a server does more beside its first answers, its log says `prepared` once that is done.
    """

    name: str
    what: str
    wire: Wire
    start: Callable[[Path, Path, int], Started]
    prepared: str = ""

    @property
    def title(self) -> str:
        return f"{self.name}, {self.what}" if self.what else self.name


def ours(cores: int) -> list[Configuration]:
    """Our service as it ships, and held to the runtime that the peers have; nothing is set that the machine decides."""

    def start(runtime: str, _: Path, home: Path, port: int) -> Started:
        environment = {
            "HANDFUL_HOME": str(home),
            "HANDFUL_INFERENCE_ADDRESS": f"127.0.0.1:{port}",
            "HANDFUL_INFERENCE_RUNTIME": runtime,
            "HANDFUL_INFERENCE_THREADS": str(cores),
        }
        return Started([sys.executable, "-m", "services.inference"], environment)

    return [
        Configuration(OURS, what, wires.handful(), partial(start, runtime), MEASURED)
        for what, runtime in (("ONNX Runtime", "onnxruntime"), ("as shipped", "auto"))
    ]


_WIRES: dict[str, Wire] = {
    "litserve": wires.http_form("/predict", "request"),
}


def peer(name: str, cores: int) -> list[Configuration]:
    """A peer's configurations: its own defaults; one worker for each core; and batches besides. NotInstalled."""
    interpreter = str(environments.python(name))

    def start(workers: int, batch: int, folder: Path, _: Path, port: int) -> Started:
        arguments = [str(folder), str(port), str(workers), str(batch)]
        return Started([interpreter, "-m", f"benchmarks.peers.{name}", *arguments])

    ways = {"default": (1, 1), f"{cores} workers": (cores, 1), f"{cores} workers, batches": (cores, BATCH)}
    return [Configuration(name, what, _WIRES[name], partial(start, *way)) for what, way in ways.items()]


def bare() -> dict[str, str]:
    """This process's environment without what is set for our own installation, and with our code at hand."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HANDFUL_")}
    # Every library that has threads for arithmetic gets one, as ONNX Runtime does.
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
