"""Features of examples, each computed once per (project, content, backbone, graph, view, numerics) and kept in the
store.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import structlog
from safetensors import SafetensorError
from safetensors.numpy import load, save

from handful.bundle.heads import Floats
from handful.bundle.predictor import NUMERICS, Backbone, to_inputs
from handful.v1.bundle_pb2 import Backbone as BackboneMessage
from handful.v1.trainer_pb2 import FeaturesReady, TrainingRunEvent
from services.shared.objects import ObjectMissing, ObjectStore
from services.trainer.worker.examples import Example, Examples
from services.trainer.worker.work import Work

log = structlog.get_logger()

# The one view there is so far: the picture as preprocessing makes it, without augmentation.
PLAIN_VIEW = {"name": "plain", "views": 1, "seed": 0}


@dataclass
class Counts:
    """How many feature vectors were computed and how many were found."""

    computed: int = 0
    cached: int = 0


class Features:
    """The features of a run's examples, which are read from a store, by one backbone. The cache is a store too."""

    def __init__(
        self,
        store: ObjectStore,
        cache: ObjectStore,
        examples: Examples,
        backbone: BackboneMessage,
        graph: bytes,
        threads: int,
    ) -> None:
        self.counts = Counts()
        self._store = store
        self._cache = cache
        self._examples = examples
        self._backbone = backbone
        self._session = Backbone(graph)
        self._threads = threads
        self._lock = threading.Lock()
        # The graph too: an imported backbone may claim the id of another's.
        specification = {
            "backbone_id": backbone.backbone_id,
            "graph_sha256": backbone.graph_sha256,
            "numerics": NUMERICS,
            "view": PLAIN_VIEW,
        }
        self._prefix = prefix(examples.project, specification)

    def of(self, wanted: Sequence[Example], step: Callable[[], None]) -> Floats:
        """float32[n, feature_width], in order; `step` is called after every example and may raise to stop."""
        rows: list[Floats] = []
        with ThreadPoolExecutor(self._threads, "features") as pool:
            futures = [pool.submit(self._row, example) for example in wanted]
            try:
                for future in futures:
                    rows.append(future.result())
                    step()
            finally:
                pool.shutdown(cancel_futures=True)
        return np.stack(rows)

    def _row(self, example: Example) -> Floats:
        row, found = cached(
            self._cache, f"{self._prefix}/{example.content_sha256}.safetensors", lambda: self._compute(example)
        )
        with self._lock:
            self.counts.cached += found
            self.counts.computed += not found
        return row

    def _compute(self, example: Example) -> Floats:
        data = self._examples.data(self._store, example)
        row: Floats = self._session.of(to_inputs(data, self._backbone))[0]
        return row


def prefix(project: str, specification: Mapping[str, object]) -> str:
    """Where what a specification describes is kept, an object for every example."""
    digest = hashlib.sha256(json.dumps(specification, sort_keys=True).encode()).hexdigest()
    return f"projects/{project}/features/{digest}"


def cached(cache: ObjectStore, key: str, compute: Callable[[], Floats]) -> tuple[Floats, bool]:
    """A row from the cache, or computed and put there; and whether it was found."""
    try:
        return _from_bytes(cache.get(key)), True
    except ObjectMissing:
        pass
    except ValueError:
        log.warning("cached features are broken and are computed again", key=key)
    row = compute()
    cache.put(key, _to_bytes(row))
    return row, False


def rows_of(work: Work, features: Features, wanted: Sequence[Example]) -> Floats:
    """float32[n, feature_width] of some examples, with progress on the way."""
    counts = features.counts

    def step() -> None:
        work.progress("features", counts.computed + counts.cached, len(wanted), counts.computed, counts.cached)

    return features.of(wanted, step)


def gather(work: Work, features: Features, wanted: Sequence[Example]) -> Floats:
    """float32[n, feature_width] of some examples, with progress on the way and an event that says what they cost."""
    started, counts = time.perf_counter(), features.counts
    rows = rows_of(work, features, wanted)
    seconds = time.perf_counter() - started
    ready = FeaturesReady(features_computed=counts.computed, features_cached=counts.cached, seconds=seconds)
    work.reporter.event(TrainingRunEvent(features_ready=ready))
    return rows


def _to_bytes(row: Floats) -> bytes:
    return save(
        {"features": np.ascontiguousarray(row[None])}, metadata={"sha256": hashlib.sha256(row.tobytes()).hexdigest()}
    )


def _from_bytes(data: bytes) -> Floats:
    try:
        row: Floats = load(data)["features"][0]
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        stored = header["__metadata__"]["sha256"]
    except (SafetensorError, KeyError, IndexError, ValueError) as problem:
        raise ValueError("not features") from problem
    if stored != hashlib.sha256(row.tobytes()).hexdigest():
        raise ValueError("features are not what their hash says")
    return row
