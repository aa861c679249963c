"""What a model knows that it does not know: how far something is from its examples, and how far is strange."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save

from handful.bundle import neighbours
from handful.bundle.heads import Floats
from handful.bundle.neighbours import Neighbours
from handful.bundle.rows import CoarseRows, HalfRows
from handful.v1 import bundle_pb2

WIDTH = 64


def cluster(centre: int, count: int, seed: int) -> Floats:
    """Features about one direction, of different lengths."""
    random = np.random.default_rng(seed)
    rows = random.normal(scale=0.05, size=(count, WIDTH)).astype(np.float32)
    rows[:, centre] += 1
    return rows * random.uniform(0.5, 20, size=(count, 1)).astype(np.float32)


def fitted(rows: Floats) -> Neighbours:
    known = neighbours.fit(rows, [str(number) for number in range(len(rows))])
    assert known is not None
    return known


def test_strangers_are_far_and_others_of_the_classes_near() -> None:
    """About one in twenty of the classes' own is called unknown, and everything in another direction."""
    known = fitted(np.concatenate([cluster(0, 50, 1), cluster(1, 50, 2)]))
    own = np.concatenate([cluster(0, 500, 3), cluster(1, 500, 4)])
    assert 0.02 < (known.distances(own) > known.max_distance).mean() < 0.09
    assert (known.distances(cluster(2, 100, 5)) > known.max_distance).all()
    assert (known.distances(-own) > known.max_distance).all()


def test_the_distance_is_one_minus_the_mean_cosine_of_the_nearest() -> None:
    """Of three at the angles 0, 60 and 90 degrees and one opposite, the opposite one does not count."""
    rows = np.array([[1, 0], [0.5, 0.75**0.5], [0, 1], [-1, 0]], np.float16)
    known = Neighbours(HalfRows(rows), 3, 0.5)
    assert known.distances(np.array([[7, 0]], np.float32))[0] == pytest.approx(1 - 1.5 / 3, abs=1e-3)
    assert known.distances(np.zeros((1, 2), np.float32))[0] == 1


def test_the_limit_is_kept_by_those_it_was_taken_from() -> None:
    """Of n examples the ceil(0.95 (n + 1))-th smallest distance to the others is the limit, at most the largest."""
    rows = cluster(0, 40, 7)
    left_out = [fitted(np.delete(rows, one, axis=0)).distances(rows[one : one + 1])[0] for one in range(len(rows))]
    assert fitted(rows).max_distance == pytest.approx(sorted(left_out)[38], abs=2e-3)
    assert fitted(rows[:10]).max_distance > 0


def test_copies_do_not_make_the_limit_small() -> None:
    """Examples of one group, such as copies of a picture, are not each other's neighbours."""
    rows = cluster(0, 20, 8)
    groups = [str(number % 20) for number in range(80)]
    copied = neighbours.fit(np.tile(rows, (4, 1)), groups)
    assert copied is not None
    assert copied.max_distance > fitted(rows).max_distance / 2


def test_examples_that_a_body_was_trained_on_do_not_set_the_limit() -> None:
    """Drawn together by training they are nearer to each other than new ones are; held-out ones widen the limit, and
    never narrow it.
    """
    new = cluster(0, 400, 11)
    direction = np.eye(WIDTH, dtype=np.float32)[0]
    learnt = direction + 0.3 * (neighbours._unit(cluster(0, 40, 12)) - direction)
    drawn_together = fitted(learnt)
    assert (drawn_together.distances(new) > drawn_together.max_distance).mean() > 0.9
    known = neighbours.widened(drawn_together, new[:100])
    assert known is not None
    assert 0.02 < (known.distances(new[100:]) > known.max_distance).mean() < 0.09
    assert (known.distances(cluster(1, 100, 13)) > known.max_distance).all()
    assert neighbours.widened(known, learnt) == known
    assert neighbours.widened(known, new[:4]) is None


def test_examples_that_are_all_but_the_same_know_more_of_them() -> None:
    """However near they lie, rounding makes none of their like unknown."""
    for count in (8, 50):
        for seed in range(5):
            random = np.random.default_rng(seed)
            one, noise = random.normal(size=1280), random.normal(scale=3e-4, size=(count + 100, 1280))
            rows = (one + noise).astype(np.float32)
            known = fitted(rows[:count])
            assert (known.distances(rows) <= known.max_distance).all()


def test_too_few_examples_tell_nothing() -> None:
    assert neighbours.fit(cluster(0, 40, 9), ["a", "b", "c", "a"] * 10) is None


def test_many_examples_are_thinned_out() -> None:
    rows = cluster(0, 3000, 10)
    assert len(fitted(rows).rows) == neighbours.MAX_ROWS


def test_a_file_says_what_was_written() -> None:
    known = fitted(cluster(0, 30, 11))
    described = bundle_pb2.Neighbours(nearest=known.nearest, max_distance=known.max_distance)
    read = Neighbours.from_bytes(described, known.to_bytes())
    rows = cluster(3, 5, 12)
    assert (read.distances(rows) == known.distances(rows)).all()
    assert (read.nearest, read.max_distance) == (known.nearest, known.max_distance)


def test_a_file_of_an_earlier_release_is_read() -> None:
    """Its rows are float16, and it names no examples."""
    rows = np.array([[1, 0], [0.6, 0.8], [0, 1], [-1, 0]], np.float16)
    read = Neighbours.from_bytes(bundle_pb2.Neighbours(nearest=1, max_distance=0.25), save({"rows": rows}))
    assert read.distances(np.array([[0, 2], [3, 4]], np.float32)) == pytest.approx([0, 0], abs=1e-3)
    assert read.nearest_to(np.array([0, 2], np.float32), 3) == ()


def test_rows_of_an_earlier_release_are_taken_as_they_are() -> None:
    """Rounded to 16 bits a row may be longer than 1, and such models answer as they did."""
    known = Neighbours(HalfRows(np.array([[1.001, 0]], np.float16)), 1, 0.5)
    assert known.distances(np.array([[1, 0]], np.float32))[0] == pytest.approx(-0.001, abs=1e-4)


def test_no_distance_is_below_zero() -> None:
    """Rows in two bits are not of length 1, but they are as near as can be, no nearer."""
    rows = np.random.default_rng(1).normal(size=(4, WIDTH)).astype(np.float32)
    known = Neighbours(replace(CoarseRows.of(neighbours._unit(rows)), along=np.full(4, 9, np.float32)), 1, 0.5)
    assert known.distances(rows).min() == 0


COARSE = CoarseRows.of(np.eye(4, 3, dtype=np.float32)).tensors()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        *(save({name: one for name, one in COARSE.items() if name != missing}) for missing in COARSE),
        save({**COARSE, "along": COARSE["along"][:3]}),
        save({**COARSE, "scales": COARSE["scales"].astype(np.float64)}),
        save({**COARSE, "codes": np.ascontiguousarray(COARSE["codes"][:, :63])}),
        save({**COARSE, "centre": np.zeros(257, np.float16)}),
        save({"rows": np.zeros((4, 3), np.float32)}),
        save({"rows": np.zeros(4, np.float16)}),
        save({"rows": np.zeros((2, 3), np.float16)}),
        save({"row": np.zeros((4, 3), np.float16)}),
    ],
)
def test_a_file_of_another_kind_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not neighbours"):
        Neighbours.from_bytes(bundle_pb2.Neighbours(nearest=3), data)
