import goldens
import numpy as np
import oracles
import pytest

from tfembloss.losses import CLIPLoss, MultipleNegativesRankingLoss, SigLIPLoss

plain_kernels = goldens.plain_kernels


def unit_columns(num_rows=6, dim=4, seed=0):
    x = np.random.default_rng(seed).normal(size=[num_rows, 2, dim])
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def log_softmax(x):
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def open_clip(image_features, text_features, logit_scale):
    """ClipLoss.forward on one device."""
    logits_per_image = logit_scale * image_features @ text_features.T
    logits_per_text = logit_scale * text_features @ image_features.T
    labels = np.arange(len(image_features))
    of_image = -log_softmax(logits_per_image)[labels, labels].mean()
    of_text = -log_softmax(logits_per_text)[labels, labels].mean()
    return (of_image + of_text) / 2


def big_vision(zimg, ztxt, t, b):
    """The sigmoid loss of trainers/proj/image_text/siglip.py."""
    logits = zimg @ ztxt.T * t + b
    m1_diag1 = -np.ones_like(logits) + 2 * np.eye(len(zimg))
    loglik = -np.log1p(np.exp(-m1_diag1 * logits))
    return np.mean(-np.sum(loglik, axis=-1))


def test_clip_is_open_clips_loss():
    x = unit_columns()
    expected = open_clip(x[:, 0], x[:, 1], 1 / 0.07)
    np.testing.assert_allclose(CLIPLoss(1 / 0.07)(None, x), expected, rtol=1e-5)
    loss = CLIPLoss(1 / 0.07, dtype="float64")
    np.testing.assert_allclose(loss(None, x), expected, rtol=1e-12)
    ranking = MultipleNegativesRankingLoss(1 / 0.07, "dot", symmetric=True, dtype="float64")
    np.testing.assert_allclose(ranking(None, x), expected, rtol=1e-12)


def test_sig_lip_is_big_visions_loss():
    x = unit_columns()
    expected = big_vision(x[:, 0], x[:, 1], 10.0, -10.0)
    np.testing.assert_allclose(SigLIPLoss(10.0, -10.0)(None, x), expected, rtol=1e-5)
    loss = SigLIPLoss(10.0, -10.0, dtype="float64")
    np.testing.assert_allclose(loss(None, x), expected, rtol=1e-12)


def test_scale_and_bias_may_be_in_the_columns():
    """As DualEncoder gives them."""
    x, options = unit_columns(), {"dtype": "float64"}
    scaled = x * np.array([10.0, 1.0])[:, None]
    np.testing.assert_allclose(
        CLIPLoss(**options)(None, scaled), CLIPLoss(10.0, **options)(None, x), rtol=1e-12
    )
    with_bias = np.concatenate(
        [scaled, np.broadcast_to([[-10.0], [1.0]], [6, 2, 1])], axis=-1
    )
    np.testing.assert_allclose(
        SigLIPLoss(**options)(None, with_bias),
        SigLIPLoss(10.0, -10.0, **options)(None, x),
        rtol=1e-12,
    )


BOTH = pytest.mark.parametrize(
    "make, oracle", [(CLIPLoss, oracles.clip), (SigLIPLoss, oracles.sig_lip)]
)


@BOTH
def test_rows_with_equal_ids_are_no_negatives(make, oracle):
    x, ids = unit_columns(), np.array([2**53, 2**53 + 1, 2**53, 5, 6, 5])
    loss = make(10.0, exclude_equal_ids=True, reduction=None, dtype="float64")
    expected = oracle(ids, x, 10.0, exclude_equal_ids=True)
    np.testing.assert_allclose(loss(ids, x), expected, rtol=1e-9)
    names = np.array([f"a text {i}" for i in ids])
    np.testing.assert_allclose(loss(names[:, None], x), expected, rtol=1e-9)
    all_negatives = make(10.0, reduction=None, dtype="float64")(ids, x)
    np.testing.assert_allclose(all_negatives, oracle(None, x, 10.0), rtol=1e-9)
    has_twin = [True, False, True, True, False, True]
    np.testing.assert_array_equal(all_negatives > expected + 1e-6, has_twin)


@BOTH
def test_one_row_has_no_negatives(make, oracle):
    x = unit_columns(1)
    loss = make(10.0, dtype="float64")
    np.testing.assert_allclose(
        loss(None, x), oracle(None, x, 10.0).mean(), rtol=1e-9, atol=1e-12
    )


@BOTH
@pytest.mark.parametrize("sign", [1, -1])
def test_a_large_scale_does_not_overflow(make, oracle, sign):
    x = unit_columns()
    x[:, 1] *= sign
    with goldens.kernels(compiled=True):
        value, gradient = goldens.value_and_gradient(make(1e4), None, x)
    np.testing.assert_allclose(value, oracle(None, x, 1e4).mean(), rtol=1e-5)
    assert value > 1e3
    assert np.isfinite(gradient).all()


@BOTH
def test_pairs_far_apart_from_others_have_nothing_to_learn(make, oracle):
    x = np.repeat(np.eye(6)[:, None], 2, axis=1) * 30
    loss = make() if make is CLIPLoss else make(bias=-450.0)
    value, gradient = goldens.value_and_gradient(loss, None, x)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@BOTH
@pytest.mark.parametrize(
    "y_true, shape, message",
    [
        (None, [6, 2, 4], "ids"),
        (np.zeros(6), [6, 2, 4], "ids"),
        (np.zeros(5, int), [6, 2, 4], "ids"),
        (np.zeros(6, int), [6, 3, 4], "n = 2"),
        (np.zeros(6, int), [6, 4], "n = 2"),
    ],
    ids=["no ids", "floats", "five ids", "three columns", "rows"],
)
def test_wrong_input_is_refused(make, oracle, y_true, shape, message):
    with pytest.raises(ValueError, match=message):
        make(exclude_equal_ids=True)(y_true, np.ones(shape, "float32"))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: CLIPLoss(scale=0), "`scale`"),
        (lambda: CLIPLoss(scale=float("inf")), "`scale`"),
        (lambda: SigLIPLoss(scale=-1.0), "`scale`"),
        (lambda: SigLIPLoss(bias=float("nan")), "`bias`"),
        (lambda: SigLIPLoss(bias="-10"), "`bias`"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
