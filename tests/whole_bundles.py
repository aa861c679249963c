"""Bundles that are whole: everything a worker publishes, of a network so small that it is built here, without torch.

Its features are the mean colour of a picture, spread over as many numbers as the catalogue's architecture has.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper, parser
from PIL import Image
from safetensors.numpy import save

from handful.bundle import manifest, neighbours
from handful.bundle.heads import LinearHead
from handful.bundle.predictor import Backbone, to_pixels
from handful.v1 import bundle_pb2
from handful.v1.bundle_pb2 import Head, ModelManifest
from services.shared.objects import ObjectStore
from services.trainer.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE, backbone_id
from services.trainer.exports import archive
from services.trainer.exports.bundle import Bundle

ROW = ARCHITECTURES[DEFAULT_ARCHITECTURE]
SIZE, WIDTH = ROW.preprocessing.size, ROW.feature_width
LABELS = ("blue", "green", "red")
NUM_GOLDEN, NUM_KNOWN = 3, 6
_GRAPH = """
    <ir_version: 10, opset_import: ["" : 18]>
    colours (uint8[n,{size},{size},3] pixels) => (float[n,{width}] features, float[n,3,{size},{size}] feature_map) {{
        numbers = Cast<to = 1>(pixels)
        feature_map = Transpose<perm = [0, 3, 1, 2]>(numbers)
        sides = Constant<value = int64[2] {{2, 3}}>()
        colour = ReduceMean<keepdims = 0>(feature_map, sides)
        features = MatMul(colour, spread)
    }}
"""


def graph(size: int = SIZE, width: int = WIDTH) -> onnx.ModelProto:
    model = parser.parse_model(_GRAPH.format(size=size, width=width))
    spread = np.random.default_rng(0).normal(size=(3, width)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(spread, "spread"))
    return model


def picture(seed: int, kind: str = "JPEG") -> bytes:
    """Noise around a colour of its own."""
    rng = np.random.default_rng(seed)
    pixels = np.clip(rng.integers(0, 256, 3) + rng.integers(-30, 30, (260, 300, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@dataclass
class Parts:
    """A bundle in pieces, for tests to change. `written` makes the manifest agree with them."""

    model: ModelManifest
    files: dict[str, bytes]
    graph: bytes
    weights: bytes
    described: bytes = field(default=b"")

    def written(self) -> Parts:
        """The manifest says what the files are now."""
        del self.model.files[:]
        for path, data in sorted(self.files.items()):
            self.model.files.add(path=path, sha256=manifest.sha256(data), size_bytes=len(data))
        backbone = self.model.backbone
        backbone.graph_sha256, backbone.weights_file_sha256 = map(manifest.sha256, (self.graph, self.weights))
        identity = (backbone.architecture, backbone.preprocessing, backbone.weights_sha256, backbone.quantizer)
        backbone.backbone_id = backbone_id(*identity)
        self.described = manifest.to_bytes(self.model)
        return self

    @property
    def sha256(self) -> str:
        return manifest.sha256(self.described)

    @property
    def bundle(self) -> Bundle:
        return Bundle(self.described, self.files, self.graph, self.weights)

    def store(self, store: ObjectStore, project: str = "default") -> str:
        """Puts it where a worker does; the SHA-256 of its manifest."""
        backbone = self.model.backbone
        store.put(manifest.graph_keys(project, backbone)[1], self.graph)
        store.put(manifest.weights_keys(project, backbone)[1], self.weights)
        for path, data in {**self.files, "manifest.json": self.described}.items():
            store.put(manifest.bundle_key(project, self.sha256, path), data)
        return self.sha256

    def entries(self) -> dict[str, bytes]:
        """What of a zip is read back."""
        bundled = {"manifest.json": self.described, "backbone.onnx": self.graph, "backbone.safetensors": self.weights}
        return {f"bundle/{path}": data for path, data in {**bundled, **self.files}.items()}

    def zip(self, path: Path) -> bytes:
        archive.write(path, self.entries())
        return path.read_bytes()


def make(
    normalization: Head.Normalization.ValueType = Head.NORMALIZATION_CENTER_L2,
    labels: tuple[str, ...] = LABELS,
    seed: int = 0,
) -> Parts:
    """A bundle that answers as it says."""
    body = graph().SerializeToString()
    pictures = [picture(seed) for seed in range(NUM_GOLDEN)]
    pixels = np.stack([to_pixels(one, ROW.preprocessing) for one in pictures])
    features = Backbone(body).features(pixels)
    # Features that are not scaled are hundreds of times as long.
    scale = 0.05 if normalization == Head.NORMALIZATION_CENTER_L2 else 1e-4
    weight = np.random.default_rng(1000 + seed).normal(scale=scale, size=(len(labels), WIDTH)).astype(np.float32)
    head = LinearHead(normalization, weight, np.zeros(len(labels), np.float32), features.mean(axis=0))
    golden: dict[str, npt.NDArray[Any]] = {
        "picture": np.frombuffer(pictures[0], np.uint8),
        "pixels": pixels,
        "probabilities": head.probabilities(features),
    }
    files = {
        "evaluation.json": manifest.to_bytes(_evaluation(labels)),
        "golden.safetensors": save(golden),
        "head.safetensors": head.to_bytes(),
        "plots/loss.png": picture(0, "PNG"),
    }
    others = np.stack([to_pixels(picture(seed), ROW.preprocessing) for seed in range(NUM_KNOWN)])
    contents = [manifest.sha256(str(number).encode()) for number in range(NUM_KNOWN)]
    named = neighbours.Named.of(contents, np.arange(NUM_KNOWN) % len(labels))
    known = neighbours.fit(Backbone(body).features(others), contents, named)
    assert known is not None
    files[neighbours.FILE] = known.to_bytes()
    weights = save({"network.spread": np.random.default_rng(seed).normal(size=(3, WIDTH)).astype(np.float32)})
    described = _manifest(normalization, labels, seed)
    described.neighbours.nearest, described.neighbours.max_distance = known.nearest, known.max_distance
    return Parts(described, files, body, weights).written()


def _manifest(normalization: Head.Normalization.ValueType, labels: tuple[str, ...], seed: int) -> ModelManifest:
    return ModelManifest(
        format=manifest.COARSE_MODEL_FORMAT,
        modality=bundle_pb2.MODALITY_IMAGE,
        labels=labels,
        backbone=bundle_pb2.Backbone(
            architecture=ROW.id,
            weights_sha256=manifest.sha256(str(seed).encode()),
            weights_origin="trained",
            preprocessing=ROW.preprocessing,
            feature_width=WIDTH,
        ),
        head=Head(normalization=normalization),
        recipe=bundle_pb2.Recipe(preset="baseline", architecture=ROW.id, weights=bundle_pb2.WEIGHTS_PRETRAINED),
        dataset_manifest_sha256=manifest.sha256(b"a dataset"),
        numerics="onnxruntime-1-cpu-float32",
        parity=bundle_pb2.Parity(num_examples=NUM_GOLDEN, max_abs_diff=1e-7, bound=1e-3),
        examples=[bundle_pb2.ClassExamples(num_train=15, num_val=5) for _ in labels],
    )


def _evaluation(labels: tuple[str, ...]) -> bundle_pb2.Evaluation:
    return bundle_pb2.Evaluation(
        metrics=[bundle_pb2.Metric(name="val/accuracy", value=1.0)],
        classes=[bundle_pb2.ClassEvaluation(label=one, precision=1, recall=1, f1=1, num_examples=5) for one in labels],
        confusion_matrix=[bundle_pb2.ConfusionRow(counts=[5 * (row == one) for one in labels]) for row in labels],
    )
