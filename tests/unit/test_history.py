"""Which epochs of a run count, from its events."""

import pytest

from handful.history import History
from handful.v1.bundle_pb2 import EpochMetrics, Metric
from handful.v1.trainer_pb2 import (
    AttemptStarted,
    CheckpointSaved,
    EpochCompleted,
    FeaturesReady,
    StateChanged,
    TrainingRun,
    TrainingRunEvent,
)


def epoch(number: int, loss: float) -> TrainingRunEvent:
    metrics = [Metric(name="train/loss", value=loss)]
    return TrainingRunEvent(epoch=number, epoch_completed=EpochCompleted(metrics=metrics))


def attempt(resumed_after_epoch: int) -> TrainingRunEvent:
    return TrainingRunEvent(attempt_started=AttemptStarted(resumed_after_epoch=resumed_after_epoch))


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param([], [], id="nothing happened"),
        pytest.param([attempt(0)], [], id="no epoch yet"),
        pytest.param([attempt(0), epoch(1, 0.9), epoch(2, 0.8)], [(1, 0.9), (2, 0.8)], id="one attempt"),
        pytest.param(
            [attempt(0), epoch(1, 0.9), epoch(2, 0.8), epoch(3, 0.7), attempt(1), epoch(2, 0.6)],
            [(1, 0.9), (2, 0.6)],
            id="epochs after the checkpoint are void",
        ),
        pytest.param([attempt(0), epoch(1, 0.9), epoch(2, 0.8), attempt(2)], [(1, 0.9), (2, 0.8)], id="nothing lost"),
        pytest.param([attempt(0), epoch(1, 0.9), attempt(0), epoch(1, 0.5)], [(1, 0.5)], id="from the beginning"),
        pytest.param([attempt(0), epoch(1, 0.9), epoch(2, 0.8), attempt(0)], [], id="everything void"),
        pytest.param(
            [attempt(0), epoch(1, 0.9), attempt(1), epoch(2, 0.8), attempt(1), epoch(2, 0.7), epoch(3, 0.6)],
            [(1, 0.9), (2, 0.7), (3, 0.6)],
            id="lost twice",
        ),
        pytest.param([epoch(2, 0.8), epoch(1, 0.9)], [(1, 0.9), (2, 0.8)], id="in order of epochs"),
    ],
)
def test_the_epochs_that_count(events: list[TrainingRunEvent], expected: list[tuple[int, float]]) -> None:
    """A new attempt voids the epochs after the one it continues from, and no others."""
    metrics = [(number, [Metric(name="train/loss", value=loss)]) for number, loss in expected]
    assert History(events).epochs == [EpochMetrics(epoch=number, metrics=found) for number, found in metrics]


def test_events_that_are_no_epochs_change_nothing() -> None:
    """States, features and checkpoints leave the history as it is."""
    others = [
        TrainingRunEvent(state_changed=StateChanged(state=TrainingRun.STATE_RECOVERING)),
        TrainingRunEvent(features_ready=FeaturesReady(features_computed=4)),
        TrainingRunEvent(epoch=2, checkpoint_saved=CheckpointSaved(sha256="ab")),
        TrainingRunEvent(),
    ]
    history = History([epoch(1, 0.9), epoch(2, 0.8)])
    before = history.epochs
    for other in others:
        history.add(other)
    assert history.epochs == before


def test_events_may_come_one_by_one() -> None:
    """Adding events as they come gives what reading them all at once gives."""
    events = [attempt(0), epoch(1, 0.9), epoch(2, 0.8), attempt(1), epoch(2, 0.7)]
    history = History()
    for event in events:
        history.add(event)
    assert history.epochs == History(events).epochs
