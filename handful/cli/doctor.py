"""`handful doctor`: what is installed, what answers, and what to do about what does not. It ends within seconds,
whatever hangs, makes nothing, and exits with 1 where something is broken or something that is needed is not there.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec

import grpc
from rich.markup import escape

from handful.channel import Addresses
from handful.cli import commands
from handful.cli.stack import DEFAULT_WORKER_ADDRESS
from handful.cli.tables import plain_table, print_table

CONNECT_SECONDS = 2.0
OK, WARN, MISSING, BROKEN = "ok", "warn", "missing", "broken"
# A worker may be light: without torch it trains less, which `device` tells, and nothing is wrong.
PARTS = ("dataset", "trainer", "worker", "worker-light", "inference")
FOUND_BY_SERVICES = ("settings", "store", "database", "weights", "device", "yolo")
_COLOURS = {OK: "green", WARN: "yellow", MISSING: "yellow", BROKEN: "red"}
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[(?P<extras>[^]]*)\])?[^;]*(;.*extra == .(?P<extra>[a-z-]+).)?")
# What a health check answers where all is well: field 1 of HealthCheckResponse is SERVING. A client need not have the
# package that would say so.
_HEALTH, _SERVING = "/grpc.health.v1.Health/Check", b"\x08\x01"


@dataclass(frozen=True)
class Finding:
    """What was found, and what to do about it."""

    check: str
    status: str
    says: str


def run(given: argparse.Namespace) -> int:
    """Prints every finding; with `--json` one object for programs."""
    findings = examine(given.seconds)
    healthy = not any(finding.status in (MISSING, BROKEN) for finding in findings)
    if given.json:
        print(json.dumps({"healthy": healthy, "findings": [asdict(finding) for finding in findings]}))
    else:
        table = plain_table("", "", "")
        for finding in findings:
            colour = _COLOURS[finding.status]
            table.add_row(f"[{colour}]{finding.status}[/{colour}]", finding.check, escape(finding.says))
        table.show_header = False
        print_table(table, commands.console)
    return 0 if healthy else 1


def examine(seconds: float) -> list[Finding]:
    """Everything at once, each check in a thread of its own; what has not ended by then is said to be so."""
    addresses = {**vars(Addresses.from_env()), "worker": os.environ.get("HANDFUL_WORKER_ADDRESS", "")}
    addresses["worker"] = addresses["worker"] or DEFAULT_WORKER_ADDRESS
    checks: dict[str, Callable[[], Iterator[Finding]]] = {"parts": _installed, "services": partial(_services, seconds)}
    checks |= {service: partial(_answers, service, address) for service, address in addresses.items()}
    found: dict[str, list[Finding]] = {name: [] for name in checks}
    threads = {
        name: threading.Thread(target=_collect, args=(name, check, found[name]), daemon=True)
        for name, check in checks.items()
    }
    for thread in threads.values():
        thread.start()
    ends = time.monotonic() + seconds
    for name, thread in threads.items():
        thread.join(max(0.0, ends - time.monotonic()))
        if thread.is_alive():
            found[name].append(Finding(name, BROKEN, _late(seconds)))
    return [finding for name in checks for finding in found[name]]


def _collect(name: str, check: Callable[[], Iterator[Finding]], found: list[Finding]) -> None:
    try:
        found.extend(check())
    except Exception as problem:  # noqa: BLE001 - one check that fails keeps no other from being told
        found.append(Finding(name, BROKEN, f"could not be examined: {problem}"))


def _installed() -> Iterator[Finding]:
    yield Finding("python", OK, f"{platform.python_version()}, handful {importlib.metadata.version('handful')}")
    if find_spec("services") is None:
        yield Finding(
            "parts",
            WARN,
            "only the client is installed, which is enough where the services run elsewhere; "
            "to run them here clone the repository and run `make setup`",
        )
        return
    lacks = {part: sorted(name for name in _required(part) if not _is_installed(name)) for part in PARTS}
    # One of the two is the worker here.
    del lacks["worker" if "torch" in lacks["worker"] else "worker-light"]
    for part, missing in lacks.items():
        if missing:
            yield Finding("parts", WARN, f"{part}: {', '.join(missing)} not installed; to run it here: `make setup`")
    complete = [part for part, missing in lacks.items() if not missing]
    if complete:
        yield Finding("parts", OK, f"complete: {', '.join(complete)}")


def _required(extra: str) -> set[str]:
    """The packages that an extra of ours names."""
    names: set[str] = set()
    for text in importlib.metadata.requires("handful") or ():
        found = _REQUIREMENT.match(text)
        if found is None or found["extra"] != extra:
            continue
        if found["name"] == "handful":
            names |= {name for one in (found["extras"] or "").split(",") for name in _required(one)}
        else:
            names.add(found["name"])
    return names


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _services(seconds: float) -> Iterator[Finding]:
    """What the services' own code finds, in a process of its own."""
    if find_spec("services") is None:
        return
    # It gets a second to start, and one to end.
    command = [sys.executable, "-m", "services.doctor", str(max(1.0, seconds - 2))]
    late = False
    try:
        # A little less than we are given, so that what was found until then is told.
        ended = subprocess.run(command, capture_output=True, timeout=0.95 * seconds, check=False)  # noqa: S603 - ours
        printed, said = ended.stdout, ended.stderr
    except subprocess.TimeoutExpired as stopped:
        late, printed, said = True, stopped.stdout or b"", b""
    findings = [Finding(**json.loads(line)) for line in printed.splitlines()]
    if late:
        unsaid = [check for check in FOUND_BY_SERVICES if not any(finding.check == check for finding in findings)]
        findings += [Finding(check, BROKEN, _late(seconds)) for check in unsaid]
    yield from sorted(findings, key=lambda finding: FOUND_BY_SERVICES.index(finding.check))
    if not findings:
        last = said.decode(errors="replace").strip().splitlines()
        yield Finding("services", BROKEN, f"cannot be asked: {last[-1] if last else 'they say nothing'}")


def _late(seconds: float) -> str:
    return f"no answer within {seconds:.0f} s; if this machine is busy, wait longer: handful doctor --seconds 60"


def _answers(service: str, address: str) -> Iterator[Finding]:
    variable = "HANDFUL_WORKER_ADDRESS" if service == "worker" else f"HANDFUL_{service.upper()}"
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        yield Finding(service, BROKEN, f"{variable}={address}: must be host:port")
        return
    # Workers alone need their port; who trains elsewhere has none here.
    absent = WARN if service == "worker" else MISSING
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except ConnectionRefusedError:
        yield Finding(service, absent, f"nothing listens on {address}; `handful up` starts it, or see {variable}")
        return
    except OSError as problem:
        yield Finding(service, absent, f"{address} cannot be reached ({problem}); see {variable}")
        return
    yield Finding(service, *_health(address, variable))


def _health(address: str, variable: str) -> tuple[str, str]:
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary(_HEALTH, request_serializer=bytes, response_deserializer=bytes)
        try:
            answer = ask(b"", timeout=CONNECT_SECONDS)
        except grpc.RpcError as problem:
            if problem.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                return BROKEN, f"{address} does not answer; see its log, and start it again"
            return BROKEN, f"something listens on {address} that is not ours; stop it, or set another {variable}"
    if answer != _SERVING:
        return WARN, f"{address} is starting, or stopping"
    return OK, f"{address} serves"
