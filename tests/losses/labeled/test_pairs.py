import goldens
import numpy as np
import oracles
import pytest
import tensorflow as tf
from goldens import kernels, plain_kernels  # noqa: F401

from tfembloss import losses, miners

ON_A_GRID = {
    losses.NTXentLoss: (oracles.nt_xent, {"distance": "manhattan", "temperature": 0.5}),
    losses.SupConLoss: (oracles.sup_con, {"distance": "squared_euclidean"}),
    losses.LiftedStructureLoss: (oracles.lifted, {"distance": "manhattan"}),
    losses.NPairsLoss: (oracles.n_pairs, {"distance": "dot"}),
    losses.MultiSimilarityLoss: (oracles.multi_similarity, {}),
    losses.CircleLoss: (oracles.circle, {}),
    losses.GeneralizedLiftedStructureLoss: (oracles.generalized_lifted, {}),
    losses.MarginLoss: (oracles.margin, {"margin": 0.5}),
}


@pytest.mark.parametrize("make", ON_A_GRID)
def test_ties_duplicates_and_singletons(make):
    oracle, options = ON_A_GRID[make]
    for seed in range(3):
        rng = np.random.default_rng(seed)
        ids = rng.choice([1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 6], size=24)
        x = rng.integers(-2, 3, size=[24, 2]).astype("float64")
        x[(x == 0).all(axis=1)] = 1  # a zero row's cosine is a convention, tested elsewhere
        loss = make(**options, reduction=None, dtype="float64")
        # atol: 8 eps of a squared length, of which the distance is the root.
        np.testing.assert_allclose(
            loss(ids, x), oracle(ids, x, **options), rtol=1e-9, atol=1e-7
        )


@pytest.mark.parametrize("case", goldens.ROWS)
def test_angular_differs_from_the_peers_by_the_lengths_of_negatives(case):
    golden = goldens.arrays("pytorch_metric_learning", "loss_angular", case)
    labels, x = golden["labels"], golden["embeddings"]
    as_there = oracles.angular(labels, x, negatives_of_length_1=False).mean()
    np.testing.assert_allclose(as_there, golden["loss"], rtol=1e-9)
    of_length_1 = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(
        losses.AngularLoss(dtype="float64")(labels, x),
        oracles.angular(labels, of_length_1, negatives_of_length_1=False).mean(),
        rtol=1e-9,
    )


def test_weights_of_classes_multiply_the_values_of_their_anchors():
    ids = np.array([0, 0, 1, 1, 1, 2, 2, 3])
    x = np.random.default_rng(0).normal(size=[8, 4])
    of_classes = np.array([1.0, 0.5, 0.0, 2.0])
    for loss in (losses.TripletMarginLoss, losses.SupConLoss, losses.LabelContrastiveLoss):
        values = loss(reduction=None, dtype="float64")(ids, x)
        weighted = loss(dtype="float64")(ids, x, sample_weight=of_classes[ids])
        np.testing.assert_allclose(weighted, np.mean(values * of_classes[ids]), rtol=1e-12)


NOTHING_VALID = {
    "one class": np.zeros(6, int),
    "all distinct": np.arange(6),
}


@pytest.mark.parametrize("ids", NOTHING_VALID.values(), ids=NOTHING_VALID.keys())
@pytest.mark.parametrize(
    "make",
    [
        losses.NTXentLoss,
        losses.SupConLoss,
        losses.CircleLoss,
        losses.LiftedStructureLoss,
        losses.MarginLoss,
        losses.NPairsLoss,
    ],
)
def test_without_a_valid_anchor_the_loss_is_zero(make, ids):
    x = tf.constant(np.random.default_rng(0).normal(size=[6, 3]))
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = make()(ids, x)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(tape.gradient(value, x), 0, atol=1e-6)


