"""Which epochs of a run count. A new attempt voids the epochs after the checkpoint it continues from; the SDK, the
plots and the manifest all apply that here.
"""

from collections.abc import Iterable

from handful.v1.bundle_pb2 import EpochMetrics
from handful.v1.trainer_pb2 import TrainingRunEvent


class History:
    """The epochs that count, given a run's events in order."""

    def __init__(self, events: Iterable[TrainingRunEvent] = ()) -> None:
        self._epochs: dict[int, EpochMetrics] = {}
        for event in events:
            self.add(event)

    def add(self, event: TrainingRunEvent) -> None:
        kind = event.WhichOneof("event")
        if kind == "attempt_started":
            last = event.attempt_started.resumed_after_epoch
            self._epochs = {epoch: metrics for epoch, metrics in self._epochs.items() if epoch <= last}
        elif kind == "epoch_completed":
            self._epochs[event.epoch] = EpochMetrics(epoch=event.epoch, metrics=event.epoch_completed.metrics)

    @property
    def epochs(self) -> list[EpochMetrics]:
        """In order."""
        return [self._epochs[epoch] for epoch in sorted(self._epochs)]
