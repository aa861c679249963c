"""All services on this machine, as child processes with embedded defaults. It imports none of them.

A service holds a pipe to us: should we be killed, it sees the pipe's end, drains and goes.
"""

import contextlib
import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NoReturn, Self

import grpc

from handful.channel import Addresses
from handful.errors import InvalidArgument, Unavailable

DEFAULT_WORKER_ADDRESS = "127.0.0.1:7112"
START_SECONDS = 60.0
STOP_SECONDS = 30.0
# A service that ends by itself sooner than this after its start would only do so again.
SETTLED_SECONDS = 10.0
_POLL_SECONDS = 0.5
# Linux, macOS and Windows give none of these to who asks for any port, unless told to, so none is gone before the
# service that it is for listens.
_PORTS = range(20_000, 30_000)


class MissingParts(Exception):
    """A part of the installation is not there; the message says which and what to do."""


@dataclass
class Stack:
    """The three services and a worker under one home folder. Use it as a context: leaving it drains them."""

    home: Path
    addresses: Addresses = field(default_factory=Addresses)
    worker_address: str = DEFAULT_WORKER_ADDRESS
    log_folder: Path | None = None
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    # What one service alone is told, such as keys of its own.
    own: dict[str, dict[str, str]] = field(default_factory=dict)
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _started: dict[str, float] = field(default_factory=dict)
    _logs: list[IO[bytes]] = field(default_factory=list)

    @classmethod
    def on_free_ports(cls, home: Path) -> "Stack":
        """Beside anything else that runs on this machine; services log into `home/logs`."""
        dataset, trainer, inference, worker = (f"127.0.0.1:{port}" for port in free_ports(4))
        # Whatever this machine's own installation is set to is not meant for this one.
        bare = {name: value for name, value in os.environ.items() if not name.startswith("HANDFUL_")}
        return cls(home, Addresses(dataset, trainer, inference), worker, home / "logs", bare)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts everything and waits until it serves. MissingParts or Unavailable where it does not."""
        if importlib.util.find_spec("services") is None:
            raise MissingParts(
                "The services are not installed here, only the client. Clone the repository and run `make setup`, "
                "or point HANDFUL_DATASET, HANDFUL_TRAINER and HANDFUL_INFERENCE at services that run elsewhere."
            )
        for service, address in vars(self.addresses).items():
            _check_free(f"HANDFUL_{service.upper()}", address)
        _check_free("HANDFUL_WORKER_ADDRESS", self.worker_address)
        self.home.mkdir(parents=True, exist_ok=True)
        try:
            for service in vars(self.addresses):
                self._start(service)
            for service in vars(self.addresses):
                self._wait_until_ready(service)
        except BaseException:
            self.stop()
            raise

    def restart(self, service: str, signal_number: int = signal.SIGTERM, away_seconds: float = 0) -> None:
        """Ends one service and starts it again at its address, after a while."""
        self._processes[service].send_signal(signal_number)
        self._bury(service)
        time.sleep(away_seconds)
        self._start(service)
        self._wait_until_ready(service)

    def supervise(self, tell: Callable[[str], None]) -> NoReturn:
        """Starts every service that ends by itself again, and tells of it. Unavailable where one ends soon after its
        start.
        """
        while True:
            service = self._wait()
            ended = f"The {service} service ended ({_how(self._processes[service].returncode)})"
            if time.monotonic() - self._started[service] < SETTLED_SECONDS:
                raise Unavailable(f"{ended} soon after its start. Its log says why.", reason="SERVICE_ENDED")
            tell(f"{ended}; starting it again.")
            self.restart(service)

    def stop(self) -> None:
        """Drains the services; what does not end in time is killed."""
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for service, process in self._processes.items():
            try:
                self._bury(service)
            except subprocess.TimeoutExpired:
                process.kill()
                self._bury(service)
        for log in self._logs:
            log.close()

    def _bury(self, service: str) -> None:
        process = self._processes[service]
        process.wait(STOP_SECONDS)
        if process.stdin is not None:
            process.stdin.close()

    def _wait(self) -> str:
        """Until a service ends by itself: its name."""
        while True:
            for service, process in self._processes.items():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
                    return service

    def _start(self, service: str) -> None:
        environment = {
            **self.environment,
            **self.own.get(service, {}),
            "HANDFUL_HOME": str(self.home),
            "HANDFUL_DATASET": self.addresses.dataset,
            "HANDFUL_DATASET_ADDRESS": self.addresses.dataset,
            "HANDFUL_TRAINER_ADDRESS": self.addresses.trainer,
            "HANDFUL_WORKER_ADDRESS": self.worker_address,
            "HANDFUL_INFERENCE_ADDRESS": self.addresses.inference,
            "HANDFUL_PARENT_PIPE": "true",
        }
        self._processes[service] = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", f"services.{service}"],
            stdin=subprocess.PIPE,
            stderr=self._log(service),
            env=environment,
            # What a terminal sends to all of its group is for us alone; we pass it on.
            start_new_session=True,
        )
        self._started[service] = time.monotonic()

    def _log(self, service: str) -> IO[bytes] | None:
        if self.log_folder is None:
            return None
        self.log_folder.mkdir(parents=True, exist_ok=True)
        log = (self.log_folder / f"{service}.log").open("ab")
        self._logs.append(log)
        return log

    def _wait_until_ready(self, service: str) -> None:
        process, address = self._processes[service], getattr(self.addresses, service)
        with grpc.insecure_channel(address) as channel:
            ready = grpc.channel_ready_future(channel)
            for _ in range(int(START_SECONDS / _POLL_SECONDS)):
                with contextlib.suppress(grpc.FutureTimeoutError):
                    ready.result(timeout=_POLL_SECONDS)
                    if process.poll() is None:
                        return
                if process.poll() is not None:
                    raise Unavailable(self._why(service), reason="SERVICE_ENDED")
        raise Unavailable(f"The {service} service did not start within {START_SECONDS:.0f} s.", reason="SERVICE_ENDED")

    def _why(self, service: str) -> str:
        if self.log_folder is None:
            return f"The {service} service ended; its message stands above."
        lines = (self.log_folder / f"{service}.log").read_text(errors="replace").splitlines()
        return f"The {service} service ended: {lines[-1] if lines else 'it said nothing'}"


def _how(exit_code: int) -> str:
    return signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"


def _check_free(variable: str, address: str) -> None:
    # Asked first: otherwise another Handful on the same ports would answer for a service that is about to fail.
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InvalidArgument(f"{variable}={address}: must be host:port.")
    with socket.socket() as probe:
        if probe.connect_ex((host, int(port))) == 0:
            raise Unavailable(
                f"Something listens on {address} already. Is Handful up, or still draining? Stop it, or set another "
                f"{variable}.",
                reason="PORT_TAKEN",
            )


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nothing listens on now."""
    free: list[int] = []
    for port in secrets.SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            free.append(port)
        if len(free) == count:
            return free
    raise Unavailable("Every port from 20000 to 29999 is taken on this machine.", reason="PORT_TAKEN")
