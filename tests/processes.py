"""Processes as the system sees them: which there are, whose they are, and whether they are gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_SECONDS = 30.0


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not buried yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def of_home(home: Path) -> dict[int, str]:
    """Every process that was started under a HANDFUL_HOME, however it descends: its id and its command line."""
    mark = f"HANDFUL_HOME={home}".encode()
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            continue  # it is another user's, or has just ended
    return {pid: command for pid, command in found.items() if alive(pid)}


def until(is_so: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Waits until something is so; AssertionError with what was expected where that takes too long."""
    ends = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends, f"{what} within {seconds:.0f} s"
        time.sleep(0.05)


def gone(home: Path, seconds: float = PATIENCE_SECONDS) -> None:
    """Waits until no process of a home is left."""
    until(lambda: not of_home(home), f"no process is left: {of_home(home)}", seconds)
