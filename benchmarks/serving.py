"""Our inference service beside LitServe, BentoML, MLServer, Triton (by PyTriton) and Ray Serve, in one run.

usage: serving.py [FOLDER] [--only NAME,NAME] [--seconds S] [--rounds N] [--architectures ID,ID] [--cores N]
       [--keep FOLDER]
       (default: ../shared/data/catsdogs, all of them, 4 s, 3 rounds, efficientnet_lite0 and efficientnet_b0, 2 cores)

All serve the same ONNX file of one exported zip, decode with the same code of that zip, run the same ONNX Runtime on
one thread per worker, and have the same cores; each peer in an environment of its own (`peers/*.txt` pins it), in its
default configuration and in its best documented ones. Callers, 1, 8 and 32 of them, send pictures of 46 kB and get the
five best classes; each asks again as soon as it is answered. They have a process of their own, on cores of their own
where the machine has any left, and what it costs is printed. Rounds are interleaved; after the first each peer goes on
with its default and the best of its other configurations. Figures are medians of rounds, failures are added up. A peer
that does not install, start or answer is named with its reason. Interrupted, it shows what was measured.

The third table has our service with a backbone in integers, where that is offered: not the network of the peers' file,
and with heads of its own; so all tables say how many answers are right. Ours does more for each call: it also tells
whether the picture is like nothing that the model was trained on.
"""

import argparse
import math
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers import catalogue, models, processes, rounds
from benchmarks.peers.catalogue import OURS, PEERS, Configuration
from benchmarks.peers.environments import NotInstalled
from benchmarks.peers.rounds import CALLERS, Alone, Figures, Round, Subject


@dataclass
class Shown:
    """All rounds of a configuration."""

    configuration: Configuration
    rounds: list[Round] = field(default_factory=list)
    problem: str = ""

    def median(self, name: str, callers: int) -> float:
        return float(statistics.median(getattr(one.figures[callers], name) for one in self.rounds))

    def figures(self) -> Iterable[Figures]:
        return (one for each in self.rounds for one in each.figures.values())

    @property
    def mean_rate(self) -> float:
        """The geometric mean over numbers of callers."""
        return math.exp(statistics.mean(math.log(self.median("rate", callers) or 1e-9) for callers in CALLERS))


def compare(shown: Shown, alone: Alone) -> str:
    """Of all answers how many are right, how many have the same best class as without a server, and the furthest of
    their probabilities.
    """
    right, same, count, furthest = 0, 0, 0, 0.0
    for figures in shown.figures():
        for answer, expected, label in zip(figures.answers, alone.answers, alone.labels, strict=True):
            if answer is None:
                continue
            scores = dict(answer)
            count += 1
            right += answer[0][0] == label
            same += answer[0][0] == expected[0][0]
            differences = [abs(scores[label] - score) for label, score in expected if label in scores]
            furthest = max(furthest, *differences) if differences else 1.0
    return f"{right / max(count, 1):.3f} {same:4} of {count:<4} {furthest:.0e}"


def triple(values: Iterable[float], form: str) -> str:
    return "/".join(format(value, form) for value in values)


def row(shown: Shown, alone: Alone) -> str:
    def of(name: str, form: str, scale: float = 1.0) -> str:
        return triple((scale * shown.median(name, callers) for callers in CALLERS), form)

    figures = list(shown.figures())
    failed, answered = sum(one.failed for one in figures), sum(one.answered for one in figures)
    memory = max(one.memory_bytes for one in shown.rounds) / 1e6
    ready = statistics.median(one.ready_seconds for one in shown.rounds)
    return (
        f"{shown.configuration.title:29} {len(shown.rounds)} {of('rate', '.0f'):>12} {of('p50', '.1f', 1e3):>17} "
        f"{of('p99', '.0f', 1e3):>13} {of('server_cpu', '.1f', 1e3):>15} {of('client_cpu', '.2f', 1e3):>15} "
        f"{memory:5.0f} {ready:5.1f} {failed:3} of {answered:<6} {compare(shown, alone)}"
    )


HEAD = (
    f"{'rounds':>31} {'calls/s':>12} {'p50 ms':>17} {'p99 ms':>13} {'server CPU ms':>15} {'client CPU ms':>15} "
    f"{'MB':>5} {'ready':>5} {'failed':13} right same best class, max |dp|"
)


def table(title: str, mine: Shown, others: Sequence[Shown], alone: Alone) -> None:
    print(f"\n{title} ({'/'.join(map(str, CALLERS))} callers; CPU for each call)\n{HEAD}")
    for one in (mine, *others):
        print(row(one, alone) if one.rounds else f"{one.configuration.title:29} not measured: {one.problem}")
        why = next((each.why for each in one.figures() if each.failed), "")
        if why:
            print(f"  of what failed the first: {why}")
    measured = [one for one in others if one.rounds]
    if not mine.rounds or not measured:
        return
    many = max(CALLERS)
    fastest = max(measured, key=lambda one: one.median("rate", many))
    quickest = min(measured, key=lambda one: one.median("p50", 1))
    best = max(measured, key=lambda one: one.mean_rate)
    print(
        f"ours / best peer: calls/s with {many} callers {mine.median('rate', many) / fastest.median('rate', many):.2f} "
        f"({fastest.configuration.title}; aim 1.15)   p50 of one caller "
        f"{mine.median('p50', 1) / quickest.median('p50', 1):.2f} ({quickest.configuration.title}; aim at most .75)   "
        f"geometric mean of calls/s {mine.mean_rate / best.mean_rate:.2f} ({best.configuration.title}; aim 1.4)"
    )


