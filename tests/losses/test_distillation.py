import goldens
import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from golden_table import GIST

import tfembloss
from tfembloss.losses import DistillKLDivLoss, GISTEmbedLoss, MarginMSELoss, MSELoss

plain_kernels = goldens.plain_kernels


def guide_of(golden, num_columns):
    return np.stack([golden[f"guide_{i}"] for i in range(num_columns)], axis=1)


# In no golden case does the peer leave a row's anchor or positive as its own negative: its
# oracle, whose one difference that is, is tested below with one that has.
@pytest.mark.parametrize("own_by_guide", [False, True])
@pytest.mark.parametrize("suffix", GIST)
def test_the_oracle_is_the_peers_formula(suffix, own_by_guide):
    golden = goldens.arrays("sentence_transformers", f"GISTEmbedLoss{suffix}", "case2")
    y_pred, _ = goldens.columns(golden)
    guide, options = guide_of(golden, y_pred.shape[1]), GIST[suffix]
    values = oracles.gist(guide, y_pred, **options, own_by_guide=own_by_guide)
    np.testing.assert_allclose(values.mean(), golden["loss"], rtol=1e-12)


def columns_of(num_columns=3, num_rows=6, dim=4, seed=0):
    return np.random.default_rng(seed).normal(size=[num_rows, num_columns, dim])


def test_a_teachers_row_is_every_columns():
    x, teacher = columns_of(), columns_of(1, seed=1)
    loss = MSELoss(reduction=None, dtype="float64")
    expected = oracles.mse(teacher[:, 0], x)
    for targets in (teacher[:, 0], teacher, np.repeat(teacher, 3, axis=1)):
        np.testing.assert_allclose(loss(targets, x), expected, rtol=1e-12)


def test_embeddings_of_any_shape_in_one_process():
    loss = MSELoss(reduction=None, dtype="float64")
    with goldens.kernels(compiled=True):
        for shape in ([6, 3, 4], [6, 4], [5, 2, 3], [6, 3]):
            x, teacher = np.ones(shape), np.full(shape, 3.0)
            np.testing.assert_allclose(loss(teacher, x), 4 * np.ones(shape[0]))


@pytest.mark.parametrize("similarity", ["dot", "cosine", "euclidean", "manhattan"])
def test_margins_are_of_any_similarity(similarity):
    x, rng = columns_of(4), np.random.default_rng(1)
    loss = MarginMSELoss(similarity, reduction=None, dtype="float64")
    for targets in (rng.normal(size=[6, 2]), rng.normal(size=[6, 3])):
        np.testing.assert_allclose(
            loss(targets, x), oracles.margin_mse(targets, x, similarity), rtol=1e-9
        )


def test_margins_and_scores_are_told_apart():
    """One negative: [B] and [B, 1] are margins, [B, 2] are scores."""
    x, scores = columns_of(3), np.random.default_rng(1).normal(size=[6, 2])
    margins = scores[:, 0] - scores[:, 1]
    expected = MarginMSELoss()(margins, x)
    np.testing.assert_allclose(MarginMSELoss()(margins[:, None], x), expected, rtol=1e-6)
    np.testing.assert_allclose(MarginMSELoss()(scores, x), expected, rtol=1e-6)


def test_the_divergence_is_zero_where_the_student_agrees():
    x = columns_of(4)
    scores = -oracles.columns_distances("dot", x)
    value, gradient = goldens.value_and_gradient(
        DistillKLDivLoss(temperature=0.5, dtype="float64"), scores + 100.0, x
    )
    np.testing.assert_allclose(value, 0, atol=1e-12)
    np.testing.assert_allclose(gradient, 0, atol=1e-12)


def test_a_certain_teacher_is_finite():
    x = columns_of(4)
    scores = np.tile([1e4, 0.0, -1e4], [6, 1])
    value, gradient = goldens.value_and_gradient(DistillKLDivLoss(), scores, x)
    expected = oracles.distill_kl_div(scores, x).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_one_temperature_is_of_both():
    x, scores = columns_of(4), np.random.default_rng(1).normal(size=[6, 3])
    np.testing.assert_array_equal(
        DistillKLDivLoss(temperature=2.0)(scores, x),
        DistillKLDivLoss(student_temperature=2.0, teacher_temperature=2.0)(scores, x),
    )
    options = {"temperature": 3.0, "student_temperature": 0.5}
    np.testing.assert_allclose(
        DistillKLDivLoss(**options)(scores, x),
        oracles.distill_kl_div(scores, x, **options).mean(),
        rtol=1e-5,
    )


