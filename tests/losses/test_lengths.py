"""Losses on cosines and lengths, and the head that gives them."""

import math

import goldens
import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf

from tfembloss.layers import CosineHead
from tfembloss.losses import (
    AdaFaceLoss,
    ArcFaceLoss,
    CosFaceLoss,
    LargeMarginSoftmaxLoss,
    MagFaceLoss,
    SphereFaceLoss,
)

plain_kernels = goldens.plain_kernels

ON_LENGTHS = {
    SphereFaceLoss: oracles.sphere_face,
    LargeMarginSoftmaxLoss: oracles.sphere_face,
    AdaFaceLoss: oracles.ada_face,
    MagFaceLoss: oracles.mag_face,
}
every_loss = pytest.mark.parametrize("make", ON_LENGTHS)
OPTIONS = {"reduction": None, "dtype": "float64"}


def scores_of(num_rows=8, num_classes=5):
    """Labels, and cosines and lengths of embeddings."""
    rng = np.random.default_rng(0)
    cosines = rng.uniform(-1, 1, size=[num_rows, num_classes])
    lengths = np.repeat(rng.uniform(1, 60, size=[num_rows, 1]), num_classes, axis=1)
    return rng.integers(num_classes, size=num_rows), np.stack([cosines, lengths], axis=1)


@every_loss
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cosines_of_exactly_one_and_lengths_of_zero(make, dtype):
    labels, scores = scores_of()
    scores[::2, 0], scores[1::2, 0] = 1, -1
    scores[:4, 1] = 0
    expected = ON_LENGTHS[make](labels, scores)
    loss = make(reduction=None, dtype=dtype)
    values, gradient = goldens.value_and_gradient(loss, labels, scores)
    np.testing.assert_allclose(values, expected, rtol=1e-9 if dtype == "float64" else 1e-5)
    assert np.isfinite(gradient).all()


def test_embeddings_at_their_center_or_opposite():
    centers = np.random.default_rng(0).normal(size=[5, 4]).astype("float32")
    labels = np.arange(8) % 5
    x = tf.constant(centers[labels] * np.array([3, -3, 0, 1e-20] * 2)[:, None], "float32")
    for make in ON_LENGTHS:
        head = CosineHead(5)
        head.build([8, 4])
        head.set_weights([centers])
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = make()(labels, head(x, lengths=make.lengths))
        assert np.isfinite(value)
        for gradient in tape.gradient(value, [x, head.centers.value]):
            assert np.isfinite(gradient).all()


@pytest.mark.parametrize("sub_centers", [1, 3])
def test_the_head_gives_lengths(sub_centers):
    keras.utils.set_random_seed(0)
    head = CosineHead(6, sub_centers)
    x = np.random.default_rng(0).normal(size=[4, 3]).astype("float32")
    cosines = head(x).numpy()
    lengths = np.linalg.norm(x, axis=1)[:, None]
    found = head(x, lengths="embedding").numpy()
    np.testing.assert_array_equal(found[:, 0], cosines)
    np.testing.assert_allclose(found[:, 1], lengths * np.ones([1, 6]), rtol=1e-5)
    centers = head.centers.numpy()
    products = x @ centers.T
    of_centers = np.linalg.norm(centers, axis=1)
    nearest = (products / of_centers).reshape(4, 6, -1).argmax(axis=2)
    of_nearest = of_centers.reshape(6, -1)[np.arange(6), nearest]  # [4, 6]
    found = head(x, lengths="product").numpy()
    np.testing.assert_array_equal(found[:, 0], cosines)
    np.testing.assert_allclose(found[:, 1], lengths * of_nearest, rtol=1e-5)
    some = head(x, classes=tf.constant([4, 0]), lengths="product").numpy()
    np.testing.assert_allclose(some, found[:, :, [4, 0]], rtol=1e-5)
    with pytest.raises(ValueError, match="`lengths` must be one of 'embedding', 'product'"):
        head(x, lengths="center")


def test_lengths_have_the_gradient_of_a_norm():
    head = CosineHead(2, dtype="float64")
    x = tf.constant([[3.0, 4.0], [0.0, 0.0]], "float64")
    head.build(x.shape)
    with tf.GradientTape() as tape:
        tape.watch(x)
        lengths = head(x, lengths="embedding")[:, 1, 0]
    np.testing.assert_allclose(tape.gradient(lengths, x), [[0.6, 0.8], [0, 0]], rtol=1e-12)


