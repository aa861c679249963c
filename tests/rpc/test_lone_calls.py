"""Calls that have the server to themselves, which several threads may answer, beside calls in company."""

import asyncio
import io
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

from handful.v1 import inference_pb2_grpc
from handful.v1.inference_pb2 import PredictRequest, PredictResponse
from services.inference.backbones import LoadedBackbone
from services.inference.loading import Loader, Model
from services.inference.pointers import VersionRef
from services.inference.runtimes import DEFAULT, LONE_THREADS
from services.shared import cores
from services.shared.objects.filesystem import FilesystemStore
from services.shared.server import MEBIBYTE
from tests import real_bundles
from tests.bundles import Gate, point
from tests.inference_process import InferenceProcess, inference
from tests.processes import until
from tests.servers import serving

MODEL = "projects/default/models/shared"
CAP = 4


class WideLoader(Loader):
    """Loads models, and has them computed by one backbone in company and by another alone, which remember that."""

    def __init__(self, store: FilesystemStore, graph: bytes) -> None:
        super().__init__(store, 256 * MEBIBYTE)
        self.usual, self.lone = Gate(graph), Gate(graph, LONE_THREADS)
        self.usual.opened.set()
        self.lone.opened.set()

    async def load(self, ref: VersionRef) -> Model:
        return Model((await super().load(ref)).head, LoadedBackbone(self.usual, 0, CAP, lone=self.lone))


def questions(count: int) -> list[PredictRequest]:
    """Pictures of noise, each another."""
    asked = []
    for seed in range(count):
        noise = np.random.default_rng(seed).integers(0, 256, (real_bundles.SIZE, real_bundles.SIZE, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).save(file, "PNG")
        asked.append(PredictRequest(model=MODEL, image=file.getvalue()))
    return asked


async def test_alone_and_in_company_answers_are_the_same(store: FilesystemStore) -> None:
    """Bit for bit; calls one after another are each alone, and of many at once none but the first and the last."""
    graph, asked = real_bundles.graph(), questions(12)
    point(store, {"shared": [real_bundles.publish(store, graph)]})
    loader = WideLoader(store, graph)
    async with serving(store, loader) as stub:
        alone = [await stub.Predict(one) for one in asked]
        assert (loader.lone.passes, loader.usual.passes) == ([1] * len(asked), [])
        together = await asyncio.gather(*(stub.Predict(one) for one in asked))
    assert together == alone
    assert len(loader.lone.passes) <= len(asked) + 2
    assert max(loader.usual.passes) == CAP


def test_what_was_measured_serves_lone_calls(tmp_path: Path) -> None:
    """A server process gives lone calls several threads where it found that worth it, from then on, and never to calls
    in company; nobody's answer changes.
    """
    store, asked = FilesystemStore(tmp_path / "store"), questions(4)
    point(store, {"shared": [real_bundles.publish(store, real_bundles.graph())]})
    settings = {"HANDFUL_INFERENCE_THREADS": "2", "HANDFUL_INFERENCE_METRICS_ADDRESS": "127.0.0.1:0"}
    with (
        inference(tmp_path, HANDFUL_INFERENCE_RUNTIME=DEFAULT, **settings) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        before: list[PredictResponse] = [stub.Predict(one, timeout=60) for one in asked]
        until(lambda: "runtimes measured" in server.events, "it measures", 120)
        threads = next(line["threads_alone"] for line in server.lines if line["event"] == "runtimes measured")
        if cores.usable() < LONE_THREADS:
            assert threads == 1
        if threads == 1:
            pytest.skip("several threads are not worth it on this machine, or it is too busy")

        def alone() -> bool:  # on a busy machine a call may come before the thread that answered the last one is free
            wide = num_wide(server)
            assert [stub.Predict(one, timeout=60) for one in asked] == before
            return num_wide(server) == wide + len(asked)

        until(alone, "lone calls have several threads", 60)
        wide = num_wide(server)
        asking = [stub.Predict.future(one, timeout=60) for one in 8 * asked]
        assert [one.result() for one in asking] == 8 * before
        assert num_wide(server) <= wide + len(asking) // 2
    assert "the default runtime stays" not in server.events


def num_wide(server: InferenceProcess) -> int:
    """How many of its passes had several threads, by its metrics."""
    port = next(line["port"] for line in server.lines if "metrics" in str(line["event"]))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as response:
        lines = response.read().decode().splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith("handful_inference_wide_passes_total"))))
