"""The convex head: scikit-learn's optimum, the right gradient, and one callback per pass of the solver."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression

from handful.bundle.heads import Floats, LinearHead
from handful.v1.bundle_pb2 import Head
from services.trainer.worker.logistic_regression import Labels, Problem, fit

MANY_PASSES = 1000


def drawn(counts: tuple[int, ...], width: int, seed: int = 0) -> tuple[Floats, Labels]:
    """Features of overlapping classes, so many of each; offset and size are those of pooled activations."""
    centres = np.random.default_rng(99).normal(0, 0.6, (len(counts), width))
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(len(counts)), counts))
    features = 3 + centres[labels] + random.normal(0, 1, (len(labels), width))
    return features.astype(np.float32), labels


def prepared(features: Floats, mean: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    centred = features - mean
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    scaled: npt.NDArray[np.float64] = centred * np.sqrt(features.shape[1]) / length
    return scaled


def ignore(_: LinearHead) -> None:
    pass


# More examples than features, and fewer: then the optimum is searched in the span of the rows.
@pytest.mark.parametrize(("width", "c"), [(20, 1.0), (400, 1.0), (400, 0.03)])
@pytest.mark.parametrize(
    "counts",
    [
        (40, 40),
        (60, 6),
        (15, 15, 15),
        (40, 10, 3),
        (12,) * 10,
        (30, 4, 12, 3, 25, 5, 8, 20, 2, 10),
    ],
    ids=lambda counts: f"{len(counts)}-classes-{counts[-1]}",
)
def test_the_head_is_that_of_scikit_learn(counts: tuple[int, ...], c: float, width: int) -> None:
    """On seen and unseen examples the probabilities are those of scikit-learn's balanced logistic regression."""
    features, labels = drawn(counts, width)
    unseen, _ = drawn((100,) * len(counts), width, seed=1)
    head = fit(features, labels, len(counts), c, MANY_PASSES, ignore)
    mean = features.astype(np.float64).mean(axis=0)
    # For two classes scikit-learn has one weight vector, whose penalty weighs twice that of our two.
    theirs = LogisticRegression(C=2 * c if len(counts) == 2 else c, class_weight="balanced", tol=1e-8, max_iter=10_000)
    theirs.fit(prepared(features, mean), labels)
    # Our solver stops at a gradient of 1e-4, which unseen examples of ten small classes feel most (.016).
    for some, bound in ((features, 1e-2), (unseen, 2e-2)):
        expected = theirs.predict_proba(prepared(some, mean))
        assert np.abs(head.probabilities(some) - expected).max() < bound


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_the_gradient_is_that_of_the_objective(num_classes: int) -> None:
    """Every component of the gradient is the slope that finite differences find."""
    random = np.random.default_rng(num_classes)
    counts = random.integers(1, 6, num_classes)
    labels = np.repeat(np.arange(num_classes), counts)
    problem = Problem(random.normal(size=(len(labels), 7)), labels, num_classes, 0.3)
    at = random.normal(size=num_classes * 8)
    _, gradient = problem.objective(at)
    step = 1e-5
    for index in range(len(at)):
        there = np.zeros_like(at)
        there[index] = step
        slope = (problem.objective(at + there)[0] - problem.objective(at - there)[0]) / (2 * step)
        assert gradient[index] == pytest.approx(slope, abs=1e-8, rel=1e-6)


def test_the_objective_is_that_of_the_formula() -> None:
    """The objective is the balanced mean cross-entropy plus |W|^2 / (2 C n), computed by hand for three rows."""
    rows, labels = np.array([[1.0], [2.0], [-1.0]]), np.array([0, 0, 1])
    weight, bias, c = np.array([0.5, -0.5]), np.array([0.1, 0.2]), 2.0
    total = 0.0
    for row, label, balance in zip(rows[:, 0], labels, [3 / 4, 3 / 4, 3 / 2], strict=True):
        logits = weight * row + bias
        total += balance * (np.log(np.exp(logits).sum()) - logits[label])
    expected = total / 3 + (0.25 + 0.25) / (2 * c * 3)
    value, _ = Problem(rows, labels, 2, c).objective(np.concatenate([weight, bias]))
    assert value == pytest.approx(expected)


