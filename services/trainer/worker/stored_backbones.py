"""Where backbones lie in the store: a graph and its weights under the backbone's id, the first of each for good.

It knows no architectures, and builds nothing.
"""

import hashlib

import structlog

from handful.bundle import predictor
from handful.v1.bundle_pb2 import Backbone
from services.shared.objects import ObjectStore
from services.trainer.worker import agreement
from services.trainer.worker.agreement import GraphDisagrees
from services.trainer.worker.pretrained.torch_files import Arrays

log = structlog.get_logger()


def keep(store: ObjectStore, folder: str, backbone: Backbone, graph: bytes, state: Arrays) -> tuple[Backbone, bytes]:
    """What is stored of the backbone in the end: this graph, or another that was there first and agrees with it."""
    from services.trainer.worker.weights import to_safetensors

    return keep_files(store, folder, backbone, graph, to_safetensors(state))


def keep_files(
    store: ObjectStore, folder: str, backbone: Backbone, graph: bytes, weights: bytes
) -> tuple[Backbone, bytes]:
    """As `keep`, with the weights as a file."""
    put(store, f"{folder}/{backbone.backbone_id}", graph, weights)
    stored = first(store, backbone, folder)
    if stored is None:
        raise GraphDisagrees(f"the graph of {backbone.backbone_id} was stored and is not there")
    if stored[0].graph_sha256 != hashlib.sha256(graph).hexdigest():
        log.info("another worker stored this backbone's graph first", backbone_id=backbone.backbone_id)
        inputs = agreement.inputs(backbone)
        theirs, mine = (predictor.Backbone(each).of(inputs) for each in (stored[1], graph))
        agreement.check(theirs, mine, backbone.architecture)
    return stored


def files(store: ObjectStore, known: Backbone) -> tuple[bytes, bytes]:
    """The graph and the weights of a shared backbone that is stored."""
    folder = f"backbones/{known.backbone_id}"
    graph = store.get(f"{folder}/{known.graph_sha256}.onnx", known.graph_sha256)
    return graph, store.get(f"{folder}/{known.weights_file_sha256}.safetensors", known.weights_file_sha256)


def put(store: ObjectStore, folder: str, graph: bytes, weights: bytes) -> None:
    """Stores a graph and its weights, the graph last."""
    for kind, data in (("safetensors", weights), ("onnx", graph)):
        store.put(f"{folder}/{hashlib.sha256(data).hexdigest()}.{kind}", data)


def first(store: ObjectStore, backbone: Backbone, folder: str = "backbones") -> tuple[Backbone, bytes] | None:
    """The backbone with the graph that was stored first, where there is one."""
    found = described(store, backbone, folder)
    if found is None:
        return None
    return found, store.get(f"{folder}/{found.backbone_id}/{found.graph_sha256}.onnx", found.graph_sha256)


def described(store: ObjectStore, backbone: Backbone, folder: str = "backbones") -> Backbone | None:
    """The same, but for the graph's bytes."""
    there: dict[str, str] = {}
    for key in store.keys(f"{folder}/{backbone.backbone_id}/"):
        digest, _, kind = key.rpartition("/")[2].partition(".")
        there.setdefault(kind, digest)
    if "onnx" not in there or "safetensors" not in there:
        return None
    found = Backbone()
    found.CopyFrom(backbone)
    found.graph_sha256, found.weights_file_sha256 = there["onnx"], there["safetensors"]
    return found
