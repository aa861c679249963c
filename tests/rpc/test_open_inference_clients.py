"""Clients of others, unchanged and each in its own environment: Triton's, KServe's, grpcurl."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import venv
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from handful.bundle.neighbours import Neighbours
from handful.bundle.rows import HalfRows
from services.shared.objects.filesystem import FilesystemStore
from tests.bundles import COLOURS, point, publish
from tests.servers import open_inference

CLIENTS = Path(__file__).parents[1] / "clients"
PROTOS = Path(__file__).parents[2] / "protos"
CACHE = Path("~/.cache/handful").expanduser()
# They need protobuf 6, and we 7.
TRITON = ("tritonclient[grpc]==2.73.0", "protobuf==6.33.6", "pillow==13.0.0")
KSERVE = "kserve==0.21.0"


@pytest.fixture(scope="session")
def triton() -> Path:
    """A Python that has Triton's client: made once, kept in the cache."""
    folder = CACHE / "tritonclient-2.73.0"
    python, made = folder / "bin" / "python", folder / ".made"
    if not made.exists():
        venv.create(folder, with_pip=True, clear=True)
        options = ("--quiet", "--disable-pip-version-check", "--no-compile")
        try:
            subprocess.run([str(python), "-m", "pip", "install", *options, *TRITON], timeout=160, check=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as problem:
            pytest.skip(f"tritonclient cannot be installed here: {problem}")
        made.touch()
    return python


@pytest.fixture(scope="session")
def kserve() -> Path:
    """A Python that has KServe's client; 0.3 GB, so it is not made for a test."""
    python = Path(os.environ.get("HANDFUL_TEST_KSERVE") or CACHE / "kserve-0.21.0" / "bin" / "python")
    if not python.exists():
        pytest.skip(f"no {KSERVE} at {python}: make an environment there, or name another in HANDFUL_TEST_KSERVE")
    return python


@pytest.fixture
async def address(store: FilesystemStore) -> AsyncIterator[str]:
    known = Neighbours(HalfRows(np.eye(3, dtype=np.float16)[[0, 0, 1, 1]]), 2, 0.2)
    point(store, {"known": [publish(store, known=known)]})
    async with open_inference(store) as where:
        yield where


@pytest.fixture
def pictures(tmp_path: Path, picture: Callable[..., bytes]) -> list[Path]:
    folder = tmp_path / "pictures"
    folder.mkdir()
    paths = [folder / f"{number}_{name}.jpg" for number, name in enumerate(COLOURS)]
    for path, colour in zip(paths, COLOURS.values(), strict=True):
        path.write_bytes(picture(1, colour))
    return paths


def grpcurl() -> str:
    cached = CACHE / "bin" / "grpcurl"
    found = os.environ.get("HANDFUL_TEST_GRPCURL") or shutil.which("grpcurl") or (cached.is_file() and str(cached))
    if not found:
        pytest.skip("grpcurl is not on this machine: go install github.com/fullstorydev/grpcurl/cmd/grpcurl@latest")
    return found


async def run(python: Path, script: str, *arguments: object) -> str:
    """What the script prints; fails with what it says where it does not succeed."""
    command = [str(python), str(CLIENTS / script), *map(str, arguments)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={"PATH": os.environ["PATH"]}
    )
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_tritons_client_is_served(triton: Path, address: str, pictures: list[Path]) -> None:
    """Live, ready, index, metadata, configuration, files, classes, pixels, a stream, errors and statistics."""
    await run(triton, "with_triton.py", address, *pictures)


async def test_kserves_client_is_served(kserve: Path, address: str, pictures: list[Path]) -> None:
    """Live, ready, files raw and typed, pixels."""
    await run(kserve, "with_kserve.py", address, *pictures)


async def test_a_folder_is_classified_as_by_tritons_example(triton: Path, address: str, pictures: list[Path]) -> None:
    """A client that reads from metadata and configuration what to send classifies a folder, in several requests."""
    printed = await run(triton, "classify_folder.py", address, "known.pixels", pictures[0].parent, 2)
    assert printed.split() == [part for path, name in zip(pictures, COLOURS, strict=True) for part in (path.name, name)]


async def test_grpcurl_is_served_by_the_proto_alone(address: str, pictures: list[Path]) -> None:
    """The call of docs/calling.md works as it stands there, without reflection."""
    file = base64.b64encode(pictures[1].read_bytes()).decode()
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [file]}}
    request = {"model_name": "known", "inputs": [tensor]}
    proto = ["-import-path", str(PROTOS), "-proto", "inference/open_inference.proto"]
    command = [grpcurl(), "-plaintext", *proto, "-d", "@", address, "inference.GRPCInferenceService/ModelInfer"]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(json.dumps(request).encode()), 60)
    assert process.returncode == 0, err.decode()
    found = json.loads(out)["outputs"][0]["contents"]["fp32Contents"]
    assert found.index(max(found)) == 1
