"""From a zip to a bundle: which files there are, that they are what the manifest says, and that the manifest is one
that this version would write. It opens no graph.
"""

import math
import re
from collections.abc import Iterator

from google.protobuf.message import Message

from handful import names
from handful.bundle import manifest
from handful.errors import InvalidArgument
from handful.v1.bundle_pb2 import MODALITY_IMAGE, Backbone, Evaluation, Head, ImagePreprocessing, ModelManifest
from services.trainer.architectures import ARCHITECTURES, backbone_id
from services.trainer.exports.bundle import Bundle
from services.trainer.exports.contents import FOLDER
from services.trainer.imports.archive import Archive

# Every file but the graph and the weights.
MAX_FILE = 64 * 1024 * 1024
MAX_SIDE = 4096
_NEEDED = {"evaluation.json", "golden.safetensors", "head.safetensors"}
_PLOT = re.compile(r"plots/[a-z0-9_]{1,64}\.png")
_PNG = b"\x89PNG\r\n\x1a\n"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def read(archive: Archive) -> Bundle:
    """The bundle of an export. InvalidArgument NOT_A_MODEL, CORRUPT_MODEL or UNSUPPORTED_MODEL."""
    described = _described(archive)
    model = _parsed(ModelManifest, "manifest.json", described)
    problem = next(_problems(model), None)
    if problem is not None:
        raise InvalidArgument(f"This server cannot take the model: {problem}.", reason="UNSUPPORTED_MODEL")
    bundle = Bundle(
        described=described,
        files={file.path: _file(archive, file.path, file.sha256, MAX_FILE) for file in model.files},
        graph=_file(archive, manifest.BACKBONE_GRAPH, model.backbone.graph_sha256),
        weights=_file(archive, manifest.BACKBONE_WEIGHTS, model.backbone.weights_file_sha256),
    )
    _check(bundle)
    return bundle


def _described(archive: Archive) -> bytes:
    name = f"{FOLDER}/manifest.json"
    if name not in archive.names() or archive.size(name) > MAX_FILE:
        raise InvalidArgument("The zip has no model in it that Handful exported.", reason="NOT_A_MODEL")
    return archive.read(name)


def _file(archive: Archive, path: str, sha256: str, max_bytes: int | None = None) -> bytes:
    name = f"{FOLDER}/{path}"
    if name not in archive.names() or (max_bytes is not None and archive.size(name) > max_bytes):
        raise InvalidArgument(f"{path} is missing, or too large.", reason="CORRUPT_MODEL")
    data = archive.read(name)
    if manifest.sha256(data) != sha256:
        raise InvalidArgument(f"{path} is not what the manifest says.", reason="CORRUPT_MODEL")
    return data


def _parsed(kind: type[manifest.Manifest], path: str, data: bytes) -> manifest.Manifest:
    try:
        message = manifest.from_bytes(kind, data)
    except ValueError as problem:
        raise InvalidArgument(
            f"{path} is not of a kind that this server knows.", reason="UNSUPPORTED_MODEL"
        ) from problem
    if manifest.to_bytes(message) != data:  # fields of a newer version, or another's hand
        raise InvalidArgument(f"{path} has more in it than this server knows.", reason="UNSUPPORTED_MODEL")
    return message


def _problems(model: ModelManifest) -> Iterator[str]:
    if model.modality != MODALITY_IMAGE:
        yield "it is not of images"
    if len(model.labels) < 2 or len(set(model.labels)) < len(model.labels):  # noqa: PLR2004 - one class needs no model
        yield "it needs two classes at least, each with a name of its own"
    if not all(map(names.is_label, model.labels)):
        yield "the name of a class is empty, too long, or has characters that names have not"
    if len(model.examples) != len(model.labels):
        yield "it does not say how many examples each class had"
    paths = [file.path for file in model.files]
    plots = [path for path in paths if _PLOT.fullmatch(path)]
    if sorted(paths) != sorted({*_NEEDED, *plots}):
        yield "its files are not those of a model"
    if model.head.normalization not in (Head.NORMALIZATION_NONE, Head.NORMALIZATION_CENTER_L2):
        yield "its head is of a kind that is not known"
    yield from _backbone_problems(model.backbone)


def _backbone_problems(backbone: Backbone) -> Iterator[str]:
    row = ARCHITECTURES.get(backbone.architecture)
    if row is None:
        yield f"it has none of the architectures {', '.join(ARCHITECTURES)}"
        return
    if backbone.feature_width != row.feature_width or backbone.weights_origin not in (
        "pretrained",
        "random",
        "trained",
    ):
        yield "its backbone is not one of its architecture"
    how = backbone.preprocessing
    crops, squashes = (how.fit == fit for fit in (ImagePreprocessing.FIT_CENTER_CROP, ImagePreprocessing.FIT_SQUASH))
    fits = squashes or (crops and how.size <= how.resize <= MAX_SIDE)
    if not (fits and 0 < how.size <= MAX_SIDE and 0 <= how.draft <= 2 * MAX_SIDE) or how.filter not in (
        "bilinear",
        "bicubic",
    ):
        yield "its preprocessing is of a kind that is not known"
    if backbone.backbone_id != backbone_id(row.id, how, backbone.weights_sha256):
        yield "its backbone is not the one that it is called"
    if not all(map(_SHA256.fullmatch, (backbone.graph_sha256, backbone.weights_file_sha256))):
        yield "its backbone has no graph or no weights"


def _check(bundle: Bundle) -> None:
    evaluation, num_labels = (
        _parsed(Evaluation, "evaluation.json", bundle.files["evaluation.json"]),
        len(bundle.model.labels),
    )
    rows = [len(row.counts) for row in evaluation.confusion_matrix]
    if [one.label for one in evaluation.classes] != list(bundle.model.labels) or rows != [num_labels] * num_labels:
        raise InvalidArgument("evaluation.json is not of these classes.", reason="CORRUPT_MODEL")
    if not all(math.isfinite(number) for message in (evaluation, bundle.model) for number in _numbers(message)):
        raise InvalidArgument("A figure of the model is not finite.", reason="CORRUPT_MODEL")
    if not all(data.startswith(_PNG) for path, data in bundle.files.items() if path.startswith("plots/")):
        raise InvalidArgument("A plot of the model is no PNG.", reason="CORRUPT_MODEL")


def _numbers(message: Message) -> Iterator[float]:
    """Every floating-point number of a message."""
    for field, value in message.ListFields():
        values = value if field.is_repeated else [value]
        if field.message_type is not None:
            for one in values:
                yield from _numbers(one)
        elif field.cpp_type == field.CPPTYPE_DOUBLE:
            yield from values
