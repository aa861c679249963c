"""Which epochs of a run count. A new attempt voids the epochs after the checkpoint it continues from; the SDK, the
plots and the manifest all apply that here.
"""

from collections.abc import Iterable

from handful.v1.bundle_pb2 import EpochMetrics
from handful.v1.trainer_pb2 import TrainingRunEvent


class History:
    """The epochs that count, given a run's events in order."""

    def __init__(self, events: Iterable[TrainingRunEvent] = ()) -> None:
        self._epochs: dict[int, TrainingRunEvent] = {}
        for event in events:
            self.add(event)

    def add(self, event: TrainingRunEvent) -> None:
        kind = event.WhichOneof("event")
        if kind == "attempt_started":
            last = event.attempt_started.resumed_after_epoch
            self._epochs = {epoch: ended for epoch, ended in self._epochs.items() if epoch <= last}
        elif kind == "epoch_completed":
            self._epochs[event.epoch] = event

    @property
    def epochs(self) -> list[EpochMetrics]:
        """In order."""
        return [EpochMetrics(epoch=one.epoch, metrics=one.epoch_completed.metrics) for one in self.events]

    @property
    def events(self) -> list[TrainingRunEvent]:
        """The events that said so, in order of their epochs."""
        return [self._epochs[epoch] for epoch in sorted(self._epochs)]
