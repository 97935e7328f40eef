import goldens
import numpy as np
import oracles
import pytest

from tfembloss.losses import (
    AnglELoss,
    ContrastiveLoss,
    CoSENTLoss,
    CosineSimilarityLoss,
    OnlineContrastiveLoss,
)

plain_kernels = goldens.plain_kernels


def assert_equals_golden(loss, name, case, rtol, compiled=False):
    golden = goldens.arrays("sentence_transformers", name, case)
    y_pred, gradient = goldens.columns(golden)
    y_true = golden.get("labels")  # AnglELoss's triplets have none
    goldens.assert_equal(loss, y_true, y_pred, golden["loss"], gradient, rtol, compiled)


@pytest.mark.parametrize("make", [ContrastiveLoss, OnlineContrastiveLoss])
@pytest.mark.parametrize("distance, margin", [("euclidean", 6.0), ("manhattan", 40.0)])
def test_true_distances_are_near_the_peers(make, distance, margin):
    name = f"{make.__name__}-{distance}-m{margin}"
    assert_equals_golden(make(margin, distance, dtype="float64"), name, "case2", 1e-5)


def pairs_of(num_rows=8, dim=4, num_columns=2, seed=0):
    return np.random.default_rng(seed).normal(size=[num_rows, num_columns, dim])


def crowded(seed):
    """Pairs on a small grid, labelled and scored: equal distances, equal scores."""
    rng = np.random.default_rng(seed)
    pairs = rng.integers(-2, 3, size=[16, 2, 2]).astype("float64")
    pairs[(pairs == 0).all(axis=2)] = 1
    return pairs, rng.integers(2, size=16), rng.integers(4, size=16)


@pytest.mark.parametrize("seed", range(3))
def test_ties_and_duplicates(seed):
    pairs, labels, scores = crowded(seed)
    options = {"reduction": None, "dtype": "float64"}
    for distance in ("manhattan", "squared_euclidean"):  # on the grid, exact
        for make, oracle in [
            (ContrastiveLoss, oracles.contrastive),
            (OnlineContrastiveLoss, oracles.online_contrastive),
        ]:
            np.testing.assert_allclose(
                make(3.0, distance, **options)(labels, pairs),
                oracle(labels, pairs, 3.0, distance),
                rtol=1e-9,
            )
    for make, oracle in [(CoSENTLoss, oracles.co_sent), (AnglELoss, oracles.angle)]:
        np.testing.assert_allclose(
            make(**options)(scores, pairs), oracle(scores, pairs), rtol=1e-9, atol=1e-12
        )


RANKING = pytest.mark.parametrize(
    "make, oracle", [(CoSENTLoss, oracles.co_sent), (AnglELoss, oracles.angle)]
)


@RANKING
@pytest.mark.parametrize("scores", [np.ones(8), np.zeros(8, int), np.full(8, 0.1)])
def test_equal_scores_are_not_ranked(make, oracle, scores):
    values, gradient = goldens.value_and_gradient(make(reduction=None), scores, pairs_of())
    np.testing.assert_array_equal(values, 0)
    np.testing.assert_array_equal(gradient, 0)


@RANKING
def test_equal_pairs_share_the_loss(make, oracle):
    pairs = np.repeat(pairs_of()[:1], 8, axis=0)
    scores = np.arange(8)
    values, gradient = goldens.value_and_gradient(make(reduction=None), scores, pairs)
    assert np.isfinite(gradient).all()
    # Row i is too high against the 7 - i with greater scores: 28 in all.
    expected = 8 * np.log(29) * (7 - scores) / 28
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@RANKING
def test_one_pair_has_no_order(make, oracle):
    values, gradient = goldens.value_and_gradient(make(reduction=None), [0.5], pairs_of(1))
    np.testing.assert_array_equal(values, 0)
    np.testing.assert_array_equal(gradient, 0)


