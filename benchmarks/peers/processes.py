"""A server of any make as a tree of processes: its start, its end, and what it costs. It knows no protocol."""

import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

END_SECONDS = 10.0
_PR_SET_CHILD_SUBREAPER = 36
_TICK = os.sysconf("SC_CLK_TCK")


class Ended(Exception):
    """A server ended by itself, or never came to answer; the message says what it said last."""


def adopt_orphans() -> None:
    """What a server leaves behind becomes a child of this process, so that it is counted, and ended with the server."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Tree:
    """A server's first process and all that come of it. Use it as a context: leaving it ends them.

    `bystanders` are processes of ours that are no part of a server.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        cores: Sequence[int],
        bystanders: Sequence[int] = (),
    ) -> None:
        self._log = folder / "server.log"
        self._bystanders = set(bystanders)
        usual = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)
        try:
            with self._log.open("wb") as log:
                self._first = subprocess.Popen(
                    command,
                    env=dict(environment),
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        finally:
            os.sched_setaffinity(0, usual)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._first.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._first.wait(END_SECONDS)
        while left := list(self._pids()):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for pid in left:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
        self._first.wait()

    def check(self) -> None:
        """Ended where the first process is gone."""
        if self._first.poll() is not None:
            raise Ended(f"exit code {self._first.returncode}: {self.last_words()}")

    def last_words(self) -> str:
        lines = [line for line in self.log().splitlines() if line.strip()]
        return lines[-1].strip()[:300] if lines else "it said nothing"

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def cpu_seconds(self) -> float:
        """Processor time of all its processes that live."""
        ticks = 0
        for pid in self._pids():
            with contextlib.suppress(OSError):
                after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(after_name[11]) + int(after_name[12])
        return ticks / _TICK

    def memory_bytes(self) -> int:
        """Resident memory of all its processes; what several share is counted once."""
        kilobytes = 0
        for pid in self._pids():
            with contextlib.suppress(OSError):
                found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
                kilobytes += int(found[1]) if found else 0
        return kilobytes * 1024

    def settle(self, busy: float = 0.2, seconds: float = 0.5, patience: float = 60.0) -> None:
        """Waits until it does nothing by itself: for twice so many seconds it was busy for less than that share."""
        ends, quiet = time.monotonic() + patience, 0
        while quiet < 2 and time.monotonic() < ends:
            before = self.cpu_seconds()
            time.sleep(seconds)
            quiet = quiet + 1 if self.cpu_seconds() - before < busy * seconds else 0

    def _pids(self) -> Iterator[int]:
        parents = _parents()
        for pid in parents:
            ancestor = pid
            while ancestor in parents and ancestor not in self._bystanders and ancestor != os.getpid():
                ancestor = parents[ancestor]
            if ancestor == os.getpid() != pid:
                yield pid


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _parents() -> dict[int, int]:
    """Every process's parent; what has ended and is not yet waited for is left out."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    found[int(entry.name)] = int(parent)
    return found
