import cases
import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf

from tfembloss import losses
from tfembloss.losses import (
    MultipleNegativeRankingLoss,
    MultipleNegativesRankingLoss,
)


def columns_of(rows, num_columns=2, seed=0):
    return np.random.default_rng(seed).normal(size=[rows, num_columns, 4]).astype("float32")


def test_shapes_may_be_unknown():
    columns = columns_of(5, num_columns=3)
    loss = MultipleNegativesRankingLoss()
    specs = [tf.TensorSpec([None, 0]), tf.TensorSpec([None, None, None])]
    graph = tf.function(loss, input_signature=specs)
    np.testing.assert_allclose(
        graph(tf.zeros([5, 0]), columns), loss(None, columns), rtol=1e-6
    )
    specs = [tf.TensorSpec([None, 0]), tf.TensorSpec(None)]
    with pytest.raises(ValueError, match="unknown"):
        tf.function(loss, input_signature=specs)(tf.zeros([5, 0]), columns)


def test_finetuners_spelling_is_the_same_class():
    assert MultipleNegativeRankingLoss is MultipleNegativesRankingLoss


def test_a_positive_that_stands_twice_is_no_negative_with_ids():
    pair = np.eye(2, dtype="float32")[[[0, 0], [0, 0], [1, 1]]]  # perfect pairs, one twice
    ids = np.array([7, 7, 8])
    with_ids = MultipleNegativesRankingLoss(scale=100.0, exclude_equal_ids=True)
    without = MultipleNegativesRankingLoss(scale=100.0, reduction=None)
    np.testing.assert_allclose(with_ids(ids, pair), 0, atol=1e-6)
    np.testing.assert_allclose(without(ids, pair), [np.log(2), np.log(2), 0], atol=1e-6)


@pytest.mark.parametrize(
    "kind",
    [
        np.array([2**24, 2**24 + 1, 2**62]),
        np.array(["a", "b", "ab"]),
        np.array([0, 1, 2], "int8"),
    ],
    ids=["int64", "string", "int8"],
)
def test_ids_are_compared_exactly(kind):
    columns = columns_of(6)
    loss = MultipleNegativesRankingLoss(exclude_equal_ids=True, reduction=None)
    rows = np.array([0, 1, 2, 0, 1, 2])
    graph = tf.function(loss)
    expected = loss(rows, columns)
    for run in (loss, graph):
        np.testing.assert_array_equal(run(tf.constant(kind[rows]), columns), expected)
    # All distinct: as without ids.
    plain = MultipleNegativesRankingLoss(reduction=None)(rows, columns[:3])
    np.testing.assert_allclose(loss(tf.constant(kind), columns[:3]), plain, rtol=1e-6)


TEXTS = np.array([
    ["q", "p", "x"],
    ["r", "p", "q"],  # another question with the same answer, and a question as negative
    ["q", "s", "y"],  # another answer of the first question
    ["t", "u", "u"],  # its own answer as negative
    ["p", "v", "x"],  # an answer as question
])  # fmt: skip


def test_a_text_is_never_its_own_negative():
    """By hand, for the question q: all documents but those marked above."""
    columns = columns_of(5, num_columns=3)
    loss = MultipleNegativesRankingLoss(1.0, exclude_equal_ids=True, reduction=None)
    unit = columns / np.linalg.norm(columns, axis=-1, keepdims=True)
    terms = np.exp(np.einsum("id,jkd->ijk", unit[:, 0], unit[:, 1:]))
    kept = terms[0][[0, 0, 2, 3, 3, 4, 4], [0, 1, 1, 0, 1, 0, 1]]
    values = loss(TEXTS, columns).numpy()
    assert values[0] == pytest.approx(np.log(kept.sum() / terms[0, 0, 0]), rel=1e-5)
    kept = np.delete(terms[3].ravel(), 7)  # without u as a negative of u
    assert values[3] == pytest.approx(np.log(kept.sum() / terms[3, 3, 0]), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "oracle", "num_columns"),
    [
        (MultipleNegativesRankingLoss, oracles.multiple_negatives_ranking, 4),
        (MultipleNegativesRankingLoss, oracles.multiple_negatives_ranking, 2),
        (losses.MegaBatchMarginLoss, oracles.mega_batch_margin, 2),
        (losses.SigLIPLoss, oracles.sig_lip, 2),
        (losses.CLIPLoss, oracles.multiple_negatives_ranking, 2),
    ],
)
def test_ids_of_texts_are_as_in_the_oracle(make, oracle, num_columns):
    columns = columns_of(12, num_columns).astype("float64")
    ids = cases.texts(num_columns)(np.random.default_rng(3), 12)
    options = {"exclude_equal_ids": True} if make is losses.SigLIPLoss else {}
    if make is losses.CLIPLoss:
        options = {"symmetric": True, "scale": 1.0, "similarity_name": "dot"}
    loss = make(exclude_equal_ids=True, reduction=None, dtype="float64")
    for rows in (7, 12):  # also where a kernel has been traced for ids of the other kind
        for of_some in (ids[:rows, 0], ids[:rows]):
            expected = oracle(of_some, columns[:rows], **options)
            np.testing.assert_allclose(loss(of_some, columns[:rows]), expected, rtol=1e-9)
    distinct = np.arange(ids.size).reshape(ids.shape)
    assert np.abs(loss(distinct, columns) - expected).max() > 1e-3


def test_ids_in_one_column():
    columns = columns_of(4)
    loss = MultipleNegativesRankingLoss(exclude_equal_ids=True)
    ids = np.array([1, 1, 2, 3])
    np.testing.assert_array_equal(loss(ids[:, None], columns), loss(ids, columns))


