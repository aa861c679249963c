"""The whole line, through three services and a worker that are processes of their own."""

import io
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handful import Client
from handful.bundle import manifest, neighbours
from handful.cli.stack import Stack
from handful.errors import FailedPrecondition, InvalidArgument
from handful.v1.bundle_pb2 import HEAD_KIND_LDA, ModelManifest
from handful.v1.trainer_pb2 import FeaturesReady, TrainingRun, TrainingRunEvent

RED, BLUE = (210, 50, 50), (50, 50, 210)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, picture: Callable[..., bytes]) -> Path:
    """Two classes that a colour tells apart."""
    made = tmp_path_factory.mktemp("colours")
    for label, colour, first in (("red", RED, 0), ("blue", BLUE, 100)):
        (made / label).mkdir()
        for seed in range(first, first + 12):
            (made / label / f"{seed}.jpg").write_bytes(picture(seed, colour))
    return made


def stripes() -> bytes:
    """A picture of no colour."""
    rows = np.where(np.arange(200)[:, None] % 20 < 10, 255, 0).repeat(200, axis=1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rows, "L").save(buffer, "PNG")
    return buffer.getvalue()


# What every run on pictures of one colour is told.
COLOURS = "COLOURS_TELL_CLASSES_APART"


def train(client: Client, dataset: str, *notices: str, views: int = 0) -> tuple[TrainingRun, FeaturesReady]:
    """A finished run and what its features cost; it gave these notices."""
    run = client.train(dataset, views=views)
    events = [event for event in run.watch() if isinstance(event, TrainingRunEvent)]
    assert [event.notice.reason for event in events if event.HasField("notice")] == list(notices)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    ready = [event.features_ready for event in events if event.HasField("features_ready")]
    return run.training_run, ready[0]


def test_a_folder_becomes_a_model_that_predicts(stack: Stack, folder: Path, picture: Callable[..., bytes]) -> None:
    """Pictures pushed and trained on are told apart; what was computed once is not computed again."""
    with Client(stack.addresses) as client:
        version = client.push("colours", folder).version
        assert [(one.label, one.num_train, one.num_val) for one in version.classes] == [("blue", 10, 2), ("red", 10, 2)]

        run, ready = train(client, "colours", COLOURS)
        assert run.state == TrainingRun.STATE_SUCCEEDED
        assert (ready.features_computed, ready.features_cached) == (24, 0)
        figures = {metric.name: metric.value for metric in run.metrics}
        assert (figures["val/accuracy"], figures["cv/accuracy"]) == (1.0, 1.0)
        evaluation = client.evaluation(run.model_version).evaluation
        found = evaluation.cross_validation
        assert (found.folds, found.repeats, found.num_examples, found.accuracy_interval.high) == (5, 5, 20, 1.0)
        # It learnt no more than colours, and says so.
        majority, colours = found.baselines
        assert (majority.accuracy, colours.accuracy) == (0.5, 1.0)
        assert not found.label_suspects
        assert (found.more_examples.num_examples, found.more_examples.gain) == (40, 0.0)
        answer = client.predict("colours", picture(999, RED))
        assert answer.model_version == run.model_version == "projects/default/models/colours/versions/1"
        assert answer.predictions[0].label == "red"
        assert sum(one.score for one in answer.predictions) == pytest.approx(1.0)
        assert not answer.unknown
        assert client.predict("colours", stripes()).unknown
        # Twenty training examples promise 5 %, and not 1 %; none was wrong, so nothing is held back.
        promises = [(one.HasField("min_confidence"), one.answered) for one in evaluation.error_rate_promises]
        assert promises == [(False, 0), (True, 1), (True, 1)]
        wary = client.predict("colours", picture(999, RED), max_error_rate=0.05)
        assert (wary.unsure, wary.min_confidence) == (False, 0)
        with pytest.raises(FailedPrecondition, match="it takes 99 examples"):
            client.predict("colours", picture(999, RED), max_error_rate=0.01)

        _, ready = train(client, "colours", COLOURS)
        assert (ready.features_computed, ready.features_cached) == (0, 24)

        # Two views of each picture to train, none of those to validate.
        _, ready = train(client, "colours", COLOURS, views=2)
        assert (ready.features_computed, ready.features_cached) == (40, 24)
        again, ready = train(client, "colours", COLOURS, views=2)
        assert (ready.features_computed, ready.features_cached) == (0, 64)
        assert {metric.name: metric.value for metric in again.metrics}["val/accuracy"] == 1.0

        for seed in range(500, 505):
            (folder / "red" / f"{seed}.jpg").write_bytes(picture(seed, RED))
        client.push("colours", folder)
        _, ready = train(client, "colours", COLOURS)
        assert (ready.features_computed, ready.features_cached) == (5, 24)


