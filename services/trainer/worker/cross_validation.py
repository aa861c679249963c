"""Repeated, stratified, grouped k-fold cross-validation of a head on features: what it answers to rows it was not
fitted on. It knows rows, labels and groups; neither runs nor bundles.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import numpy.typing as npt

from handful.bundle.heads import Floats, LinearHead, softmax
from services.trainer.head_fields import MIN_FOLDS
from services.trainer.intervals import effective
from services.trainer.worker.spans import plain

Labels = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int64]
# Fits a head to rows and their classes; whatever it takes from the rows, it takes from these alone.
Fit = Callable[[Floats, Labels], LinearHead]
Step = Callable[[], None]
Mask = npt.NDArray[np.bool_]
# Takes some of the rows that a mask bool[n] has.
Part = Callable[[Mask], Mask]

FOLDS = 5
REPEATS = 5
# Of more than a fifth of so many examples there are fewer repeats: they add time, and are needed less.
REPEATED_EXAMPLES = 600
# How often folds are drawn for each repeat where a number of either is asked for: not every draw counts.
TRIES = 20


@dataclass(frozen=True)
class OutOfFold:
    """What a head answered to every row while it was fitted on others: logits float32[repeats, n, classes]. So many
    repeats are answered at most, however few the examples.
    """

    folds: int
    logits: Floats
    most_repeats: int = REPEATS

    @property
    def repeats(self) -> int:
        return len(self.logits)

    def worth(self, num_independent: float) -> float:
        """How many independent examples the answers are worth, of so many that were asked: `effective`, and no less
        than that of fewer examples, which have more repeats. The last example of 301 takes a repeat from all of them;
        it does not take away what the 300 say.
        """
        num_examples = self.logits.shape[1]
        most = {REPEATED_EXAMPLES // repeats: repeats for repeats in range(self.repeats + 1, self.most_repeats + 1)}
        sizes = {size: repeats for size, repeats in most.items() if size < num_examples} | {num_examples: self.repeats}
        share = num_independent / num_examples
        return max(effective(share * size, self.folds, repeats) for size, repeats in sizes.items())

    def right(self, labels: Labels) -> Floats:
        """float32[n]: in what share of the repeats each row was answered rightly."""
        share: Floats = (self.logits.argmax(axis=2) == labels).mean(axis=0, dtype=np.float32)
        return share

    def losses(self, labels: Labels) -> Floats:
        """float32[n]: each row's cross-entropy in nats, the mean over the repeats."""
        picked = [softmax(one)[np.arange(len(labels)), labels] for one in self.logits]
        means: Floats = np.mean([-np.log(np.maximum(one, np.finfo(np.float32).tiny)) for one in picked], axis=0)
        return means

    def divided(self, temperature: float) -> "OutOfFold":
        """The same answers with their logits divided."""
        return replace(self, logits=self.logits / np.float32(temperature))

    @property
    def probabilities(self) -> Floats:
        """float32[n, classes], the mean over the repeats."""
        mean: Floats = np.mean([softmax(one) for one in self.logits], axis=0)
        return mean


