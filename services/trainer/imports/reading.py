"""From a zip to a bundle: which files there are, that they are what the manifest says, and that the manifest is one
that this version would write. It opens no graph.
"""

import math
import re
from collections.abc import Iterator

from google.protobuf.message import Message

from handful import names
from handful.bundle import manifest, neighbours
from handful.errors import InvalidArgument
from handful.v1.bundle_pb2 import (
    BACKBONE_PRECISION_INT8,
    MODALITY_IMAGE,
    MODALITY_SOUND,
    WEIGHTS_RANDOM,
    Backbone,
    Evaluation,
    Head,
    ImagePreprocessing,
    ModelManifest,
)
from services.trainer.architectures import ARCHITECTURES, backbone_id
from services.trainer.exports import archive as archives
from services.trainer.exports.bundle import Bundle
from services.trainer.exports.contents import FOLDER
from services.trainer.imports.archive import Archive
from services.trainer.presets import PRESETS
from services.trainer.sound_architectures import SOUND_ARCHITECTURES

MEBIBYTE = 1024 * 1024
MAX_MANIFEST = 2 * MEBIBYTE
# GetEvaluation sends the evaluation and the plots in one message.
MAX_BYTES = {
    "evaluation.json": 2 * MEBIBYTE,
    "golden.safetensors": 64 * MEBIBYTE,
    "head.safetensors": 128 * MEBIBYTE,
    neighbours.FILE: 16 * MEBIBYTE,
    "plots/confusion_matrix.png": MEBIBYTE // 2,
    "plots/confusion_matrix_normalized.png": MEBIBYTE // 2,
    "plots/learning_curve.png": MEBIBYTE // 8,
    "plots/loss.png": MEBIBYTE // 2,
    "plots/metrics.png": MEBIBYTE // 8,
}
MAX_METRICS, MAX_METRIC_NAME = 64, 64
MAX_SIDE = 4096
_NEEDED = {"evaluation.json", "golden.safetensors", "head.safetensors"}
_ORIGINS = ("pretrained", "random", "trained")
_FILTERS = ("bilinear", "bicubic")
_PNG = b"\x89PNG\r\n\x1a\n"
_QUANTIZER = re.compile(r"[a-z0-9.-]{1,64}")
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
        files={file.path: _file(archive, file.path, file.sha256, MAX_BYTES[file.path]) for file in model.files},
        graph=_file(archive, manifest.BACKBONE_GRAPH, model.backbone.graph_sha256),
        weights=_file(archive, manifest.BACKBONE_WEIGHTS, model.backbone.weights_file_sha256),
    )
    _check(bundle)
    return bundle


def _described(archive: Archive) -> bytes:
    name = f"{FOLDER}/manifest.json"
    if name not in archive.names() or archive.size(name) > MAX_MANIFEST:
        raise InvalidArgument("The zip has no bundle in it, as exports in the format onnx have.", reason="NOT_A_MODEL")
    return archive.read(name)


def _file(archive: Archive, path: str, sha256: str, max_bytes: int = archives.MAX_BYTES) -> bytes:
    name = f"{FOLDER}/{path}"
    if name not in archive.names() or archive.size(name) > max_bytes:
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
    paths = [file.path for file in model.files]
    of_sounds = model.backbone.HasField("sound_preprocessing")
    if model.modality != (MODALITY_SOUND if of_sounds else MODALITY_IMAGE):
        yield "it is neither of pictures nor of sounds"
    if len(model.labels) < 2 or len(set(model.labels)) < len(model.labels):  # noqa: PLR2004 - one class needs no model
        yield "it needs two classes at least, each with a name of its own"
    if not all(map(names.is_label, model.labels)):
        yield "the name of a class is empty, too long, or has characters that names have not"
    learnt_from = (model.dataset_manifest_sha256, *model.earlier_dataset_manifest_sha256s)
    if len(model.examples) != len(model.labels) or not all(map(_SHA256.fullmatch, learnt_from)):
        yield "it does not say what it was trained on"
    if not _NEEDED <= set(paths) <= set(MAX_BYTES) or len(set(paths)) < len(paths):
        yield "its files are not those of a model"
    if model.HasField("neighbours") != (neighbours.FILE in paths):
        yield "it does not say how it tells what is like none of its classes"
    if model.head.normalization not in (Head.NORMALIZATION_NONE, Head.NORMALIZATION_CENTER_L2):
        yield "its head is of a kind that is not known"
    named = (model.recipe.architecture, model.recipe.backbone_precision)
    if model.recipe.preset not in PRESETS or named != (model.backbone.architecture, model.backbone.precision):
        yield "its recipe is not known"
    if model.recipe.input_size not in (0, model.backbone.preprocessing.size):
        yield "its recipe says another input size than its backbone"
    yield from (_sound_problems if of_sounds else _backbone_problems)(model.backbone)
    yield from _terms_problems(model)


