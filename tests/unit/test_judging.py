"""What the soak makes of what it saw of a server."""

import pytest

from benchmarks.soaking.judging import Sample, judge

MEBIBYTE = 2**20
STEADY: list[Sample] = [(30.0 * number, 190 * MEBIBYTE + number * 7 % 13 * 2**16, 14, 19) for number in range(60)]
LATE = 31


def _changed(
    samples: list[Sample], memory: float = 0.0, descriptors: float = 0.0, threads: float = 0.0
) -> list[Sample]:
    """So much more from sample to sample."""
    return [
        (seconds, held + round(memory * number), files + int(descriptors * number), tasks + int(threads * number))
        for number, (seconds, held, files, tasks) in enumerate(samples)
    ]


SEEN: dict[str, tuple[list[Sample], bool]] = {
    "a steady server": (STEADY, True),
    "a pool's last thread": ([*STEADY[:LATE], *((*one[:3], 20) for one in STEADY[LATE:])], True),
    "memory of 12 MiB an hour": (_changed(STEADY, memory=0.1 * MEBIBYTE), False),
    "a thread in five minutes": (_changed(STEADY, threads=0.1), False),
    "a descriptor in five minutes": (_changed(STEADY, descriptors=0.1), False),
    "descriptors after a spike": (
        [*STEADY[:25], (*STEADY[25][:2], 90, 19), *_changed(STEADY, descriptors=0.1)[26:]],
        False,
    ),
}


@pytest.mark.parametrize(("samples", "holds"), SEEN.values(), ids=SEEN)
def test_what_gathers_is_found(samples: list[Sample], holds: bool) -> None:  # noqa: FBT001 - a case of the table
    assert judge(samples) is holds