def test_a_row_is_not_its_own_negative():
    """Where the guide takes anchor and positive for the same, the peer's floor is log 3."""
    pairs = np.repeat(np.eye(6)[:, None], 2, axis=1)
    peers = oracles.gist(pairs, pairs, own_by_guide=True)
    np.testing.assert_allclose(peers, np.log(3))
    values, gradient = goldens.value_and_gradient(
        GISTEmbedLoss(reduction=None), pairs, pairs
    )
    np.testing.assert_allclose(values, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    # A margin masks all that the guide takes for as alike, there as well.
    peers = oracles.gist(pairs, pairs, margin=0.1, own_by_guide=True)
    np.testing.assert_allclose(peers, 0, atol=1e-12)


@pytest.mark.parametrize("margin, floor", [(0.0, np.log(4)), (0.1, 0.0)])
def test_a_positive_that_stands_twice(margin, floor):
    """As alike as the own positive, not more: only a margin takes it out."""
    pairs = np.repeat(np.eye(6)[[0, 0, 1, 2, 3, 4]][:, None], 2, axis=1)
    loss = GISTEmbedLoss(margin=margin, reduction=None, dtype="float64")
    values = loss(pairs, pairs)
    np.testing.assert_allclose(
        values, oracles.gist(pairs, pairs, margin=margin), atol=1e-12
    )
    # The twin's positive, its anchor, and its positive seen from the own positive.
    np.testing.assert_allclose(values, [floor] * 2 + [0] * 4, atol=1e-12)


@pytest.mark.parametrize("num_columns", [2, 3, 5])
@pytest.mark.parametrize("options", GIST.values(), ids=GIST.keys())
def test_guides_of_another_dimension(options, num_columns):
    x, guide = columns_of(num_columns), columns_of(num_columns, dim=5, seed=1)
    loss = GISTEmbedLoss(**options, reduction=None, dtype="float64")
    expected = oracles.gist(guide, x, **options)
    np.testing.assert_allclose(loss(guide, x), expected, rtol=1e-9, atol=1e-12)
    # The guide's lengths and precision do not matter.
    half = (4 * guide).astype("float16")
    expected = oracles.gist(half.astype("float64"), x, **options)
    np.testing.assert_allclose(loss(half, x), expected, rtol=1e-9, atol=1e-12)


def test_one_row_has_its_own_negatives_only():
    x, guide = columns_of(3, 1), columns_of(3, 1, seed=1)
    values, gradient = goldens.value_and_gradient(GISTEmbedLoss(), guide[:, :2], x[:, :2])
    np.testing.assert_allclose(values, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-5)
    np.testing.assert_allclose(
        GISTEmbedLoss(0.5, dtype="float64")(guide, x),
        oracles.gist(guide, x, 0.5).mean(),
        rtol=1e-9,
    )


def test_a_guide_gets_no_gradient():
    x, guide = tf.constant(columns_of()), tf.constant(columns_of(seed=1))
    with tf.GradientTape() as tape:
        tape.watch(guide)
        value = GISTEmbedLoss(0.5)(guide, x)
    assert tape.gradient(value, guide) is None


@pytest.mark.parametrize(
    "make, y_true",
    [
        (MSELoss, [6, 4]),
        (MarginMSELoss, [6]),
        (DistillKLDivLoss, [6, 2]),
        (GISTEmbedLoss, [6, 3, 4]),
    ],
)
def test_a_teachers_bad_number_shows(make, y_true):
    y_true = np.ones(y_true)
    y_true.flat[0] = np.nan
    assert np.isnan(make()(y_true, columns_of()))


@pytest.mark.parametrize(
    "make, y_true, shape",
    [
        (MSELoss, None, [6, 4]),
        (MSELoss, [6, 5], [6, 4]),
        (MSELoss, [6, 3], [6, 3, 4]),
        (MSELoss, [6, 2, 4], [6, 3, 4]),
        (MSELoss, [6, 3, 4], [6, 4]),
        (MSELoss, [6], [6, 4]),
        (MarginMSELoss, None, [6, 3, 4]),
        (MarginMSELoss, [6, 3], [6, 3, 4]),
        (MarginMSELoss, [6], [6, 4, 4]),
        (MarginMSELoss, [5], [6, 3, 4]),
        (DistillKLDivLoss, None, [6, 3, 4]),
        (DistillKLDivLoss, [6, 3], [6, 3, 4]),
        (DistillKLDivLoss, [6], [6, 3, 4]),
        (GISTEmbedLoss, None, [6, 2, 4]),
        (GISTEmbedLoss, [6, 4], [6, 2, 4]),
        (GISTEmbedLoss, [6, 3, 4], [6, 2, 4]),
        (GISTEmbedLoss, [5, 2, 4], [6, 2, 4]),
    ],
)
def test_a_teacher_of_another_shape_is_refused(make, y_true, shape):
    y_true = None if y_true is None else np.zeros(y_true)
    with pytest.raises(ValueError, match="y_true"):
        make()(y_true, np.ones(shape, "float32"))


@pytest.mark.parametrize(
    "make, y_true, shape",
    [
        (MarginMSELoss, [6], [6, 2, 4]),
        (MarginMSELoss, [6], [6, 4]),
        (DistillKLDivLoss, [6, 1], [6, 2, 4]),
        (GISTEmbedLoss, [6, 1, 4], [6, 1, 4]),
        (GISTEmbedLoss, [6, 4], [6, 4]),
    ],
)
def test_too_few_columns_are_refused(make, y_true, shape):
    with pytest.raises(ValueError, match="columns"):
        make()(np.zeros(y_true), np.ones(shape, "float32"))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MarginMSELoss(similarity="cos"), "`similarity`"),
        (lambda: DistillKLDivLoss(similarity=None), "`similarity`"),
        (lambda: DistillKLDivLoss(temperature=0), "`temperature`"),
        (lambda: DistillKLDivLoss(student_temperature=-1.0), "`student_temperature`"),
        (lambda: DistillKLDivLoss(teacher_temperature="1"), "`teacher_temperature`"),
        (lambda: GISTEmbedLoss(temperature=float("nan")), "`temperature`"),
        (lambda: GISTEmbedLoss(margin_strategy="percent"), "`margin_strategy`"),
        (lambda: GISTEmbedLoss(margin=-0.1), "`margin`"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("loss", [MarginMSELoss(), DistillKLDivLoss()])
def test_a_teachers_embeddings_are_not_scores_of_documents(loss):
    model = tfembloss.EmbeddingModel(keras.layers.Dense(4))
    model.compile("sgd", loss, run_eagerly=True)
    x = np.ones([3, 4], "float32")
    with pytest.raises(ValueError, match=r"expected columns.*EmbedDistillLoss"):
        model.fit(x, x, verbose=0)
