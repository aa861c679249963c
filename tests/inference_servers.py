"""Inference services as processes, over one store of models made by hand."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from handful.cli.stack import free_ports
from tests.processes import until


class Servers:
    """Server processes over one store, each on a port of its own."""

    def __init__(self, home: Path, count: int) -> None:
        self._home = home
        self.ports = free_ports(count)
        self._processes = [self._start(port) for port in self.ports]
        for port in self.ports:
            _wait_for(port)

    def _start(self, port: int) -> subprocess.Popen[bytes]:
        log = (self._home / f"inference-{port}.log").open("ab")
        environment = {
            **os.environ,
            "HANDFUL_HOME": str(self._home),
            "HANDFUL_INFERENCE_ADDRESS": f"127.0.0.1:{port}",
        }
        command = [sys.executable, "-m", "services.inference"]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def restart(self, place: int) -> None:
        """As a rolling update does: told to stop, waited for, started."""
        self._processes[place].send_signal(signal.SIGTERM)
        self._processes[place].wait(60)
        self._processes[place] = self._start(self.ports[place])
        _wait_for(self.ports[place])

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(60)


def _wait_for(port: int) -> None:
    def answers() -> bool:
        with socket.socket() as tried:
            return not tried.connect_ex(("127.0.0.1", port))

    until(answers, f"something answers on port {port}")
