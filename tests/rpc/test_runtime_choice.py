"""A server process that is told which runtime to use: it answers at once, and the same after it has changed over."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from handful.v1 import inference_pb2_grpc
from handful.v1.inference_pb2 import PredictRequest, PredictResponse
from services.inference.runtimes import RUNTIMES
from services.shared.objects.filesystem import FilesystemStore
from tests.bundles import COLOURS, point, publish
from tests.processes import until

ROOT = Path(__file__).parents[2]
FLOWERS = "projects/default/models/flowers"


@contextmanager
def inference(home: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[bytes], str, Callable[[], list[str]]]]:
    """The service as a process: itself, its address and the events of its log."""
    log = home / "log"
    environment = {**os.environ, "HANDFUL_HOME": str(home), "HANDFUL_INFERENCE_ADDRESS": "127.0.0.1:0", **settings}

    def lines() -> list[dict[str, object]]:
        return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]

    with log.open("wb") as output:
        command = [sys.executable, "-m", "services.inference"]
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=output)
    try:
        until(lambda: any(line["event"] == "listening" for line in lines()), "it listens")
        port = next(line["port"] for line in lines() if line["event"] == "listening")
        yield process, f"127.0.0.1:{port}", lambda: [str(line["event"]) for line in lines()]
    finally:
        process.terminate()
        assert process.wait(30) == 0


def loaded(process: "subprocess.Popen[bytes]") -> bool:
    """Whether a process has OpenVINO in memory."""
    return "libopenvino" in Path(f"/proc/{process.pid}/maps").read_text()


@pytest.mark.parametrize("named", RUNTIMES)
def test_the_runtime_that_is_named_serves(tmp_path: Path, picture: Callable[..., bytes], named: str) -> None:
    """The first answer waits for no measuring. OpenVINO, where it is named, takes over and answers the same; where
    it is not, it never takes memory.
    """
    if RUNTIMES[named].version is None:
        pytest.skip(f"{named} is not installed")
    store = FilesystemStore(tmp_path / "store")
    point(store, {"flowers": [publish(store)]})

    with (
        inference(tmp_path, HANDFUL_INFERENCE_RUNTIME=named) as (process, address, events),
        grpc.insecure_channel(address) as channel,
    ):
        stub = inference_pb2_grpc.InferenceServiceStub(channel)

        def ask(colour: str) -> PredictResponse:
            image = picture(1, COLOURS[colour])
            answer: PredictResponse = stub.Predict(PredictRequest(model=FLOWERS, image=image), timeout=20)
            return answer

        before = [ask(colour) for colour in COLOURS]
        assert "runtimes measured" not in events()[: events().index("call")]
        until(lambda: "runtimes measured" in events(), "it measures", 60)
        if named == "openvino":
            until(lambda: loaded(process), "OpenVINO is loaded", 60)
        for _ in range(20):
            for known, one in zip(before, map(ask, COLOURS), strict=True):
                assert one.predictions[0].label == known.predictions[0].label
                np.testing.assert_allclose(
                    [each.score for each in one.predictions], [each.score for each in known.predictions], atol=1e-5
                )
        assert loaded(process) == (named == "openvino")
        assert "a runtime is refused" not in events()
        assert "the default runtime stays" not in events()
