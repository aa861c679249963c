"""Zips as data: what exports write is read, and nothing else is."""

import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import pytest

from handful.errors import InvalidArgument
from services.trainer.exports import archive
from services.trainer.imports.archive import Archive
from tests import hostile_zips
from tests.hostile_zips import HOSTILE

FILES: Mapping[str, bytes] = {
    "README.md": b"hello",
    "bundle/manifest.json": b"{}",
    "bundle/plots/loss.png": bytes(range(256)) * 40,
    "empty.txt": b"",
}


def read(path: Path) -> dict[str, bytes]:
    opened = Archive.open(path)
    return {name: opened.read(name) for name in opened.names()}


def refusal(path: Path) -> str:
    with pytest.raises(InvalidArgument) as caught:
        read(path)
    return caught.value.reason


def test_what_exports_write_is_read(tmp_path: Path) -> None:
    """Every file comes back as it was."""
    archive.write(tmp_path / "a.zip", FILES)
    assert read(tmp_path / "a.zip") == FILES
    opened = Archive.open(tmp_path / "a.zip")
    assert {name: opened.size(name) for name in FILES} == {name: len(data) for name, data in FILES.items()}


def test_the_hostile_begin_with_good_ones(tmp_path: Path) -> None:
    """What the hostile zips are made from is as exports write it."""
    archive.write(tmp_path / "a.zip", FILES)
    assert hostile_zips.zipped(FILES) == (tmp_path / "a.zip").read_bytes()


@pytest.mark.parametrize("kind", [kind for kind, (_, reason) in HOSTILE.items() if reason != "NOT_A_MODEL"])
def test_what_is_none_of_ours_is_refused(tmp_path: Path, kind: str) -> None:
    """A zip that is anything else than what exports write is refused with its reason, and costs no memory."""
    make, reason = HOSTILE[kind]
    (tmp_path / "a.zip").write_bytes(make(FILES))
    tracemalloc.start()
    try:
        assert refusal(tmp_path / "a.zip") == reason
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_what_is_cut_off_is_refused(tmp_path: Path) -> None:
    """A zip of which the end is missing is no zip."""
    for data in hostile_zips.truncated(FILES):
        (tmp_path / "a.zip").write_bytes(data)
        assert refusal(tmp_path / "a.zip") == "CORRUPT_ARCHIVE"


def test_no_bit_can_be_another(tmp_path: Path) -> None:
    """Whichever bit of a zip is flipped, it is refused."""
    files = {"a.txt": b"some text", "b.txt": b"more text"}
    data = hostile_zips.zipped(files)
    for position in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        (tmp_path / "a.zip").write_bytes(flipped)
        assert refusal(tmp_path / "a.zip"), position
