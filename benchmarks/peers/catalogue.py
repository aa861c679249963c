"""Who is measured: how each is started, called, and in which configurations."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.peers import environments, wires
from benchmarks.peers.models import INT8
from benchmarks.peers.wires import Wire

ROOT = Path(__file__).parents[2]
OURS = "handful"
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
    `variant` is the end of its model's name, where that is another than the peers'.
    """

    name: str
    what: str
    wire: Wire
    start: Callable[[Path, Path, int], Started]
    prepared: str = ""
    variant: str = ""

    @property
    def title(self) -> str:
        return f"{self.name}, {self.what}" if self.what else self.name


def ours(cores: int) -> list[Configuration]:
    """Our service held to the peers' runtime, as it ships, and with a backbone in integers, which is not in the peers'
    file; nothing is set that the machine decides.
    """

    def start(runtime: str, _: Path, home: Path, port: int) -> Started:
        environment = {
            "HANDFUL_HOME": str(home),
            "HANDFUL_INFERENCE_ADDRESS": f"127.0.0.1:{port}",
            "HANDFUL_INFERENCE_RUNTIME": runtime,
            "HANDFUL_INFERENCE_THREADS": str(cores),
        }
        return Started([sys.executable, "-m", "services.inference"], environment)

    ways = (("ONNX Runtime", "onnxruntime", ""), ("as shipped", "auto", ""), ("in integers", "auto", INT8))
    return [
        Configuration(OURS, what, wires.handful(), partial(start, runtime), MEASURED, variant)
        for what, runtime, variant in ways
    ]


@dataclass(frozen=True)
class Peer:
    """How a peer is called, and for some cores its configurations: numbers of workers and of pictures in a batch."""

    wire: Wire
    ways: Callable[[int], dict[str, tuple[int, int]]]


def _usual(cores: int) -> dict[str, tuple[int, int]]:
    """One worker as it is by default, one for each core, and batches besides."""
    return {"default": (1, 1), f"{cores} workers": (cores, 1), f"{cores} workers, batches": (cores, BATCH)}


def _triton(cores: int) -> dict[str, tuple[int, int]]:
    """It makes batches of 4 by default."""
    return {"default": (1, 0), f"{cores} instances": (cores, 1), f"{cores} instances, batches": (cores, BATCH)}


# Of what else than its name a peer is a package.
_PACKAGES = {"pytriton": "nvidia-pytriton", "rayserve": "ray"}
_PEERS = {
    "litserve": Peer(wires.http_form("/predict", "request"), _usual),
    "bentoml": Peer(wires.http_form("/predict", "pictures"), _usual),
    "mlserver": Peer(wires.open_inference(), _usual),
    "pytriton": Peer(wires.open_inference(), _triton),
    "rayserve": Peer(wires.http("/"), _usual),
}
PEERS = tuple(_PEERS)


def peer(name: str, cores: int) -> list[Configuration]:
    """A peer's configurations. NotInstalled."""
    interpreter = str(environments.python(name))

    def start(workers: int, batch: int, folder: Path, _: Path, port: int) -> Started:
        arguments = [str(folder), str(port), str(workers), str(batch)]
        return Started([interpreter, "-m", f"benchmarks.peers.{name}", *arguments])

    found = _PEERS[name]
    return [Configuration(name, what, found.wire, partial(start, *way)) for what, way in found.ways(cores).items()]


def versions(name: str) -> str:
    """Of what is measured under a name, and of what it runs on."""
    interpreter = Path(sys.executable) if name == OURS else environments.python(name)
    packages = [_PACKAGES.get(name, name), "onnxruntime", "pillow", *(["openvino"] if name == OURS else [])]
    return ", ".join(f"{one} {version}" for one, version in environments.versions(interpreter, packages).items())


# What peers would tell their makers.
_QUIET = {"ORT_DISABLE_TELEMETRY": "1", "BENTOML_DO_NOT_TRACK": "true", "RAY_USAGE_STATS_ENABLED": "0"}


def bare() -> dict[str, str]:
    """This process's environment without what is set for our own installation, and with our code at hand."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HANDFUL_")}
    # Every library that has threads for arithmetic gets one, as ONNX Runtime does.
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **_QUIET}
