"""Features of examples, each computed once per (project, content, backbone, graph, view, numerics) and kept in the
store.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import structlog
from safetensors import SafetensorError
from safetensors.numpy import load, save

from handful.bundle.heads import Floats
from handful.bundle.predictor import Backbone, numerics, to_inputs
from handful.v1.bundle_pb2 import Backbone as BackboneMessage
from handful.v1.trainer_pb2 import FeaturesReady, TrainingRunEvent
from services.shared.objects import ObjectMissing, ObjectStore
from services.trainer.worker.examples import Example, Examples
from services.trainer.worker.views import Views
from services.trainer.worker.work import Work

# Views of an example, from the so-manieth on: float32[views, width].
Compute = Callable[[Example, int], Floats]

log = structlog.get_logger()

# The picture as preprocessing makes it, without augmentation.
PLAIN_VIEW = {"name": "plain", "views": 1, "seed": 0}
NUM_PLAIN = 1


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
        counts: Counts | None = None,
    ) -> None:
        self.counts = Counts() if counts is None else counts
        self._store = store
        self._cache = cache
        self._examples = examples
        self._backbone = backbone
        self._session = Backbone(graph)
        self._threads = threads
        self._lock = threading.Lock()

    def of(self, wanted: Sequence[Example], step: Callable[[], None]) -> Floats:
        """float32[n, feature_width], in order; `step` is called after every example and may raise to stop."""
        return self._all(wanted, PLAIN_VIEW, NUM_PLAIN, self._plain, step)[:, 0]

    def drawn(self, wanted: Sequence[Example], views: Views, step: Callable[[], None]) -> Floats:
        """float32[n, views, feature_width] of augmented views, in order; `step` as in `of`. More views of an example
        are kept with those that are there.
        """
        return self._all(wanted, views.specification, views.number, partial(self._drawn, views), step)

    def _all(
        self,
        wanted: Sequence[Example],
        view: Mapping[str, object],
        number: int,
        compute: Compute,
        step: Callable[[], None],
    ) -> Floats:
        # The graph too: an imported backbone may claim the id of another's.
        specification = {
            "backbone_id": self._backbone.backbone_id,
            "graph_sha256": self._backbone.graph_sha256,
            "numerics": numerics(self._backbone),
            "view": view,
        }
        folder = prefix(self._examples.project, specification)
        rows: list[Floats] = []
        with ThreadPoolExecutor(self._threads, "features") as pool:
            futures = [pool.submit(self._rows, folder, example, number, compute) for example in wanted]
            try:
                for future in futures:
                    rows.append(future.result())
                    step()
            finally:
                pool.shutdown(cancel_futures=True)
        return np.stack(rows)

    def _rows(self, folder: str, example: Example, number: int, compute: Compute) -> Floats:
        key = f"{folder}/{example.content_sha256}.safetensors"
        rows, found = cached(self._cache, key, number, partial(compute, example))
        with self._lock:
            self.counts.cached += found
            self.counts.computed += number - found
        return rows

    def _plain(self, example: Example, _: int) -> Floats:
        return self._session.of(to_inputs(self._examples.data(self._store, example), self._backbone))

    def _drawn(self, views: Views, example: Example, first: int) -> Floats:
        data = self._examples.data(self._store, example)
        pixels = views.of(data, example.content_sha256, self._backbone.preprocessing, first)
        # One at a time, as pictures are: batches gain nothing on a CPU, and another size rounds otherwise.
        return np.concatenate([self._session.features(one[None]) for one in pixels])


def prefix(project: str, specification: Mapping[str, object]) -> str:
    """Where what a specification describes is kept, an object for every example."""
    digest = hashlib.sha256(json.dumps(specification, sort_keys=True).encode()).hexdigest()
    return f"projects/{project}/features/{digest}"


def cached(cache: ObjectStore, key: str, number: int, compute: Callable[[int], Floats]) -> tuple[Floats, int]:
    """The first rows of an object, float32[number, width], from the cache as far as it has them; the others, from the
    so-manieth on, are computed and kept with them. And how many were found.
    """
    found = _kept(cache, key)
    if len(found) >= number:
        return found[:number], number
    rest = compute(len(found))
    rows = np.concatenate([found, rest]) if len(found) else rest
    cache.put(key, _to_bytes(rows))
    return rows, len(found)


def _kept(cache: ObjectStore, key: str) -> Floats:
    """The rows of an object, none where there are none."""
    try:
        return _from_bytes(cache.get(key))
    except ObjectMissing:
        pass
    except ValueError:
        log.warning("cached features are broken and are computed again", key=key)
    return np.empty((0, 0), np.float32)


def rows_of(work: Work, features: Features, wanted: Sequence[Example]) -> Floats:
    """float32[n, feature_width] of some examples, with progress on the way."""
    return features.of(wanted, _steps(work, features.counts, len(wanted)))


def views_of(work: Work, features: Features, wanted: Sequence[Example], views: Views) -> Floats:
    """float32[n, views, feature_width] of augmented views of some examples, with progress on the way."""
    return features.drawn(wanted, views, _steps(work, features.counts, len(wanted)))


def _steps(work: Work, counts: Counts, total: int) -> Callable[[], None]:
    """Says how many of all examples are done, and what was computed so far in all."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        work.progress("features", done, total, counts.computed, counts.cached)

    return step


@contextmanager
def reported(work: Work, counts: Counts) -> Iterator[None]:
    """An event says what was counted within, and how long it took."""
    started = time.perf_counter()
    yield
    seconds = time.perf_counter() - started
    ready = FeaturesReady(features_computed=counts.computed, features_cached=counts.cached, seconds=seconds)
    work.reporter.event(TrainingRunEvent(features_ready=ready))


def gather(work: Work, features: Features, wanted: Sequence[Example]) -> Floats:
    """float32[n, feature_width] of some examples, with progress on the way and an event that says what they cost."""
    with reported(work, features.counts):
        return rows_of(work, features, wanted)


def _to_bytes(rows: Floats) -> bytes:
    return save(
        {"features": np.ascontiguousarray(rows)}, metadata={"sha256": hashlib.sha256(rows.tobytes()).hexdigest()}
    )


def _from_bytes(data: bytes) -> Floats:
    try:
        rows: Floats = load(data)["features"]
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        stored = header["__metadata__"]["sha256"]
    except (SafetensorError, KeyError, ValueError) as problem:
        raise ValueError("not features") from problem
    if stored != hashlib.sha256(rows.tobytes()).hexdigest():
        raise ValueError("features are not what their hash says")
    return rows
