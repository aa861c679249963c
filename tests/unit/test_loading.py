"""What loading leaves in memory of a model: what answering takes, and no more."""

from pathlib import Path

import pytest

from handful.bundle import manifest
from handful.v1.bundle_pb2 import ErrorControl, ModelManifest
from services.inference.loading import Loader
from services.inference.pointers import VersionRef
from services.shared.allocating import trim
from services.shared.objects.filesystem import FilesystemStore
from tests.bundles import publish

LONG, MODELS = 10_000_000, 10
CONTROL = ErrorControl(num_groups=19, min_confidences=[0.9, 0], errors=[0, 1])
STATM = Path("/proc/self/statm")


def with_long_manifest(store: FilesystemStore, first: str) -> str:
    """The SHA-256 of a model's manifest that says much of what serving does not need."""
    digest = publish(store, control=CONTROL)
    described = manifest.from_bytes(ModelManifest, store.get(manifest.bundle_key("default", digest, "manifest.json")))
    described.numerics = first + LONG * "x"
    written = manifest.to_bytes(described)
    longer = manifest.sha256(written)
    for file in described.files:
        data = store.get(manifest.bundle_key("default", digest, file.path))
        store.put(manifest.bundle_key("default", longer, file.path), data)
    store.put(manifest.bundle_key("default", longer, "manifest.json"), written)
    return longer


@pytest.mark.skipif(not STATM.exists(), reason="reads /proc")
async def test_no_part_of_a_model_holds_its_manifest(tmp_path: Path) -> None:
    """A part of a message holds all of it in memory, and a server has thousands of models."""
    store = FilesystemStore(tmp_path)
    digests = [(number, with_long_manifest(store, str(number))) for number in range(MODELS)]
    loader = Loader(store, budget_bytes=10**9)
    before = resident()
    refs = [
        VersionRef("default", f"projects/default/models/m{number}/versions/1", digest) for number, digest in digests
    ]
    loaded = [await loader.load(ref) for ref in refs]
    assert [one.head.error_control for one in loaded] == [CONTROL] * MODELS
    assert resident() - before < MODELS * LONG / 2


def resident() -> int:
    trim()
    return int(STATM.read_text().split()[1]) * 4096
