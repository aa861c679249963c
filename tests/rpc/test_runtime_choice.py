"""A server process that is told which runtime to use: it answers at once, and the same after it has changed over."""

from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from handful.v1 import inference_pb2_grpc
from handful.v1.inference_pb2 import PredictRequest, PredictResponse
from services.inference.runtimes import RUNTIMES
from services.shared.objects.filesystem import FilesystemStore
from tests.bundles import COLOURS, point, publish
from tests.inference_process import InferenceProcess, inference
from tests.processes import until

FLOWERS = "projects/default/models/flowers"


def loaded(server: InferenceProcess) -> bool:
    """Whether a process has OpenVINO in memory."""
    return "libopenvino" in Path(f"/proc/{server.pid}/maps").read_text()


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
        inference(tmp_path, HANDFUL_INFERENCE_RUNTIME=named) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = inference_pb2_grpc.InferenceServiceStub(channel)

        def ask(colour: str) -> PredictResponse:
            image = picture(1, COLOURS[colour])
            answer: PredictResponse = stub.Predict(PredictRequest(model=FLOWERS, image=image), timeout=20)
            return answer

        before = [ask(colour) for colour in COLOURS]
        assert "runtimes measured" not in server.events[: server.events.index("call")]
        until(lambda: "runtimes measured" in server.events, "it measures", 60)
        if named == "openvino":
            until(lambda: loaded(server), "OpenVINO is loaded", 60)
        for _ in range(20):
            for known, one in zip(before, map(ask, COLOURS), strict=True):
                assert one.predictions[0].label == known.predictions[0].label
                np.testing.assert_allclose(
                    [each.score for each in one.predictions], [each.score for each in known.predictions], atol=1e-5
                )
        assert loaded(server) == (named == "openvino")
        assert "a runtime is refused" not in server.events
        assert "the default runtime stays" not in server.events
