"""The inference service as a process of its own, on a free port."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.processes import START_SECONDS, until

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class InferenceProcess:
    """A server that listens, and its log."""

    pid: int
    log: Path

    @property
    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    @property
    def events(self) -> list[str]:
        return [str(line["event"]) for line in self.lines]

    @property
    def address(self) -> str:
        port = next(line["port"] for line in self.lines if line["event"] == "listening")
        return f"127.0.0.1:{port}"

    @property
    def memory_bytes(self) -> int:
        """What it has resident."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def cpu_seconds(self) -> float:
        """What it has computed so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def inference(
    home: Path, program: Sequence[str] = ("-m", "services.inference"), **settings: str
) -> Iterator[InferenceProcess]:
    """Started over the store of a home folder, and asked to end, which it does without error."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / "inference.log"
    own = {"HANDFUL_HOME": str(home), "HANDFUL_INFERENCE_ADDRESS": "127.0.0.1:0", **settings}
    with log.open("wb") as output:
        command = [sys.executable, *program]
        process = subprocess.Popen(command, env={**os.environ, **own}, cwd=ROOT, stdout=output, stderr=output)
    try:
        running = InferenceProcess(process.pid, log)
        until(lambda: "listening" in running.events, "it listens", START_SECONDS)
        yield running
    finally:
        process.terminate()
        ended = process.wait(30)
    assert ended == 0, log.read_text()[-2000:]
