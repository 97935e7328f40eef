import goldens
import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf

from tfembloss import losses

plain_kernels = goldens.plain_kernels

LOSSES = [
    losses.ListNetLoss,
    losses.ListMLELoss,
    losses.PListMLELoss,
    losses.LambdaLoss,
    losses.RankNetLoss,
    losses.ADRMSELoss,
]
on_every_loss = pytest.mark.parametrize("make", LOSSES)
GRADES, SCORES = [[2.0, 0.0, 1.0], [1.0], [0.0, 3.0]], [[0.5, 1.5, -1.0], [2.0], [0.0, 0.1]]


@on_every_loss
def test_lists_of_any_length_are_ragged_or_padded(make):
    """Also where there is no document in the middle; what stands there does not matter."""
    loss = make(dtype="float64")
    padded = np.array(
        [[2, 0, np.nan, 1], [np.nan, 1, np.nan, np.nan], [0, 3] + [np.nan] * 2]
    )
    scores = np.array([[0.5, 1.5, 9.0, -1.0], [8.0, 2.0, 7.0, 9.0], [0.0, 0.1, 5.0, 6.0]])
    value, gradient = goldens.value_and_gradient(loss, padded, scores)
    ragged = [tf.ragged.constant(x, tf.float64) for x in (GRADES, SCORES)]
    np.testing.assert_allclose(value, loss(*ragged), rtol=1e-12)
    assert (gradient[np.isnan(padded)] == 0).all()
    assert (gradient[0, [0, 1, 3]] != 0).any()
    grades = tf.ragged.constant([[2, 0, 1], [1], [0, 3]])  # integers
    np.testing.assert_allclose(loss(grades, ragged[1]), value, rtol=1e-12)


@pytest.mark.parametrize("labels", [[[2.0, 0.0], [1.0], [0.0, 3.0, 1.0]], [[1.0]] * 2])
def test_ragged_scores_have_labels_of_the_same_lengths(labels):
    scores = tf.ragged.constant(SCORES)
    with pytest.raises(ValueError, match=r"for each score.*lists of other lengths"):
        losses.ListNetLoss()(tf.ragged.constant(labels), scores)
    with pytest.raises(ValueError, match=r"for each score.*a ndarray as y_true"):
        losses.ListNetLoss()(np.ones([3, 3]), scores)


@on_every_loss
@pytest.mark.parametrize("labels", [[[np.nan] * 3] * 4, [[1.0, np.nan, np.nan]] * 4])
def test_lists_without_an_order_are_zero(make, labels):
    scores = np.random.default_rng(0).normal(size=[4, 3])
    value, gradient = goldens.value_and_gradient(make(), np.array(labels), scores)
    assert value == 0 and not gradient.any()


@pytest.mark.parametrize("make", [losses.LambdaLoss, losses.RankNetLoss])
def test_equal_labels_have_no_pairs(make):
    scores = np.random.default_rng(0).normal(size=[4, 3])
    value, gradient = goldens.value_and_gradient(make(), np.ones([4, 3]), scores)
    assert value == 0 and not gradient.any()


@on_every_loss
def test_equal_scores_keep_the_order_of_the_list(make):
    """Scores in half precision tie: they are ranked as float32 numbers are."""
    grades = np.random.default_rng(0).integers(4, size=[5, 8]).astype("float32")
    scores = 1 + np.random.default_rng(1).integers(9, size=[5, 8]) / 1000
    half = tf.cast(scores, "bfloat16")
    assert len(np.unique(half.numpy())) < 4
    found = goldens.value_and_gradient(make(), grades, half)
    expected = goldens.value_and_gradient(make(), grades, tf.cast(half, "float32"))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    # An order by places alone, as the scores say nothing.
    small = (np.zeros([5, 8]) - 1e-6 * np.arange(8)).astype("float64")
    nearly = make(dtype="float64")(grades, small)
    np.testing.assert_allclose(make()(grades, np.zeros([5, 8])), nearly, rtol=1e-4)


