"""Proves the images of deploy/Dockerfile where there is no container engine: each environment is built anew in an empty
folder by the Dockerfile's own commands, and each service runs from it as it would in a container.

A service is started in a file system of its own that has the image's paths, the interpreter and the system's libraries:
read-only but for /tmp and /cache, as user 10001, without capabilities, on a network that reaches only the others. Then
they do together what they are for: a folder of pictures becomes a model that answers. Needs Linux, root, and uv, or pip
by --pip. Prints a table.

usage: python -m deploy.prove [--pip]
"""

import argparse
import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image

from deploy.dockerfile import Target, images, lock, stages
from handful import Client
from handful.channel import Addresses

ROOT = Path(__file__).parents[1]
START_SECONDS, STOP_SECONDS = 120.0, 40.0
WRITABLE, READ_ONLY = ("/tmp", "/cache"), ("/", "/app", "/opt/venv")  # noqa: S108 - of the container
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc", "/dev", "/proc", "/sys", sys.base_prefix)
# The root of a container: what is bound is read-only, but for the two folders that an image may write to.
CONFINE = """
set -eu
mount -t tmpfs tmpfs /mnt
for path in $SYSTEM; do
  mkdir -p "/mnt$path"; mount --rbind "$path" "/mnt$path"; mount -o remount,bind,ro "/mnt$path"
done
for path in /opt/venv /app; do
  mkdir -p "/mnt$path"; mount --bind "$IMAGE$path" "/mnt$path"; mount -o remount,bind,ro "/mnt$path"
done
for path in /tmp /cache; do mkdir -p "/mnt$path"; mount --bind "$IMAGE$path" "/mnt$path"; done
mount --bind "$CACHE" /mnt/cache
mount -o remount,ro /mnt
cd /mnt/app
exec chroot /mnt /usr/bin/setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs --bounding-set=-all \\
  --inh-caps=-all /usr/bin/env --chdir=/app "$@"
"""


@dataclass
class Proof:
    """What was found out about one image."""

    name: str
    packages: int
    environment_bytes: int
    source_bytes: int
    torch: str
    start_seconds: float = 0.0
    stop_seconds: float = 0.0


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
    for writable in ("tmp", "cache"):
        (folder / writable).mkdir()
        os.chown(folder / writable, 10001, 10001)
    packages = len(list((venv / "lib").glob("python*/site-packages/*.dist-info")))
    return Proof(image.name, packages, _size(venv), _size(app), _torch(venv))


def copy_sources(image: Target, app: Path) -> None:
    """Lays out what the image has of the repository as its /app."""
    for source in image.sources:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, app / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (app / source).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, app / source)


def _torch(venv: Path) -> str:
    ask = "from importlib.util import find_spec; print(find_spec('torch') and __import__('torch').version.cuda)"
    found = subprocess.run([venv / "bin/python", "-I", "-c", ask], check=True, capture_output=True, text=True)
    version = found.stdout.strip()
    return "none" if version == "None" else f"CUDA {version}"


@dataclass
class Container:
    """A service that runs from its image's environment; `cache` is what is mounted at /cache."""

    image: Target
    folder: Path
    cache: Path

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def run(self, command: list[str]) -> subprocess.Popen[bytes]:
        """A command in the container, with the image's variables and no others."""
        variables = {**self.image.environment, "PATH": "/opt/venv/bin:/usr/bin:/bin"}
        arguments = ["-i", *(f"{name}={value}" for name, value in variables.items()), *command]
        places = {"SYSTEM": " ".join(SYSTEM), "IMAGE": str(self.folder), "CACHE": str(self.cache)}
        confine = ["unshare", "--mount", "--propagation", "private", "sh", "-c", CONFINE, "sh"]
        with self.log.open("ab") as log:
            environment = {"PATH": os.environ["PATH"], **places}
            return subprocess.Popen([*confine, *arguments], env=environment, stdout=log, stderr=log)

    @contextlib.contextmanager
    def serving(self, proof: Proof) -> Iterator[None]:
        """From the first healthy answer to a SIGTERM, which must end the service with exit code 0."""
        started, process = time.monotonic(), self.run(self.image.command)
        try:
            while self.run(self.image.probe).wait() != 0:
                if process.poll() is not None or time.monotonic() - started > START_SECONDS:
                    self.fail(f"not healthy (exit code {process.poll()})")
            proof.start_seconds = time.monotonic() - started
            yield
            stopping = time.monotonic()
            process.terminate()
            if process.wait(STOP_SECONDS) != 0:
                self.fail(f"ended with exit code {process.returncode} on SIGTERM")
            proof.stop_seconds = time.monotonic() - stopping
        finally:
            process.kill()
            process.wait()

    def fail(self, problem: str) -> NoReturn:
        print(self.log.read_text(errors="replace"), file=sys.stderr)
        raise SystemExit(f"{self.image.name}: {problem}")


def check_confined(container: Container) -> None:
    """That a container may write to /tmp and /cache, and nowhere else."""
    for folder in (*WRITABLE, *READ_ONLY):
        written = container.run(["python", "-c", f"open('{folder}/x', 'w')"]).wait() == 0
        if written is not (folder in WRITABLE):
            container.fail(f"{folder} is {'' if written else 'not '}writable")


def work(folder: Path) -> str:
    """What came of pictures that were sent, trained on and asked about."""
    random = np.random.default_rng(0)
    for label, base in (("dark", 60), ("light", 190)):
        (folder / label).mkdir(parents=True)
        for number in range(10):
            pixels = np.clip(random.normal(base, 30, (64, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    with Client(Addresses()) as client:
        client.push("shades", folder)
        run = client.train("shades").result()
        answer = client.predict(run.model_version, folder / "light" / "0.png")
    best = answer.predictions[0]
    return f"{run.model_version}: light/0.png is {best.label}, {best.score:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Proves the images of deploy/Dockerfile without a container engine.")
    parser.add_argument("--pip", action="store_true", help="install with pip instead of uv")
    given = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("This needs root, as a container engine would: run it with sudo, or on a machine of its own.")
    with tempfile.TemporaryDirectory(prefix="handful-images-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        cache = folder / "cache"
        cache.mkdir()
        os.chown(cache, 10001, 10001)
        proofs = {image: build(target, folder / image, pip=given.pip) for image, target in images().items()}
        _leave_the_network()
        with contextlib.ExitStack() as stack:
            for image, target in images().items():
                container = Container(target, folder / image, cache)
                check_confined(container)
                stack.enter_context(container.serving(proofs[image]))
            said = work(folder / "shades")
        _print(proofs, said)


def _leave_the_network() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000) != 0:  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "cannot make a network namespace")
    _run(["ip", "link", "set", "lo", "up"])


def _print(proofs: dict[str, Proof], said: str) -> None:
    print("| image | packages | environment, MiB | source, MiB | torch | healthy after, s | ended after SIGTERM, s |")
    print("|---|---|---|---|---|---|---|")
    for proof in proofs.values():
        environment, source = proof.environment_bytes / 2**20, proof.source_bytes / 2**20
        print(
            f"| {proof.name} | {proof.packages} | {environment:.0f} | {source:.1f} | {proof.torch} | "
            f"{proof.start_seconds:.1f} | {proof.stop_seconds:.1f} |"
        )
    print(said)


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _run(command: list[str], **environment: str) -> None:
    subprocess.run(command, check=True, env={**os.environ, **environment})


if __name__ == "__main__":
    main()
