"""Models on the default backbone with its real weights, without a training run: their heads are random numbers."""

from __future__ import annotations

import io

import numpy as np
import onnx
from PIL import Image
from safetensors.numpy import save

from handful.bundle import golden, manifest
from handful.bundle.heads import LinearHead
from handful.bundle.predictor import Backbone, to_pixels
from handful.v1 import bundle_pb2
from services.shared.objects import ObjectStore
from services.trainer.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from services.trainer.worker import efficientnet_lite
from services.trainer.worker.pretrained import offered
from services.trainer.worker.pretrained.torch_files import read

ROW = ARCHITECTURES[DEFAULT_ARCHITECTURE]
NUM_CLASSES = 5


def graph(architecture: str = DEFAULT_ARCHITECTURE) -> bytes:
    """The graph of an EfficientNet-Lite, from the package that carries its weights."""
    row = ARCHITECTURES[architecture]
    path = offered(row).locate()
    assert path is not None
    return efficientnet_lite.graph(efficientnet_lite.state(row.network.name, read(path.read_bytes())), row)


def picture() -> bytes:
    """A PNG of noise at the input size."""
    size = ROW.preprocessing.size
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def publish(
    store: ObjectStore, body: bytes, *, private: bool = False, name: str = "private", project: str = "default"
) -> str:
    """Stores a project's bundle of five classes on the default backbone; the SHA-256 of its manifest. A private one has
    a graph of its own, which computes the same; another name makes another.
    """
    if private:
        model = onnx.load_from_string(body)
        model.doc_string = name
        body = model.SerializeToString()
    described = bundle_pb2.Backbone(
        backbone_id="b", architecture=ROW.id, preprocessing=ROW.preprocessing, graph_sha256=manifest.sha256(body)
    )
    store.put(manifest.graph_keys(project, described)[private], body)
    shown = picture()
    pixels = to_pixels(shown, ROW.preprocessing)[None]
    features = Backbone(body).features(pixels)
    weight = np.random.default_rng(1).normal(scale=0.05, size=(NUM_CLASSES, ROW.feature_width)).astype(np.float32)
    mean = np.zeros(ROW.feature_width, np.float32)
    head = LinearHead(bundle_pb2.Head.NORMALIZATION_CENTER_L2, weight, np.zeros(NUM_CLASSES, np.float32), mean)
    tensors = {"picture": np.frombuffer(shown, np.uint8), "pixels": pixels}
    files = {
        "head.safetensors": head.to_bytes(),
        golden.FILE: save({**tensors, "probabilities": head.probabilities(features)}),
    }
    bundle = bundle_pb2.ModelManifest(
        format=manifest.MODEL_FORMAT,
        modality=bundle_pb2.MODALITY_IMAGE,
        labels=[f"class {number}" for number in range(NUM_CLASSES)],
        backbone=described,
        head=bundle_pb2.Head(normalization=head.normalization),
        files=[
            bundle_pb2.BundleFile(path=path, sha256=manifest.sha256(data), size_bytes=len(data))
            for path, data in sorted(files.items())
        ],
    )
    data = manifest.to_bytes(bundle)
    digest = manifest.sha256(data)
    for path, content in {**files, "manifest.json": data}.items():
        store.put(manifest.bundle_key(project, digest, path), content)
    return digest
