"""Examples that a model was validated on, and that nothing of an export was made of, for formats that are only near it.
It reads them from the store, as far as that has them, and does not know what becomes of them.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from handful.bundle import golden
from handful.bundle.manifest import blob_key, dataset_manifest_key, from_bytes
from handful.bundle.predictor import to_inputs
from handful.bundle.sounds import Inputs
from handful.v1.bundle_pb2 import SPLIT_VAL, DatasetManifest
from services.shared.objects import ObjectCorrupt, ObjectMissing, ObjectStore
from services.trainer import learnt
from services.trainer.exports.bundle import Bundle

MOST = 64


def read(store: ObjectStore, project: str, bundle: Bundle) -> Iterator[Inputs]:
    """Inputs of at most `MOST` validation examples, evenly chosen, each made when it is asked for; less those whose
    files are lost or damaged. None where there were none, or what the model learnt from is not in the store: it was
    imported, say.
    """
    held = _held(store, project, bundle)
    for place in np.linspace(0, len(held) - 1, min(len(held), MOST)).round().astype(int):
        try:
            file = store.get(blob_key(project, held[place]), held[place])
        except (ObjectMissing, ObjectCorrupt):
            continue
        yield to_inputs(file, bundle.model.backbone)


def _held(store: ObjectStore, project: str, bundle: Bundle) -> Sequence[str]:
    """The contents of the model's validation examples as its run had them, less what earlier runs learnt from, and less
    the first, which are the golden inputs: ranges of integers are taken over those.
    """
    model, seen = bundle.model, set[str]()
    try:
        data = store.get(dataset_manifest_key(project, model.dataset_manifest_sha256), model.dataset_manifest_sha256)
        for digest in model.earlier_dataset_manifest_sha256s:
            contents = learnt.contents(store, project, digest)
            if contents is None:
                return ()
            seen |= contents
    except (ObjectMissing, ObjectCorrupt):
        return ()
    examples = from_bytes(DatasetManifest, data).examples
    held = learnt.without(seen, [one for one in examples if one.split == SPLIT_VAL], examples)
    num_golden = len(golden.Golden.from_bytes(bundle.files[golden.FILE], model.backbone).inputs)
    return [one.content_sha256 for one in held[num_golden:]]
