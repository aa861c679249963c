"""What loading leaves in memory of a model: what answering takes, and no more."""

import asyncio
import gc
from pathlib import Path

import pytest

from handful.bundle import golden, manifest
from handful.bundle.golden import Golden
from handful.v1.bundle_pb2 import ErrorControl, ModelManifest
from services.inference.loading import Loader
from services.inference.pointers import VersionRef
from services.inference.runtimes import DEFAULT
from services.inference.runtimes.choosing import Choice, Chooser
from services.shared.allocating import trim
from services.shared.objects.filesystem import FilesystemStore
from tests.bundles import COLOURS, publish
from tests.processes import until

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


class Waits(Chooser):
    """Takes as long as the event is not set, as a busy machine does; the default runtime it is then."""

    def __init__(self) -> None:
        super().__init__((DEFAULT,), 1)
        self.goes_on = asyncio.Event()

    async def choose(self, *_: object) -> Choice:
        await self.goes_on.wait()
        return Choice(threads=2)


async def test_models_that_wait_for_the_measuring_do_not_hold_their_golden_inputs(tmp_path: Path) -> None:
    """They are read again when it is their turn: two threads are taken where all of them agree, and not otherwise."""
    for damaged, threads in ((False, 2), (True, 1)):
        store, chooser = FilesystemStore(tmp_path / str(damaged)), Waits()
        digests = [publish(store, [*COLOURS, str(number)]) for number in range(MODELS)]
        loader = Loader(store, budget_bytes=10**9, chooser=chooser)
        graph = ""
        for digest in digests:
            ref = VersionRef("default", f"projects/default/models/{digest[:8]}/versions/1", digest)
            graph = (await loader.load(ref)).head.graph.sha256
        gc.collect()
        assert sum(type(one) is Golden for one in gc.get_objects()) == 0
        if damaged:
            store.put(manifest.bundle_key("default", digests[-1], golden.FILE), b"other bytes")
        chooser.goes_on.set()
        await asyncio.to_thread(until, lambda: chooser.known(graph), "it is settled", 60)  # noqa: B023
        assert chooser.known(graph) == Choice(threads=threads)