def test_a_version_says_how_it_did_and_what_it_is(stack: Stack, folder: Path) -> None:
    """A published version has figures, a confusion matrix that adds up, and plots that are PNG files."""
    with Client(stack.addresses) as client:
        client.push("shown", folder)
        run, _ = train(client, "shown", COLOURS)
        found = client.evaluation(run.model_version)
        names = {metric.name for metric in found.evaluation.metrics}
        assert {"val/loss", "val/accuracy", "val/top5_accuracy", "val/f1_weighted"} <= names
        counts = [row.counts for row in found.evaluation.confusion_matrix]
        assert [sum(row) for row in counts] == [one.num_examples for one in found.evaluation.classes]
        matrices = {"confusion_matrix", "confusion_matrix_normalized"}
        assert {plot.name for plot in found.plots} == {"loss", "metrics", "learning_curve"} | matrices
        assert all(plot.png.startswith(b"\x89PNG") for plot in found.plots)


def test_a_run_says_what_it_used_and_what_such_a_run_takes(stack: Stack, folder: Path) -> None:
    """Seconds of its phases and the memory, in its version and as an event; the next run says what to expect."""
    with Client(stack.addresses) as client:
        client.push("costly", folder)
        client.train("costly").result()
        run = client.train("costly")
        events = [message for message in run.watch() if isinstance(message, TrainingRunEvent)]
        ended = run.training_run
        used = client.evaluation(ended.model_version).evaluation.resources
        (last,) = (event.resources_used for event in events if event.HasField("resources_used"))
    phases = [one.phase for one in used.phases]
    assert (phases[0], phases[-1]) == ("starting", "publishing")
    assert {"features", "validating", "fitting"} <= set(phases)
    took = (ended.finish_time.ToNanoseconds() - ended.start_time.ToNanoseconds()) / 1e9
    assert 0 < used.seconds == pytest.approx(sum(one.seconds for one in used.phases))
    assert used.seconds <= last.seconds <= took
    assert 50e6 < used.peak_memory_bytes < 2e9
    assert used.peak_accelerator_bytes == 0
    assert 0.1 < ended.estimated_seconds < 60


def test_the_recipe_chooses_the_head(stack: Stack, folder: Path, tmp_path: Path) -> None:
    """LDA is what was asked for; its model says so and at which temperature, and the last epoch's figures are already
    those of the head that is published.
    """
    with Client(stack.addresses) as client:
        client.push("discriminated", folder)
        run = client.train("discriminated", head="LDA").result()
        evaluation = client.evaluation(run.model_version).evaluation
        (candidate,) = evaluation.cross_validation.candidates
        with zipfile.ZipFile(client.export(run.model_version, tmp_path).path) as archive:
            model = manifest.from_bytes(ModelManifest, archive.read("bundle/manifest.json"))
        assert model.head.kind == model.recipe.head == candidate.kind == HEAD_KIND_LDA
        assert model.head.temperature == candidate.temperature > 1
        figures = {metric.name: metric.value for metric in evaluation.metrics}
        (epoch,) = evaluation.history
        assert {metric.name: metric.value for metric in epoch.metrics}["val/loss"] == figures["val/loss"]


