"""Downloads: the file of one SHA-256 or none, whatever the source does."""

import hashlib
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from services.trainer.worker.pretrained.downloads import Limits, NotDownloaded, check, download
from tests import official_source
from tests.official_source import Source, breaking, endless, in_turn, leading_to, silent, status, trickling, whole

DATA = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
QUICK = Limits(silent_seconds=5, total_seconds=60, pause_seconds=0.01)


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    with official_source.running() as running:
        yield running


def get(url: str, limits: Limits = QUICK, max_bytes: int = len(DATA)) -> tuple[bytes, list[int]]:
    """What was written, and the steps on the way."""
    steps: list[int] = []
    with tempfile.TemporaryFile() as file:
        download(url, SHA256, max_bytes, file, steps.append, limits)
        file.seek(0)
        return file.read(), steps


def test_a_file_comes_whole(source: Source) -> None:
    """The bytes are those of the source, and every step says how many are here."""
    data, steps = get(source.gives("good.pth", whole(DATA)))
    assert data == DATA
    assert steps == sorted(steps)
    assert steps[-1] == len(DATA)


@pytest.mark.parametrize("times", [1, 2])
def test_a_broken_transfer_is_gone_on_with(source: Source, times: int) -> None:
    """What was received is not asked for again."""
    source.asked.clear()
    assert get(source.gives("breaks.pth", breaking(DATA, 700_000, times)))[0] == DATA
    assert [ranges for _, ranges in source.asked] == ["", *(f"bytes={700_000 * n}-" for n in range(1, times + 1))]


def test_a_source_without_ranges_is_asked_for_all_again(source: Source) -> None:
    """Where the source begins anew, so does the file."""
    assert get(source.gives("breaks.pth", breaking(DATA, 700_000, ranges=False)))[0] == DATA


def test_a_transfer_that_always_breaks_is_given_up(source: Source) -> None:
    """After three attempts the source is left alone."""
    source.asked.clear()
    with pytest.raises(NotDownloaded, match="it broke off after 3000 of 3000000 bytes"):
        get(source.gives("breaks.pth", breaking(DATA, 1000, times=9)))
    assert len(source.asked) == 3


def test_another_file_is_refused(source: Source) -> None:
    """A file of another SHA-256 is told from the wanted one to the last bit; it is not asked for again."""
    source.asked.clear()
    wrong = DATA[:-1] + bytes([DATA[-1] ^ 1])
    with pytest.raises(NotDownloaded, match=f"gave another file: its SHA-256 is [0-9a-f]{{64}}, not {SHA256}"):
        get(source.gives("wrong.pth", whole(wrong)))
    assert len(source.asked) == 1


def test_a_source_that_says_no_is_not_asked_again(source: Source) -> None:
    """A file that is not there is said with its status, at once."""
    source.asked.clear()
    with pytest.raises(NotDownloaded, match="gave no file: HTTP status 404"):
        get(f"{source.address}/models/none.pth")
    assert len(source.asked) == 1


def test_a_source_in_trouble_is_asked_again(source: Source) -> None:
    """A failure of the server passes."""
    assert get(source.gives("busy.pth", in_turn(status(503), status(500), whole(DATA))))[0] == DATA
    with pytest.raises(NotDownloaded, match="HTTP status 503"):
        get(source.gives("busy.pth", status(503)))


def test_redirects_are_followed(source: Source) -> None:
    """A file that lies elsewhere is had from there."""
    source.gives("good.pth", whole(DATA))
    assert get(source.gives("moved.pth", leading_to("/models/good.pth")))[0] == DATA


@pytest.mark.parametrize(
    "elsewhere", ["http://elsewhere.invalid/x.pth", "ftp://127.0.0.1/x.pth", "file:///etc/hostname"]
)
def test_redirects_lead_nowhere_unsafe(source: Source, elsewhere: str) -> None:
    """What is neither https nor this machine is not even tried."""
    began = time.monotonic()
    with pytest.raises(NotDownloaded):
        get(source.gives("moved.pth", leading_to(elsewhere)))
    assert time.monotonic() - began < QUICK.silent_seconds


def test_redirects_in_a_ring_end(source: Source) -> None:
    """A source that sends us round is given up."""
    with pytest.raises(NotDownloaded, match="HTTP status 302"):
        get(source.gives("ring.pth", leading_to("/models/ring.pth")))


def test_a_file_that_is_too_large_is_not_received(source: Source) -> None:
    """A source that says that it gives more is not listened to, and one that does not say so no longer than needed."""
    with pytest.raises(NotDownloaded, match="gave more than the 1000 bytes"):
        get(source.gives("large.pth", whole(DATA)), max_bytes=1000)
    with pytest.raises(NotDownloaded, match="gave more than"):
        get(source.gives("endless.pth", endless(DATA)))


def test_a_silent_source_is_given_up(source: Source) -> None:
    """A source that takes the question and says nothing is left within its time."""
    with pytest.raises(NotDownloaded, match="cannot be reached"):
        get(source.gives("silent.pth", silent(1)), Limits(0.05, 60, 0.01))


def test_a_source_that_trickles_is_given_up(source: Source) -> None:
    """A byte now and then keeps no download alive for ever."""
    with pytest.raises(NotDownloaded, match="which is too slow"):
        get(source.gives("slow.pth", trickling(DATA, 0.01)), Limits(5, 0.2, 0.01))


def test_a_source_that_is_not_there() -> None:
    """Nobody at the address, and a name that nobody knows, are said in a few words."""
    with pytest.raises(NotDownloaded, match="cannot be reached"):
        get(f"{official_source.nobody()}/x.pth")
    with pytest.raises(NotDownloaded, match="no address is known for its name"):
        get("https://weights.invalid/x.pth")


def test_a_full_disk_is_no_fault_of_the_source(source: Source) -> None:
    """Where the file cannot be written, that is said, and the source is not asked again."""
    source.asked.clear()
    with Path("/dev/full").open("r+b") as full, pytest.raises(NotDownloaded, match="cannot be written here: No space"):
        download(source.gives("good.pth", whole(DATA)), SHA256, len(DATA), full, lambda _: None, QUICK)
    assert len(source.asked) == 1


@pytest.mark.parametrize("url", ["http://example.org/x.pth", "file:///x.pth", "ftp://127.0.0.1/x", "x.pth", "data:,x"])
def test_only_https_is_asked(url: str) -> None:
    """An address that is neither https nor this machine's own is refused before anything is sent."""
    with pytest.raises(NotDownloaded, match=re.escape(f"{url} is no https address")):
        check(url)
