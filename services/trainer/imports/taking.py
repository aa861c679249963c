"""From a zip to a bundle in the store, checked and tried. It is for a limited process: what it opens is anyone's."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from handful.bundle import error_control, golden, manifest, neighbours
from handful.bundle.golden import MAX_DIFFERENCE, MAX_LEVELS, Golden
from handful.bundle.heads import Floats, LinearHead
from handful.bundle.neighbours import Neighbours
from handful.bundle.predictor import Backbone
from handful.bundle.sounds import Inputs
from handful.errors import FailedPrecondition, InvalidArgument
from services.shared.objects import ObjectMissing, ObjectStore, get_first
from services.trainer.exports.bundle import Bundle
from services.trainer.imports import graphs, reading, tensors
from services.trainer.imports.archive import Archive


def take(store: ObjectStore, project: str, path: Path) -> tuple[bytes, bytes]:
    """Stores the model of an exported zip; its manifest and its evaluation. Where the zip is none, or the model does
    not answer as it did where it was exported, InvalidArgument, and nothing is stored.
    """
    bundle = reading.read(Archive.open(path))
    graphs.check(bundle.graph, bundle.model.backbone)
    tensors.read(manifest.BACKBONE_WEIGHTS, bundle.weights)
    _check_neighbours(bundle)
    _check_error_control(bundle)
    _try(bundle)
    _store(store, project, bundle)
    return bundle.described, bundle.files["evaluation.json"]


def _try(bundle: Bundle) -> None:
    """The model's answers to its golden pictures or sounds, against those that came with it."""
    model, data = bundle.model, bundle.files[golden.FILE]
    tensors.read(golden.FILE, data)
    try:
        known = Golden.from_bytes(data, model.backbone)
    except ValueError as problem:
        raise InvalidArgument(f"{golden.FILE} has not what a model has.", reason="CORRUPT_MODEL") from problem
    if known.probabilities.shape[1] != len(model.labels):
        raise InvalidArgument(f"{golden.FILE} is not of these classes.", reason="CORRUPT_MODEL")
    _compare(_answers(bundle, _head(bundle), known.inputs), known.probabilities)
    if known.levels > MAX_LEVELS:
        raise InvalidArgument("A picture comes to other pixels than where it was exported.", reason="MODEL_DISAGREES")


def _compare(answers: Floats, expected: Floats) -> None:
    agree = bool((answers.argmax(axis=1) == expected.argmax(axis=1)).all())
    if not (agree and np.abs(answers - expected).max() <= MAX_DIFFERENCE):  # NaN is no agreement
        raise InvalidArgument("The model answers otherwise than where it was exported.", reason="MODEL_DISAGREES")


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
    if known.rows.width != model.backbone.feature_width:
        raise InvalidArgument(f"{neighbours.FILE} is not of these features.", reason="CORRUPT_MODEL")
    if not all(0 <= label < len(model.labels) for label in known.named.labels.tolist()):
        raise InvalidArgument(f"{neighbours.FILE} is not of these classes.", reason="CORRUPT_MODEL")


def _check_error_control(bundle: Bundle) -> None:
    if not bundle.model.HasField("error_control"):
        return
    try:
        error_control.check(bundle.model.error_control)
    except ValueError as problem:
        raise InvalidArgument("manifest.json has no error control.", reason="CORRUPT_MODEL") from problem


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
