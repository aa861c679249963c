"""Preset `fine_tune`: what is trained and what is left alone, step sizes, the choice of an epoch, and precision."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from handful.recipe import recipe as from_words
from handful.v1.bundle_pb2 import WEIGHTS_RANDOM, Recipe
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from services.trainer.presets import BASELINE
from services.trainer.recipes import resolve
from services.trainer.worker import backbones, mixing, networks
from services.trainer.worker.examples import Examples
from services.trainer.worker.optimisation import parameter_groups, scheduled
from services.trainer.worker.pretrained import PretrainedWeights
from tests.unit.test_fine_tuning import examples, figures, flat, resume, train

__all__ = ["examples"]
EPOCHS = 3
# Everything that has a state of its own, at once.
EVERYTHING: dict[str, object] = {
    "freeze": "FIRST_BLOCKS",
    "frozen_blocks": 16,
    "optimizer": "SGD",
    "warmup_epochs": 1,
    "early_stopping_epochs": 2,
    "mixup": 0.4,
    "cutmix": 1.0,
    "auto_augmentation": "TRIVIAL_AUGMENT",
    "random_erasing": 0.5,
    "vertical_flip": 0.5,
    "hue": 0.1,
}


def recipe(**fields: object) -> Recipe:
    quick = {"preset": "fine_tune", "num_epochs": EPOCHS, "batch_size": 3}
    return resolve(from_words({**quick, **fields}), DEFAULT_ARCHITECTURE)


def network(store: FilesystemStore, **fields: object) -> networks.Network:
    return networks.build(recipe(**fields), PretrainedWeights(store), 2)


@pytest.fixture
def few(examples: Examples) -> Examples:
    """Two of each class to train on."""
    return replace(examples, train=examples.train[3:7])


@pytest.mark.parametrize(
    "architecture", [row.id for row in ARCHITECTURES.values() if not row.extra and not row.members]
)
def test_blocks_are_the_whole_body_in_order(store: FilesystemStore, architecture: str) -> None:
    """There are as many as the catalogue says, and together they are all weights, each once, from the input on."""
    row = ARCHITECTURES[architecture]
    with torch.device("meta"):
        body = backbones.build_body(Recipe(architecture=architecture, weights=WEIGHTS_RANDOM), PretrainedWeights(store))
    blocks = networks.blocks(body)
    assert len(blocks) == row.num_blocks
    alone = {id(one) for block in blocks for one in block.alone}
    inside = [id(one) for block in blocks for one in block.weights()]
    assert sorted(inside) == sorted(id(one) for one in body.parameters())
    assert [one for one in inside if one not in alone] == [id(o) for o in body.parameters() if id(o) not in alone]


@pytest.mark.parametrize(
    ("fields", "first", "trained"),
    [({"freeze": "FIRST_BLOCKS", "frozen_blocks": 16}, 16, 2), ({"freeze": "NONE"}, 0, 18)],
    ids=["first blocks", "nothing"],
)
def test_what_is_frozen_stays(
    store: FilesystemStore, few: Examples, fields: dict[str, object], first: int, trained: int
) -> None:
    """An epoch leaves the frozen blocks as they were, bit for bit, statistics too, and changes the others."""
    before = network(store, **fields)
    ended = train(store, few, recipe(num_epochs=1, **fields), 1).state(store)
    after = network(store, **fields)
    after.load_state_dict(ended)
    changed = []
    for ours, theirs in zip(networks.blocks(before.body), networks.blocks(after.body), strict=True):
        states = [[one for module in block.modules for one in module.state_dict().values()] for block in (ours, theirs)]
        changed.append(not all(torch.equal(a, b) for a, b in zip(*states, strict=True)))
    assert changed == [False] * first + [True] * trained
    assert not torch.equal(before.head.weight, after.head.weight)


def test_learning_rates_fall_from_block_to_block(store: FilesystemStore) -> None:
    """The last block has the recipe's, each before it a share of that, the head its own; only matrices decay."""
    fields = {"learning_rate": 0.01, "layer_decay": 0.5, "head_learning_rate": 0.1, "weight_decay": 0.3}
    groups = parameter_groups(recipe(**fields), network(store, **fields))
    rates = list(dict.fromkeys(group["lr"] for group in groups))
    assert rates == [0.01 * 0.5**depth for depth in range(18)] + [0.1]
    for group in groups:
        assert {one.dim() > 1 for one in group["params"]} == {group["weight_decay"] == 0.3}


