import collections
import dataclasses
import json

import goldens
import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from goldens import kernels, plain_kernels  # noqa: F401

from tfembloss import losses, masks, miners
from tfembloss.miners import base as mining

DISTANCES = {"cosine": "cosine", "l2 normalized": "normalized_euclidean"}
GOLDEN = (
    [
        "batchhard",
        "batchhard_cos",
        "ms",
        "ms_l2",
        "hdc",
        "hdc_cos03",
        "angular20",
        "angular40",
    ]
    + ["pairmargin", "pairmargin_cos", "pairmargin_l2b", "beh_hard_hard_range"]
    + ["beh_easy_semihard_cos", "beh_semihard_easy", "beh_semihard_hard"]
    + [f"beh_{p}_{n}" for p in ("all", "easy", "hard") for n in ("all", "easy", "hard")]
    + ["beh_easy_semihard", "beh_hard_semihard"]
    + [
        f"tmm_{kind}{d}"
        for kind in ("all", "hard", "semihard", "easy")
        for d in ("", "_cos")
    ]
)


# Those that XLA compiles as well, which takes a second each: one of each way to select.
IN_XLA = ["batchhard", "ms", "hdc", "angular20", "pairmargin_cos", "beh_all_hard"]
IN_XLA += ["beh_easy_semihard_cos", "beh_semihard_easy", "beh_hard_hard_range"]
IN_XLA += ["tmm_all", "tmm_hard_cos", "tmm_semihard", "tmm_easy"]


def from_config(config):
    """Our miner of a golden case's configuration."""
    options = {key: value for key, value in config.items() if key != "cls"}
    if "distance" in options:
        options["distance"] = DISTANCES[options["distance"]]
    if config["cls"] == "PairMarginMiner" and options.get("distance") == "cosine":
        for margin in ("pos_margin", "neg_margin"):  # a similarity there
            options[margin] = 1 - options[margin]
    return getattr(miners, config["cls"])(**options)


def same(selected, first, second, unordered):
    order = sorted if unordered else tuple
    count = lambda pairs: collections.Counter(tuple(order(pair)) for pair in pairs)  # noqa: E731
    return count(selected) == count(zip(first, second, strict=True))


@pytest.mark.parametrize("case", goldens.ROWS)
@pytest.mark.parametrize("name", GOLDEN)
def test_selects_what_pytorch_metric_learning_selects(name, case):
    golden = goldens.arrays("pytorch_metric_learning", f"miner_{name}", case)
    indices = [golden[f"idx{i}"] for i in range(4 if "idx3" in golden else 3)]
    with kernels(compiled=case == goldens.ROWS[-1] and name in IN_XLA):
        selected = from_config(golden["config"])(golden["embeddings"], golden["labels"])
    if isinstance(selected, tuple):
        anchors = indices[0], indices[2 if len(indices) == 4 else 0]
        # (i, j) and (j, i) are equally hard: which of them is left over is arbitrary.
        assert same(selected.positive, anchors[0], indices[1], "hdc" in name)
        assert same(selected.negative, anchors[1], indices[-1], "hdc" in name)
    else:
        expected = sorted(zip(*indices, strict=True))
        assert sorted(map(tuple, selected)) == expected
        assert name.startswith("tmm_all") <= bool(expected)


def crowded(seed):
    """Rows on a small grid: equal distances, duplicates, classes of many sizes."""
    rng = np.random.default_rng(seed)
    ids = rng.choice([1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5], size=16)
    return ids, rng.integers(-2, 3, size=[16, 2]).astype("float64")


