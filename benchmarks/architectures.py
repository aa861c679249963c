"""Every architecture for pictures, through the whole line: trained, served, exported. Writes docs/architectures.md.

usage: architectures.py [--folder FOLDER] [--write FILE] [NAME ...]   (default: ../shared/data/catsdogs, all of them)

Each is trained with `fast` on a few pictures by a stack of its own: with its pretrained weights where a worker has
them, else with random ones, which makes no difference to anything that is measured here. A served answer is held
against the answer of the exported zip, run by its own predict.py. Memory is the most that the worker and its children
had resident at once. Half an hour and more for all of them on two cores; rows are printed as they come.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from handful import Client, Run
from handful.cli.exchange import self_test
from handful.cli.stack import Stack
from handful.errors import FailedPrecondition, HandfulError
from handful.folders import find
from handful.v1.bundle_pb2 import MODALITY_IMAGE, SPLIT_VAL
from handful.v1.trainer_pb2 import Architecture, TrainingRun, TrainingRunEvent
from tests.processes import of_home

PRESENT = Architecture.WEIGHTS_STATE_PRESENT
PER_CLASS = {"train": 6, "val": 2}
POLL_SECONDS = 0.2
PREDICTIONS = 5
BARE = Path(__file__).parents[1] / ".venv-export" / "bin" / "python"
COLUMNS = (
    "architecture",
    "input, px",
    "parameters",
    "GFLOPs",
    "features",
    "weights here",
    "to prepare, s",
    "a picture, s",
    "an answer, ms",
    "memory, MB",
    "difference",
)
HEAD = """# Architectures

Every architecture for pictures, trained, served and exported by `benchmarks/architectures.py` on two cores of a CPU,
which wrote this page; the machine had other work beside, so seconds are at most these. `handful architectures` says
of an installation what it has, and whether the weights are there.

- *to prepare*: seconds until its graph is there, once per backbone: built, exported and checked.
- *a picture*: seconds for the features of one, with two threads; training takes that for each picture, once.
- *an answer*: milliseconds from the call to the answer of the inference service, which is warm.
- *memory*: the most that the worker and the process that exports the graph had at once.
- *difference*: the largest between probabilities that were served and those of the exported zip; at most 1e-3. Of
  networks whose zip would have more than 1 GiB none is made; they are trained and served all the same.
- *weights here*: those of the packages are at hand; with others' random ones everything above is the same.

