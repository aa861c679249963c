"""`handful sweep`, as people meet it: one command trains a grid, goes on where it was stopped, and reports."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from handful import Client
from handful.cli.stack import Stack
from tests.e2e.test_cli import Cli, cli, handful, pictures

__all__ = ["cli", "pictures"]


@pytest.fixture
def meadow(cli: Cli, pictures: Path) -> str:
    """A dataset."""
    assert cli("push", pictures, "--dataset", "meadow").returncode == 0
    return "meadow"


def names(stack: Stack) -> set[str]:
    with Client(stack.addresses) as client:
        return {run.name for run in client.runs()}


def test_a_grid_is_trained_once_and_reported(stack: Stack, cli: Cli, meadow: str, tmp_path: Path) -> None:
    """Every combination is a run of one model, in a table and on a page; said again, nothing is trained again."""
    page = tmp_path / "page.html"
    words = (meadow, "regularization_c=0.5,2", "+", "preset=baseline", "num_epochs=1", "target_size=0")
    before = names(stack)
    swept = cli("sweep", *words, "--html", page)
    assert swept.returncode == 0, swept.stderr
    assert swept.stdout.startswith("3 runs on projects/default/datasets/meadow/versions/1\n")
    assert re.search(r"1 of 3: regularization_c=0.5: succeeded  val/loss \d\.\d+  val/accuracy 1.0000\n", swept.stdout)
    assert "3 of 3: preset=baseline num_epochs=1 target_size=0: succeeded" in swept.stdout
    assert re.search(
        r"^data\tpreset\tarchitecture\t.*\tregularization_c\t.*\t95 % interval\t", swept.stdout, re.MULTILINE
    )
    assert page.read_text().count("<tr>") == 4
    best = re.search(r"^Best on its validation .*: handful promote meadow-sweep (\d)$", swept.stdout, re.MULTILINE)
    assert best is not None
    made = names(stack) - before
    assert len(made) == 3

    again = cli("sweep", *words, "seed=0", "--json", "--html", page)  # which is what it is anyway
    assert {one["training_run"]["name"] for one in json.loads(again.stdout)["training_runs"]} == made
    assert names(stack) - before == made


def test_a_sweep_waits_for_services_and_says_so(own_stack: Stack, pictures: Path, tmp_path: Path) -> None:
    """While the trainer is away a sweep says which service it waits for, and goes on by itself; Ctrl-C says how to come
    back.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        pytest.skip("Ctrl-C is ignored here, as a shell has its background jobs do; so do the processes they start")
    addresses = {f"HANDFUL_{name.upper()}": address for name, address in vars(own_stack.addresses).items()}
    words = (
        "sweep",
        "meadow",
        "preset=baseline",
        "target_size=0",
        "num_epochs=1,1000",
        "--html",
        tmp_path / "page.html",
    )
    with own_stack:
        assert handful("push", pictures, "--dataset", "meadow", **addresses).returncode == 0
        command = [str(Path(sys.executable).parent / "handful"), *map(str, words)]
        with subprocess.Popen(command, env={**os.environ, **addresses}, stdout=subprocess.PIPE, text=True) as sweeping:
            assert sweeping.stdout is not None
            lines = iter(sweeping.stdout.readline, "")
            assert next(lines).startswith("2 runs on ")
            assert next(lines).startswith("1 of 2: num_epochs=1: succeeded")
            own_stack.restart("trainer", signal.SIGKILL, away_seconds=5)
            away = next(lines)
            assert f"The trainer service does not answer at {own_stack.addresses.trainer}." in away
            assert away.endswith("The runs go on, and this does when it answers again.\n")
            assert next(lines) == "It answers again.\n"
            sweeping.send_signal(signal.SIGINT)
            assert next(lines).startswith("The runs go on without you. To come back, say the same again")
        assert sweeping.returncode == 130


def test_a_grid_that_makes_no_sense_trains_nothing(stack: Stack, cli: Cli, meadow: str) -> None:
    """Every field that is wrong is named with the combinations that it is wrong in, before anything is queued."""
    before = names(stack)
    words = ("preset=fast,baseline", "learning_rate=0.1,7", "colour=red")
    refused = cli("sweep", meadow, *words)
    assert refused.returncode == 2
    assert "recipe.colour (preset=fast learning_rate=0.1 colour=red, and 3 more): there is no such" in refused.stderr
    refused = cli("sweep", meadow, *words[:2])
    assert "recipe.learning_rate (preset=fast learning_rate=0.1, and 1 more): preset fast has no" in refused.stderr
    assert "recipe.learning_rate (preset=baseline learning_rate=7): must be between 1e-08 and 1" in refused.stderr
    assert names(stack) == before
    assert "no dataset nothing in projects/default" in cli("sweep", "nothing", "seed=1").stderr
    assert "--model: each dataset has a model of its own" in cli("sweep", meadow, "b", "--model", "m").stderr