STRATEGIES = ["hard", "semihard", "easy", "all"]
LEGAL = [
    (p, n)
    for p in STRATEGIES
    for n in STRATEGIES
    if not ("semihard" in (p, n) and (p == n or "all" in (p, n)))
]
ORACLES = {
    **{
        f"{p}-{n}": (
            miners.BatchEasyHardMiner(p, n, (1, 5), (1, 6), distance="manhattan"),
            lambda ids, d, p=p, n=n: oracles.mine_easy_hard(ids, d, p, n, (1, 5), (1, 6)),
        )
        for p, n in LEGAL
    },
    "multi-similarity": (
        miners.MultiSimilarityMiner(1, distance="manhattan"),
        lambda ids, d: oracles.mine_multi_similarity(ids, d, 1),
    ),
    "pair-margin": (
        miners.PairMarginMiner(2, 3, distance="manhattan"),
        lambda ids, d: oracles.mine_pair_margin(ids, d, 2, 3),
    ),
    "hdc": (
        miners.HDCMiner(0.3, distance="manhattan"),
        lambda ids, d: oracles.mine_hdc(ids, d, 0.3),
    ),
    **{
        kind: (
            miners.TripletMarginMiner(2, kind, distance="manhattan"),
            lambda ids, d, kind=kind: oracles.mine_triplet_margin(ids, d, 2, kind),
        )
        for kind in ("all", "hard", "semihard", "easy")
    },
}


@pytest.mark.parametrize("name", ORACLES)
def test_ties_duplicates_and_singletons(name):
    miner, oracle = ORACLES[name]
    for seed in range(3):
        ids, x = crowded(seed)
        selected, expected = miner(x, ids), oracle(ids, oracles.distances("manhattan", x))
        if isinstance(expected, tuple):
            for one, other in zip(selected, expected, strict=True):
                assert sorted(map(tuple, one)) == sorted(other)
        else:
            assert sorted(map(tuple, selected)) == sorted(expected)


def test_angular_with_duplicates_and_singletons():
    ids, x = crowded(0)
    # 25 degrees: no triplet of the grid is on the edge, where rounding decides.
    expected = oracles.mine_angular(ids, x, 25)
    assert sorted(map(tuple, miners.AngularMiner(25)(x, ids))) == sorted(expected)


def candidates_of(miner, x, ids):
    x, ids = tf.constant(x), tf.constant(ids)
    labels = masks.LabelPairs(ids, ids, tf.range(len(ids)))
    return mining.candidates(miner.distance, x, x, labels, miner.needs_key_distances)


@pytest.mark.parametrize("case", goldens.ROWS)
def test_distance_weights_are_the_peers(case):
    golden = goldens.arrays(
        "pytorch_metric_learning", "miner_distanceweighted_weights", case
    )
    miner = miners.DistanceWeightedMiner()
    ours = miner.probabilities(candidates_of(miner, golden["embeddings"], golden["labels"]))
    expected = np.nan_to_num(golden["weights"])
    # A row whose weights underflow beside another row's has none there.
    rows = expected.sum(axis=1) > 0
    np.testing.assert_allclose(ours.numpy()[rows], expected[rows], rtol=1e-9, atol=1e-12)


def test_distance_weighted_draws_by_its_weights():
    rng = np.random.default_rng(0)
    ids, x = np.array([0, 0, 1, 1, 2, 3]), rng.normal(size=[6, 3])
    miner = miners.DistanceWeightedMiner()
    expected = miner.probabilities(candidates_of(miner, x, ids)).numpy()
    draws, drawn = 500, np.zeros([6, 6])
    for batch in range(draws):  # other ids, other draws
        with kernels(compiled=True):  # which pays for so many
            triplets = miner(x, ids + 10 * batch)
        assert (ids[triplets[:, 0]] == ids[triplets[:, 1]]).all()
        # One negative for each positive whose anchor has any.
        pairs = [(a, p) for a, p in oracles.all_pairs(ids)[0] if expected[a].sum() > 0]
        assert sorted((a, p) for a, p, _ in triplets) == pairs
        np.add.at(drawn, (triplets[:, 0], triplets[:, 2]), 1)
    rows = [a for a in range(4) if expected[a].sum() > 0]
    assert rows
    error = np.abs(drawn[rows] / draws - expected[rows])
    assert error.max() < 4 * np.sqrt(0.25 / draws)  # four standard deviations at most