@dataclass(frozen=True)
class Folds:
    """Who is held out when: int64[repeats, n], each row's fold in each repeat. `folds` is as many as there can be, and
    below MIN_FOLDS there are no repeats; `smallest_class` is the class with the fewest groups. `most_repeats` is
    `OutOfFold`'s.
    """

    folds: int
    smallest_class: int
    of_row: Labels
    most_repeats: int = REPEATS

    @classmethod
    def drawn(
        cls,
        labels: Labels,
        groups: Sequence[str],
        num_classes: int,
        seed: int,
        num_folds: int = 0,
        num_repeats: int = 0,
        check: Step = lambda: None,
    ) -> "Folds":
        """At most `num_folds` folds, or FOLDS, and never more than the smallest class has groups, which may be fewer
        than two; `num_repeats` times, or as `repeats_of` has it. Each class is spread evenly, no group stands in two
        folds, and the same seed draws the same folds. `check` is called before each draw, and may raise.
        """
        counts = _group_counts(labels, groups, num_classes)
        num_groups = (counts > 0).sum(axis=0)
        folds = min(num_folds or FOLDS, int(num_groups.min()))
        repeats = num_repeats or repeats_of(len(labels))
        tries = repeats * (TRIES if num_folds or num_repeats else 1)
        random = np.random.default_rng(seed)
        codes = np.unique(np.array(groups), return_inverse=True)[1]
        dealt = _draws(counts, folds, random, tries if folds >= MIN_FOLDS else 0, check)
        # Where groups hold several classes, all of a class may have come into one fold.
        whole = list(islice((one for one in dealt if _leaves_every_class(counts, one, folds)), repeats))
        of_row = np.array([one[codes] for one in whole], dtype=np.int64).reshape(-1, len(labels))
        return cls(folds if whole else min(folds, 1), int(num_groups.argmin()), of_row, num_repeats or REPEATS)

    @property
    def num_fits(self) -> int:
        """Heads that one cross-validation fits."""
        return self.folds * len(self.of_row)

    def answered(self, logits: Floats) -> OutOfFold:
        """What was answered in these folds: logits float32[repeats, n, classes]."""
        return OutOfFold(self.folds, logits, self.most_repeats)

    def held_out(self) -> Iterator[tuple[int, Mask]]:
        """Each repeat's folds, one after the other: the number of the repeat, and bool[n], who is held out."""
        for repeat, of_row in enumerate(self.of_row):
            for fold in range(self.folds):
                yield repeat, of_row == fold

    def out_of_fold(
        self, rows: Floats, labels: Labels, num_classes: int, fit: Fit, step: Step, part: Part | None = None
    ) -> OutOfFold:
        """The answers of heads fitted on the other folds; `step` is called after each of `num_fits`, and may raise.
        Augmented views stay with their examples: heads are fitted on those of the other folds, and asked about none.
        Heads are fitted on a `part` of the other folds, if there is one.
        """
        asked = plain(rows)
        logits = np.zeros((len(self.of_row), len(labels), num_classes), dtype=np.float32)
        for repeat, held_out in self.held_out():
            known = ~held_out if part is None else part(~held_out)
            logits[repeat, held_out] = fit(rows[known], labels[known]).logits(asked[held_out])
            step()
        return self.answered(logits)


def repeats_of(num_examples: int) -> int:
    """How often folds are drawn of so many examples."""
    return min(REPEATS, max(1, REPEATED_EXAMPLES // max(1, num_examples)))


def better(differences: Floats, groups: Labels, errors: float = 1.0) -> bool:
    """Whether differences of right answers, float[n], each of a group int64[n], sum up to more than so many of their
    standard errors.

    One is sqrt(sum d^2 + 1) over groups: one more group may well differ in what was not seen. Without it two examples
    that happen to agree would decide.
    """
    of_group = np.bincount(groups, weights=differences)
    return float(of_group.sum()) > errors * float(np.sqrt((of_group**2).sum() + 1))


def _group_counts(labels: Labels, groups: Sequence[str], num_classes: int) -> Counts:
    """int64[groups, classes]: examples of each group by class; groups in the order of their names."""
    names, codes = np.unique(np.array(groups), return_inverse=True)
    counts = np.zeros((len(names), num_classes), dtype=np.int64)
    np.add.at(counts, (codes, labels), 1)
    return counts


def _draws(counts: Counts, folds: int, random: np.random.Generator, most: int, check: Step) -> Iterator[Labels]:
    for _ in range(most):
        check()
        yield _deal(counts, folds, random)


def _leaves_every_class(counts: Counts, dealt: Labels, folds: int) -> bool:
    """Whether there is something of every class to fit on, whichever fold is held out."""
    held_out = [counts[dealt == fold].sum(axis=0) for fold in range(folds)]
    return bool((counts.sum(axis=0) > held_out).all())


def _deal(counts: Counts, folds: int, random: np.random.Generator) -> Labels:
    """The fold of each group. Class by class, the rarest first, and of each its largest groups first, each to the fold
    that has the fewest examples of that class, of these the one with the fewest of all.
    """
    groups_of_class = (counts > 0).sum(axis=0)
    rarest = np.where(counts > 0, groups_of_class, np.iinfo(np.int64).max).argmin(axis=1)
    order = random.permutation(len(counts))
    order = order[np.lexsort((-counts[order].sum(axis=1), rarest[order], groups_of_class[rarest[order]]))]
    filled = np.zeros((folds, counts.shape[1]), dtype=np.int64)
    dealt = np.zeros(len(counts), dtype=np.int64)
    for group in order:
        fold = int(np.lexsort((filled.sum(axis=1), filled[:, rarest[group]]))[0])
        filled[fold] += counts[group]
        dealt[group] = fold
    return dealt
