"""Whether the folds and repeats that a recipe asks for can be had of a dataset version. It knows no gRPC and no SQL."""

from collections import defaultdict
from collections.abc import Iterator

from handful.bundle.manifest import dataset_manifest_key, from_bytes
from handful.errors import InvalidArgument
from handful.v1.bundle_pb2 import SPLIT_TRAIN, DatasetManifest, Recipe
from services.shared.objects import ObjectStore
from services.trainer.head_fields import MIN_FOLDS

# Numbers of a head's answers in all repeats, examples x classes each: 32 MiB as float32. Of each kind of head that is
# tried there are two such arrays, and `quality` holds those of every network at once.
MAX_ANSWERS = 2**23


def check(store: ObjectStore, project: str, manifest_sha256: str, recipe: Recipe) -> None:
    """InvalidArgument naming the fields that ask for more than the training examples of a dataset manifest allow. The
    manifest is read only where a recipe asks for anything.
    """
    if not recipe.num_folds and not recipe.num_repeats:
        return
    data = store.get(dataset_manifest_key(project, manifest_sha256), manifest_sha256)
    problems = list(_problems(from_bytes(DatasetManifest, data), recipe))
    if problems:
        raise InvalidArgument.fields(problems)


def _problems(dataset: DatasetManifest, recipe: Recipe) -> Iterator[tuple[str, str]]:
    label, num_groups = _smallest(dataset)
    has = f"{label} has {num_groups} different training examples, where those of a group count as one"
    if num_groups < MIN_FOLDS:
        asked = {"num_folds": recipe.num_folds, "num_repeats": recipe.num_repeats}
        why = f"there is no cross-validation of fewer than {MIN_FOLDS} of each class; {has}"
        yield from ((f"recipe.{name}", f"must be 0: {why}") for name, number in asked.items() if number)
        return
    if recipe.num_folds > num_groups:
        yield "recipe.num_folds", f"must be at most {num_groups}: {has}"
    num_train = sum(one.split == SPLIT_TRAIN for one in dataset.examples)
    most = max(1, MAX_ANSWERS // (num_train * len(dataset.labels)))
    if recipe.num_repeats > most:
        why = f"{num_train} training examples of {len(dataset.labels)} classes are answered in each"
        yield "recipe.num_repeats", f"must be at most {most}: {why}, and {MAX_ANSWERS:,} numbers in all are the limit"


def _smallest(dataset: DatasetManifest) -> tuple[str, int]:
    """The class with the fewest groups of training examples, and how many these are."""
    groups = defaultdict[str, set[str]](set)
    for one in dataset.examples:
        if one.split == SPLIT_TRAIN:
            groups[one.label].add(one.group)
    label = min(dataset.labels, key=lambda label: len(groups[label]))
    return label, len(groups[label])
