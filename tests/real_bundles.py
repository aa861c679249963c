"""Models on the default backbone with its real weights, without a training run: their heads are random numbers."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import onnx
from PIL import Image
from safetensors.numpy import save

from handful.bundle import golden, manifest, neighbours
from handful.bundle.heads import Floats, LinearHead
from handful.bundle.neighbours import Neighbours
from handful.bundle.predictor import Backbone, Pixels, to_pixels
from handful.v1 import bundle_pb2
from services.shared.objects import ObjectStore
from services.trainer.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from services.trainer.worker import efficientnet_lite
from services.trainer.worker.pretrained import offered
from services.trainer.worker.pretrained.torch_files import read
from services.trainer.worker.publishing import NUM_GOLDEN

ROW = ARCHITECTURES[DEFAULT_ARCHITECTURE]
NUM_CLASSES = 5
SIZE = ROW.preprocessing.size


def graph(architecture: str = DEFAULT_ARCHITECTURE) -> bytes:
    """The graph of an EfficientNet-Lite, from the package that carries its weights."""
    row = ARCHITECTURES[architecture]
    path = offered(row).locate()
    assert path is not None
    return efficientnet_lite.graph(efficientnet_lite.state(row.network.name, read(path.read_bytes())), row)


def picture() -> bytes:
    """A PNG of noise at the input size."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@cache
def _golden(body: bytes) -> tuple[Pixels, Floats]:
    """The inputs that go with every model, the first of which is `picture`, and their features."""
    pixels = np.random.default_rng(2).integers(0, 256, (NUM_GOLDEN, SIZE, SIZE, 3), dtype=np.uint8)
    pixels[0] = to_pixels(picture(), ROW.preprocessing)
    return pixels, Backbone(body).features(pixels)


def publish(
    store: ObjectStore,
    body: bytes,
    *,
    private: bool = False,
    project: str = "default",
    seed: int = 1,
    known: Neighbours | None = None,
    control: bundle_pb2.ErrorControl | None = None,
) -> str:
    """Stores a project's bundle of five classes on the default backbone; the SHA-256 of its manifest. A private one has
    a graph of its own, which computes the same. A seed is a head.
    """
    if private:
        model = onnx.load_from_string(body)
        model.doc_string = "private"
        body = model.SerializeToString()
    described = bundle_pb2.Backbone(
        backbone_id="b", architecture=ROW.id, preprocessing=ROW.preprocessing, graph_sha256=manifest.sha256(body)
    )
    store.put(manifest.graph_keys(project, described)[private], body)
    pixels, features = _golden(body)
    weight = np.random.default_rng(seed).normal(scale=0.05, size=(NUM_CLASSES, ROW.feature_width)).astype(np.float32)
    mean = np.zeros(ROW.feature_width, np.float32)
    head = LinearHead(bundle_pb2.Head.NORMALIZATION_CENTER_L2, weight, np.zeros(NUM_CLASSES, np.float32), mean)
    tensors = {"picture": np.frombuffer(picture(), np.uint8), "pixels": pixels}
    files = {
        "head.safetensors": head.to_bytes(),
        golden.FILE: save({**tensors, "probabilities": head.probabilities(features)}),
    }
    if known is not None:
        files[neighbours.FILE] = known.to_bytes()
    bundle = bundle_pb2.ModelManifest(
        format=manifest.MODEL_FORMAT if known is None else manifest.COARSE_MODEL_FORMAT,
        modality=bundle_pb2.MODALITY_IMAGE,
        labels=[f"class {number}" for number in range(NUM_CLASSES)],
        backbone=described,
        head=bundle_pb2.Head(normalization=head.normalization),
        files=[
            bundle_pb2.BundleFile(path=path, sha256=manifest.sha256(data), size_bytes=len(data))
            for path, data in sorted(files.items())
        ],
        error_control=control,
    )
    if known is not None:
        bundle.neighbours.nearest, bundle.neighbours.max_distance = known.nearest, known.max_distance
    data = manifest.to_bytes(bundle)
    digest = manifest.sha256(data)
    for path, content in {**files, "manifest.json": data}.items():
        store.put(manifest.bundle_key(project, digest, path), content)
    return digest
