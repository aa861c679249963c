"""Models made by hand: bundles and pointers in a store, as the worker and the trainer write them, without torch.

The features of a picture are its mean colour, so that a red picture is red.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx.parser
from PIL import Image
from safetensors.numpy import save

from handful.bundle import golden, manifest, neighbours
from handful.bundle.heads import Floats, LinearHead
from handful.bundle.neighbours import Neighbours
from handful.bundle.predictor import Backbone, Pixels
from handful.v1.bundle_pb2 import Backbone as BackboneMessage
from handful.v1.bundle_pb2 import ErrorControl, Head, ImagePreprocessing, ModelManifest
from services.inference.backbones import LoadedBackbone
from services.inference.loading import Loader, Model
from services.inference.pointers import VersionRef
from services.shared.objects import ObjectStore

SIZE = 32
FEATURE_WIDTH = 3
COLOURS = {"red": (210, 50, 50), "green": (50, 210, 50), "blue": (50, 50, 210)}
PREPROCESSING = ImagePreprocessing(fit=ImagePreprocessing.FIT_SQUASH, size=SIZE, filter="bilinear", draft=2 * SIZE)
_GRAPH = """
    <ir_version: 10, opset_import: ["" : 18]>
    NAME (uint8[n,32,32,3] pixels) => (float[n,3] features, float[n,3,32,32] feature_map) {
        numbers = Cast<to = 1>(pixels)
        feature_map = Transpose<perm = [0, 3, 1, 2]>(numbers)
        sides = Constant<value = int64[2] {2, 3}>()
        features = ReduceMean<keepdims = 0>(feature_map, sides)
    }
"""
# An operator that ONNX Runtime alone knows.
ONLY_ONNXRUNTIME = """
    <ir_version: 10, opset_import: ["" : 18, "com.microsoft" : 1]>
    own (uint8[n,32,32,3] pixels) => (float[n,3] features) {
        numbers = Cast<to = 1>(pixels)
        sides = Constant<value = int64[2] {1, 2}>()
        colour = ReduceMean<keepdims = 0>(numbers, sides)
        places = Constant<value = float[3,3] {0.0, 0.0, 0.0, 9.0, 9.0, 9.0, 200.0, 0.0, 99.0}>()
        features = com.microsoft.CDist<metric = "euclidean">(colour, places)
    }
"""


class Gate(Backbone):
    """A backbone that computes once it is opened, and remembers how many pictures each pass had."""

    def __init__(self, graph: bytes, threads: int = 1) -> None:
        super().__init__(graph, threads)
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.passes: list[int] = []

    def features(self, pixels: Pixels) -> Floats:
        self.passes.append(len(pixels))
        self.entered.set()
        assert self.opened.wait(30)
        return super().features(pixels)

    def mapped(self, pixels: Pixels) -> tuple[Floats, Floats | None]:
        self.features(pixels)
        return super().mapped(pixels)


def mean_colour(name: str = "mean_colour") -> bytes:
    """A graph; another name makes other bytes that compute the same."""
    graph: bytes = onnx.parser.parse_model(_GRAPH.replace("NAME", name)).SerializeToString()
    return graph


def without_map() -> bytes:
    """The same, of a graph that gives no feature map."""
    model = onnx.parser.parse_model(_GRAPH.replace("NAME", "without_map"))
    del model.graph.output[1]
    graph: bytes = model.SerializeToString()
    return graph


def greedy(limit: float = SIZE * SIZE * 3 * 255 - 0.5) -> bytes:
    """The same, of a graph that takes a petabyte of memory where the pixels of a pass sum up to more: a white picture
    alone, or some others together.
    """
    text = f"""
        total = ReduceSum<keepdims = 0>(numbers)
        limit = Constant<value = float {{{limit}}}>()
        more = Greater(total, limit)
        times = Cast<to = 7>(more)
        petabyte = Constant<value = int64[1] {{281474976710656}}>()
        size = Mul(times, petabyte)
        taken = ConstantOfShape(size)
        nothing = ReduceSum<keepdims = 0>(taken)
        means = ReduceMean<keepdims = 0>(feature_map, sides)
        features = Add(means, nothing)
    """
    plain = "features = ReduceMean<keepdims = 0>(feature_map, sides)"
    graph: bytes = onnx.parser.parse_model(_GRAPH.replace("NAME", "greedy").replace(plain, text)).SerializeToString()
    return graph


class GatedLoader(Loader):
    """Loads models, and has them all computed by one gated backbone."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store, budget_bytes=2**20)
        self.gate = Gate(mean_colour())

    async def load(self, ref: VersionRef) -> Model:
        return Model((await super().load(ref)).head, LoadedBackbone(self.gate, 0))