@RANKING
@pytest.mark.parametrize(
    "scores",
    [
        0.5 + 1e-12 * np.arange(8),
        2**53 + np.arange(8),
        np.float32(2**24 - 8) + np.arange(8, dtype="float32"),
    ],
    ids=["float64", "int64", "float32"],
)
def test_scores_are_compared_exactly(make, oracle, scores):
    """Whatever the precision of the loss: float32 tells none of the first two apart."""
    pairs = pairs_of()
    expected = oracle(np.arange(8), pairs)
    loss = make(reduction=None)
    np.testing.assert_allclose(loss(scores, pairs), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(loss(scores[:, None], pairs), expected, rtol=1e-4, atol=1e-5)


@RANKING
def test_only_the_order_of_the_scores_counts(make, oracle):
    pairs, scores = pairs_of(), np.array([0.1, -3.0, 0.1, 7.0, 0.2, 0.2, -3.0, 1.0])
    order = np.unique(scores, return_inverse=True)[1]
    np.testing.assert_array_equal(make()(scores, pairs), make()(order, pairs))
    assert make()(-order, pairs) != make()(order, pairs)


@RANKING
def test_a_large_scale_does_not_overflow(make, oracle):
    pairs, scores = pairs_of(), np.arange(8)
    with goldens.kernels(compiled=True):
        value, gradient = goldens.value_and_gradient(make(1e4), scores, pairs)
    assert value > 100  # exp of it is beyond float32
    np.testing.assert_allclose(value, oracle(scores, pairs, 1e4).mean(), rtol=1e-5)
    assert np.isfinite(gradient).all()
    # In the right order, and far from another one: nothing to learn.
    cosines = oracles.columns_distances("cosine", pairs)[:, 0]
    value, gradient = goldens.value_and_gradient(CoSENTLoss(1e6), -cosines, pairs)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@RANKING
def test_a_weight_of_zero_takes_out_a_row_that_is_too_high(make, oracle):
    """It stays a row that others may be higher than."""
    pairs, scores = pairs_of(), np.arange(8.0)
    weights = np.array([0, 1, 1, 1, 1, 1, 1, 1.0])
    loss = make(reduction="sum", dtype="float64")
    expected = (oracle(scores, pairs) * weights).sum()
    np.testing.assert_allclose(
        loss(scores, pairs, sample_weight=weights), expected, rtol=1e-9
    )


def test_angles_of_an_odd_dimension_have_a_zero_appended():
    pairs, scores = pairs_of(dim=3), np.arange(8)
    padded = np.pad(pairs, [(0, 0), (0, 0), (0, 1)])
    with goldens.kernels(compiled=True):
        np.testing.assert_allclose(
            AnglELoss()(scores, pairs), AnglELoss()(scores, padded), rtol=1e-6
        )


@pytest.mark.parametrize("num_columns", [3, 5])
def test_angles_of_more_columns_need_no_scores(num_columns):
    columns = pairs_of(num_columns=num_columns)
    loss = AnglELoss(reduction=None, dtype="float64")
    expected = oracles.angle(None, columns)
    np.testing.assert_allclose(loss(None, columns), expected, rtol=1e-9)
    np.testing.assert_allclose(loss(np.zeros([8, 0]), columns), expected, rtol=1e-9)
    with pytest.raises(ValueError, match="y_true"):
        loss(np.zeros(8), columns)


@pytest.mark.parametrize("label", [0, 1])
def test_pairs_of_one_kind_are_compared_with_their_mean(label):
    pairs, labels = pairs_of(), np.full(8, label)
    loss = OnlineContrastiveLoss(1.5, reduction=None, dtype="float64")
    values = loss(labels, pairs)
    np.testing.assert_allclose(
        values, oracles.online_contrastive(labels, pairs, 1.5), rtol=1e-9
    )
    assert 0 < np.count_nonzero(values) < 8
    np.testing.assert_array_equal(loss(labels[:1], pairs[:1]), 0)  # it is its own mean


def test_hard_pairs_are_strictly_beyond_the_other_kind():
    far = [[[0.0], [2.0]], [[0.0], [2.0]], [[0.0], [3.0]], [[0.0], [1.0]]]
    loss = OnlineContrastiveLoss(4.0, "manhattan", reduction=None)
    # Matches at 2 and 3, others at 2 and 1: a match at 2 is farther than the other at 1.
    np.testing.assert_array_equal(loss([1, 0, 1, 0], far), [16, 16, 36, 36])
    # Matches at 2, others at 2 and 3: none is beyond.
    np.testing.assert_array_equal(loss([1, 0, 0, 1], far), [0, 0, 0, 0])


def test_hard_pairs_are_labelled_zero_or_one():
    pairs = pairs_of()
    for labels in (np.arange(8) / 8, np.arange(8), np.full(8, -1)):
        with pytest.raises(ValueError, match="0 or 1"):
            OnlineContrastiveLoss()(labels, pairs)
    for dtype in ("bool", "int8", "float64"):
        labels = (np.arange(8) % 2).astype(dtype)
        np.testing.assert_array_equal(
            OnlineContrastiveLoss()(labels, pairs),
            OnlineContrastiveLoss()(labels.astype(int), pairs),
        )


def test_soft_labels_weigh_both_terms():
    pairs = pairs_of()
    loss = ContrastiveLoss(1.5, reduction=None, dtype="float64")
    near, far = loss(np.ones(8), pairs), loss(np.zeros(8), pairs)
    np.testing.assert_allclose(
        loss(np.full(8, 0.25), pairs), 0.25 * near + 0.75 * far, rtol=1e-12
    )


def test_a_zero_vector_has_cosine_zero():
    pairs = pairs_of()
    pairs[0, 0] = 0
    scores = np.linspace(-1, 1, 8)
    for loss, oracle in [
        (CosineSimilarityLoss(reduction=None), oracles.cosine_similarity),
        (ContrastiveLoss(reduction=None), oracles.contrastive),
        (CoSENTLoss(reduction=None), oracles.co_sent),
        (AnglELoss(reduction=None), oracles.angle),
    ]:
        values, gradient = goldens.value_and_gradient(loss, scores, pairs)
        np.testing.assert_allclose(values, oracle(scores, pairs), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(gradient[0, 0], 0)
        assert np.isfinite(gradient).all()


LOSSES = [
    CosineSimilarityLoss,
    ContrastiveLoss,
    OnlineContrastiveLoss,
    CoSENTLoss,
    AnglELoss,
]


@pytest.mark.parametrize("make", [one for one in LOSSES if one != OnlineContrastiveLoss])
def test_a_bad_score_shows(make):
    scores = np.where(np.arange(8) == 3, np.nan, 0.5)
    assert np.isnan(make()(scores, pairs_of()))
    with pytest.raises(ValueError, match="0 or 1"):
        OnlineContrastiveLoss()(scores, pairs_of())


WRONG_INPUT = {
    "no scores": (None, [8, 2, 4], "y_true"),
    "no columns of scores": (np.zeros([8, 0]), [8, 2, 4], "y_true"),
    "seven scores": (np.zeros(7), [8, 2, 4], "y_true"),
    "two scores each": (np.zeros([8, 2]), [8, 2, 4], "y_true"),
    "strings": (np.array(["0"] * 8), [8, 2, 4], "y_true"),
    "rows": (np.zeros(8), [8, 4], "columns"),
    "one column": (np.zeros(8), [8, 1, 4], "columns"),
}


@pytest.mark.parametrize("make", LOSSES)
@pytest.mark.parametrize(
    "y_true, shape, message", WRONG_INPUT.values(), ids=WRONG_INPUT.keys()
)
def test_wrong_input_is_refused(make, y_true, shape, message):
    with pytest.raises(ValueError, match=message):
        make()(y_true, np.ones(shape, "float32"))


@pytest.mark.parametrize("make", LOSSES[:-1])
def test_pairs_have_two_columns(make):
    with pytest.raises(ValueError, match="n = 2"):
        make()(np.zeros(8), np.ones([8, 3, 4], "float32"))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ContrastiveLoss(margin=-0.1), "`margin`"),
        (lambda: ContrastiveLoss(margin=float("nan")), "`margin`"),
        (lambda: OnlineContrastiveLoss(margin="0.5"), "`margin`"),
        (lambda: ContrastiveLoss(distance="cosinus"), "`distance`"),
        (lambda: OnlineContrastiveLoss(distance=None), "`distance`"),
        (lambda: CoSENTLoss(scale=0), "`scale`"),
        (lambda: CoSENTLoss(scale=float("inf")), "`scale`"),
        (lambda: AnglELoss(scale=-20.0), "`scale`"),
        (lambda: AnglELoss(scale=True), "`scale`"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
