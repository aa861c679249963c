"""Peers' Python environments, one each under ~/.cache/handful/peers: made once, and again where its pins change."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PLACE = Path.home() / ".cache" / "handful" / "peers"
PINS = Path(__file__).parent
_SHOWN_LINES = 3


class NotInstalled(Exception):
    """A peer cannot be installed here; the message says why."""


def python(name: str) -> Path:
    """The interpreter of a peer's environment, which is made first where it is not there. NotInstalled."""
    pins = PINS / f"{name}.txt"
    place, stamp = PLACE / name, PLACE / f"{name}.txt"
    interpreter = place / "bin" / "python"
    if stamp.exists() and stamp.read_bytes() == pins.read_bytes() and interpreter.exists():
        return interpreter
    print(f"Installing {name} with what it needs, {_count(pins)} packages, into {place}. Once.", flush=True)
    began = time.monotonic()
    stamp.unlink(missing_ok=True)
    PLACE.mkdir(parents=True, exist_ok=True)
    for command in _commands(place, interpreter, pins):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotInstalled(" ".join(done.stderr.strip().splitlines()[-_SHOWN_LINES:]) or f"{command[0]} failed")
    stamp.write_bytes(pins.read_bytes())
    print(f"  done in {time.monotonic() - began:.0f} s", flush=True)
    return interpreter


def _commands(place: Path, interpreter: Path, pins: Path) -> list[list[str]]:
    uv = shutil.which("uv")
    if uv:
        # What is installed and not pinned goes.
        make = [uv, "venv", "--clear", "--python", sys.executable, str(place)]
        return [make, [uv, "pip", "sync", "--python", str(interpreter), str(pins)]]
    install = [str(interpreter), "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "-r", str(pins)]
    return [[sys.executable, "-m", "venv", "--clear", str(place)], install]


def _count(pins: Path) -> int:
    return sum(1 for line in pins.read_text().splitlines() if not line.startswith("#"))


def versions(interpreter: Path, packages: Sequence[str]) -> dict[str, str]:
    """What is installed of these, by an environment's own account."""
    program = "import importlib.metadata as m, json, sys; print(json.dumps({p: m.version(p) for p in sys.argv[1:]}))"
    done = subprocess.run([str(interpreter), "-c", program, *packages], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found
