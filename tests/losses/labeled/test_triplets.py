import goldens
import numpy as np
import oracles
import pytest
import tensorflow as tf

from tfembloss import miners
from tfembloss.losses import (
    BatchAllTripletLoss,
    BatchHardSoftMarginTripletLoss,
    BatchHardTripletLoss,
    BatchSemiHardTripletLoss,
    TripletLoss,
    TripletMarginLoss,
)
from tfembloss.losses.labeled import triplet_sums

BY_LABEL = {
    "BatchAllTripletLoss": BatchAllTripletLoss,
    "BatchHardTripletLoss": BatchHardTripletLoss,
    "BatchSemiHardTripletLoss": BatchSemiHardTripletLoss,
}


def test_any_function_may_be_the_distance():
    # pytorch-metric-learning's normalised euclidean distance with power=2.
    def squared(a, b):
        a, b = tf.math.l2_normalize(a, -1), tf.math.l2_normalize(b, -1)
        return tf.reduce_sum((a - b) ** 2, axis=-1)

    golden = goldens.arrays("pytorch_metric_learning", "loss_triplet_l2sq", goldens.ROWS[0])
    loss = TripletMarginLoss(margin=0.2, distance=squared, dtype="float64")
    goldens.assert_equal(
        loss, golden["labels"], golden["embeddings"], golden["loss"], golden["grad"], 1e-9
    )


def crowded(seed, num_rows=24):
    """Rows on a small grid: equal distances, duplicates, classes of many sizes."""
    rng = np.random.default_rng(seed)
    ids = rng.choice([1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 6], size=num_rows)
    return ids, rng.integers(-2, 3, size=[num_rows, 2]).astype("float64")


KINDS = ["all", "hard", "semihard", "easy"]
ON_A_GRID = {
    "all": (BatchAllTripletLoss, oracles.triplet_margin, {}),
    "hard": (BatchHardTripletLoss, oracles.batch_hard, {}),
    "semihard": (BatchSemiHardTripletLoss, oracles.batch_semi_hard, {}),
    "smooth": (TripletMarginLoss, oracles.triplet_margin, {"smooth": True}),
    "swap": (TripletMarginLoss, oracles.triplet_margin, {"swap": True}),
}