Networks side by side (`efficientnet_lite0_and_lite2`) are not in the table: they cost what their members cost together.
"""


@dataclass
class Peak:
    """The most memory that the workers of a home had at once, with their children, in bytes."""

    home: Path
    most: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def watched(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _watch(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            workers = [pid for pid, command in of_home(self.home).items() if _trains(command)]
            self.most = max(self.most, sum(map(_resident, workers)))


def _trains(command: str) -> bool:
    return "services.trainer.worker" in command or "multiprocessing" in command


def _resident(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * 4096


def few(folder: Path, place: Path) -> Path:
    """A few pictures of each class."""
    for split, wanted in PER_CLASS.items():
        for label in sorted(path for path in (folder / split).iterdir() if path.is_dir()):
            (place / split / label.name).mkdir(parents=True)
            for path in sorted(label.iterdir())[:wanted]:
                (place / split / label.name / path.name).symlink_to(path.resolve())
    return place


def seconds(run: Run) -> tuple[float, float]:
    """Until the graph was there, and for the features of a picture."""
    events = [event for event in run.watch() if isinstance(event, TrainingRunEvent)]
    if run.result().state != TrainingRun.STATE_SUCCEEDED:
        raise RuntimeError(run.training_run.failure.message)
    (started,) = (event for event in events if event.HasField("attempt_started"))
    (ready,) = (event for event in events if event.HasField("features_ready"))
    all_features = ready.features_ready.seconds
    prepared = (ready.time.ToNanoseconds() - started.time.ToNanoseconds()) / 1e9 - all_features
    return prepared, all_features / ready.features_ready.features_computed


def served(client: Client, pictures: list[Path]) -> tuple[list[dict[str, float]], float]:
    """Probabilities by class for each picture, and the milliseconds of an answer."""
    answers, took = [], []
    for path in pictures * PREDICTIONS:
        began = time.perf_counter()
        answer = client.predict("few", path)
        took.append(time.perf_counter() - began)
        answers.append({one.label: one.score for one in answer.predictions})
    return answers[: len(pictures)], 1000 * statistics.median(took)


def exported(client: Client, run: Run, pictures: list[Path], place: Path) -> list[dict[str, float]]:
    """Probabilities by class for each picture, from the zip, which has tested itself before."""
    made = client.export(run.training_run.model_version, place / "zip")
    self_test(made, place / "unpacked")
    command: list[str | Path] = [BARE, "-E", place / "unpacked" / "predict.py", "--json", *pictures]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [{one["label"]: one["score"] for one in json.loads(line)["predictions"]} for line in lines]


def disagreement(online: list[dict[str, float]], client: Client, run: Run, pictures: list[Path], place: Path) -> str:
    """The largest difference of what was served from what the zip says; or that no zip of its size is made."""
    try:
        offline = exported(client, run, pictures, place)
    except FailedPrecondition as refused:
        if refused.reason != "LIMITS_EXCEEDED":
            raise
        return "too large to export"
    return f"{max(abs(a[label] - b[label]) for a, b in zip(online, offline, strict=True) for label in a):.0e}"


def row(one: Architecture, pictures: Path) -> str:
    """Its line of the table."""
    home = Path(tempfile.mkdtemp(prefix="handful-bench-"))
    here = one.weights_state == PRESENT
    peak = Peak(home)
    with Stack.on_free_ports(home) as stack, Client(stack.addresses) as client, peak.watched():
        client.push("few", pictures)
        run = client.train("few", architecture=one.id, weights="PRETRAINED" if here else "RANDOM")
        prepared, picture = seconds(run)
        unseen = [file.path for file in find(pictures) if file.split == SPLIT_VAL]
        online, answer = served(client, unseen)
        difference = disagreement(online, client, run, unseen, home / "export")
    shutil.rmtree(home)
    cells = (
        one.id,
        one.input_size,
        f"{one.num_parameters / 1e6:.1f} M",
        f"{one.gflops:g}",
        one.feature_width,
        "pretrained" if here else "random",
        f"{prepared:.1f}",
        f"{picture:.3f}",
        f"{answer:.0f}",
        f"{peak.most / 1e6:.0f}",
        difference,
    )
    return line(*cells)


def line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def catalogue(names: list[str]) -> list[Architecture]:
    """The architectures for pictures, the smallest first, once a worker has said what weights it has; of several
    networks side by side only those that are named.
    """
    home = Path(tempfile.mkdtemp(prefix="handful-bench-"))
    with Stack.on_free_ports(home) as stack, Client(stack.addresses) as client:
        ends = time.monotonic() + 60
        while True:
            found = [one for one in client.architectures() if one.modality == MODALITY_IMAGE]
            if any(one.weights_state == PRESENT for one in found) or time.monotonic() > ends:
                break
            time.sleep(1)
    shutil.rmtree(home)
    return sorted((one for one in found if (one.id in names if names else not one.members)), key=lambda one: one.gflops)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--folder", type=Path, default=Path("../shared/data/catsdogs"))
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="handful-bench-"))
    pictures = few(given.folder, place)
    rows = []
    for one in catalogue(given.names):
        try:
            rows.append(row(one, pictures))
        except (HandfulError, RuntimeError, subprocess.CalledProcessError) as problem:
            rows.append(line(one.id, f"failed: {problem}"))
        print(rows[-1], flush=True)
    if given.write:
        table = [line(*COLUMNS), line(*["---"] * len(COLUMNS)), *rows, ""]
        given.write.write_text(HEAD + "\n" + "\n".join(table), encoding="utf-8")
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
