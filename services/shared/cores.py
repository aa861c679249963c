"""How many cores this process may use: those that it may run on, and no more than its container is given time for, by
control groups of version 2.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def usable(control_groups: Path = CONTROL_GROUPS, membership: Path = MEMBERSHIP) -> int:
    """At least 1. Of a limit of a core and a half it is two: with one thread half a core would lie idle."""
    return max(1, math.ceil(min([len(os.sched_getaffinity(0)), *_limits(control_groups, membership)])))


def _limits(control_groups: Path, membership: Path) -> Iterator[float]:
    """Cores' worth of time that each group above this process is given, where it is limited."""
    for folder in _groups(control_groups, membership):
        try:
            quota, period = map(int, (folder / "cpu.max").read_text().split())
        except (OSError, ValueError):  # there is none, or it says max
            continue
        yield quota / max(period, 1)


def _groups(control_groups: Path, membership: Path) -> Iterator[Path]:
    """The process's own group and those above it; a container sees its own as the uppermost."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        if line.startswith("0::"):
            own = control_groups / line.removeprefix("0::").lstrip("/")
            yield from (each for each in (own, *own.parents) if each.is_relative_to(control_groups))
