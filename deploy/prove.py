"""Proves the images of deploy/Dockerfile where there is no container engine: each environment is built anew in an empty
folder by the Dockerfile's own commands, and each service runs from it, confined as a container is (containers.py), on a
network that reaches only the others. Then they do together what they are for: a folder of pictures becomes a model that
answers, once with each of the worker's images.

With --minio and --postgres they are set up as compose.yaml sets them up, on these servers; without, on files that they
share. Needs Linux, root, and uv, or pip by --pip. Prints a table.

usage: python -m deploy.prove [--pip] [--minio PROGRAM --postgres FOLDER-OF-PROGRAMS]
"""

import argparse
import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from deploy import composition
from deploy.containers import Container, leave_the_network
from deploy.dockerfile import Target, images, lock, stages
from handful import Client
from handful.channel import Addresses

ROOT = Path(__file__).parents[1]
# One port is theirs, so they take turns. The light one is first: what it stores the other must find good.
WORKERS = ("worker-light", "worker")
WRITE = (
    "from services.inference.settings import InferenceSettings as S; from services.shared.settings import read; "
    "from services.shared.objects import open_store; open_store(read(S).store).put('projects/p/x', b'')"
)


@dataclass
class Proof:
    """What was found out about one image; `seconds` from start to health, and from SIGTERM to the end."""

    name: str
    packages: int
    environment_bytes: int
    source_bytes: int
    torch: str
    seconds: list[float] = field(default_factory=list)

    def row(self) -> str:
        sizes = f"{self.environment_bytes / 2**20:.0f} | {self.source_bytes / 2**20:.1f}"
        seconds = " | ".join(f"{number:.1f}" for number in self.seconds)
        return f"| {self.name} | {self.packages} | {sizes} | {self.torch} | {seconds} |"


def build(image: Target, folder: Path, *, pip: bool) -> Proof:
    """The image's /opt/venv and /app below the folder, as the Dockerfile makes them."""
    venv, app = folder / "opt/venv", folder / "app"
    venv.parent.mkdir(parents=True)
    locked = lock(image)
    if pip:
        _run([sys.executable, "-m", "venv", str(venv)])
        _run([str(venv / "bin/pip"), "install", "--quiet", "--no-deps", "--require-hashes", "-r", str(locked)])
    else:
        _run(["uv", "venv", "--quiet", "--python", sys.base_prefix + "/bin/python3", str(venv)])
        (install,) = [run for run in stages()[image.environment_stage]["RUN"] if "uv pip sync" in run]
        command = install[install.index("uv pip sync") :].replace(locked.name, str(locked)).split()
        _run([*command, "--quiet"], VIRTUAL_ENV=str(venv), UV_LINK_MODE="copy", UV_COMPILE_BYTECODE="1")
    copy_sources(image, app)
    packages = len(list((venv / "lib").glob("python*/site-packages/*.dist-info")))
    proof = Proof(image.name, packages, _size(venv), _size(app), _torch(venv))
    if (proof.torch == "none") is (image.name == "worker"):
        raise SystemExit(f"{image.name}: torch is {proof.torch}")
    return proof


def copy_sources(image: Target, app: Path) -> None:
    """Lays out what the image has of the repository as its /app."""
    for source in image.sources:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, app / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (app / source).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, app / source)


def work(folder: Path, seed: int) -> str:
    """What came of pictures that were sent, trained on and asked about. Another seed makes other pictures."""
    random = np.random.default_rng(seed)
    for label, base in (("dark", 60), ("light", 190)):
        (folder / label).mkdir(parents=True)
        for number in range(10):
            pixels = np.clip(random.normal(base, 30, (64, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    with Client(Addresses()) as client:
        client.push(folder.name, folder)
        run = client.train(folder.name).result()
        answer = client.predict(run.model_version, folder / "light" / "0.png")
    best = answer.predictions[0]
    return f"{run.model_version}: light/0.png is {best.label}, {best.score:.3f}"


def prove(folder: Path, given: argparse.Namespace) -> None:
    proofs = {name: build(image, folder / name, pip=given.pip) for name, image in images().items()}
    leave_the_network()
    with contextlib.ExitStack() as stack:
        containers = stack.enter_context(_on_servers(folder, given) if given.minio else _on_files(folder))
        for name, container in containers.items():
            container.check_confined()
            if name not in WORKERS:
                proofs[name].seconds = stack.enter_context(container.serving())
        said = []
        for seed, name in enumerate(WORKERS):
            with containers[name].serving() as proofs[name].seconds:
                said.append(f"{name}: {work(folder / f'shades-{name}', seed)}")
        if given.minio and containers["inference"].succeeds("python", "-c", WRITE):
            containers["inference"].fail("can write to the object store")
    print("| image | packages | environment, MiB | source, MiB | torch | healthy after, s | ended after SIGTERM, s |")
    print("|---|---|---|---|---|---|---|")
    for proof in proofs.values():
        print(proof.row())
    print("Set up by compose.yaml:" if given.minio else "On shared files:", *said, sep="\n  ")


@contextlib.contextmanager
def _on_files(folder: Path) -> Iterator[dict[str, Container]]:
    containers = {name: Container(image, folder / name, folder / "cache") for name, image in images().items()}
    for container in containers.values():
        container.prepare(hosts=())
    yield containers


@contextlib.contextmanager
def _on_servers(folder: Path, given: argparse.Namespace) -> Iterator[dict[str, Container]]:
    variables = composition.environments(composition.example())
    variables["worker-light"] = variables["worker"]
    containers = {
        name: Container(image, folder / name, folder / name / "cache", variables[name])
        for name, image in images().items()
    }
    for container in containers.values():
        container.prepare(hosts=tuple(variables))
    with composition.servers(folder / "servers", given.minio, given.postgres, variables):
        provision = dataclasses.replace(containers["dataset"], settings=variables["provision"])
        if not provision.succeeds("python", "-m", "services.shared.objects.provision"):
            provision.fail("the bucket and its identities were not made")
        yield containers


def _torch(venv: Path) -> str:
    ask = "from importlib.util import find_spec; print(find_spec('torch') and __import__('torch').version.cuda)"
    found = subprocess.run([venv / "bin/python", "-I", "-c", ask], check=True, capture_output=True, text=True)
    version = found.stdout.strip()
    return "none" if version == "None" else f"CUDA {version}"


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _run(command: list[str], **environment: str) -> None:
    subprocess.run(command, check=True, env={**os.environ, **environment})


def main() -> None:
    parser = argparse.ArgumentParser(description="Proves the images of deploy/Dockerfile without a container engine.")
    parser.add_argument("--pip", action="store_true", help="install with pip instead of uv")
    parser.add_argument("--minio", type=Path, help="MinIO's server program")
    parser.add_argument("--postgres", type=Path, help="folder of PostgreSQL's programs")
    given = parser.parse_args()
    if (given.minio is None) is not (given.postgres is None):
        parser.error("--minio and --postgres go together")
    if os.geteuid() != 0:
        parser.error("this needs root, as a container engine does")
    with tempfile.TemporaryDirectory(prefix="handful-images-") as folder:
        Path(folder).chmod(0o755)
        prove(Path(folder), given)


if __name__ == "__main__":
    main()