def test_zero_rows_have_no_gradient():
    columns = columns_of(4)
    columns[2, 1] = 0
    columns = tf.constant(columns)
    with tf.GradientTape() as tape:
        tape.watch(columns)
        value = MultipleNegativesRankingLoss()(tf.zeros([4, 0]), columns)
    np.testing.assert_array_equal(tape.gradient(value, columns)[2, 1], 0)


@keras.saving.register_keras_serializable("tests")
def chebyshev(a, b):
    return tf.reduce_max(tf.abs(a - b), axis=-1)


def test_similarity_may_be_a_function():
    columns = columns_of(4)
    loss = MultipleNegativesRankingLoss(similarity=chebyshev)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    value = loss(None, columns)
    np.testing.assert_array_equal(again(np.zeros([4, 0]), columns), value)
    scores = -20 * np.abs(columns[:, None, 0] - columns[None, :, 1]).max(-1)
    expected = np.log(np.exp(scores).sum(1)) - np.diag(scores)
    np.testing.assert_allclose(value, expected.mean(), rtol=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"scale": 0.0}, "scale=0.0"),
        ({"scale": -1}, "number > 0"),
        ({"scale": float("nan")}, "scale=nan"),
        ({"scale": float("inf")}, "scale=inf"),
        ({"similarity": "cosinus"}, r"`similarity`.*'cosine'.*'manhattan'.*'cosinus'"),
        ({"similarity": 3}, "similarity=3"),
        ({"reduction": "average"}, "reduction"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MultipleNegativesRankingLoss(**options)


@pytest.mark.parametrize(
    "shape, message",
    [
        ([4, 3], r"n >= 2.*\(4, 3\).*tfembloss.data.columns"),
        ([4, 1, 3], r"n >= 2.*\(4, 1, 3\)"),
        ([4, 2, 3, 5], r"\(4, 2, 3, 5\)"),
    ],
)
def test_wrong_columns_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        MultipleNegativesRankingLoss()(np.zeros([4, 0]), np.zeros(shape, "float32"))


@pytest.mark.parametrize(
    "ids, message",
    [
        (np.zeros([4, 0]), "give them as y"),
        (np.zeros([4, 3], "int64"), r"\[B, n\].*\(4, 3\).*for each column of a row"),
        (np.zeros([3, 2], "int64"), r"\(3, 2\).*for each column of a row"),
        (np.zeros([4, 2]), "integers or strings.*float64"),
        (np.zeros([4], "float32"), "integers or strings.*float32"),
        (np.zeros([3], "int64"), r"\(3,\).*\(4, 2, 4\)"),
    ],
)
def test_wrong_ids_are_refused(ids, message):
    loss = MultipleNegativesRankingLoss(exclude_equal_ids=True)
    with pytest.raises(ValueError, match=message):
        loss(ids, columns_of(4))


def test_a_margin_leaves_out_what_may_be_an_answer():
    """Of rows whose documents are nearer to the anchor than its own, or nearly as near."""
    angles = np.radians([[0, 20], [0, 10], [0, 80]])  # of anchors and positives
    columns = np.stack([np.cos(angles), np.sin(angles)], axis=2)

    def loss(**options):
        return MultipleNegativesRankingLoss(1.0, reduction=None, **options)

    plain, near, far = (
        loss(**options)(None, columns).numpy()
        for options in ({}, {"absolute_margin": 0.0}, {"absolute_margin": 0.5})
    )
    cosines = np.cos(np.radians([20, 10, 80]))
    expected = np.log(np.exp(cosines[[0, 2]]).sum()) - cosines[0]
    assert near[0] == pytest.approx(expected, rel=1e-5)  # without 10 degrees
    assert near[1] == pytest.approx(plain[1], rel=1e-5)  # the nearest is its own
    assert near[2] == pytest.approx(0, abs=1e-6)  # both others are nearer
    assert far[1] == pytest.approx(np.log(np.exp(cosines[[1, 2]]).sum()) - cosines[1], 1e-5)
    relative = loss(relative_margin=0.5)(None, columns).numpy()
    assert relative[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(relative_margin=0.05, symmetric=True), r"\('query_to_doc',\) only"),
        (dict(absolute_margin=-0.1), "`absolute_margin` must be a number >= 0"),
        (dict(relative_margin=5), "relative_margin"),
    ],
)
def test_bad_margins(options, message):
    with pytest.raises(ValueError, match=message):
        MultipleNegativesRankingLoss(**options)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(directions=["doc_to_doc"]), "`directions` among.*'doc_to_doc'"),
        (dict(directions="query_to_docs"), "`directions` among.*'query_to_docs'"),
        (dict(directions=["query_to_doc"] * 2), "`directions` among"),
        (dict(directions=cases.DIRECTIONS, symmetric=True), "`symmetric` is short for"),
        (dict(partition="separate"), "`partition` must be one of 'joint'"),
        (dict(directions=cases.DIRECTIONS, partition="per_direction"), "partition='joint'"),
        (dict(hardness="easy", hardness_strength=5), "`hardness` must be one of None"),
        (dict(hardness="all"), "`hardness_strength` > 0"),
        (dict(hardness_strength=5), "`hardness_strength` > 0"),
        (dict(directions=cases.DIRECTIONS, absolute_margin=0.1), "only"),
    ],
)
def test_bad_directions_and_hardness(options, message):
    with pytest.raises(ValueError, match=message):
        MultipleNegativesRankingLoss(**options)


def test_symmetric_is_a_softmax_in_each_of_two_directions():
    columns = columns_of(5, num_columns=3)
    both = {"directions": ["doc_to_query", "query_to_doc"], "partition": "per_direction"}
    value = MultipleNegativesRankingLoss(symmetric=True)(None, columns)
    np.testing.assert_array_equal(
        MultipleNegativesRankingLoss(**both)(None, columns), value
    )
