"""Heads: the same numbers as the plain formulas, and a file that is read back or refused."""

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save

from handful.bundle.heads import LinearHead, normalize, softmax
from handful.v1.bundle_pb2 import Head

NONE, CENTER_L2 = Head.NORMALIZATION_NONE, Head.NORMALIZATION_CENTER_L2
WIDTH, CLASSES = 24, 3
Doubles = npt.NDArray[np.float64]


def head_of(normalization: "Head.Normalization.ValueType", seed: int = 0) -> LinearHead:
    random = np.random.default_rng(seed)
    weight, bias, mean = (random.normal(size=shape).astype(np.float32) for shape in ((CLASSES, WIDTH), CLASSES, WIDTH))
    return LinearHead(normalization, weight, bias, mean)


def features_of(rows: int, seed: int = 1) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(1.0, 2.0, (rows, WIDTH)).astype(np.float32)


def plain(head: LinearHead, features: npt.NDArray[np.float32]) -> Doubles:
    """Logits by the formula of bundle.proto, one row and one class at a time, in float64."""
    logits = np.zeros((len(features), len(head.bias)))
    for row, feature in enumerate(features.astype(np.float64)):
        prepared = feature
        if head.normalization == CENTER_L2:
            centred = feature - head.mean.astype(np.float64)
            prepared = centred * np.sqrt(WIDTH) / np.sqrt((centred**2).sum())
        for one in range(len(head.bias)):
            logits[row, one] = (prepared * head.weight[one]).sum() + head.bias[one]
    return logits


@pytest.mark.parametrize("normalization", [NONE, CENTER_L2])
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_logits_are_those_of_the_formula(normalization: "Head.Normalization.ValueType", rows: int) -> None:
    """Logits are normalise(features) x weight^T + bias, for any number of rows."""
    head, features = head_of(normalization), features_of(rows)
    logits = head.logits(features)
    assert logits.shape == (rows, CLASSES)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, plain(head, features), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normalization", [NONE, CENTER_L2])
def test_probabilities_are_the_softmax_of_the_logits(normalization: "Head.Normalization.ValueType") -> None:
    """Probabilities are exp(logit) over its sum, and each row sums to one."""
    head, features = head_of(normalization), features_of(7)
    exponentials = np.exp(plain(head, features))
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    probabilities = head.probabilities(features)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_normalized_rows_have_one_length() -> None:
    """Centred rows have the length sqrt(width), however long the features were."""
    rows = normalize(features_of(5) * np.float32(1e4), np.zeros(WIDTH, np.float32), CENTER_L2)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), np.sqrt(WIDTH), rtol=1e-5)


def test_a_row_equal_to_the_mean_is_the_bias_alone() -> None:
    """Features that are exactly the training mean have no direction, and are no division by zero."""
    head = head_of(CENTER_L2)
    np.testing.assert_array_equal(head.logits(head.mean[None]), head.bias[None])


def test_features_can_be_used_as_they_are() -> None:
    """Without normalisation the very features are taken."""
    features = features_of(3)
    np.testing.assert_array_equal(normalize(features, features[0], NONE), features)


@pytest.mark.parametrize("normalization", [Head.NORMALIZATION_UNSPECIFIED, 99])
def test_an_unknown_normalization_is_refused(normalization: "Head.Normalization.ValueType") -> None:
    """A head of a kind that this code does not know gives no answer rather than a wrong one."""
    with pytest.raises(ValueError, match="normalization"):
        normalize(features_of(1), np.zeros(WIDTH, np.float32), normalization)


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([[0.0, 0.0]], [[0.5, 0.5]]),
        ([[1000.0, 0.0], [-1000.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]),
        ([[1e38, 1e38, -1e38]], [[0.5, 0.5, 0.0]]),
        ([[7.0]], [[1.0]]),
    ],
)
def test_softmax_neither_overflows_nor_loses_small_rows(logits: list[list[float]], expected: list[list[float]]) -> None:
    """Logits of any size give probabilities."""
    np.testing.assert_allclose(softmax(np.array(logits, np.float32)), expected, atol=1e-7)


@pytest.mark.parametrize("normalization", [NONE, CENTER_L2])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_head_comes_back_from_its_file(normalization: "Head.Normalization.ValueType", order: str) -> None:
    """A head read back has the same numbers bit for bit, in whatever order they lay in memory."""
    head = head_of(normalization)
    laid_out = np.asfortranarray(head.weight) if order == "F" else head.weight
    data = LinearHead(normalization, laid_out, head.bias, head.mean).to_bytes()
    again = LinearHead.from_bytes(Head(normalization=normalization), data)
    np.testing.assert_array_equal(again.weight, head.weight)
    np.testing.assert_array_equal(again.bias, head.bias)
    np.testing.assert_array_equal(again.mean, head.mean)
    features = features_of(4)
    np.testing.assert_array_equal(again.logits(features), head.logits(features))
    assert again.to_bytes() == head.to_bytes() == data


def test_a_head_knows_what_it_weighs() -> None:
    """num_bytes counts every number of the head, four bytes each."""
    assert head_of(NONE).num_bytes == 4 * (CLASSES * WIDTH + CLASSES + WIDTH)


def _tensors(**other: npt.NDArray[np.generic]) -> dict[str, npt.NDArray[np.generic]]:
    head = head_of(NONE)
    return {"weight": head.weight, "bias": head.bias, "mean": head.mean, **other}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 8,
        b"not a safetensors file at all",
        head_of(NONE).to_bytes()[:-1],
        head_of(NONE).to_bytes() + b"\x00",
        save({name: tensor for name, tensor in _tensors().items() if name != "mean"}),
        save(_tensors(bias=np.zeros(CLASSES + 1, np.float32))),
        save(_tensors(mean=np.zeros(WIDTH - 1, np.float32))),
        save(_tensors(weight=np.zeros(WIDTH, np.float32))),
        save(_tensors(weight=np.zeros((CLASSES, WIDTH), np.int32))),
    ],
    ids=[
        "empty",
        "zeros",
        "text",
        "cut",
        "longer",
        "no-mean",
        "bias-shape",
        "mean-shape",
        "weight-rank",
        "weight-type",
    ],
)
def test_a_broken_file_is_refused(data: bytes) -> None:
    """A file that is no head of ours raises ValueError when it is read, not when it is used."""
    with pytest.raises(ValueError, match="not a head"):
        LinearHead.from_bytes(Head(normalization=NONE), data)
