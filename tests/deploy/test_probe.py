"""What container engines run to learn whether a container is well."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from services.shared.server import Limits, Server
from services.shared.settings import CannotStart
from services.trainer.worker import health

ROOT = Path(__file__).parents[2]


def probed(*arguments: str) -> int:
    command = [sys.executable, "-m", "services.shared.probe", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False, timeout=60, capture_output=True).returncode


async def test_a_service_is_well_until_it_stops(tmp_path: Path) -> None:
    """The probe succeeds at a server that serves, for a name it serves, and fails once it is gone."""
    address = f"unix:{tmp_path / 'server'}"
    server = Server(Limits(drain_seconds=0))
    await server.start(address, {})
    assert await asyncio.to_thread(probed, address) == 0
    assert await asyncio.to_thread(probed, address, "ready") == 0
    assert await asyncio.to_thread(probed, address, "none") == 1
    await server.stop()
    assert await asyncio.to_thread(probed, address) == 1


def test_a_worker_is_probed_as_a_service_is(tmp_path: Path) -> None:
    """A worker with a health address answers there while it works, and one without listens nowhere."""
    address = f"unix:{tmp_path / 'worker'}"
    with health.answered(address):
        assert probed(address) == 0
    assert probed(address) == 1
    with health.answered(""):
        assert probed(address) == 1


def test_a_worker_says_that_it_cannot_answer_there(tmp_path: Path) -> None:
    """A health address that cannot be listened on ends the worker with the variable's name."""
    with (
        pytest.raises(CannotStart, match="HANDFUL_WORKER_HEALTH_ADDRESS"),
        health.answered(f"unix:{tmp_path}/none/here"),
    ):
        pass
