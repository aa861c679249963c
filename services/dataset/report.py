"""What is odd about a dataset, in plain words, and whether it can be sealed at all."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from handful.errors import FailedPrecondition
from handful.v1 import bundle_pb2
from services.dataset.records import ClassCount, ExampleRecord, Notice

MIN_CLASSES = 2
MIN_EXAMPLES = 2
ADVISED_EXAMPLES = 15
IMBALANCE = 5
_SHOWN = 5

Splits = dict[str, "bundle_pb2.Split.ValueType"]


def count(examples: Sequence[ExampleRecord], splits: Splits) -> tuple[ClassCount, ...]:
    """How many examples of each class stand in each split, sorted by label."""
    counts: dict[str, Counter[bundle_pb2.Split.ValueType]] = defaultdict(Counter)
    for example in examples:
        counts[example.label][splits[example.content_sha256]] += 1
    return tuple(
        ClassCount(label, counts[label][bundle_pb2.SPLIT_TRAIN], counts[label][bundle_pb2.SPLIT_VAL])
        for label in sorted(counts)
    )


def check(classes: Sequence[ClassCount]) -> None:
    """FailedPrecondition where nothing could be learnt from the data."""
    if len(classes) < MIN_CLASSES:
        raise FailedPrecondition(
            f"A classifier needs at least {MIN_CLASSES} classes, not {len(classes)}. Upload examples of another.",
            reason="TOO_FEW_CLASSES",
        )
    small = [one.label for one in classes if one.num_train + one.num_val < MIN_EXAMPLES]
    if small:
        raise FailedPrecondition(
            f"Every class needs at least {MIN_EXAMPLES} examples; upload more of: {_listed(small)}. What was uploaded "
            "stays in a dataset: to do without a class, upload the others to a new dataset, under another id.",
            reason="TOO_FEW_EXAMPLES",
        )
    untrained = [one.label for one in classes if not one.num_train]
    if untrained:
        raise FailedPrecondition(
            f"Every class needs a training example; these have validation examples only: {_listed(untrained)}.",
            reason="NOTHING_TO_TRAIN_ON",
        )


def notices(
    examples: Sequence[ExampleRecord],
    splits: Splits,
    classes: Sequence[ClassCount],
    modality: "bundle_pb2.Modality.ValueType" = bundle_pb2.MODALITY_IMAGE,
) -> tuple[Notice, ...]:
    """What its owner should know about the data."""
    what = "sound" if modality == bundle_pb2.MODALITY_SOUND else "picture"
    about_examples = (_contradictions(examples, what), _only_training(examples, splits, what))
    about_classes = (_few(classes), _imbalance(classes), _unmeasured(classes))
    return tuple(found for found in (*about_examples, *about_classes) if found)


def _contradictions(examples: Sequence[ExampleRecord], what: str) -> Notice | None:
    files: dict[str, list[ExampleRecord]] = defaultdict(list)
    for example in examples:
        files[example.content_sha256].append(example)
    twice = [members for members in files.values() if len(members) > 1]
    if not twice:
        return None
    shown = [" and ".join(f"{member.label}/{member.filename}" for member in members) for members in twice]
    return Notice(
        "CONTRADICTING_LABELS",
        f"The same {what} stands under several labels: {_listed(shown)}. Upload each under one label only.",
    )


def _only_training(examples: Sequence[ExampleRecord], splits: Splits, what: str) -> Notice | None:
    """What was to validate and does not, because it trains, or what it belongs to does."""
    trains = sorted(
        f"{one.label}/{one.filename}"
        for one in examples
        if bundle_pb2.SPLIT_VAL in one.uploaded_for and splits[one.content_sha256] == bundle_pb2.SPLIT_TRAIN
    )
    if not trains:
        return None
    many = f"{len(trains)} {what}{'s' if len(trains) > 1 else ''}"
    return Notice(
        "VALIDATION_TRAINS",
        f"In the validation data, but also in the training data, alone or with their group, and so used to train only: "
        f"{many} ({_listed(trains)}). A model is measured on what it has not seen; validate on others.",
    )


def _few(classes: Sequence[ClassCount]) -> Notice | None:
    few = [f"{one.label} ({one.num_train})" for one in classes if one.num_train < ADVISED_EXAMPLES]
    if not few:
        return None
    return Notice(
        "FEW_EXAMPLES", f"Fewer than {ADVISED_EXAMPLES} training examples: {_listed(few)}. More of them usually help."
    )


def _imbalance(classes: Sequence[ClassCount]) -> Notice | None:
    most, least = max(classes, key=lambda one: one.num_train), min(classes, key=lambda one: one.num_train)
    if most.num_train < IMBALANCE * least.num_train:
        return None
    return Notice(
        "IMBALANCE", f"{most.label} has {most.num_train} training examples, {least.label} only {least.num_train}."
    )


def _unmeasured(classes: Sequence[ClassCount]) -> Notice | None:
    unmeasured = [one.label for one in classes if not one.num_val]
    if not unmeasured:
        return None
    return Notice("UNMEASURED_CLASSES", f"No validation examples, so nothing is known about: {_listed(unmeasured)}.")


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