@pytest.mark.parametrize("case", goldens.ROWS)
def test_uniform_histogram_draws_from_the_peers_bins(case):
    golden = goldens.arrays("pytorch_metric_learning", "miner_uniformhist_bins", case)
    x, ids = golden["embeddings"], golden["labels"]
    miner = miners.UniformHistogramMiner(pos_per_bin=3, neg_per_bin=2)
    selected, d = miner(x, ids), oracles.distances("normalized_euclidean", x)
    for drawn, pairs, edges, most in zip(
        selected,
        oracles.all_pairs(ids),
        (golden["pos_bins"], golden["neg_bins"]),
        (3, 2),
        strict=True,
    ):
        edges[0], edges[-1] = -1, 9  # the extreme pairs are in the outer bins
        there = np.histogram([d[pair] for pair in pairs], edges)[0]
        taken = np.histogram([d[tuple(pair)] for pair in drawn], edges)[0]
        assert set(map(tuple, drawn)) <= set(pairs)
        np.testing.assert_array_equal(taken, np.minimum(there, most))


def test_uniform_histogram_draws_every_pair_alike():
    ids, x = np.repeat([0, 1], 4), np.repeat([[0.0], [1.0]], 4, axis=0)
    drawn = np.zeros([8, 8])
    miner = miners.UniformHistogramMiner(1, 1, 4, distance="euclidean")
    for batch in range(400):  # other ids, other draws
        with kernels(compiled=True):
            selected = miner(x, ids + 2 * batch)
        assert len(selected.positive) == 1
        assert len(selected.negative) == 4
        np.add.at(drawn, tuple(selected.negative.T), 1)
    expected = 400 * 4 / 32
    assert np.abs(drawn[ids[:, None] != ids] - expected).max() < 4.5 * np.sqrt(expected)


RANDOM = [
    miners.DistanceWeightedMiner,
    lambda seed: miners.UniformHistogramMiner(5, 2, 2, seed),
]


@pytest.mark.parametrize("make", RANDOM)
def test_same_seed_same_choice_eager_and_compiled(make):
    rng = np.random.default_rng(0)
    ids, x = np.repeat(np.arange(6), 4), rng.normal(size=[24, 4])

    def value(run, order=1):
        return float(run(tf.constant(ids[::order]), tf.constant(x[::order])))

    loss, again, another = (
        losses.TripletMarginLoss(0.5, miner=make(seed=seed), dtype="float64")
        for seed in (0, 0, 1)
    )
    expected = value(loss)  # of plain TensorFlow
    with kernels(compiled=True):
        for run in (again, tf.function(loss), tf.function(loss, jit_compile=True)):
            np.testing.assert_allclose(value(run), expected, rtol=1e-12)
    assert abs(value(another) - expected) > 1e-6
    # Another order of the same rows is another batch.
    assert abs(value(loss, order=-1) - expected) > 1e-9


def test_a_miner_shows_what_it_selects():
    x = np.array([[0.0], [1.0], [3.0], [4.0]])
    by_name = miners.BatchHardMiner("euclidean")(x, ["a", "a", "b", "b"])
    by_id = miners.BatchHardMiner("euclidean")(x, [7, 7, 2**62, 2**62])
    for one, other in zip(by_name, by_id, strict=True):
        np.testing.assert_array_equal(one, other)
    nothing = miners.TripletMarginMiner()(x, [0, 1, 2, 3])
    assert nothing.shape == (0, 3)
    assert miners.HDCMiner()(x[:1], [0]).positive.shape == (0, 2)


