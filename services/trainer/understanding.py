"""What a run asks a worker to understand, and what this release understands: both read off the tables that it trains
by, so that what a later release adds to them is known to no worker of this one, without anyone having to say so.

It is a field of a preset (`fast.head`), a choice of one (`fast.head=LDA`), an architecture (`architecture=auto`), or a
kind of run. What a worker has of weights and libraries is the business of `fleet`.
"""

from collections.abc import Iterator

from google.protobuf.unknown_fields import UnknownFieldSet

from handful.bundle.manifest import MODEL_FORMATS
from handful.recipe import as_dict
from handful.v1.bundle_pb2 import Recipe
from handful.v1.worker_pb2 import Capabilities
from services.trainer.presets import PRESETS

CONTINUED = "continued runs"
# A worker measures models of the formats that it can read, and a run does not say of which its model is.
EVALUATED = f"evaluations of {MODEL_FORMATS[-1]}"
# What trainers of a release before that one's ask for.
_EVALUATED_BEFORE = "evaluations"
# Of workers that say nothing, whose releases are older than the question, only what such releases do rightly.
_OLDEST = {
    "fast": "weights weights=PRETRAINED weights=RANDOM architecture seed num_epochs regularization_c head head=AUTO "
    "head=LOGISTIC_REGRESSION shrinkage",
    "baseline": "weights weights=PRETRAINED weights=RANDOM architecture seed num_epochs learning_rate batch_size "
    "weight_decay freeze freeze=BODY freeze=NONE frozen_mode frozen_mode=EVAL frozen_mode=TRAIN target_size "
    "horizontal_flip rotation_degrees brightness contrast saturation",
}
OLDEST = frozenset(f"{preset}.{one}" for preset, all_ in _OLDEST.items() for one in all_.split())


def needed(recipe: Recipe, *, continued: bool) -> frozenset[str]:
    """What a worker has to understand that takes a run of this recipe; one without a preset measures a model."""
    kind = {CONTINUED} if continued else set()
    if not recipe.preset:
        kind.add(EVALUATED)
    return frozenset(kind | set(_of_recipe(recipe)))


def _of_recipe(recipe: Recipe) -> Iterator[str]:
    for name, value in as_dict(recipe).items():
        whose = "" if name == "architecture" else f"{recipe.preset}."
        if recipe.preset and name != "preset":
            yield f"{recipe.preset}.{name}"
        if isinstance(value, str) and name != "preset":
            yield f"{whose}{name}={value}"
    # A replica of a newer release may have queued the run.
    yield from (f"recipe field {one.field_number}" for one in UnknownFieldSet(recipe))  # type: ignore[attr-defined]


def known() -> frozenset[str]:
    """What a worker of this release understands."""
    return frozenset({EVALUATED, _EVALUATED_BEFORE, CONTINUED} | set(_of_presets()))


def _of_presets() -> Iterator[str]:
    for preset in PRESETS.values():
        for field in preset.fields:
            yield f"{preset.name}.{field.name}"
            whose = "" if field.name == "architecture" else f"{preset.name}."
            yield from (f"{whose}{field.name}={choice}" for choice in field.choices)


def understood(capabilities: Capabilities) -> frozenset[str]:
    """What a worker says that it understands, or, where it says nothing, what the oldest do."""
    if capabilities.understands:
        return frozenset(capabilities.understands)
    had = (*capabilities.pretrained, *capabilities.fetchable)
    return OLDEST | {f"architecture={architecture}" for architecture in had}