@pytest.mark.parametrize("width", [20, 400])
@pytest.mark.parametrize("max_passes", [1, 2, 7])
def test_every_pass_is_called_back_once(max_passes: int, width: int) -> None:
    """Stopped before it has converged, the solver made as many callbacks as passes, the last with the head it gives."""
    features, labels = drawn((10, 20, 5), width)
    heads: list[LinearHead] = []
    head = fit(features, labels, 3, 1.0, max_passes, heads.append)
    assert len(heads) == max_passes
    np.testing.assert_array_equal(heads[-1].weight, head.weight)
    np.testing.assert_array_equal(heads[-1].bias, head.bias)


def test_passes_end_at_the_optimum_and_only_improve() -> None:
    """The objective falls with every pass, each callback's head keeps its numbers, and the solver ends by itself."""
    features, labels = drawn((10, 20, 5), 20)
    heads: list[LinearHead] = []
    fit(features, labels, 3, 1.0, MANY_PASSES, heads.append)
    assert 5 < len(heads) < 200
    problem = Problem(prepared(features, features.mean(axis=0, dtype=np.float64)), labels, 3, 1.0)
    values = [problem.objective(np.concatenate([head.weight.ravel(), head.bias]))[0] for head in heads]
    assert all(later <= earlier + 1e-6 for earlier, later in pairwise(values))
    assert values[0] > values[-1] + 0.1


def test_a_callback_that_raises_stops_the_solver() -> None:
    """A cancelled run ends after the pass at hand, with the very error the callback raised."""
    features, labels = drawn((10, 10), 20)
    passes = []

    def cancel(head: LinearHead) -> None:
        passes.append(head)
        if len(passes) == 3:
            raise KeyError("cancelled")

    with pytest.raises(KeyError, match="cancelled"):
        fit(features, labels, 2, 1.0, MANY_PASSES, cancel)
    assert len(passes) == 3


@pytest.mark.parametrize("offset", [0.0, 5.0, -100.0])
@pytest.mark.parametrize("scale", [0.25, 64.0])
def test_where_features_lie_and_how_large_they_are_does_not_matter(offset: float, scale: float) -> None:
    """Moving and scaling all features alike leaves every answer as it was."""
    features, labels = drawn((10, 20, 5), 20)
    moved = (features * np.float32(scale) + np.float32(offset)).astype(np.float32)
    here = fit(features, labels, 3, 1.0, MANY_PASSES, ignore).probabilities(features)
    there = fit(moved, labels, 3, 1.0, MANY_PASSES, ignore).probabilities(moved)
    np.testing.assert_allclose(there, here, atol=2e-3)


def test_a_head_is_what_bundles_hold() -> None:
    """The head is centred and scaled, float32, with one weight vector per class and the mean of the training rows."""
    features, labels = drawn((4, 4, 4), 400)
    head = fit(features, labels, 3, 1.0, MANY_PASSES, ignore)
    assert head.normalization == Head.NORMALIZATION_CENTER_L2
    assert [tensor.dtype for tensor in (head.weight, head.bias, head.mean)] == [np.float32] * 3
    assert (head.weight.shape, head.bias.shape, head.mean.shape) == ((3, 400), (3,), (400,))
    np.testing.assert_allclose(head.mean, features.mean(axis=0), rtol=1e-6)
    again = LinearHead.from_bytes(Head(normalization=head.normalization), head.to_bytes())
    np.testing.assert_array_equal(again.probabilities(features), head.probabilities(features))


def test_features_that_are_all_the_same_tell_nothing() -> None:
    """Where no example differs from another every class is equally probable, and nothing is divided by zero."""
    features, labels = np.ones((6, 30), np.float32), np.array([0, 0, 0, 0, 1, 2])
    head = fit(features, labels, 3, 1.0, MANY_PASSES, ignore)
    np.testing.assert_allclose(head.probabilities(features), 1 / 3, atol=1e-6)
