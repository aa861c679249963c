"""Weights files as people bring them: the one that is pinned, or nothing; and nothing in them is executed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save

from services.shared.objects.filesystem import FilesystemStore
from services.trainer.architectures import ARCHITECTURES
from services.trainer.worker.architectures import build
from services.trainer.worker.pretrained import PretrainedWeights, WeightsUnavailable, key, offered
from services.trainer.worker.weights import tensors_sha256
from tests import official_source
from tests.conftest import SHARED
from tests.official_source import Source, pinned, saved, whole

B0, LITE0 = ARCHITECTURES["efficientnet_b0"], ARCHITECTURES["efficientnet_lite0"]


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    with official_source.running() as running:
        yield running


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize(
    "make",
    [
        lambda bomb: saved({"weight": bomb}),
        pickle.dumps,
        lambda _: saved([torch.zeros(3)]),
        lambda _: saved({"weight": "text"}),
        lambda _: b"PK\x03\x04 no zip",
        lambda _: b"",
    ],
    ids=["bomb in a checkpoint", "bare bomb", "list", "text", "half a zip", "empty"],
)
def test_what_holds_no_tensors_is_refused(
    source: Source, store: FilesystemStore, tmp_path: Path, make: Callable[[Bomb], bytes]
) -> None:
    """Even a file of the pinned hash is opened as tensors only: nothing in it is executed, and nothing kept."""
    canary = tmp_path / "canary"
    data = make(Bomb(canary))
    row = pinned(B0, data, source.gives("bomb.pth", whole(data)))
    with pytest.raises(WeightsUnavailable, match="something else than tensors"):
        PretrainedWeights(store).fetch(row)
    file = tmp_path / "bomb.pth"
    file.write_bytes(data)
    with pytest.raises(WeightsUnavailable, match="something else than tensors"):
        PretrainedWeights(store).add(row, file)
    assert not canary.exists()
    assert list(store.keys("")) == []
    pickle.loads(pickle.dumps(Bomb(canary)))  # noqa: S301 - so the bomb does work
    assert canary.exists()


def test_a_file_at_hand_is_imported(store: FilesystemStore, tmp_path: Path) -> None:
    """Weights that a package carries can be imported where it is not installed; the body is the same to the bit."""
    file = offered(LITE0).locate()
    assert file is not None
    weights = PretrainedWeights(store, downloads=False)
    weights.add(LITE0, file)
    without = replace(LITE0, weights=replace(offered(LITE0), distribution="no-such-weights"))
    bodies = [build(LITE0.network, weights.tensors(row)) for row in (LITE0, without)]
    first, second = (tensors_sha256(body.state_dict()) for body in bodies)
    assert first == second
    copied = tmp_path / "copied.safetensors"
    copied.write_bytes(store.get(key(LITE0)))
    another = FilesystemStore(tmp_path / "another")
    PretrainedWeights(another).add(LITE0, copied)
    assert another.get(key(LITE0)) == copied.read_bytes()


def test_another_file_is_not_imported(store: FilesystemStore, tmp_path: Path) -> None:
    """A file of another hash, of another architecture, too large, or that no Handful made, is refused and not kept."""
    weights = PretrainedWeights(store)
    wrong, large, foreign = tmp_path / "wrong.pth", tmp_path / "large.pth", tmp_path / "foreign.safetensors"
    wrong.write_bytes(saved(torchvision.models.efficientnet_b0(weights=None).state_dict()))
    large.write_bytes(bytes(offered(B0).max_bytes + 2 * 1024 * 1024))
    foreign.write_bytes(save({"weight": torch.zeros(3)}))
    for row, file, words in [
        (B0, wrong, "its SHA-256 is"),
        (B0, offered(LITE0).locate(), "its SHA-256 is"),
        (B0, large, "too large"),
        (B0, foreign, "no weights file that Handful made"),
    ]:
        assert file is not None
        with pytest.raises(WeightsUnavailable, match=words):
            weights.add(row, file)
    weights.add(LITE0, Path(str(offered(LITE0).locate())))
    other = tmp_path / "other.safetensors"
    other.write_bytes(store.get(key(LITE0)))
    with pytest.raises(WeightsUnavailable, match="was made from the file of SHA-256"):
        weights.add(B0, other)
    assert list(store.keys("")) == [key(LITE0)]


def test_real_weights_of_another_network_are_not_imported(store: FilesystemStore) -> None:
    """A published safetensors file that nobody pinned is refused, whatever is in it."""
    file = SHARED / "weights" / "tinydarknet-imagenet1k.safetensors"
    if not file.is_file():
        pytest.skip("the weights are not on this machine")
    with pytest.raises(WeightsUnavailable, match="no weights file that Handful made"):
        PretrainedWeights(store).add(B0, file)