def test_folds_and_repeats_are_those_that_were_asked_for(stack: Stack, photographs: Path, tmp_path: Path) -> None:
    """On photographs, twelve of each class: the model's evaluation and its exported manifest have them, `quality` too;
    more than there are pictures are refused before anything is trained.
    """
    for animal in ("cat", "dog"):
        (tmp_path / animal).mkdir()
        for file in sorted((photographs / "train" / animal).iterdir())[:12]:
            shutil.copy(file, tmp_path / animal)
    with Client(stack.addresses) as client:
        client.push("folded", tmp_path)
        with pytest.raises(InvalidArgument) as refused:
            client.train("folded", num_folds=11)
        ((field, problem),) = refused.value.violations
        assert (field, problem.partition(":")[0]) == ("recipe.num_folds", "must be at most 10")
        for preset, folds, repeats in (({"preset": "fast"}, 10, 2), ({"preset": "quality", "max_gflops": 0.4}, 3, 7)):
            run = client.train("folded", **preset, num_folds=folds, num_repeats=repeats).result()
            found = client.evaluation(run.model_version).evaluation.cross_validation
            assert (found.folds, found.repeats, found.num_examples) == (folds, repeats, 20)
            with zipfile.ZipFile(client.export(run.model_version, tmp_path).path) as archive:
                model = manifest.from_bytes(ModelManifest, archive.read("bundle/manifest.json"))
            assert (model.recipe.num_folds, model.recipe.num_repeats) == (folds, repeats)


def test_a_version_is_measured_on_other_data(
    stack: Stack, folder: Path, tmp_path: Path, picture: Callable[..., bytes]
) -> None:
    """What it was trained on and classes it does not know are left out, and said to be; the rest counts."""
    with Client(stack.addresses) as client:
        client.push("learnt-colours", folder)
        version = train(client, "learnt-colours", COLOURS)[0].model_version
        for label, colour, seeds in (("red", RED, range(900, 906)), ("green", (50, 210, 50), range(906, 910))):
            (tmp_path / label).mkdir()
            for seed in seeds:
                (tmp_path / label / f"{seed}.jpg").write_bytes(picture(seed, colour))
        learnt = sorted((folder / "red").iterdir())
        for file in learnt:
            (tmp_path / "red" / f"again-{file.name}").write_bytes(file.read_bytes())
        client.push("other", tmp_path)

        ended = client.evaluate(version, "other").result()
        evaluation = client.evaluation(version, ended.dataset_version).evaluation
        assert (ended.evaluated_model_version, ended.model_version) == (version, "")
        assert {metric.name: metric.value for metric in evaluation.metrics}["val/accuracy"] == 1.0
        counts = {one.label: one.num_examples for one in evaluation.classes}
        held_out = next(one.num_val for one in client.seal("learnt-colours").classes if one.label == "red")
        assert counts == {"blue": 0, "red": 6 + held_out}
        assert [one.reason for one in evaluation.notices] == ["UNKNOWN_CLASSES", "SEEN_IN_TRAINING"]


def test_nothing_unseen_is_nothing_to_measure(stack: Stack, folder: Path, tmp_path: Path) -> None:
    """A model whose every example was trained on has no figures, and the run says why."""
    shutil.copytree(folder, tmp_path / "train")
    with Client(stack.addresses) as client:
        client.push("all-seen", tmp_path)
        version = train(client, "all-seen", COLOURS)[0].model_version
        run = client.evaluate(version, "all-seen")
        with pytest.raises(FailedPrecondition) as refused:
            run.result()
        assert refused.value.reason == "NO_EXAMPLES"


