"""What Prometheus reads: the figures of what was asked, and nothing where no address is set."""

import asyncio
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from handful.v1 import inference_pb2_grpc
from handful.v1.inference_pb2 import ExplainRequest, PredictRequest
from services.inference.batching import Batcher
from services.inference.explanations.explaining import Explainer
from services.inference.loading import Loader
from services.inference.metrics import MAX_MODELS, Figures
from services.inference.runtimes import DEFAULT
from services.inference.runtimes.choosing import Chooser
from services.shared.metrics import Metrics
from services.shared.objects.filesystem import FilesystemStore
from services.shared.server import MEBIBYTE
from services.shared.settings import CannotStart
from tests.bundles import COLOURS, point, publish
from tests.inference_process import inference
from tests.processes import until

FLOWERS = "projects/default/models/flowers"
PREDICT = "/handful.v1.InferenceService/Predict"
Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def read(port: int) -> Samples:
    """Every sample by its name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as response:
        text = response.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def sample(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_a_server_says_what_it_did(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    """Calls by method and status with their times, passes, what is loaded, what the versions were asked, what serves
    their graph and what was measured; and the memory of the process.
    """
    store = FilesystemStore(tmp_path / "store")
    point(store, {"flowers": [publish(store)]})
    image, version = picture(1, COLOURS["red"]), f"{FLOWERS}/versions/1"
    settings = {"HANDFUL_INFERENCE_METRICS_ADDRESS": "127.0.0.1:0", "HANDFUL_INFERENCE_RUNTIME": DEFAULT}
    with inference(tmp_path, **settings) as server, grpc.insecure_channel(server.address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        for _ in range(3):
            stub.Predict(PredictRequest(model=FLOWERS, image=image), timeout=20)
        stub.Explain(ExplainRequest(model=FLOWERS, image=image), timeout=20)
        with pytest.raises(grpc.RpcError):
            stub.Predict(PredictRequest(model=FLOWERS, image=b"no picture"), timeout=20)
        until(lambda: "runtimes measured" in server.events, "it measures", 60)
        found = read(next(int(str(line["port"])) for line in server.lines if "metrics" in str(line["event"])))
        assert found["process_resident_memory_bytes", frozenset()] == pytest.approx(server.memory_bytes, rel=0.2)
    assert sample(found, "handful_calls_total", method=PREDICT, status="OK") == 3
    assert sample(found, "handful_calls_total", method=PREDICT, status="INVALID_ARGUMENT") == 1
    assert sample(found, "handful_call_seconds_count", method=PREDICT) == 4
    assert sample(found, "handful_call_seconds_bucket", method=PREDICT, le="+Inf") == 4
    assert 3 <= sample(found, "handful_inference_pass_pictures_bucket", le="1.0") <= 4
    assert sample(found, "handful_inference_waiting", line="shared") == 0
    assert [sample(found, "handful_inference_loaded", kind=kind) for kind in ("model", "shared_network")] == [1, 1]
    assert sample(found, "handful_inference_loaded_bytes", kind="shared_network") > 0
    assert sample(found, "handful_model_requests_total", version=version, outcome="success") == 4
    assert sample(found, "handful_model_requests_total", version=version, outcome="fail") == 1
    assert sample(found, "handful_model_answers_total", version=version) == 3
    assert sample(found, "handful_model_seconds_total", version=version, stage="network") > 0
    serving = [dict(labels) for name, labels in found if name == "handful_inference_runtime"]
    assert [one["runtime"] for one in serving] == [DEFAULT]
    measured = [dict(labels) for name, labels in found if name == "handful_inference_runtime_milliseconds"]
    assert {one["runtime"] for one in measured} == {DEFAULT}
    assert {one["graph_sha256"] for one in measured} == {serving[0]["graph_sha256"]}


async def test_series_of_models_are_bounded(store: FilesystemStore) -> None:
    """Of more versions than have series those have them that were asked last."""
    batcher, explainer, chooser = Batcher(1, 8), Explainer(), Chooser((DEFAULT,), 1)
    figures = Figures(batcher, explainer, Loader(store, MEBIBYTE), chooser)
    for number in [*range(2 * MAX_MODELS), 0]:
        with batcher.statistics.counting(f"v{number}"):
            pass
    families = {one.name: one.samples for one in await asyncio.to_thread(figures.collect)}
    asked = {one.labels["version"] for one in families["handful_model_answers"]}
    assert asked == {f"v{number}" for number in [*range(MAX_MODELS + 1, 2 * MAX_MODELS), 0]}
    await batcher.close()
    explainer.close()


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:99999", "no.such.host.invalid:0", "127.0.0.1:-1"])
def test_an_address_that_is_none_stops_the_start(address: str) -> None:
    """What cannot be listened on is said, by its address; so is a port that is taken. No address means none."""
    with pytest.raises(CannotStart, match=address):
        Metrics().serve(address)
    assert Metrics().serve("") == 0
    port = Metrics().serve("127.0.0.1:0")
    with pytest.raises(CannotStart, match="taken"):
        Metrics().serve(f"127.0.0.1:{port}")