def _terms_problems(model: ModelManifest) -> Iterator[str]:
    row = ARCHITECTURES.get(model.backbone.architecture)
    if row is not None and model.license != row.code_license:
        yield "the licence that it names is not the one that its network's code has"
    pretrained = model.backbone.weights_origin != "random" and model.recipe.weights != WEIGHTS_RANDOM
    if row is not None and not row.pinned and pretrained:
        yield "it began from pretrained weights that are not known here"


def _backbone_problems(backbone: Backbone) -> Iterator[str]:
    row = ARCHITECTURES.get(backbone.architecture)
    if row is None:
        yield f"it has none of the architectures {', '.join(ARCHITECTURES)}"
        return
    origins = ("pretrained",) if row.members else _ORIGINS
    members = [one.architecture for one in backbone.members] == [one.id for one in row.members]
    if backbone.feature_width != row.feature_width or backbone.weights_origin not in origins or not members:
        yield "its backbone is not one of its architecture"
    how = backbone.preprocessing
    crops = how.fit == ImagePreprocessing.FIT_CENTER_CROP and how.size <= how.resize <= MAX_SIDE
    fits = crops or how.fit == ImagePreprocessing.FIT_SQUASH
    if not (fits and 0 < how.size <= MAX_SIDE and 0 <= how.draft <= 2 * MAX_SIDE and how.filter in _FILTERS):
        yield "its preprocessing is of a kind that is not known"
    hashes = (backbone.weights_sha256, backbone.graph_sha256, backbone.weights_file_sha256)
    if not all(map(_SHA256.fullmatch, hashes)):
        yield "its backbone has no graph or no weights"
    of_integers = backbone.precision == BACKBONE_PRECISION_INT8 and backbone.weights_origin == "pretrained"
    if not (of_integers and _QUANTIZER.fullmatch(backbone.quantizer)) and (backbone.precision or backbone.quantizer):
        yield "its backbone is of numbers that are not known"
    if backbone.backbone_id != backbone_id(row.id, how, backbone.weights_sha256, backbone.quantizer):
        yield "its backbone is not the one that it is called"


def _sound_problems(backbone: Backbone) -> Iterator[str]:
    row = SOUND_ARCHITECTURES.get(backbone.architecture)
    if row is None:
        yield f"it has none of the architectures {', '.join(SOUND_ARCHITECTURES)}"
        return
    if backbone.feature_width != row.feature_width or backbone.weights_origin not in ("pretrained", "none"):
        yield "its backbone is not one of its architecture"
    if backbone.precision or backbone.quantizer:
        yield "its backbone is of numbers that are not known"
    if backbone.sound_preprocessing != row.preprocessing or backbone.HasField("preprocessing"):
        yield "its preprocessing is of a kind that is not known"
    hashes = (backbone.weights_sha256, backbone.graph_sha256, backbone.weights_file_sha256)
    if not all(map(_SHA256.fullmatch, hashes)):
        yield "its backbone has no graph or no weights"
    if backbone.backbone_id != backbone_id(row.id, row.preprocessing, backbone.weights_sha256):
        yield "its backbone is not the one that it is called"


def _check(bundle: Bundle) -> None:
    evaluation = _parsed(Evaluation, "evaluation.json", bundle.files["evaluation.json"])
    labels, rows = list(bundle.model.labels), [len(row.counts) for row in evaluation.confusion_matrix]
    if [one.label for one in evaluation.classes] != labels or rows != [len(labels)] * len(labels):
        raise InvalidArgument("evaluation.json is not of these classes.", reason="CORRUPT_MODEL")
    lengths = [len(metric.name) for metric in evaluation.metrics]
    if len(lengths) > MAX_METRICS or max(lengths, default=0) > MAX_METRIC_NAME:
        raise InvalidArgument("evaluation.json has more figures than a model has.", reason="CORRUPT_MODEL")
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
        elif field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
            yield from values
