"""Which architecture a run takes: judged by answers out of fold, and honest about how much a choice flatters itself."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from handful.bundle.manifest import blob_key, sha256
from handful.errors import InvalidArgument
from handful.v1.bundle_pb2 import HEAD_KIND_LOGISTIC_REGRESSION, MODALITY_IMAGE, MODALITY_SOUND, Recipe
from handful.v1.worker_pb2 import Capabilities, Claim
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE, to_choose_from
from services.trainer.fleet import suits
from services.trainer.recipes import fit, resolve
from services.trainer.understanding import known
from services.trainer.worker.architecture_choice import prepare
from services.trainer.worker.cross_validation import Folds, OutOfFold
from services.trainer.worker.examples import Example, Examples
from services.trainer.worker.head_choice import Candidate, best_architecture, honest
from services.trainer.worker.pretrained import PretrainedWeights, key
from services.trainer.worker.reporting import Reporter
from services.trainer.worker.work import Work
from tests.unit.test_starting_point import Recorder

LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
LABELS = np.arange(40) % 2


def tried(right: object, sure: float = 2.0, repeats: int = 1) -> list[Candidate]:
    """An architecture whose heads answer some examples rightly, all of them equally surely."""
    answers = np.where(np.asarray(right), LABELS, 1 - LABELS)
    logits = np.eye(2, dtype=np.float32)[answers] * np.float32(sure)
    return [Candidate(HEAD_KIND_LOGISTIC_REGRESSION, 1.0, OutOfFold(5, np.repeat(logits[None], repeats, axis=0)))]


def folds(repeats: int = 1) -> Folds:
    drawn = Folds.drawn(LABELS, [f"{place:02}" for place in range(40)], 2, 0)
    return Folds(drawn.folds, drawn.smallest_class, drawn.of_row[:repeats])


def accuracy_of_choosing(candidates: list[list[Candidate]], dealt: Folds) -> float:
    return float(honest(candidates, LABELS, np.arange(40), dealt).right(LABELS).mean())


def test_the_one_that_is_right_most_often_is_taken() -> None:
    """Accuracy decides; of equals the smaller loss, and of what is equal in both the cheapest, which comes first."""
    most, fewer = np.arange(40) < 36, np.arange(40) < 35
    assert best_architecture([tried(fewer, 9), tried(most)], LABELS) == 1
    assert best_architecture([tried(most, 9), tried(most, 2)], LABELS) == 1
    assert best_architecture([tried(most), tried(most)], LABELS) == 0


def test_a_choice_among_guesses_knows_that_it_guesses() -> None:
    """The best of thirty coins looks good on what it was chosen by; chosen without what is asked it is a coin again."""
    random = np.random.default_rng(0)
    gaps, fair = [], []
    for _ in range(60):
        coins = [tried(random.random(40) < 0.5) for _ in range(30)]
        fair.append(accuracy_of_choosing(coins, folds()))
        gaps.append(coins[best_architecture(coins, LABELS)][0].message(LABELS).accuracy - fair[-1])
    assert np.mean(gaps) > 0.1
    assert np.mean(fair) == pytest.approx(0.5, abs=0.05)


def test_where_one_is_clearly_better_the_choice_costs_nothing() -> None:
    """What every fold chooses is as good as it looks, and answers in every repeat."""
    bad, good = tried(np.arange(40) % 3, repeats=5), tried(np.arange(40) != 7, repeats=5)
    assert accuracy_of_choosing([bad, good], folds(5)) == pytest.approx(39 / 40)


def test_what_is_too_costly_or_binds_the_model_is_not_tried() -> None:
    """The cheapest comes first; Ultralytics' networks, whose licence the model would have, are chosen by name alone."""
    assert [row.id for row in to_choose_from([*reversed(LITES), "yolo11n_cls", "vgg16"], 10)] == list(LITES)
    assert [row.id for row in to_choose_from(LITES, 0.6)] == list(LITES[:2])
    assert not to_choose_from(LITES, 0.1)