def test_schedules_are_their_papers() -> None:
    """Warm-up rises evenly; a cosine ends near 0; one cycle is at its height after 30 % of the steps."""
    cosine = [scheduled(recipe(num_epochs=10, warmup_epochs=2), step, 100) for step in range(100)]
    assert cosine[:20] == [pytest.approx((step + 1) / 20) for step in range(20)]
    assert cosine[60] == pytest.approx(0.5)
    assert 0 < cosine[99] < 0.001
    cycle = [scheduled(recipe(schedule="ONE_CYCLE"), step, 100) for step in range(100)]
    assert cycle[0] == pytest.approx(1 / 25)
    assert cycle[30] == 1.0
    assert cycle == sorted(cycle[:31]) + sorted(cycle[31:], reverse=True)
    constant = [scheduled(recipe(schedule="CONSTANT", warmup_epochs=0), step, 100) for step in range(100)]
    assert constant == [1.0] * 100
    # A recipe without any schedule: the baseline's.
    assert scheduled(resolve(Recipe(preset=BASELINE), DEFAULT_ARCHITECTURE), 0, 100) == 1.0


def test_resuming_is_not_being_interrupted(store: FilesystemStore, few: Examples) -> None:
    """With everything on that has a state, a run that was taken up ends as one that was not, bit for bit."""
    straight = train(store, few, recipe(**EVERYTHING), EPOCHS)
    theirs = flat(straight.state(store))
    assert "/stopping/weights/body" in "".join(theirs)
    assert any(name.endswith("momentum_buffer") for name in theirs)
    for after_epoch in (1, 2):
        resumed = resume(store, few, straight, after_epoch)
        assert figures(resumed.history) == figures(straight.history)
        ours = flat(resumed.state(store))
        assert [name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)] == []


def test_the_head_starts_where_fast_ends(store: FilesystemStore, few: Examples) -> None:
    """LP-FT: with steps of next to nothing the first epoch is as good as `fast` already, which a random head is not."""
    still = {"freeze": "BODY", "head_learning_rate": 1e-8, "crop_scale": 1, "rotation_degrees": 0, "label_smoothing": 0}
    losses = {}
    for start in ("FAST", "RANDOM"):
        ended = train(store, few, recipe(num_epochs=1, initial_head=start, **still), 1)
        losses[start] = figures(ended.history)[0]["val/loss"]
    assert losses["FAST"] < 0.5 * losses["RANDOM"]


def test_float16_without_cuda_is_float32_and_says_so(store: FilesystemStore, few: Examples) -> None:
    """The recipe is settled, so that later attempts and the manifest say what was done; bfloat16 is had anywhere."""
    if torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    plain = {"freeze": "BODY", "num_epochs": 1}
    ended = train(store, few, recipe(precision="FLOAT16", **plain), 1)
    assert [one.notice.reason for one in ended.events if one.HasField("notice")] == ["PRECISION_FALLBACK"]
    assert ended.recipe == recipe(precision="FLOAT32", **plain)
    settled = [one.recipe_settled.recipe for one in ended.events if one.HasField("recipe_settled")]
    assert settled == [ended.recipe]
    exact = figures(train(store, few, recipe(**plain), 1).history)
    assert figures(ended.history) == exact
    rounded = figures(train(store, few, recipe(precision="BFLOAT16", **plain), 1).history)
    assert rounded != exact
    assert rounded[0]["val/loss"] == pytest.approx(exact[0]["val/loss"], rel=0.1)


def test_mixed_targets_add_up() -> None:
    """Pictures and targets are mixed by the same shares; without mixing there is none."""
    assert mixing.build(recipe(), 2) is None
    images = torch.stack([torch.full((3, 8, 8), float(value)) for value in range(4)])
    labels = torch.arange(4)
    torch.manual_seed(1)
    for fields in ({"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}):
        mix = mixing.build(recipe(**fields), 4)
        assert mix is not None
        mixed, shares = mix(images, labels)
        expected = shares @ torch.arange(4.0)
        assert torch.allclose(mixed.mean(dim=(1, 2, 3)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [(0.6888582482933998, 0.6387378573417664), (0.583267942070961, 0.5730561017990112)]),
        ({"freeze": "NONE"}, [(0.7280569970607758, 0.6044891476631165)]),
    ],
    ids=["frozen", "whole"],
)
def test_the_baseline_stays_as_it_is(
    store: FilesystemStore, examples: Examples, fields: dict[str, Any], expected: list[tuple[float, float]]
) -> None:
    """What the preset computed before there was another; another processor may round a little otherwise."""
    words = {"preset": "baseline", "num_epochs": 4, "batch_size": 3, "target_size": 0, "learning_rate": 1e-3, **fields}
    ended = train(store, examples, resolve(from_words(words), DEFAULT_ARCHITECTURE), len(expected))
    found = [(one["train/loss"], one["val/loss"]) for one in figures(ended.history)]
    assert np.allclose(found, expected, rtol=1e-3)
