"""Examples that a model was validated on, for formats that are only near it: golden inputs lie in every bundle, and so
are few. It reads them from the store, as far as that has them, and does not know what becomes of them.
"""

from collections.abc import Sequence

import numpy as np

from handful.bundle.manifest import blob_key, dataset_manifest_key, from_bytes
from handful.bundle.predictor import to_inputs
from handful.bundle.sounds import Inputs
from handful.v1.bundle_pb2 import SPLIT_VAL, DatasetManifest, ModelManifest
from services.shared.objects import ObjectMissing, ObjectStore

MOST = 64


def read(store: ObjectStore, project: str, model: ModelManifest) -> Sequence[Inputs]:
    """Inputs of at most `MOST` validation examples, evenly chosen; none where there were none, or they are not in the
    store: the model was imported, say.
    """
    digest = model.dataset_manifest_sha256
    try:
        manifest = from_bytes(DatasetManifest, store.get(dataset_manifest_key(project, digest), digest))
        held = [one.content_sha256 for one in manifest.examples if one.split == SPLIT_VAL]
        places = np.linspace(0, len(held) - 1, min(len(held), MOST)).round().astype(int)
        files = [store.get(blob_key(project, held[place]), held[place]) for place in places]
    except ObjectMissing:
        return ()
    return [to_inputs(file, model.backbone) for file in files]
