"""Augmented views: drawn the same by whoever draws them, computed once, and never seen where they would tell."""

from collections.abc import Callable

import numpy as np
import pytest

from handful.bundle.heads import Floats, LinearHead
from handful.bundle.manifest import blob_key, sha256
from handful.bundle.predictor import Backbone, to_pixels
from handful.v1.bundle_pb2 import (
    HEAD_KIND_LDA,
    HEAD_KIND_LOGISTIC_REGRESSION,
    MODALITY_IMAGE,
    Head,
    HeadKind,
    ImagePreprocessing,
    Recipe,
)
from handful.v1.bundle_pb2 import Backbone as BackboneMessage
from services.shared.objects.filesystem import FilesystemStore
from services.trainer.recipes import resolve
from services.trainer.worker import learning_curve
from services.trainer.worker.cross_validation import Folds, Labels
from services.trainer.worker.examples import Example, Examples
from services.trainer.worker.features import Features
from services.trainer.worker.head_choice import fitter
from services.trainer.worker.spans import Span
from services.trainer.worker.views import Views
from tests.bundles import FEATURE_WIDTH, PREPROCESSING, mean_colour

CROPPED = ImagePreprocessing(fit=ImagePreprocessing.FIT_CENTER_CROP, size=64, resize=73, filter="bicubic", draft=73)


def nothing() -> None:
    pass


def test_whoever_draws_a_view_again_draws_the_same(picture: Callable[..., bytes]) -> None:
    """A view hangs on its seed, the picture and its number alone; more views do not change the first."""
    data = picture(1, (200, 100, 50))
    views = Views(4, 7).of(data, "a", PREPROCESSING)
    np.testing.assert_array_equal(Views(4, 7).of(data, "a", PREPROCESSING), views)
    np.testing.assert_array_equal(Views(2, 7).of(data, "a", PREPROCESSING), views[:2])
    for other in (Views(4, 8).of(data, "a", PREPROCESSING), Views(4, 7).of(data, "b", PREPROCESSING), views[::-1]):
        assert all((one != another).any() for one, another in zip(other, views, strict=True))


@pytest.mark.parametrize("preprocessing", [CROPPED, PREPROCESSING], ids=["cropped", "squashed"])
@pytest.mark.parametrize("size", [(200, 80), (80, 200), (1, 1), (3, 500)], ids=str)
def test_views_are_the_picture_a_little_changed(
    picture: Callable[..., bytes], preprocessing: ImagePreprocessing, size: tuple[int, int]
) -> None:
    """Whatever its shape, a view has the input size, and about the colours of the picture; corners may be black."""
    data = picture(1, (120, 100, 80), size=size)
    views = Views(16, 0).of(data, "a", preprocessing)
    assert views.shape == (16, preprocessing.size, preprocessing.size, 3)
    plain = to_pixels(data, preprocessing)
    assert abs(float(views.mean()) - float(plain.mean())) < 0.15 * float(plain.mean())