def test_a_worker_without_torch_takes_quality() -> None:
    """It needs weights that are at hand and nothing else; what may be downloaded is not waited for."""
    quality = resolve(Recipe(preset="quality"), DEFAULT_ARCHITECTURE)
    assert suits(quality, Capabilities(understands=known(), pretrained=LITES, lacks_torch=True), continued=False)
    assert not suits(quality, Capabilities(understands=known(), fetchable=LITES), continued=False)
    quality.max_gflops = 0.2
    assert not suits(quality, Capabilities(understands=known(), pretrained=LITES), continued=False)
    named = resolve(Recipe(preset="quality", architecture="resnet18"), DEFAULT_ARCHITECTURE)
    assert not suits(named, Capabilities(understands=known(), pretrained=LITES), continued=False)
    assert suits(named, Capabilities(understands=known(), pretrained=["resnet18"]), continued=False)


@pytest.mark.parametrize(
    ("asked", "held", "field"),
    [
        (Recipe(preset="quality"), MODALITY_SOUND, "recipe.preset"),
        (Recipe(preset="quality", architecture="speech_embedding"), MODALITY_IMAGE, "recipe.architecture"),
        (Recipe(preset="quality", architecture="resnet18", max_gflops=1), MODALITY_IMAGE, "recipe.max_gflops"),
        (Recipe(preset="fast", max_gflops=1), MODALITY_IMAGE, "recipe.max_gflops"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_by_field(asked: Recipe, held: int, field: str) -> None:
    """Sounds, whose networks `fast` tries itself, and fields that would say nothing."""
    with pytest.raises(InvalidArgument) as caught:
        fit(asked, DEFAULT_ARCHITECTURE, held)  # type: ignore[arg-type]
    assert [name for name, _ in caught.value.violations] == [field]


def test_the_servers_default_is_one_of_many_to_quality() -> None:
    """Which network other presets take by default does not narrow the choice; a settled recipe stays as it is."""
    asked = fit(Recipe(preset="quality"), "efficientnet_b0", MODALITY_IMAGE)
    assert (asked.architecture, asked.max_gflops) == ("auto", 10)
    settled = fit(Recipe(preset="quality", architecture="efficientnet_lite2"), "efficientnet_b0", MODALITY_IMAGE)
    assert settled.max_gflops == 0
    assert fit(settled, "efficientnet_b0", MODALITY_IMAGE) == settled


def test_weights_that_turn_out_to_be_broken_are_left_out_aloud(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    """One network whose kept weights cannot be read costs that network, with a notice, and not the run."""
    store, kept = FilesystemStore(tmp_path / "store"), FilesystemStore(tmp_path / "weights")
    broken = ARCHITECTURES["mobilenet_v3_small"]
    kept.put(key(broken), b"no weights")
    made = []
    for seed in range(6):
        data = picture(seed, ((40, 80, 200), (200, 80, 40))[seed % 2])
        store.put(blob_key("default", sha256(data)), data)
        made.append(Example(sha256(data), seed % 2, str(seed)))
    examples = Examples("default", MODALITY_IMAGE, ("blue", "red"), tuple(made), ())
    asked = resolve(Recipe(preset="quality", max_gflops=0.4), DEFAULT_ARCHITECTURE)
    claim = Claim(training_run="projects/default/trainingRuns/r1", attempt=1, recipe=asked)
    reporter, weights = cast("Reporter", Recorder()), PretrainedWeights(kept, downloads=False)
    work = Work(claim, store, weights, reporter, threads=1, cache=store)
    prepared = prepare(work, examples)
    assert work.recipe.architecture == prepared.backbone.architecture == "efficientnet_lite0"
    assert [one.reason for one in work.notices] == ["ARCHITECTURE_NOT_TRIED", "ARCHITECTURE_CHOSEN"]
    assert work.notices[0].message.startswith("mobilenet_v3_small was not tried. The pretrained weights of")
    assert prepared.choice is not None
    assert [one.architecture for one in prepared.choice.candidates] == ["efficientnet_lite0"]
