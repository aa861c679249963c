"""From a fresh clone to the first prediction: what `make demo` installs, how long it takes, and how much of that is the
network's. Nothing is there before: no environment, an empty home, no cache.

It is done twice, over the network and with the same packages from a folder; the difference is the network's share. Ends
with an error where torch can be imported afterwards.

usage: first_minute.py [FOLDER]   (default: the demo's own digits; train/ and val/ folders of class folders)
"""

import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON = str(Path(sys.base_prefix) / "bin" / "python3")
# What `make demo` prints when the packages are there, and when an answer is.
MARKS = {"installed": re.compile("No --data given|Starting the"), "first prediction": re.compile(": predicted ")}
FOREIGN = re.compile(r"HANDFUL_|PYTHON|VIRTUAL_ENV|XDG_CACHE_HOME|PIP_CACHE_DIR|MAKE|MFLAGS")


def environment(home: Path) -> dict[str, str]:
    """This machine's, with its way to the network, for somebody whose home is empty."""
    kept = {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}
    return {**kept, "HOME": str(home), "PYTHONUNBUFFERED": "1"}


def demo(folder: Path, data: list[str], **variables: str) -> tuple[Path, dict[str, float]]:
    """Runs `make demo` in a clone below the folder: the clone, and the seconds from the command to each mark."""
    clone, home = folder / "handful", folder / "home"
    home.mkdir(parents=True)
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)  # noqa: S607 - the one on this machine
    used, started, seconds = _cpu_seconds(), time.perf_counter(), dict[str, float]()
    command = ["make", "demo", f"PYTHON={PYTHON}", *data]
    given = environment(home) | variables
    with subprocess.Popen(command, cwd=clone, env=given, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            for name, mark in MARKS.items():
                if mark.search(line):
                    seconds.setdefault(name, time.perf_counter() - started)
    seconds["the end"] = time.perf_counter() - started
    seconds["CPU"] = _cpu_seconds() - used
    if process.returncode:
        raise SystemExit(f"make demo ended with {process.returncode}")
    return clone, seconds


def fetch(clone: Path, wheels: Path) -> None:
    """Puts the packages that the clone has installed into a folder."""
    pip = [str(clone / ".venv/bin/python"), "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    locked = str(clone / "requirements-light.lock")
    subprocess.run([*pip, "-r", locked, "-d", str(wheels)], check=True, env=environment(wheels.parent))


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _megabytes(*folders: Path) -> float:
    """What folders take on the disk."""
    return sum(path.lstat().st_blocks * 512 for folder in folders for path in folder.rglob("*")) / 1e6


def _check_no_torch(clone: Path) -> str:
    command = [str(clone / ".venv/bin/python"), "-c", "import torch"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode == 0:
        raise SystemExit("torch can be imported after make demo")
    return asked.stderr.strip().splitlines()[-1]


def main(data: list[str]) -> None:
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}; one run each")
    with tempfile.TemporaryDirectory(prefix="handful-bench-") as made:
        folder = Path(made)
        clone, network = demo(folder / "network", data)
        print(f"import torch: {_check_no_torch(clone)}")
        fetch(clone, folder / "wheels")
        downloaded = _megabytes(folder / "wheels")
        _, local = demo(folder / "local", data, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(folder / "wheels"))
        on_disk, cached = _megabytes(clone / ".venv"), _megabytes(folder / "network/home")
        print(f"MB: {downloaded:.0f} downloaded, {on_disk:.0f} on disk in .venv, {cached:.0f} in the home, pip's cache")
        for name, seconds in network.items():
            print(f"{name:18} {seconds:6.1f} s   without the network {local[name]:6.1f} s")


if __name__ == "__main__":
    main([f"DATA={Path(sys.argv[1]).resolve()}"] if sys.argv[1:] else [])
