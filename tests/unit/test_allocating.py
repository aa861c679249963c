"""Memory that a process is done with is the system's again."""

import subprocess
import sys

import pytest

from services.shared import allocating

# Blocks too small to be the system's when they are freed, and a last one that keeps what lies below it.
SCRIPT = """
import sys
from pathlib import Path
from services.shared.allocating import trim

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

blocks = [bytearray(b"x" * 60_000) for _ in range(4000)]
full, last = resident(), blocks.pop()
blocks.clear()
kept = resident()
trim()
print(full - kept, kept - resident())
"""

# Blocks of which every hundredth stays and holds its page, as in a server that lives long.
FRAGMENTED = """
import asyncio
from pathlib import Path
from services.shared import allocating

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

async def main():
    before, blocks = resident(), [bytes(2000) for _ in range(50_000)]
    most, kept = resident(), blocks[::100]
    blocks.clear()
    giving = asyncio.create_task(allocating.keep_giving_back())
    await asyncio.sleep(2 * allocating.SECONDS)
    print(most - before, resident() - before, int(giving.done()))

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_was_freed_is_given_back() -> None:
    """The C library keeps small blocks that were freed, until it is told to trim: then most of 240 MB are gone."""
    told = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    freed, trimmed = map(int, told.stdout.split())
    assert freed < 20e6
    assert trimmed > 200e6


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_small_blocks_that_are_freed_are_given_back_by_themselves() -> None:
    """Of a hundred megabytes in small blocks, which others lie between, nearly all are gone a moment after."""
    told = subprocess.run([sys.executable, "-c", FRAGMENTED], capture_output=True, text=True, check=True)
    most, after, done = map(int, told.stdout.split())
    assert most > 90e6
    assert after < 15e6
    assert not done


def test_giving_back_takes_a_hundredth_of_the_time_at_most() -> None:
    """Every two seconds, and where that takes long the more rarely."""
    assert [allocating.pause(took) for took in (0, 0.02, 0.07)] == pytest.approx([2, 2, 7])