@pytest.mark.parametrize("scheme", ["ndcg_loss2++", "lambda_rank", None])
def test_tiles_are_the_whole(scheme, monkeypatch):
    """Of lists so long that one fills a tile, or half of one."""
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(3, size=[5, 7]).astype("float64"), rng.normal(size=[5, 7])
    loss = losses.LambdaLoss(scheme, k=3, reduction=None, dtype="float64")
    expected = oracles.lambda_loss(labels, scores, scheme, k=3)
    for entries in (10, 100, 1000):
        monkeypatch.setattr("tfembloss.tiling.ENTRIES", entries)
        np.testing.assert_allclose(loss(labels, scores), expected, rtol=1e-9)


@pytest.mark.parametrize("scheme", ["ndcg_loss1", "ndcg_loss2", "ndcg_loss2++"])
def test_large_grades_do_not_overflow(scheme):
    """Such as clicks: of each list, only how the gains compare counts."""
    scores = np.random.default_rng(0).normal(size=[2, 3])
    loss = losses.LambdaLoss(scheme)
    found = goldens.value_and_gradient(loss, np.array([[200.0, 1, 0], [0, 0, 0]]), scores)
    near = goldens.value_and_gradient(loss, np.array([[30.0, 1, 0], [0, 0, 0]]), scores)
    for ours, expected in zip(found, near, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-7)


def test_the_weights_of_long_lists_do_not_overflow():
    labels = np.zeros([1, 300])
    scores = np.random.default_rng(0).normal(size=[1, 300])
    value, gradient = goldens.value_and_gradient(losses.PListMLELoss(), labels, scores)
    expected = oracles.list_mle(labels, scores, position_aware=True)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_a_teachers_scores_may_be_negative_and_give_the_gradient_of_the_divergence():
    rng = np.random.default_rng(0)
    teacher, scores = rng.normal(size=[2, 5, 4])
    _, of_list_net = goldens.value_and_gradient(losses.ListNetLoss(), teacher, scores)
    _, of_divergence = goldens.value_and_gradient(
        losses.DistillKLDivLoss(), teacher, scores
    )
    np.testing.assert_allclose(of_list_net, of_divergence, rtol=1e-4, atol=1e-7)


@on_every_loss
@pytest.mark.parametrize(
    "labels, scores",
    [([4], [4, 3]), ([4, 2], [4, 3]), ([4, 3], [4, 3, 2]), (None, [4, 3])],
)
def test_other_shapes_are_refused(make, labels, scores):
    labels = None if labels is None else np.zeros(labels)
    with pytest.raises(ValueError, match=r"scores y_pred \[B, L\].*Received.*y_pred.shape"):
        make()(labels, np.zeros(scores))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: losses.LambdaLoss("ndcg"), r"`weighting_scheme`.*'lambda_rank'"),
        (lambda: losses.LambdaLoss(k=0), "`k`"),
        (lambda: losses.LambdaLoss(mu=-1.0), "`mu`"),
        (lambda: losses.RankNetLoss(sigma=0), "`sigma`"),
        (lambda: losses.RankNetLoss(reduction_log="2"), "`reduction_log`"),
        (lambda: losses.ADRMSELoss(alpha=-1), "`alpha`"),
        (lambda: losses.ListMLELoss(respect_input_order=1), "`respect_input_order`"),
        (
            lambda: losses.CrossEncoderMultipleNegativesRankingLoss(num_negatives=-1),
            "`num_negatives`",
        ),
        (
            lambda: losses.CrossEncoderMultipleNegativesRankingLoss(activation="sigmod"),
            "`activation`.*'sigmod'",
        ),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_positive_among_others_needs_no_labels():
    loss = losses.CrossEncoderMultipleNegativesRankingLoss()
    with pytest.raises(ValueError, match=r"no y_true.*ListNetLoss takes labels"):
        loss(np.zeros([2, 3]), np.zeros([2, 3]))


def test_a_positive_alone_is_refused():
    """As a CrossEncoder without a preprocessor, which cannot draw negatives, scores it."""
    loss = losses.CrossEncoderMultipleNegativesRankingLoss()
    with pytest.raises(ValueError, match=r"at least two documents.*give it a preprocessor"):
        loss(None, np.zeros([2, 1]))
    assert loss(None, np.zeros([1, 1])) == 0  # a last batch of one row


def test_list_losses_are_found_by_name():
    assert type(keras.losses.get("lambda_loss")) is losses.LambdaLoss
    assert type(keras.losses.get("PListMLELoss")) is losses.PositionAwareListMLELoss