def test_a_stock_model_of_keras_trains_and_is_saved(tmp_path):
    keras.utils.set_random_seed(0)
    x, labels = np.random.default_rng(0).normal(size=[8, 4]), np.arange(8) % 3
    inputs = keras.Input([4])
    scores = CosineHead(3)(keras.layers.Dense(5)(inputs), lengths="embedding")
    assert scores.shape == (None, 2, 3)
    model = keras.Model(inputs, scores)
    model.compile(keras.optimizers.Adam(0.1), SphereFaceLoss(margin=2.0))
    losses = model.fit(x, labels, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        again.evaluate(x, labels, verbose=0), model.evaluate(x, labels, verbose=0)
    )


def test_ada_face_of_equal_lengths_is_cos_face():
    labels, scores = scores_of()
    scores[:, 1] = 7.0
    np.testing.assert_allclose(
        AdaFaceLoss(0.4, **OPTIONS)(labels, scores),
        CosFaceLoss(0.4, **OPTIONS)(labels, scores[:, 0]),
        rtol=1e-9,
    )


def test_ada_face_is_the_same_at_any_scale_of_the_lengths():
    labels, scores = scores_of()
    expected = AdaFaceLoss(**OPTIONS)(labels, scores)
    larger = scores * np.array([1, 1000])[:, None]
    np.testing.assert_allclose(AdaFaceLoss(**OPTIONS)(labels, larger), expected, rtol=1e-9)
    scores[0, 1] *= 3
    assert np.abs(AdaFaceLoss(**OPTIONS)(labels, scores) - expected).max() > 0.1


def test_mag_face_of_one_length_is_arc_face():
    labels, scores = scores_of()
    scores[:, 0] = np.abs(scores[:, 0])
    for length, margin in ((10, 0.45), (60, 0.625), (110, 0.8), (500, 0.8)):
        scores[:, 1] = length
        length = min(length, 110)
        np.testing.assert_allclose(
            MagFaceLoss(**OPTIONS)(labels, scores)
            - 35 * (length / 110**2 + 1 / length),
            ArcFaceLoss(margin, **OPTIONS)(labels, scores[:, 0]),
            rtol=1e-9,
            atol=1e-9,
        )  # fmt: skip


@every_loss
def test_what_is_wrong_is_explained(make):
    labels, scores = scores_of()
    for cosines in (scores[:, 0], np.repeat(scores, 2, axis=1)):
        with pytest.raises(ValueError, match=r"cosines and lengths \[B, 2, C\].*lengths="):
            make()(labels, cosines)
    with pytest.raises(ValueError, match="expects cosines, numbers from -1 to 1"):
        make()(labels, scores[:, ::-1])
    for wrong in (5, -1):
        with pytest.raises(ValueError, match="labels from 0 to 4"):
            make()(np.full(8, wrong), scores)


def test_a_label_too_large_shows_in_a_graph():
    _, scores = scores_of()
    labels = tf.constant([0, 5] * 4)
    with goldens.kernels(compiled=True):
        with pytest.raises(tf.errors.InvalidArgumentError, match="labels"):
            tf.function(SphereFaceLoss())(labels, scores)
        value = tf.function(SphereFaceLoss(), jit_compile=True)(labels, scores)
    assert np.isnan(value)  # XLA has no checks


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SphereFaceLoss(margin=0.5), "`margin`"),
        (lambda: LargeMarginSoftmaxLoss(scale=0), "`scale`"),
        (lambda: AdaFaceLoss(margin=math.radians(181)), "`margin`"),
        (lambda: AdaFaceLoss(concentration=0), "`concentration`"),
        (lambda: MagFaceLoss(min_margin=-0.1), "`min_margin`"),
        (lambda: MagFaceLoss(min_margin=0.9), "`max_margin`"),
        (lambda: MagFaceLoss(min_length=0), "`min_length`"),
        (lambda: MagFaceLoss(max_length=10), "`max_length`"),
        (lambda: MagFaceLoss(length_weight=0), "`length_weight`"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
