import goldens
import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf

from tfembloss import losses
from tfembloss.losses import MatryoshkaLoss

plain_kernels = goldens.plain_kernels


def columns_of(num_columns=2, num_rows=6, dim=4, seed=0):
    return np.random.default_rng(seed).normal(size=[num_rows, num_columns, dim])


def rows_of(seed=0):
    return columns_of(1, seed=seed)[:, 0]


SCORES, LABELS, IDS = np.arange(6) / 6, np.arange(6) % 2, 2**53 + np.arange(6) // 2
DIMS, WEIGHTS = [4, 1, 2], [0.5, 0.0, 3.0]  # in any order
WRAPPED = {
    "ranking": (
        losses.MultipleNegativesRankingLoss,
        lambda _, x: oracles.multiple_negatives_ranking(None, x),
        None,
        columns_of(3),
    ),
    "cosine": (
        losses.CosineSimilarityLoss,
        oracles.cosine_similarity,
        SCORES,
        columns_of(),
    ),
    "co-sent": (losses.CoSENTLoss, oracles.co_sent, SCORES, columns_of()),
    "angle": (losses.AnglELoss, oracles.angle, SCORES, columns_of()),
    "online": (
        losses.OnlineContrastiveLoss,
        oracles.online_contrastive,
        LABELS,
        columns_of(),
    ),
    "sup-con": (losses.SupConLoss, oracles.sup_con, IDS, rows_of()),
    "gist": (  # the guide is no teacher to be cut short
        losses.GISTEmbedLoss,
        oracles.gist,
        columns_of(dim=5, seed=1),
        columns_of(),
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_values_are_those_of_the_first_dimensions_added_up(name):
    make, oracle, y_true, y_pred = WRAPPED[name]
    loss = MatryoshkaLoss(make(dtype="float64"), DIMS, WEIGHTS, reduction=None)
    expected = oracles.matryoshka(oracle, DIMS, WEIGHTS)(y_true, y_pred)
    values = loss(y_true, y_pred)
    assert values.shape == (6,)
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", WRAPPED)
def test_all_dimensions_alone_are_the_loss_itself(name):
    """These losses take cosines: the lengths do not matter."""
    make, _, y_true, y_pred = WRAPPED[name]
    loss = make(dtype="float64")
    np.testing.assert_allclose(
        MatryoshkaLoss(loss, dims=[4])(y_true, y_pred), loss(y_true, y_pred), rtol=1e-9
    )


def test_embeddings_are_cut_to_unit_length_and_a_teachers_are_not():
    x, teacher = rows_of(), 3 * rows_of(1)
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    loss = MatryoshkaLoss(losses.MSELoss(dtype="float64"), [4], reduction=None)
    np.testing.assert_allclose(loss(teacher, x), oracles.mse(teacher, unit), rtol=1e-9)
    loss = MatryoshkaLoss(losses.MSELoss(dtype="float64"), [4, 2], reduction=None)
    expected = oracles.matryoshka(
        lambda t, cut: oracles.mse(t[:, : cut.shape[1]], cut), [4, 2]
    )(teacher, x)
    np.testing.assert_allclose(loss(teacher, x), expected, rtol=1e-9)


def test_clip_keeps_its_learned_scale():
    x = columns_of()
    lengths = np.linalg.norm(x, axis=-1, keepdims=True)

    def of_equal_lengths(ids, unit):
        return oracles.clip(ids, unit * lengths)

    loss = MatryoshkaLoss(losses.CLIPLoss(dtype="float64"), [4, 2], reduction=None)
    expected = oracles.matryoshka(of_equal_lengths, [4, 2])(None, x)
    np.testing.assert_allclose(loss(None, x), expected, rtol=1e-9)


def test_weights_and_reductions():
    x, weights = columns_of(), np.arange(6.0)
    inner = losses.MultipleNegativesRankingLoss(reduction="sum", dtype="float64")
    values = MatryoshkaLoss(inner, [4, 2], reduction=None)(None, x).numpy()
    loss = MatryoshkaLoss(inner, [4, 2])  # the inner reduction is not used
    np.testing.assert_allclose(loss(None, x), values.mean(), rtol=1e-12)
    np.testing.assert_allclose(
        loss(None, x, sample_weight=weights), (values * weights).mean(), rtol=1e-12
    )


def test_a_row_that_is_zero_in_its_first_dimensions():
    x = columns_of()
    x[0, 0, :2] = 0
    x = tf.constant(x)
    loss = MatryoshkaLoss(losses.MultipleNegativesRankingLoss(dtype="float64"), [4, 2])
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(None, x)
    gradient = tape.gradient(value, x)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    of_all = MatryoshkaLoss(losses.MultipleNegativesRankingLoss(dtype="float64"), [4])
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = of_all(None, x)
    expected = tape.gradient(value, x)[0, 0]  # nothing comes from the zero vector
    np.testing.assert_allclose(gradient[0, 0], expected, rtol=1e-9)


@pytest.mark.parametrize(
    "loss, y_true, y_pred",
    [
        (losses.ArcFaceLoss(), LABELS, np.zeros([6, 4])),
        (losses.ProxyAnchorLoss(), LABELS, np.zeros([6, 4])),
        (losses.SoftmaxLoss(), LABELS, np.zeros([6, 4])),
        (losses.SigLIPLoss(), None, np.zeros([6, 2, 4])),
    ],
    ids=lambda x: x.name if hasattr(x, "name") else "",
)
def test_scores_and_learned_biases_cannot_be_cut_short(loss, y_true, y_pred):
    with pytest.raises(ValueError, match="another loss"):
        MatryoshkaLoss(loss, [4, 2])(y_true, y_pred)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dims": []}, "`dims`"),
        ({"dims": [4, 4]}, "`dims`"),
        ({"dims": [4, 0]}, "`dims`"),
        ({"dims": [4, -2]}, "`dims`"),
        ({"dims": [2.5]}, "`dims`"),
        ({"dims": ["4"]}, "`dims`"),
        ({"dims": [4, 2], "weights": [1.0]}, "`weights`"),
        ({"dims": [4, 2], "weights": [1.0, -1.0]}, "`weights`"),
        ({"dims": [4, 2], "weights": [1.0, float("nan")]}, "`weights`"),
        ({"dims": [4], "loss": keras.losses.MeanSquaredError()}, "`loss`"),
        ({"dims": [4], "loss": losses.CoSENTLoss}, "`loss`"),
        ({"dims": [4], "loss": "CoSENTLoss"}, "`loss`"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MatryoshkaLoss(**{"loss": losses.CoSENTLoss()} | options)


def test_more_dimensions_than_there_are_are_refused():
    with pytest.raises(ValueError, match="dim"):
        MatryoshkaLoss(losses.CoSENTLoss(), [2, 5])(SCORES, columns_of())
