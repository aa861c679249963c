"""The challenger of `quality`: really fine-tuned on real folds, and taken only where it clearly wins."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from handful.bundle.heads import Floats
from handful.bundle.manifest import bundle_key, from_bytes
from handful.errors import InvalidArgument
from handful.v1.bundle_pb2 import Challenge, CrossValidation, ModelManifest, MoreExamples, Recipe
from services.shared.objects import StoreUnavailable
from services.trainer.architectures import DEFAULT_ARCHITECTURE
from services.trainer.intervals import effective
from services.trainer.recipes import resolve
from services.trainer.worker import challenge, linear_probe
from services.trainer.worker.cross_validation import Folds, OutOfFold
from services.trainer.worker.evaluation import evaluate
from services.trainer.worker.memory import OutOfMemory
from services.trainer.worker.pretrained import WeightsUnavailable
from services.trainer.worker.publishing import publish
from services.trainer.worker.reporting import RunCancelled
from services.trainer.worker.work import Diverged
from tests.unit.test_architecture_choice import LABELS, Small, folds, tried

ALONE = np.arange(len(LABELS))


def champion(num_right: int, repeats: int = 1) -> OutOfFold:
    return tried(np.arange(len(LABELS)) < num_right, repeats=repeats)[0].out_of_fold


def challenger(num_right: int) -> Floats:
    logits: Floats = champion(num_right).logits[0]
    return logits


@pytest.mark.parametrize(("right", "wins"), [(30, False), (31, False), (32, True), (40, True), (20, False)])
def test_it_wins_by_more_than_one_standard_error_only(right: int, *, wins: bool) -> None:
    """One more right answer than the champion's is chance; two more, and none lost, are not."""
    assert challenge.won(champion(30), challenger(right), LABELS, ALONE) == wins


