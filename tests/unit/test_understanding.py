"""What workers understand: everything of their own release, and nothing that came after it."""

import itertools

import pytest

from handful.bundle.manifest import MODEL_FORMATS
from handful.recipe import recipe
from handful.v1.bundle_pb2 import Recipe
from handful.v1.worker_pb2 import Capabilities, Claim
from services.trainer.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from services.trainer.fields import Field, Preset
from services.trainer.fleet import suits, waits_for
from services.trainer.presets import PRESETS
from services.trainer.recipes import resolve
from services.trainer.sound_architectures import SOUND_ARCHITECTURES
from services.trainer.understanding import CONTINUED, EVALUATED, known, needed

# A worker of a release before workers said what they understand, with the weights of every network for pictures.
OLD = Capabilities(device="cpu", pretrained=ARCHITECTURES)
# The fields of a claim that every worker has to understand.
OF_EVERY_CLAIM = {
    "training_run",
    "attempt",
    "token",
    "lease_seconds",
    "recipe",
    "dataset_manifest_sha256",
    "checkpoint",
    "history",
    "request_id",
    "notices",
}
# What is not written down, since releases before there was anything else did just that.
_UNWRITTEN = {
    (preset.name, field.name): field.default
    for preset in PRESETS.values()
    for field in preset.fields
    if field.unwritten
}
# Fields of which none is not written down either.
_COUNTED = ("views", "challenger_epochs", "num_folds", "num_repeats", "input_size")
_CHOICES = [
    (preset, field, choice)
    for preset in PRESETS.values()
    for field in preset.fields
    for choice in field.choices or ("",)
    if field.name != "architecture" and choice != _UNWRITTEN.get((preset.name, field.name))
]


def knows(*unknown: str) -> Capabilities:
    """A worker of this release, but for something."""
    return Capabilities(device="cpu", pretrained=ARCHITECTURES, understands=known() - set(unknown))


@pytest.mark.parametrize(("preset", "field", "choice"), _CHOICES, ids=lambda one: getattr(one, "name", one))
def test_what_a_worker_does_not_know_it_is_not_given(preset: Preset, field: Field, choice: str) -> None:
    """For every field of every preset, and every choice: a worker that knows all else is not given a run with it."""
    asked = {"preset": preset.name, field.name: choice or field.default}
    if field.name in _COUNTED:  # none of them ask nothing of a worker
        asked[field.name] = field.maximum
    if field.needs is not None:
        asked[field.needs.field] = field.needs.values[0]
    if choice == "RANDOM" and field.name == "weights" and preset.name == "fine_tune":
        asked |= {"freeze": "NONE"}
    resolved = resolve(recipe(asked), DEFAULT_ARCHITECTURE)
    feature = f"{preset.name}.{field.name}" + (f"={choice}" if choice else "")
    assert suits(resolved, knows(), continued=False)
    assert not suits(resolved, knows(feature), continued=False)
    assert feature in waits_for(resolved, [knows(feature)], continued=False)


@pytest.mark.parametrize(
    ("preset", "field"),
    [
        ("fast", "views"),
        ("quality", "challenger_epochs"),
        *((preset, field) for preset in ("fast", "quality") for field in ("num_folds", "num_repeats")),
    ],
)
@pytest.mark.parametrize("said", [False, True])
def test_none_of_what_is_new_asks_nothing_of_a_worker(preset: str, field: str, *, said: bool) -> None:
    """Workers of releases without views, challengers or numbers of folds train what asks for none of them."""
    asked = {"preset": preset, **({field: 0} if said else {})}
    resolved = resolve(recipe(asked), DEFAULT_ARCHITECTURE)
    assert f"{preset}.{field}" not in needed(resolved, continued=False)
    assert suits(resolved, knows(f"{preset}.{field}"), continued=False)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *SOUND_ARCHITECTURES])
def test_architectures_that_a_worker_does_not_know_it_is_not_given(architecture: str) -> None:
    """To train them or to measure models of them."""
    measured = Recipe(architecture=architecture)
    trained = Recipe(preset="fast", architecture=architecture)
    assert all(needed(one, continued=False) <= known() for one in (measured, trained))
    for one in (measured, trained):
        assert not suits(one, knows(f"architecture={architecture}"), continued=False)


def test_kinds_of_runs_that_a_worker_does_not_know_it_is_not_given() -> None:
    """Runs that go on from others, and evaluations."""
    trained = resolve(Recipe(preset="baseline"), DEFAULT_ARCHITECTURE)
    assert suits(trained, knows(CONTINUED), continued=False)
    assert not suits(trained, knows(CONTINUED), continued=True)
    assert not suits(Recipe(architecture=DEFAULT_ARCHITECTURE), knows(EVALUATED), continued=False)


def test_every_field_of_a_claim_is_every_workers_or_belongs_to_a_kind_of_run() -> None:
    """Whoever adds a field to a claim says what a worker has to understand to be given it."""
    of_kinds = {"evaluated_manifest_sha256": EVALUATED, "earlier_dataset_manifest_sha256s": CONTINUED}
    assert set(Claim.DESCRIPTOR.fields_by_name) == OF_EVERY_CLAIM | set(of_kinds)
    assert set(of_kinds.values()) <= known()


def test_an_old_worker_gets_what_it_trains_rightly() -> None:
    """Presets fast and baseline as they are; no LDA, no sounds, nothing that goes on and nothing that measures."""
    for preset, lda in itertools.product(("fast", "baseline", "fine_tune"), (False, True)):
        if lda and preset != "fast":
            continue
        asked = recipe({"preset": preset, **({"head": "LDA"} if lda else {})})
        rightly = preset != "fine_tune" and not lda
        assert suits(resolve(asked, DEFAULT_ARCHITECTURE), OLD, continued=False) == rightly
        assert not suits(resolve(asked, DEFAULT_ARCHITECTURE), OLD, continued=True)
    assert not any(suits(Recipe(architecture=one), OLD, continued=False) for one in ("resnet18", *SOUND_ARCHITECTURES))


def test_models_are_measured_by_workers_that_can_read_them() -> None:
    """A worker of a release before the newest format of models is given no evaluation; those that can read it are given
    evaluations by trainers of such a release, too.
    """
    newest, measured = f"evaluations of {MODEL_FORMATS[-1]}", Recipe(architecture=DEFAULT_ARCHITECTURE)
    assert needed(measured, continued=False) >= {newest}
    assert known() >= {"evaluations", newest}
    assert not suits(measured, knows(newest), continued=False)
    assert newest in waits_for(measured, [knows(newest)], continued=False)


def test_recipes_of_a_newer_release_are_given_to_nobody() -> None:
    """A field, a choice or a preset that only a newer replica knows, which queued the run."""
    resolved = resolve(Recipe(preset="fast"), DEFAULT_ARCHITECTURE)
    # Field number 1000, a varint; and a head of kind 99.
    for later in (b"\xc0\x3e\x01", b"\x90\x03\x63"):
        newer = Recipe.FromString(resolved.SerializeToString() + later)
        assert not suits(newer, knows(), continued=False)
    resolved.preset = "slow"
    assert not suits(resolved, knows(), continued=False)