def test_views_are_computed_once(store: FilesystemStore, picture: Callable[..., bytes]) -> None:
    """Features of views are those of their pixels, one object for each picture, found again by the next run; of more
    views the others alone are computed, other seeds are other features, and the plain ones are not touched.
    """
    pictures = [picture(seed, (40 * seed, 100, 200)) for seed in range(3)]
    for data in pictures:
        store.put(blob_key("default", sha256(data)), data)
    wanted = tuple(Example(sha256(data), 0, "") for data in pictures)
    examples = Examples("default", MODALITY_IMAGE, ("a", "b"), wanted, ())
    message = BackboneMessage(backbone_id="b", preprocessing=PREPROCESSING, feature_width=FEATURE_WIDTH)
    graph, views = mean_colour(), Views(2, 5)

    def run(views: Views) -> tuple[Floats, int, int]:
        features = Features(store, store, examples, message, graph, 2)
        rows = features.drawn(wanted, views, nothing)
        return rows, features.counts.computed, features.counts.cached

    rows, computed, cached = run(views)
    assert (rows.shape, computed, cached) == ((3, 2, FEATURE_WIDTH), 6, 0)
    for row, data in zip(rows, pictures, strict=True):
        expected = Backbone(graph).features(views.of(data, sha256(data), PREPROCESSING))
        np.testing.assert_allclose(row, expected, rtol=1e-5)
    again, *counts = run(views)
    np.testing.assert_array_equal(again, rows)
    assert counts == [0, 6]
    assert run(Views(2, 6))[1:] == (6, 0)
    more, *counts = run(Views(3, 5))
    assert counts == [3, 6]
    np.testing.assert_array_equal(more[:, :2], rows)
    for row, data in zip(more, pictures, strict=True):
        expected = Backbone(graph).features(Views(3, 5).of(data, sha256(data), PREPROCESSING))
        np.testing.assert_allclose(row, expected, rtol=1e-5)
    fewer, *counts = run(Views(1, 5))
    assert counts == [0, 3]
    np.testing.assert_array_equal(fewer, rows[:, :1])
    plain = Features(store, store, examples, message, graph, 2)
    plain.of(wanted, nothing)
    assert plain.counts.computed == 3


def test_no_view_of_a_held_out_example_is_learnt_from() -> None:
    """Heads out of fold, those of the curve too, are fitted on whole examples of the other folds, and asked about plain
    rows.
    """
    labels = np.arange(40) % 2
    # Each row says whose it is, and whether it is plain.
    rows = np.stack([np.stack([np.arange(40), np.full(40, view)], axis=1) for view in range(3)], axis=1)
    folds = Folds.drawn(labels, [f"{place:03}" for place in range(40)], 2, 0)
    seen: list[set[int]] = []
    identity = LinearHead(
        Head.NORMALIZATION_NONE, np.eye(2, dtype=np.float32), np.zeros(2, np.float32), np.zeros(2, np.float32)
    )

    def fit(some: Floats, of: Labels) -> LinearHead:
        assert some.shape[1:] == (3, 2)
        assert len(some) == len(of)
        assert (some[:, :, 0] == some[:, :1, 0]).all()
        seen.append({int(one) for one in some[:, 0, 0]})
        return identity

    def check(answered: Floats) -> None:
        for number, (repeat, held_out) in enumerate(folds.held_out()):
            assert not seen[number] & set(np.flatnonzero(held_out).tolist())
            asked = answered[repeat, held_out]
            np.testing.assert_array_equal(asked, np.stack([np.flatnonzero(held_out), 0 * asked[:, 0]], axis=1))

    whole = folds.out_of_fold(rows.astype(np.float32), labels, 2, fit, nothing)
    check(whole.logits)
    seen.clear()
    span = Span(rows.astype(np.float32), np.zeros(2, np.float32), None, 2)
    learning_curve.draw(span, labels, np.arange(40), folds, fit, whole, 0, nothing)
    assert len(seen) == 3 * folds.num_fits
    check(whole.logits)


@pytest.mark.parametrize("kind", [HEAD_KIND_LOGISTIC_REGRESSION, HEAD_KIND_LDA])
def test_views_weigh_together_what_their_example_does(kind: "HeadKind.ValueType") -> None:
    """Views that are all like their picture make no other head."""
    labels = np.arange(30) % 3
    centres = np.random.default_rng(1).normal(0, 0.5, (3, 200))
    rows = (centres[labels] + np.random.default_rng(2).normal(0, 1, (30, 200))).astype(np.float32)
    recipe = resolve(Recipe(preset="fast"), "efficientnet_lite0")
    heads = []
    for features in (rows, np.repeat(rows[:, None], 4, axis=1)):
        span = Span.of(features)
        heads.append(span.back(fitter(kind, recipe, span, 3)(span.rows, labels)))
    asked = rows + np.random.default_rng(3).normal(0, 1, rows.shape).astype(np.float32)
    expected, found = (head.logits(asked) for head in heads)
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())