@pytest.mark.parametrize(
    "x, ids, message",
    [
        (np.zeros([4, 2, 3]), np.zeros(4, int), r"\[B, D\].*\(4, 2, 3\)"),
        (np.zeros([4, 3]), np.zeros(3, int), r"one id for each row.*\(3,\)"),
        (np.zeros([4, 3]), np.zeros(4), r"integers or strings.*float64"),
    ],
)
def test_wrong_input_is_refused(x, ids, message):
    with pytest.raises(ValueError, match=message):
        miners.BatchHardMiner()(x, ids)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: miners.BatchHardMiner("cos"), "'cos'"),
        (lambda: miners.BatchEasyHardMiner("hardest"), "`pos_strategy`.*'hardest'"),
        (lambda: miners.BatchEasyHardMiner("semihard", "semihard"), "beside 'semihard'"),
        (lambda: miners.BatchEasyHardMiner("all", "semihard"), "beside 'semihard'"),
        (lambda: miners.BatchEasyHardMiner(allowed_pos_range=(2, 1)), "two increasing"),
        (lambda: miners.MultiSimilarityMiner(-1), "`epsilon` must be a number >= 0"),
        (lambda: miners.PairMarginMiner(float("nan")), "`pos_margin`.*nan"),
        (lambda: miners.HDCMiner(0), r"`filter_percentage`.*\(0, 1\]"),
        (lambda: miners.TripletMarginMiner(-1), "`margin`"),
        (lambda: miners.TripletMarginMiner(type_of_triplets="some"), "'some'"),
        (lambda: miners.AngularMiner(90), "`angle`.*degrees"),
        (lambda: miners.DistanceWeightedMiner(cutoff=0), "`cutoff`"),
        (lambda: miners.DistanceWeightedMiner(seed=-1), "`seed`"),
        (lambda: miners.UniformHistogramMiner(0), "`num_bins`"),
        (lambda: miners.UniformHistogramMiner(2.5), "`num_bins`.*integer"),
        (lambda: miners.UniformHistogramMiner(seed=None), "`seed`.*None"),
        (lambda: miners.BatchEasyHardMiner(allowed_pos_range=3), "two increasing.*3"),
        (lambda: miners.MultiSimilarityMiner("0.1"), "`epsilon`.*'0.1'"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "miner",
    [
        *dict.fromkeys(type(miner) for miner, _ in ORACLES.values()),
        *(miners.BatchHardMiner, miners.AngularMiner),
        *(miners.DistanceWeightedMiner, miners.UniformHistogramMiner),
    ],
)
def test_of_no_rows_nothing_is_selected(miner):
    selected = miner()(np.zeros([0, 4]), np.zeros([0], "int64"))
    if isinstance(selected, tuple):
        assert [one.shape for one in selected] == [(0, 2), (0, 2)]
    else:
        assert selected.shape == (0, 3)


@pytest.mark.parametrize("name", ORACLES)
def test_serialises(name):
    miner = ORACLES[name][0]
    config = keras.saving.serialize_keras_object(miner)
    assert keras.saving.deserialize_keras_object(config) == miner


@keras.saving.register_keras_serializable("tests")
def largest_difference(a, b):
    return tf.reduce_max(tf.abs(a - b), axis=-1)


@keras.saving.register_keras_serializable("tests")
@dataclasses.dataclass(frozen=True)
class SomeRowsMiner(mining.PairMiner):
    """Of given rows everything, positive or not: the labels decide."""

    rows: tuple = (0, 1)
    distance = "cosine"

    def select(self, candidates):
        chosen = tf.reduce_any(
            candidates.labels.positions[:, None] == list(self.rows), axis=1
        )
        everything = chosen[:, None] & tf.ones_like(candidates.distances, tf.bool)
        return masks.Pairs(everything, everything)


@pytest.mark.parametrize(
    "miner", [miners.BatchHardMiner(largest_difference), SomeRowsMiner((0, 3))]
)
def test_miners_and_distances_of_ones_own(miner):
    rng = np.random.default_rng(0)
    ids, x = np.array([0, 0, 1, 1, 2]), rng.normal(size=[5, 3])
    loss = losses.TripletMarginLoss(1.0, miner=miner, reduction=None, dtype="float64")
    again = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    )
    assert again.miner == miner
    triplets = oracles.triplets_of_pairs([list(map(tuple, kind)) for kind in miner(x, ids)])
    assert triplets
    expected = oracles.triplet_margin(ids, x, 1.0, triplets=triplets)
    np.testing.assert_allclose(again(ids, x), expected, rtol=1e-9)


def test_a_miner_that_cannot_be_compared_is_refused():
    @dataclasses.dataclass
    class Mutable(mining.PairMiner):
        distance: str = "cosine"

    with pytest.raises(ValueError, match="hashable, as a frozen dataclass"):
        losses.TripletMarginLoss(miner=Mutable())


@pytest.mark.parametrize("dtype", ["float16", "int32"])
def test_a_miner_takes_rows_of_any_dtype(dtype):
    x = np.array([[0, 1], [0, 2], [3, 0], [4, 1]])
    for miner in (miners.HDCMiner(), miners.AngularMiner()):
        selected = miner(x.astype(dtype), [0, 0, 1, 1])
        expected = miner(x.astype("float32"), [0, 0, 1, 1])
        tf.nest.map_structure(np.testing.assert_array_equal, selected, expected)