def test_a_large_loss_does_not_saturate():
    # Opposite positives at a low temperature: the peer stops at -log(tiny) = 87.
    ids = np.array([0, 0, 1, 1])
    x = np.array([[1, 0.1], [-1, 0.1], [1, -0.1], [-1, -0.1]], "float32")
    variable = tf.Variable(x)
    with kernels(compiled=True), tf.GradientTape() as tape:
        value = losses.NTXentLoss(temperature=0.01)(ids, variable)
    expected = oracles.nt_xent(ids, x.astype("float64"), 0.01).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert value > 190
    assert np.abs(tape.gradient(value, variable)).max() > 1


ALL_MINERS = [
    miners.BatchHardMiner(),
    miners.BatchEasyHardMiner(),
    miners.BatchEasyHardMiner("all", "hard"),
    miners.MultiSimilarityMiner(),
    miners.PairMarginMiner(0.5, 1.0),
    miners.HDCMiner(),
    miners.UniformHistogramMiner(4, 2, 3),
    miners.TripletMarginMiner(0.4, "semihard"),
    miners.AngularMiner(30),
    miners.DistanceWeightedMiner(),
]


@pytest.mark.parametrize("miner", ALL_MINERS, ids=lambda miner: type(miner).__name__)
def test_every_miner_goes_with_every_loss(miner):
    """A loss looks at what the miner shows, neither more nor less."""
    rng = np.random.default_rng(0)
    ids, x = np.repeat(np.arange(4), [4, 3, 3, 1]), rng.normal(size=[11, 3])
    shown = miner(x, ids)
    if isinstance(shown, tuple):
        pairs = tuple([tuple(pair) for pair in kind] for kind in shown)
        triplets = oracles.triplets_of_pairs(pairs)
    else:
        triplets = [tuple(one) for one in shown]
        pairs = oracles.pairs_of_triplets(triplets)
    assert triplets
    once = tuple(sorted(set(kind)) for kind in pairs)
    options = {"reduction": None, "dtype": "float64", "miner": miner}
    for loss, expected in [
        (losses.TripletMarginLoss(0.3, **options),
         oracles.triplet_margin(ids, x, 0.3, triplets=triplets)),
        (losses.TripletMarginLoss(swap=True, smooth=True, distance="euclidean", **options),
         oracles.triplet_margin(ids, x, 0.05, "euclidean", True, True, triplets)),
        (losses.NTXentLoss(0.5, **options), oracles.nt_xent(ids, x, 0.5, pairs=pairs)),
        (losses.LiftedStructureLoss(**options), oracles.lifted(ids, x, pairs=pairs)),
        (losses.MarginLoss(**options), oracles.margin(ids, x, triplets=triplets)),
        (losses.MultiSimilarityLoss(**options),
         oracles.multi_similarity(ids, x, pairs=once)),
    ]:  # fmt: skip
        np.testing.assert_allclose(
            loss(ids, x), expected, rtol=1e-8, atol=1e-12, err_msg=loss.name
        )
    for make in (
        losses.SupConLoss,
        losses.CircleLoss,
        losses.GeneralizedLiftedStructureLoss,
    ):
        assert np.isfinite(make(miner=miner)(ids, x))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: losses.NTXentLoss(temperature=0), "`temperature`.*> 0.*=0"),
        (lambda: losses.SupConLoss(temperature=-1.0), "`temperature`.*-1.0"),
        (lambda: losses.MultiSimilarityLoss(beta=0), "`beta`"),
        (lambda: losses.CircleLoss(gamma=float("inf")), "`gamma`.*inf"),
        (lambda: losses.MarginLoss(margin=-0.1), "`margin`.*>= 0"),
        (lambda: losses.LiftedStructureLoss(pos_margin=float("nan")), "`pos_margin`.*nan"),
        (lambda: losses.NTXentLoss(distance="cos"), "`distance`.*'cos'"),
        (lambda: losses.NTXentLoss(miner="hard"), "instance of a miner"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
