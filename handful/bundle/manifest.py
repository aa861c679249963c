"""Manifests as bytes: canonical JSON, identified by its SHA-256. Nobody writes a manifest's bytes a second time."""

import hashlib
import json
from typing import TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from handful.v1.bundle_pb2 import Backbone

DATASET_FORMAT = "handful.dataset/1"
# Of models that keep their neighbours in two bits the second: releases that cannot read these refuse the whole model.
MODEL_FORMATS = MODEL_FORMAT, COARSE_MODEL_FORMAT = "handful.model/1", "handful.model/2"
BACKBONE_GRAPH, BACKBONE_WEIGHTS = "backbone.onnx", "backbone.safetensors"
_FORMATS = {"DatasetManifest": (DATASET_FORMAT,), "ModelManifest": MODEL_FORMATS}

Manifest = TypeVar("Manifest", bound=Message)


class UnknownFormat(ValueError):
    """A manifest of a kind that we do not know."""


def to_bytes(message: Message) -> bytes:
    """Canonical JSON: sorted keys, UTF-8, no spaces, field names as in the proto, defaults left out."""
    fields = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def from_bytes(kind: type[Manifest], data: bytes) -> Manifest:
    """The message; ValueError where the bytes are no JSON of its kind, UnknownFormat where of another than we know.

    Fields that are not known are ignored.
    """
    if not data.lstrip().startswith(b"{"):  # the parser takes an empty list, or any text, for an empty message
        raise ValueError("not a manifest")
    try:
        message = json_format.Parse(data, kind(), ignore_unknown_fields=True)
    except json_format.ParseError as problem:
        raise ValueError("not a manifest") from problem
    expected = _FORMATS.get(message.DESCRIPTOR.name)
    if expected and getattr(message, "format") not in expected:  # noqa: B009 - not every manifest has one
        raise UnknownFormat(f"not of format {' or '.join(expected)}")
    return message


def sha256(data: bytes) -> str:
    """Lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def blob_key(project: str, content_sha256: str) -> str:
    """Where an example's bytes lie."""
    return f"projects/{project}/blobs/{content_sha256}"


def dataset_manifest_key(project: str, manifest_sha256: str) -> str:
    """Where a dataset manifest lies."""
    return f"projects/{project}/manifests/{manifest_sha256}.json"


def bundle_key(project: str, manifest_sha256: str, path: str) -> str:
    """Where a file of a bundle lies; the model manifest itself is `manifest.json`."""
    return f"projects/{project}/bundles/{manifest_sha256}/{path}"


def evaluation_key(project: str, evaluation_sha256: str, path: str) -> str:
    """Where a file of an evaluation on other data lies; the evaluation itself is `evaluation.json`."""
    return f"projects/{project}/evaluations/{evaluation_sha256}/{path}"


def graph_keys(project: str, backbone: Backbone, bundle: str | None = None) -> tuple[str, ...]:
    """Where a backbone's graph may lie: shared by all projects, the project's own, or, where the model whose manifest's
    SHA-256 is `bundle` was imported, in its bundle.
    """
    return _backbone_keys(project, backbone, f"{backbone.graph_sha256}.onnx", bundle, BACKBONE_GRAPH)


def weights_keys(project: str, backbone: Backbone, bundle: str | None = None) -> tuple[str, ...]:
    """Where a backbone's weights may lie, as `graph_keys`."""
    return _backbone_keys(project, backbone, f"{backbone.weights_file_sha256}.safetensors", bundle, BACKBONE_WEIGHTS)


def _backbone_keys(project: str, backbone: Backbone, name: str, bundle: str | None, bundled: str) -> tuple[str, ...]:
    key = f"backbones/{backbone.backbone_id}/{name}"
    own = () if bundle is None else (bundle_key(project, bundle, bundled),)
    return key, f"projects/{project}/{key}", *own


def pointer_key(project: str) -> str:
    """Where the object lies that says which models, versions and aliases a project has."""
    return f"projects/{project}/aliases.json"
