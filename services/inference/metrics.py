"""The inference service's own figures for Prometheus, read off what it has when they are asked for.

Series are bounded: of models the MAX_MODELS versions that were asked last, of graphs the MAX_GRAPHS in memory that were
used last.
"""

import asyncio
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from services.inference.batching import Batcher
from services.inference.explanations.explaining import Explainer
from services.inference.loading import Loader
from services.inference.runtimes.choosing import Chooser
from services.inference.statistics import Duration, Statistics

MAX_MODELS, MAX_GRAPHS = 50, 20
# The loop is asked for its figures; one that does not answer for so long has other troubles.
PATIENCE_SECONDS = 5.0
PASSES = (1, 2, 4, 8, 16, 32, 64)


class Figures(Collector):
    """See above. Its parts belong to the loop that it is made on."""

    def __init__(self, batcher: Batcher, explainer: Explainer, loader: Loader, chooser: Chooser) -> None:
        self._batcher = batcher
        self._explainer = explainer
        self._loader = loader
        self._chooser = chooser
        self._loop = asyncio.get_running_loop()

    def collect(self) -> Iterable[Metric]:
        return asyncio.run_coroutine_threadsafe(self._read(), self._loop).result(PATIENCE_SECONDS)

    async def _read(self) -> list[Metric]:
        return [
            *_passes(self._batcher.passes(), self._batcher.num_wide),
            _waiting({**self._batcher.waiting(), "explanations": self._explainer.num_waiting}),
            _refused(self._batcher.statistics),
            *_loaded(self._loader),
            *_runtimes(self._loader, self._chooser),
            *_models(self._batcher.statistics),
        ]


def _passes(sizes: dict[int, int], num_wide: int) -> Iterator[Metric]:
    bounds = [(str(float(most)), float(sum(n for size, n in sizes.items() if size <= most))) for most in PASSES]
    bounds.append(("+Inf", float(sum(sizes.values()))))
    told = "Pictures, or one sound, in a pass through a network."
    family = HistogramMetricFamily("handful_inference_pass_pictures", told)
    family.add_metric([], bounds, float(sum(size * n for size, n in sizes.items())))
    yield family
    yield CounterMetricFamily("handful_inference_wide_passes", "Of one picture alone, on several threads.", num_wide)


def _waiting(counts: dict[str, int]) -> Metric:
    told = "Pictures and sounds that wait: for shared networks, private ones, to be decoded (large), or explained."
    return _gauge("handful_inference_waiting", told, "line", counts)


def _refused(statistics: Statistics) -> Metric:
    family = CounterMetricFamily("handful_inference_refused", "What was refused for want of room.", labels=["reason"])
    for reason, count in statistics.refused.items():
        family.add_metric([reason], count)
    return family


def _loaded(loader: Loader) -> Iterator[Metric]:
    loaded = loader.loaded()
    told = "In memory: models' heads, networks that are shared, and networks of one project alone."
    counts = {kind: len(values) for kind, values in loaded.items()}
    yield _gauge("handful_inference_loaded", told, "kind", counts)
    num_bytes = {kind: sum(one.num_bytes for one in values) for kind, values in loaded.items()}
    yield _gauge("handful_inference_loaded_bytes", "The memory that they are taken to need.", "kind", num_bytes)


def _gauge(name: str, told: str, label: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, told, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _runtimes(loader: Loader, chooser: Chooser) -> Iterator[Metric]:
    labels = ["graph_sha256", "runtime", "pictures"]
    told = "What serves a graph, and how many pictures it takes at once."
    serves = GaugeMetricFamily("handful_inference_runtime", told, labels=labels)
    told = "Processor time for each picture, as it was measured, at so many at once."
    measured = GaugeMetricFamily("handful_inference_runtime_milliseconds", told, labels=labels)
    labels, told = ["graph_sha256", "runtime", "threads"], "Time of a picture that is alone, as measured, on so many."
    alone = GaugeMetricFamily("handful_inference_lone_milliseconds", told, labels=labels)
    graphs = {one.graph_sha256: one for one in loader.backbones()}  # two projects may have the same, each for itself
    for one in list(graphs.values())[-MAX_GRAPHS:]:
        serves.add_metric([one.graph_sha256, one.runtime, str(one.cap)], 1)
        table = chooser.measured(one.graph_sha256)
        for family, rows in ((measured, table.rows), (alone, table.alone)):
            for runtime, number, milliseconds in rows:
                family.add_metric([one.graph_sha256, runtime, str(number)], milliseconds)
    yield from (serves, measured, alone)


def _models(statistics: Statistics) -> Iterator[Metric]:
    """A counter that is left out for a while goes on where it was."""
    requests = CounterMetricFamily("handful_model_requests", "Requests.", labels=["version", "outcome"])
    answers = CounterMetricFamily("handful_model_answers", "Pictures and sounds answered.", labels=["version"])
    seconds = CounterMetricFamily("handful_model_seconds", "Where their time went.", labels=["version", "stage"])
    for version in statistics.versions()[-MAX_MODELS:]:
        counts = statistics.of(version)
        requests.add_metric([version, "success"], counts.success.count)
        requests.add_metric([version, "fail"], counts.fail.count)
        answers.add_metric([version], counts.answers)
        stages = {"queue": counts.queue, "decode": counts.decode, "network": counts.network, "head": counts.head}
        for stage, duration in stages.items():
            seconds.add_metric([version, stage], _seconds(duration))
    yield from (requests, answers, seconds)


def _seconds(duration: Duration) -> float:
    return duration.ns / 1e9
