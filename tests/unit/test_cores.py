"""The cores that a process may use, by its affinity and by the limits of its control groups."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.shared.cores import usable

HERE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("limits", "cores"),
    [
        ({}, HERE),
        ({".": "max 100000"}, HERE),
        ({".": "50000 100000"}, 1),
        ({".": "100000 100000"}, 1),
        ({".": "150000 100000"}, min(HERE, 2)),
        ({".": "6400000 100000"}, HERE),
        ({"pod": "100000 100000", "pod/container": "max 100000"}, 1),
        ({"pod": "max 100000", "pod/container": "20000 100000"}, 1),
        ({"other": "20000 100000"}, HERE),
        ({".": "nonsense"}, HERE),
        ({".": ""}, HERE),
    ],
)
def test_the_least_of_affinity_and_limits_counts(tmp_path: Path, limits: dict[str, str], cores: int) -> None:
    """Files as Linux writes them, of the process's group and those above it; a part of a core is one."""
    groups, membership = tmp_path / "cgroup", tmp_path / "membership"
    (groups / "pod" / "container").mkdir(parents=True)
    (groups / "other").mkdir()
    membership.write_text("0::/pod/container\n")
    for folder, text in limits.items():
        (groups / folder / "cpu.max").write_text(text + "\n")
    assert usable(groups, membership) == cores


def test_affinity_counts_where_nothing_else_limits(tmp_path: Path) -> None:
    """A process that may run on one core alone has one."""
    code = "import os; os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])\n"
    code += "from services.shared.cores import usable; print(usable())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert usable(tmp_path, tmp_path / "nothing") == HERE