def publish(
    store: ObjectStore,
    labels: Sequence[str] = tuple(COLOURS),
    graph: bytes | None = None,
    project: str = "default",
    known: Neighbours | None = None,
    control: ErrorControl | None = None,
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> str:
    """Stores a bundle; the SHA-256 of its manifest. Labels beyond three are ever fainter red, green and blue. `files`
    stand in place of its own.
    """
    graph = graph or mean_colour()
    strength = 0.02 / (1 + np.arange(len(labels)) // FEATURE_WIDTH)
    weight = np.eye(FEATURE_WIDTH)[np.arange(len(labels)) % FEATURE_WIDTH] * strength[:, None]
    bias, mean = np.zeros(len(labels), np.float32), np.zeros(FEATURE_WIDTH, np.float32)
    head = LinearHead(Head.NORMALIZATION_NONE, weight.astype(np.float32), bias, mean)
    made = {"head.safetensors": head.to_bytes(), golden.FILE: golden_inputs(head)}
    bundle = ModelManifest(
        format=manifest.MODEL_FORMAT,
        labels=labels,
        head=Head(normalization=Head.NORMALIZATION_NONE),
        backbone=BackboneMessage(backbone_id="b", preprocessing=PREPROCESSING, graph_sha256=manifest.sha256(graph)),
        error_control=control,
    )
    if known is not None:
        made[neighbours.FILE] = known.to_bytes()
        bundle.neighbours.nearest, bundle.neighbours.max_distance = known.nearest, known.max_distance
    made |= files
    for path, content in sorted(made.items()):
        bundle.files.add(path=path, sha256=manifest.sha256(content), size_bytes=len(content))
    data = manifest.to_bytes(bundle)
    digest = manifest.sha256(data)
    store.put(manifest.graph_keys(project, bundle.backbone)[0], graph)
    for path, content in made.items():
        store.put(manifest.bundle_key(project, digest, path), content)
    store.put(manifest.bundle_key(project, digest, "manifest.json"), data)
    return digest


def golden_inputs(head: LinearHead, lies: Sequence[float] = (0,)) -> bytes:
    """Two pictures and the head's answers to them, off by what is told of all or of each."""
    buffer = io.BytesIO()
    rows = [np.full((SIZE, SIZE, 3), colour, np.uint8) for colour in (COLOURS["red"], COLOURS["green"])]
    Image.fromarray(rows[0]).save(buffer, "PNG")
    picture, pixels = buffer.getvalue(), np.stack(rows)
    expected = head.probabilities(pixels.mean(axis=(1, 2)).astype(np.float32))
    expected += np.array(lies, np.float32)[:, None]
    return save({"picture": np.frombuffer(picture, np.uint8), "pixels": pixels, "probabilities": expected})


def point(
    store: ObjectStore,
    models: Mapping[str, Sequence[str]],
    *,
    generation: int = 1,
    project: str = "default",
    aliases: Mapping[str, int] | None = None,
) -> None:
    """Writes a project's pointer: by model the manifests of its versions 1, 2, ...; aliases are the same for each."""
    table = {
        model: {
            "versions": {str(number): digest for number, digest in enumerate(versions, 1)},
            "aliases": dict(aliases or {"production": 1}),
        }
        for model, versions in models.items()
    }
    pointer = {"generation": generation, "models": table}
    store.put(manifest.pointer_key(project), json.dumps(pointer).encode())