@pytest.mark.parametrize("few", [0, 32], ids=["sorted", "by positive"])
@pytest.mark.parametrize(
    "distance, margin", [("manhattan", 1.0), ("squared_euclidean", 3.0)]
)
@pytest.mark.parametrize("kind", ON_A_GRID)
def test_ties_duplicates_and_singletons(kind, distance, margin, few, monkeypatch):
    monkeypatch.setattr(triplet_sums, "_FEW", few)
    make, oracle, options = ON_A_GRID[kind]
    for seed in range(3):
        ids, x = crowded(seed)
        loss = make(margin, distance, **options, reduction=None, dtype="float64")
        expected = oracle(ids, x, margin, distance, **options)
        np.testing.assert_allclose(loss(ids, x), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("few", [0, 32], ids=["sorted", "by positive"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("margin, mined_margin", [(1.0, 3.0), (3.0, 1.0), (2.0, 2.0)])
def test_mined_triplets_with_ties(kind, margin, mined_margin, few, monkeypatch):
    monkeypatch.setattr(triplet_sums, "_FEW", few)
    ids, x = crowded(0)
    miner = miners.TripletMarginMiner(mined_margin, kind, distance="manhattan")
    loss = TripletMarginLoss(margin, "manhattan", miner, reduction=None, dtype="float64")
    mined = oracles.mine_triplet_margin(
        ids, oracles.distances("manhattan", x), mined_margin, kind
    )
    expected = oracles.triplet_margin(ids, x, margin, "manhattan", triplets=mined)
    np.testing.assert_allclose(loss(ids, x), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    "make, oracle",
    [
        (BatchAllTripletLoss, oracles.triplet_margin),
        (BatchSemiHardTripletLoss, oracles.batch_semi_hard),
    ],
)
def test_many_positives_are_sorted(make, oracle, jit_compile, monkeypatch):
    rng = np.random.default_rng(0)
    ids, x = rng.integers(2, size=90), rng.normal(size=[90, 3])
    assert np.bincount(ids).min() > triplet_sums._FEW + 1
    loss = make(0.5, reduction=None, dtype="float64")

    def value_and_gradient(ids, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            values = loss(ids, x)
        return values, tape.gradient(values, x)

    run = tf.function(value_and_gradient, autograph=False, jit_compile=jit_compile)
    values, gradient = run(tf.constant(ids), tf.constant(x))
    np.testing.assert_allclose(values, oracle(ids, x, 0.5, "euclidean"), rtol=1e-9)
    monkeypatch.setattr(triplet_sums, "_FEW", 1000)
    by_positive = value_and_gradient(tf.constant(ids), tf.constant(x))
    np.testing.assert_allclose(gradient, by_positive[1], rtol=1e-9, atol=1e-12)


BY_ROWS = [*BY_LABEL.values(), BatchHardSoftMarginTripletLoss, TripletMarginLoss]


@pytest.mark.parametrize("make", BY_ROWS)
@pytest.mark.parametrize("ids", [np.zeros(6, int), np.arange(6)], ids=["one class", "none"])
def test_without_a_triplet_the_loss_is_zero(make, ids):
    x = tf.constant(np.random.default_rng(0).normal(size=[6, 3]))
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = make()(ids, x)
    assert value == 0
    np.testing.assert_array_equal(tape.gradient(value, x), 0)


@pytest.mark.parametrize("make", BY_ROWS)
def test_an_anchor_that_lacks_one_is_left_out(make):
    rng = np.random.default_rng(0)
    ids, x = np.array([0, 0, 1, 1, 2]), rng.normal(size=[5, 3])
    values = make(reduction=None, dtype="float64")(ids, x)
    assert values[4] == 0
    # It stays a negative of the others, and the mean is over them.
    np.testing.assert_allclose(np.mean(values), make(dtype="float64")(ids, x))


def test_batch_all_is_the_triplet_margin_loss():
    ids, x = crowded(0)
    np.testing.assert_array_equal(
        BatchAllTripletLoss(0.3, "cosine")(ids, x), TripletMarginLoss(0.3, "cosine")(ids, x)
    )


def test_ids_are_compared_exactly():
    x = np.random.default_rng(0).normal(size=[6, 3]).astype("float32")
    rows = np.array([0, 0, 1, 1, 2, 2])
    expected = BatchAllTripletLoss()(rows, x)
    for kind in ([2**24, 2**24 + 1, 2**62], ["a", "b", "ab"]):
        np.testing.assert_array_equal(
            BatchAllTripletLoss()(np.array(kind)[rows], x), expected
        )
        np.testing.assert_array_equal(
            BatchAllTripletLoss()(np.array(kind)[rows][:, None], x), expected
        )


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "uint16", "int32", "uint64"])
def test_ids_may_be_any_integers(dtype):
    x = np.random.default_rng(0).normal(size=[6, 3]).astype("float32")
    ids = np.array([0, 1, 0, 1, 1, 0])
    expected = BatchAllTripletLoss()(ids, x)
    largest = 1 if dtype == "bool" else np.iinfo(dtype).max
    ids = np.where(ids, largest, largest - 1).astype(dtype)
    np.testing.assert_array_equal(BatchAllTripletLoss()(ids, x), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_options_may_be_numpys(dtype):
    ids, x = crowded(0)
    for kind in (np.float32, np.float64, np.int64):
        loss = TripletMarginLoss(kind(1), swap=np.bool_(False), dtype=dtype)
        np.testing.assert_array_equal(
            loss(ids, x), TripletMarginLoss(1, dtype=dtype)(ids, x)
        )


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: BatchAllTripletLoss(margin=-1), "number >= 0.*margin=-1"),
        (lambda: TripletLoss(margin=float("nan")), "number >= 0.*margin=nan"),
        (lambda: BatchHardTripletLoss(distance="cosinus"), "`distance`.*'cosinus'"),
        (lambda: TripletMarginLoss(miner="hard"), "instance of a miner.*miner='hard'"),
        (lambda: TripletMarginLoss(miner=miners.BatchHardMiner), "instance of a miner"),
        (lambda: TripletMarginLoss(margin="0.2"), "`margin`.*'0.2'"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "ids, shape, message",
    [
        (np.arange(4), [4, 2, 3], r"\[B, D\].*\(4, 2, 3\).*MultipleNegativesRankingLoss"),
        (np.arange(3), [4, 3], r"\(3,\).*\(4, 3\)"),
        (np.zeros([4, 0]), [4, 3], "give them as y"),
        (np.zeros(4), [4, 3], "integers or strings.*float64"),
        (np.zeros([4, 2], int), [4, 3], "one id for each row"),
    ],
)
def test_wrong_input_is_refused(ids, shape, message):
    with pytest.raises(ValueError, match=message):
        TripletMarginLoss()(ids, np.zeros(shape, "float32"))


@pytest.mark.parametrize("shape", [[4, 2, 3], [4, 4, 3], [4, 3]])
def test_triplets_need_three_columns(shape):
    with pytest.raises(ValueError, match=r"n = 3"):
        TripletLoss()(None, np.zeros(shape, "float32"))
