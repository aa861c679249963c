"""From a zip to a bundle in the store, checked and tried. It is for a limited process: what it opens is anyone's."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from handful.bundle import manifest, neighbours
from handful.bundle.golden import MAX_DIFFERENCE, MAX_LEVELS
from handful.bundle.heads import Floats, LinearHead
from handful.bundle.images import BadImage
from handful.bundle.neighbours import Neighbours
from handful.bundle.predictor import Backbone, Pixels, to_inputs, to_pixels
from handful.bundle.recordings import BadSound
from handful.bundle.sounds import Inputs
from handful.errors import FailedPrecondition, InvalidArgument
from services.shared.objects import ObjectMissing, ObjectStore, get_first
from services.trainer.exports.bundle import Bundle
from services.trainer.imports import graphs, reading, tensors
from services.trainer.imports.archive import Archive

MAX_GOLDEN = 64


def take(store: ObjectStore, project: str, path: Path) -> tuple[bytes, bytes]:
    """Stores the model of an exported zip; its manifest and its evaluation. Where the zip is none, or the model does
    not answer as it did where it was exported, InvalidArgument, and nothing is stored.
    """
    bundle = reading.read(Archive.open(path))
    graphs.check(bundle.graph, bundle.model.backbone)
    tensors.read(manifest.BACKBONE_WEIGHTS, bundle.weights)
    _check_neighbours(bundle)
    _try(bundle)
    _store(store, project, bundle)
    return bundle.described, bundle.files["evaluation.json"]


def _try(bundle: Bundle) -> None:
    """The model's answers to its golden pictures, against those that came with it."""
    model = bundle.model
    golden = tensors.read("golden.safetensors", bundle.files["golden.safetensors"])
    if bundle.of_sounds:
        _try_sounds(bundle, golden)
        return
    pixels, expected, picture = _golden(bundle, golden)
    _compare(_answers(bundle, _head(bundle), [{"pixels": one[None]} for one in pixels]), expected)
    try:
        seen = to_pixels(picture.tobytes(), model.backbone.preprocessing)
    except BadImage as problem:
        raise InvalidArgument("The golden picture cannot be opened.", reason="CORRUPT_MODEL") from problem
    if np.abs(seen.astype(int) - pixels[0]).max() > MAX_LEVELS:
        raise InvalidArgument("A picture comes to other pixels than where it was exported.", reason="MODEL_DISAGREES")


def _try_sounds(bundle: Bundle, golden: tensors.Tensors) -> None:
    """As `_try`; the sounds come as files, so that what makes inputs of them is tried too."""
    expected = golden.get("probabilities", np.zeros(0, np.float32))
    names = [f"sound_{place}" for place in range(len(expected))]
    right = expected.dtype == np.float32 and expected.shape == (len(names), len(bundle.model.labels))
    if not (right and 0 < len(names) <= MAX_GOLDEN and set(golden) == {"probabilities", *names}):
        raise InvalidArgument("golden.safetensors has not what a model has.", reason="CORRUPT_MODEL")
    try:
        taken = [to_inputs(golden[name].tobytes(), bundle.model.backbone) for name in names]
    except BadSound as problem:
        raise InvalidArgument("A golden sound cannot be opened.", reason="CORRUPT_MODEL") from problem
    _compare(_answers(bundle, _head(bundle), taken), expected)


def _compare(answers: Floats, expected: Floats) -> None:
    agree = bool((answers.argmax(axis=1) == expected.argmax(axis=1)).all())
    if not (agree and np.abs(answers - expected).max() <= MAX_DIFFERENCE):  # NaN is no agreement
        raise InvalidArgument("The model answers otherwise than where it was exported.", reason="MODEL_DISAGREES")


def _golden(bundle: Bundle, golden: tensors.Tensors) -> tuple[Pixels, Floats, Pixels]:
    size, num_classes = bundle.model.backbone.preprocessing.size, len(bundle.model.labels)
    shapes = {name: tensor.shape for name, tensor in golden.items()}
    kinds = {name: tensor.dtype.name for name, tensor in golden.items()}
    count = len(golden["pixels"]) if "pixels" in golden else 0
    right = kinds == {"pixels": "uint8", "probabilities": "float32", "picture": "uint8"} and 0 < count <= MAX_GOLDEN
    if not right or (shapes["pixels"], shapes["probabilities"]) != ((count, size, size, 3), (count, num_classes)):
        raise InvalidArgument("golden.safetensors has not what a model has.", reason="CORRUPT_MODEL")
    return golden["pixels"], golden["probabilities"], golden["picture"]


def _head(bundle: Bundle) -> LinearHead:
    model, data = bundle.model, bundle.files["head.safetensors"]
    tensors.read("head.safetensors", data)
    try:
        head = LinearHead.from_bytes(model.head, data)
    except ValueError as problem:
        raise InvalidArgument("head.safetensors is no head.", reason="CORRUPT_MODEL") from problem
    if head.weight.shape != (len(model.labels), model.backbone.feature_width):
        raise InvalidArgument("head.safetensors is not of these classes and features.", reason="CORRUPT_MODEL")
    return head


def _check_neighbours(bundle: Bundle) -> None:
    model, data = bundle.model, bundle.files.get(neighbours.FILE)
    if data is None:
        return
    tensors.read(neighbours.FILE, data)
    try:
        known = Neighbours.from_bytes(model.neighbours, data)
    except ValueError as problem:
        raise InvalidArgument(f"{neighbours.FILE} has no neighbours.", reason="CORRUPT_MODEL") from problem
    if known.rows.shape[1] != model.backbone.feature_width:
        raise InvalidArgument(f"{neighbours.FILE} is not of these features.", reason="CORRUPT_MODEL")
    if not all(0 <= label < len(model.labels) for label in known.named.labels.tolist()):
        raise InvalidArgument(f"{neighbours.FILE} is not of these classes.", reason="CORRUPT_MODEL")


def _answers(bundle: Bundle, head: LinearHead, taken: Sequence[Inputs]) -> Floats:
    try:
        backbone = Backbone(bundle.graph)
        return np.concatenate([head.probabilities(backbone.of(one)) for one in taken])
    except MemoryError:
        raise
    except Exception as problem:  # the runtime has many, and has looked at the graph more closely than we did
        message = "The model cannot be run here: it needs more memory than a model may take, or another runtime."
        raise FailedPrecondition(message, reason="CANNOT_RUN") from problem


def _store(store: ObjectStore, project: str, bundle: Bundle) -> None:
    digest, backbone = manifest.sha256(bundle.described), bundle.model.backbone
    bodies = (
        (manifest.graph_keys, backbone.graph_sha256, bundle.graph),
        (manifest.weights_keys, backbone.weights_file_sha256, bundle.weights),
    )
    for keys_of, sha256, data in bodies:
        keys = keys_of(project, backbone, digest)
        try:
            get_first(store, keys, sha256)
        except ObjectMissing:  # what others share is never written here: it goes into the bundle
            store.put(keys[-1], data)
    for path, content in bundle.files.items():
        store.put(manifest.bundle_key(project, digest, path), content)
    # The manifest last: where it is, all of the bundle is.
    store.put(manifest.bundle_key(project, digest, "manifest.json"), bundle.described)