def without_server(mine: Shown, one: Sequence[Alone], all_cores: Sequence[Alone]) -> None:
    """What of our server's processor time is the work itself."""
    lone, busy = (statistics.median(each.cpu_seconds for each in of) for of in (one, all_cores))
    rate = statistics.median(each.rate for each in all_cores)
    shares = (
        work / mine.median("server_cpu", callers) for callers, work in zip(CALLERS, (lone, busy, busy), strict=True)
    )
    print(
        f"\nThe same work without a server: {1e3 * lone:.1f} ms CPU on one thread, {1e3 * busy:.1f} on all cores "
        f"({rate:.0f} pictures/s); that is {triple(shares, '.2f')} of what {mine.configuration.title} takes (aim "
        ".85/.88/.92)"
    )


def report(architecture: str, shown: Sequence[Shown], one: Sequence[Alone], all_cores: Sequence[Alone]) -> None:
    ours = [each for each in shown if each.configuration.name == OURS]
    peers = [each for each in shown if each.configuration.name != OURS]
    for mine, title in zip(ours, ("Same runtime", "As shipped", "As shipped, backbone in integers"), strict=False):
        table(f"{title}: {architecture}", mine, peers, all_cores[0])
        chosen = [line for line in mine.rounds[0].log.splitlines() if catalogue.MEASURED in line] if mine.rounds else []
        for line in chosen:
            print(f"  {line}")
    if ours and ours[0].rounds:
        without_server(ours[0], one, all_cores)


def configurations(names: Sequence[str], cores: int) -> tuple[list[Configuration], dict[str, str]]:
    """What can be measured, and of the rest why it cannot."""
    found, missing = [], {}
    for name in names:
        try:
            found += catalogue.ours(cores) if name == OURS else catalogue.peer(name, cores)
        except NotInstalled as problem:
            missing[name] = str(problem)
    return found, missing


def going_on(shown: Sequence[Shown]) -> list[Shown]:
    """After the first round: ours, and of each peer the default and the best of the others."""
    left = [one for one in shown if one.rounds and not one.problem]
    by_name: dict[str, list[Shown]] = defaultdict(list)
    for one in left:
        by_name[one.configuration.name].append(one)
    best = [max(group[1:], key=lambda one: one.mean_rate) for group in by_name.values() if group[1:]]
    return [
        one
        for one in left
        if one.configuration.name == OURS or one is by_name[one.configuration.name][0] or one in best
    ]


def measure(subject: Subject, found: Sequence[Configuration], given: argparse.Namespace, cores: Sequence[int]) -> None:
    offered = [one for one in found if f"{subject.architecture}{one.variant}" in models.RECIPES]
    shown = [Shown(one) for one in offered]
    alone: dict[int, list[Alone]] = defaultdict(list)
    try:
        for number in range(given.rounds):
            for threads in (1, len(cores)):
                alone[threads].append(rounds.alone(subject, threads, given.seconds))
            taken = going_on(shown) if number else shown
            # Whoever was first is last in the next round.
            for one in taken if number % 2 == 0 else reversed(taken):
                print(f"{subject.architecture}, round {number + 1}: {one.configuration.title}", flush=True)
                measure_round(one, subject, given.seconds, cores)
    except KeyboardInterrupt:
        print("Interrupted.")
    report(subject.architecture, shown, alone[1], alone[len(cores)])


def measure_round(one: Shown, subject: Subject, seconds: float, cores: Sequence[int]) -> None:
    try:
        one.rounds.append(rounds.run(one.configuration, subject, seconds, cores))
    except processes.Ended as problem:
        one.problem = str(problem)
        print(f"  {problem}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=Path("../shared/data/catsdogs"))
    everyone = (OURS, *PEERS)
    parser.add_argument("--only", type=lambda text: text.split(","), default=everyone, help=", ".join(everyone))
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--architectures", type=lambda text: text.split(","), default=list(models.ARCHITECTURES))
    parser.add_argument("--cores", type=int, default=2, help="of a server")
    parser.add_argument("--keep", type=Path, help="where models are trained once, and found the next time")
    given = parser.parse_args()
    unknown = [*(set(given.only) - set(everyone)), *(set(given.architectures) - set(models.ARCHITECTURES))]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    return given


def main() -> None:
    given = arguments()
    cores = sorted(os.sched_getaffinity(0))[: given.cores]
    found, missing = configurations(given.only, len(cores))
    for name in given.only:
        if name not in missing:
            print(catalogue.versions(name))
    for name, problem in missing.items():
        print(f"{name} is not measured, it does not install: {problem}")
    with tempfile.TemporaryDirectory(prefix="handful-bench-") as place:
        kept: Path = (given.keep or Path(place)).resolve()
        folders = models.train(kept / "home", given.folder, given.architectures)
        pictures = models.pictures(Path(place) / "pictures", given.folder)
        processes.adopt_orphans()
        for architecture, folder in folders.items():
            measure(Subject(architecture, folder, kept / "home", pictures), found, given, cores)


if __name__ == "__main__":
    main()