def test_the_baseline_streams_its_epochs(stack: Stack, folder: Path) -> None:
    """Gradient training sends every epoch with its figures, tops small classes up, and serves what it trained."""
    with Client(stack.addresses) as client:
        client.push("textbook", folder)
        run = client.train("textbook", preset="baseline", num_epochs=3, target_size=15, learning_rate=1e-2)
        events = [event for event in run.watch() if isinstance(event, TrainingRunEvent)]
        epochs = [event for event in events if event.HasField("epoch_completed")]
        assert [event.epoch for event in epochs] == [1, 2, 3]
        metrics = {metric.name for metric in epochs[-1].epoch_completed.metrics}
        assert {"train/loss", "val/accuracy", "learning_rate", "seconds", "peak_memory_bytes", "eta_seconds"} <= metrics
        notices = [event.notice.reason for event in events if event.HasField("notice")]
        assert notices == ["TOPPED_UP", "TOPPED_UP"]
        assert [event.epoch for event in events if event.HasField("checkpoint_saved")] == [1, 2, 3]
        answer = client.predict("textbook", next((folder / "red").glob("*.jpg")))
        assert answer.predictions[0].label == "red"
        assert (answer.distance < answer.max_distance, answer.unknown) == (True, False)
        assert client.predict("textbook", stripes()).unknown


def test_a_network_is_fine_tuned_and_the_best_epoch_serves(stack: Stack, folder: Path) -> None:
    """A head fitted first, blocks trained with mixing; the epoch with the lowest val/loss is published."""
    fields: dict[str, Any] = {
        "freeze": "FIRST_BLOCKS",
        "frozen_blocks": 16,
        "num_epochs": 3,
        "early_stopping_epochs": 1,
        "mixup": 0.2,
    }
    with Client(stack.addresses) as client:
        pushed = client.push("tuned", folder).version
        run = client.train("tuned", preset="fine_tune", **fields)
        events = [event for event in run.watch() if isinstance(event, TrainingRunEvent)]
        epochs = [event.epoch_completed for event in events if event.HasField("epoch_completed")]
        losses = [next(one.value for one in epoch.metrics if one.name == "val/loss") for epoch in epochs]
        assert run.training_run.state == TrainingRun.STATE_SUCCEEDED, run.training_run.failure
        notices = {event.notice.reason: event.notice.message for event in events if event.HasField("notice")}
        # Tests before this one may have added pictures.
        tells = sum(one.num_val for one in pushed.classes) >= neighbours.MIN_HELD_OUT
        assert list(notices) == ["EARLY_STOPPING"] + ["UNKNOWN_NOT_TOLD"] * (not tells)
        assert f"Epoch {losses.index(min(losses)) + 1}, which had the lowest val/loss" in notices["EARLY_STOPPING"]
        model_version = run.training_run.model_version
        published = {metric.name: metric.value for metric in client.evaluation(model_version).evaluation.metrics}
        assert published["val/loss"] == pytest.approx(min(losses))
        assert client.predict("tuned", next((folder / "red").glob("*.jpg"))).predictions[0].label == "red"


def test_generated_stubs_are_all_a_caller_needs(stack: Stack, folder: Path) -> None:
    """The script in the docs uploads, trains, watches and predicts without our client."""
    script = Path(__file__).parents[2] / "docs" / "plain_client.py"
    example = next((folder / "blue").glob("*.jpg"))
    environment = {f"HANDFUL_{name.upper()}": address for name, address in vars(stack.addresses).items()}
    done = subprocess.run(
        [sys.executable, script, folder, example],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-1].startswith("projects/default/models/plain/versions/1 [('blue',")


def test_photographs_are_told_apart(stack: Stack, photographs: Path) -> None:
    """Cats and dogs, 50 to train and 100 to validate each, in the split of their folders: 97 of 100 are right."""
    with Client(stack.addresses) as client:
        version = client.push("photographs", photographs).version
        assert [(one.label, one.num_train, one.num_val) for one in version.classes] == [
            ("cat", 50, 100),
            ("dog", 50, 100),
        ]
        run, _ = train(client, "photographs")
        assert {metric.name: metric.value for metric in run.metrics}["val/accuracy"] >= 0.97
