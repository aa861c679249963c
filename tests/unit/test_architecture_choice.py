"""Which architecture a run takes: judged by answers out of fold, and honest about how much a choice flatters itself."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import cast

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from handful.bundle.manifest import blob_key, sha256
from handful.cli.report import noted
from handful.errors import InvalidArgument
from handful.v1.bundle_pb2 import HEAD_KIND_LOGISTIC_REGRESSION, MODALITY_IMAGE, MODALITY_SOUND, Notice, Recipe
from handful.v1.trainer_pb2 import TrainingRunEvent
from handful.v1.worker_pb2 import Capabilities, Claim
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE, to_choose_from, with_members
from services.trainer.fleet import suits
from services.trainer.recipes import fit, resolve
from services.trainer.sound_architectures import CANDIDATES
from services.trainer.understanding import known
from services.trainer.worker.architecture_choice import NOT_TRIED, prepare, untried
from services.trainer.worker.children import ChildLost
from services.trainer.worker.cross_validation import Folds, OutOfFold
from services.trainer.worker.examples import Example, Examples
from services.trainer.worker.head_choice import Candidate, best_architecture, honest
from services.trainer.worker.pretrained import PretrainedWeights, key
from services.trainer.worker.reporting import Reporter, RunCancelled
from services.trainer.worker.validation import deal
from services.trainer.worker.work import Work
from tests.processes import children, until
from tests.unit.test_starting_point import Recorder

LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
LABELS = np.arange(40) % 2


def tried(right: object, sure: float = 2.0, repeats: int = 1) -> list[Candidate]:
    """An architecture whose heads answer some examples rightly, all of them equally surely."""
    answers = np.where(np.asarray(right), LABELS, 1 - LABELS)
    logits = np.eye(2, dtype=np.float32)[answers] * np.float32(sure)
    answered = OutOfFold(5, np.repeat(logits[None], repeats, axis=0))
    return [Candidate(HEAD_KIND_LOGISTIC_REGRESSION, 1.0, answered, answered)]


def folds(repeats: int = 1) -> Folds:
    drawn = Folds.drawn(LABELS, [f"{place:02}" for place in range(40)], 2, 0)
    return Folds(drawn.folds, drawn.smallest_class, drawn.of_row[:repeats])


def accuracy_of_choosing(candidates: list[list[Candidate]], dealt: Folds) -> float:
    return float(honest(candidates, LABELS, np.arange(40), dealt, lambda: None).right(LABELS).mean())


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


def test_networks_side_by_side_are_not_taken_unmeasured() -> None:
    """They are the last, being the dearest, and the last is taken where nothing can be measured; of sounds too."""
    rows = [row.id for row in to_choose_from(with_members(LITES), 10)]
    assert ARCHITECTURES[rows[-1]].members
    assert untried(rows) == "efficientnet_lite2"
    assert untried(CANDIDATES) == CANDIDATES[-1]


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


@dataclass(frozen=True)
class Small:
    """A run of `quality` on six small pictures, of networks up to so many GFLOPs, and what it reports."""

    work: Work
    examples: Examples
    recorder: Recorder

    @classmethod
    def of(cls, folder: Path, picture: Callable[..., bytes], max_gflops: float) -> "Small":
        store, recorder = FilesystemStore(folder / "store"), Recorder()
        made = []
        for seed in range(6):
            data = picture(seed, ((40, 80, 200), (200, 80, 40))[seed % 2])
            store.put(blob_key("default", sha256(data)), data)
            made.append(Example(sha256(data), seed % 2, str(seed)))
        asked = resolve(Recipe(preset="quality", max_gflops=max_gflops), DEFAULT_ARCHITECTURE)
        claim = Claim(training_run="projects/default/trainingRuns/r1", attempt=1, recipe=asked)
        weights = PretrainedWeights(FilesystemStore(folder / "weights"), downloads=False)
        work = Work(claim, store, weights, cast("Reporter", recorder), threads=1, cache=store)
        return cls(work, Examples("default", MODALITY_IMAGE, ("blue", "red"), tuple(made), ()), recorder)

    def chosen_from(self) -> list[str]:
        """The networks that were tried, the chosen one first."""
        prepared = prepare(self.work, self.examples, deal(self.work, self.examples))
        assert prepared.choice is not None
        names = [one.architecture for one in prepared.choice.candidates]
        assert self.work.recipe.architecture == prepared.backbone.architecture == names[0]
        return names

    @property
    def noted(self) -> list[tuple[str, str]]:
        return [(one.reason, one.message) for one in self.work.notices]


@contextmanager
def killing(number: int, then: Callable[[], object] = lambda: None) -> Iterator[None]:
    """The first process that is started to build a graph dies of a signal."""
    before = set(children())

    def kill() -> None:
        found: list[int] = []

        def look() -> bool:
            new = set(children()) - before
            found[:] = [pid for pid in new if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            return bool(found)

        until(look, "a process builds a graph")
        then()
        os.kill(found[0], number)

    killer = Thread(target=kill)
    killer.start()
    yield
    killer.join()


def test_weights_that_turn_out_to_be_broken_are_left_out_aloud(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    """One network whose kept weights cannot be read costs that network, with a notice, and not the run."""
    run, broken = Small.of(tmp_path, picture, max_gflops=0.4), ARCHITECTURES["mobilenet_v3_small"]
    FilesystemStore(tmp_path / "weights").put(key(broken), b"no weights")
    assert run.chosen_from() == ["efficientnet_lite0"]
    (reason, message), (chosen, _) = run.noted
    assert (reason, chosen) == ("ARCHITECTURE_NOT_TRIED", "ARCHITECTURE_CHOSEN")
    assert message.startswith("mobilenet_v3_small was not tried. The pretrained weights of")


def test_with_a_challenger_networks_side_by_side_are_left_out_aloud(
    tmp_path: Path, picture: Callable[..., bytes]
) -> None:
    run = Small.of(tmp_path, picture, max_gflops=1.3)
    run.work.recipe.challenger_epochs = 1
    assert sorted(run.chosen_from()) == list(LITES)
    message = "efficientnet_lite0_and_lite2 was not tried: no challenger is made of networks side by side."
    assert run.noted[0] == (NOT_TRIED, message)


@pytest.mark.parametrize(("number", "why"), [(signal.SIGSEGV, "ended without an answer"), (signal.SIGKILL, "memory")])
def test_a_network_whose_process_dies_is_left_out_aloud(
    tmp_path: Path, picture: Callable[..., bytes], number: int, why: str
) -> None:
    """What crashes while its graph is built, and what the system kills for its memory, cost that network alone."""
    run = Small.of(tmp_path, picture, max_gflops=0.6)
    with killing(number):
        assert run.chosen_from() == ["efficientnet_lite1"]
    (reason, message), _ = run.noted
    assert reason == "ARCHITECTURE_NOT_TRIED"
    assert message.startswith("efficientnet_lite0 was not tried: ")
    assert why in message
    assert [one.notice.message for one in run.recorder.events if one.notice.reason == reason] == [message]


def test_a_network_whose_graph_disagrees_is_left_out_aloud(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    """A store in which another graph already lies under a network's name costs that network alone."""
    other = Small.of(tmp_path / "other", picture, max_gflops=0.4)
    assert other.chosen_from() == ["efficientnet_lite0"]
    (stored,) = (tmp_path / "other" / "store" / "backbones").rglob("*.onnx")
    model = onnx.load_model(stored)
    bias = next(one for one in model.graph.initializer if one.name == "network.conv_head.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 1, bias.name))
    wrong = model.SerializeToString()
    run = Small.of(tmp_path, picture, max_gflops=0.6)
    run.work.store.put(f"backbones/{stored.parent.name}/{sha256(wrong)}.onnx", wrong)
    assert run.chosen_from() == ["efficientnet_lite1"]
    message = "efficientnet_lite0 was not tried: its graph disagrees with the network."
    assert run.noted[0] == ("ARCHITECTURE_NOT_TRIED", message)


def test_where_none_is_left_the_run_has_its_reason(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    """The only network that is lost is the run's end, as it is where a recipe names it."""
    run = Small.of(tmp_path, picture, max_gflops=0.4)
    with killing(signal.SIGSEGV), pytest.raises(ChildLost):
        run.chosen_from()
    assert [reason for reason, _ in run.noted] == ["ARCHITECTURE_NOT_TRIED"]


def test_a_run_that_is_cancelled_leaves_nothing_out(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    """A process that ends while its run is cancelled says nothing of a network: the run ends as it was told to."""
    run = Small.of(tmp_path, picture, max_gflops=0.6)

    def cancel() -> None:
        run.recorder.cancelled_in = "graph"

    with killing(signal.SIGSEGV, cancel), pytest.raises(RunCancelled):
        run.chosen_from()
    assert run.noted == []


def test_another_attempt_says_its_own_of_a_choice(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    """What an attempt that was lost had left out, another may try: the manifest has what its own attempt says."""
    run = Small.of(tmp_path, picture, max_gflops=0.4)
    earlier = [("ARCHITECTURE_NOT_TRIED", "efficientnet_lite0 was not tried."), ("TOPPED_UP", "Some were repeated.")]
    run.work.notices.extend(Notice(reason=reason, message=message) for reason, message in earlier)
    assert run.chosen_from() == ["efficientnet_lite0"]
    assert [reason for reason, _ in run.noted] == ["TOPPED_UP", "ARCHITECTURE_CHOSEN"]


def test_the_report_has_every_network_that_was_left_out() -> None:
    """Several sentences of one reason all stand there, once; of several attempts those of the last."""
    events = [
        TrainingRunEvent(attempt=attempt, notice=Notice(reason=reason, message=message))
        for attempt, reason, message in (
            (1, "ARCHITECTURE_NOT_TRIED", "a was not tried."),
            (1, "TOPPED_UP", "Some were repeated."),
            (2, "ARCHITECTURE_NOT_TRIED", "b was not tried."),
            (2, "ARCHITECTURE_NOT_TRIED", "c was not tried."),
        )
    ]
    assert noted(events) == ["b was not tried.", "c was not tried.", "Some were repeated."]


def test_a_run_can_be_cancelled_while_folds_are_drawn(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    """Draws of folds may be many, and whether the run shall go on is asked before each."""
    run = Small.of(tmp_path, picture, max_gflops=0.4)
    run.recorder.phases.add("features")
    run.recorder.cancelled_in = "features"
    with pytest.raises(RunCancelled):
        deal(run.work, run.examples)