def test_answers_of_a_group_count_once() -> None:
    """Ten pieces of one recording that it gets right are one recording."""
    assert challenge.won(champion(30), challenger(40), LABELS, ALONE)
    assert not challenge.won(champion(30), challenger(40), LABELS, ALONE // 10)


def test_figures_are_those_of_choosing_without_what_is_asked() -> None:
    """Who wins on the other folds answers a fold: a clear winner all of them, and where nobody is clearly better the
    champion, as it was measured.
    """
    dealt = folds(5)
    clear = challenge.honest(champion(20, 5), champion(20, 5), challenger(40), LABELS, ALONE, dealt)
    assert clear.right(LABELS).mean() == 1
    assert clear.repeats == 1
    same = challenge.honest(champion(36, 5), champion(36, 5), challenger(37), LABELS, ALONE, dealt)
    np.testing.assert_array_equal(same.logits, champion(36, 5).logits)


@pytest.mark.parametrize("times", [1, 6, 8], ids=lambda times: f"{40 * times}")
def test_what_was_answered_once_is_worth_one_repeat(times: int) -> None:
    """A challenger's networks are fine-tuned once for each fold, however many times heads are fitted; nor would fewer
    examples have had more of it.
    """
    labels, alone = np.tile(LABELS, times), np.arange(40 * times)
    dealt = Folds.drawn(labels, [f"{place:03}" for place in alone], 2, 0)
    bad = np.tile(champion(20).logits[0], (times, 1))
    measured = OutOfFold(5, np.repeat(bad[None], len(dealt.of_row), axis=0))
    clear = challenge.honest(measured, measured, np.tile(challenger(40), (times, 1)), labels, alone, dealt)
    assert clear.worth(len(labels)) == effective(len(labels), 5, 1) < measured.worth(len(labels))


def test_a_lucky_challenger_does_not_look_lucky() -> None:
    """Of many challengers that guess as the champion does, those that win on all answers are chance again in the
    figures.
    """
    random, lucky = np.random.default_rng(0), []
    for _ in range(400):
        first, other = (tried(random.random(40) < 0.5)[0].out_of_fold for _ in range(2))
        if challenge.won(first, other.logits[0], LABELS, ALONE):
            told = challenge.honest(first, first, other.logits[0], LABELS, ALONE, folds())
            lucky.append((float(other.right(LABELS).mean()), float(told.right(LABELS).mean())))
    looks, says = np.mean(lucky, axis=0)
    assert len(lucky) > 20
    assert looks > 0.55
    assert says < looks - 0.02


def small(tmp_path: Path, picture: Callable[..., bytes], epochs: int) -> Small:
    run = Small.of(tmp_path, picture, max_gflops=0.4)
    run.work.recipe.challenger_epochs = epochs
    return run


def test_it_is_fine_tuned_out_of_fold_and_said(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    """Every picture is answered by a network that was fine-tuned without it; its epochs are none of the run's, and a
    champion that is not beaten is published as ever.
    """
    run = small(tmp_path, picture, epochs=1)
    trained = linear_probe.train(run.work, run.examples)
    found = trained.cross_validation
    assert found is not None
    assert found.HasField("challenge")
    assert not found.challenge.won
    assert trained.backbone.weights_origin == "pretrained"
    (told,) = [message for reason, message in run.noted if reason == "CHALLENGED"]
    assert f"the fine-tuned network about {found.challenge.challenger_accuracy:.1%}" in told
    assert "the head was taken" in told
    epochs = [one.epoch for one in run.recorder.events if one.HasField("epoch_completed")]
    assert epochs == list(range(1, len(epochs) + 1))
    assert "challenging" in run.recorder.phases
    again = linear_probe.train(small(tmp_path / "again", picture, epochs=1).work, run.examples).cross_validation
    assert again == found


def test_a_winner_is_trained_on_everything_and_published(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    """The model is the fine-tuned network, which answers as it does in torch, with the figures of the challenge."""
    run = small(tmp_path, picture, epochs=2)
    run.work.recipe.architecture = DEFAULT_ARCHITECTURE
    won = Challenge(champion_accuracy=0.5, challenger_accuracy=0.9, won=True)
    measured = CrossValidation(accuracy=0.9, challenge=won, more_examples=MoreExamples(num_examples=12))
    trained = challenge.fine_tuned(run.work, run.examples, measured)
    assert trained.cross_validation == CrossValidation(accuracy=0.9, challenge=won)
    assert [one.epoch for one in run.work.history] == [1, 2]
    answers, labels = trained.val_probabilities, np.zeros(0, np.int64)
    evaluation = evaluate(run.examples.labels, labels, answers, run.work.history, trained.cross_validation)
    digest = publish(run.work, trained, evaluation)
    model = from_bytes(ModelManifest, run.work.store.get(bundle_key("default", digest, "manifest.json"), digest))
    assert model.backbone.weights_origin == "trained"
    assert model.recipe == run.work.recipe


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (WeightsUnavailable("They cannot be had."), "They cannot be had."),
        (Diverged.in_epoch(3), "Its loss stopped being a number."),
        (OutOfMemory("The memory does not suffice for batches of 8."), "memory of the worker"),
        (MemoryError(), "memory of the worker"),
        (StoreUnavailable("away"), ""),
        (RunCancelled("r1"), ""),
    ],
    ids=lambda one: type(one).__name__,
)
def test_its_own_problems_cost_the_challenger_alone(problem: Exception, said: str) -> None:
    """They are said in words that fit; what is the run's stays the run's."""
    told = challenge.left_out(problem)
    assert said in told
    assert bool(told) == bool(said)


def test_what_ultralytics_builds_is_not_challenged() -> None:
    """Its networks are not fine-tuned here, so a challenger is refused by field."""
    with pytest.raises(InvalidArgument) as caught:
        resolve(Recipe(preset="quality", architecture="yolo11n_cls", challenger_epochs=5), DEFAULT_ARCHITECTURE)
    assert [name for name, _ in caught.value.violations] == ["recipe.challenger_epochs"]


def test_where_nothing_can_be_compared_there_is_no_challenger(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    """One picture of a class cannot be left out of training: the head is published, and a notice says so."""
    run = small(tmp_path, picture, epochs=1)
    run.work.recipe.architecture = DEFAULT_ARCHITECTURE
    few = Small.of(tmp_path, picture, max_gflops=0.4).examples
    alone = type(few)(few.project, few.modality, few.labels, few.train[:2], ())
    assert Folds.drawn(np.array([0, 1]), ["a", "b"], 2, 0).folds == 1
    assert linear_probe.train(run.work, alone).cross_validation is None
    assert [reason for reason, _ in run.noted if reason.startswith("CHALLENGE")] == ["CHALLENGER_LEFT_OUT"]
