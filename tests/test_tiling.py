"""Losses by tiles of rows are the losses themselves."""

import numpy as np
import pytest
import tensorflow as tf
from goldens import kernels, plain_kernels  # noqa: F401

from tfembloss import losses, miners, tiling


def ids(rng, num_rows):
    return rng.integers(4, size=num_rows)


def texts(rng, num_rows):
    return rng.integers(2 * num_rows, size=[num_rows, 3])


def guides(rng, num_rows):
    return rng.normal(size=[num_rows, 3, 4]).astype("float32")


# Each with the number of its columns, 0 for [B, D], and its targets.
RANKING = losses.MultipleNegativesRankingLoss
OPTIONS = {
    "ranking": (RANKING, {}, 2, None),
    "ranking, negatives": (RANKING, {}, 4, None),
    "ranking, ids": (RANKING, {"exclude_equal_ids": True}, 3, ids),
    "ranking, symmetric": (RANKING, {"symmetric": True}, 3, None),
    "ranking, symmetric, ids": (
        RANKING,
        {"symmetric": True, "exclude_equal_ids": True},
        3,
        ids,
    ),
    "ranking, symmetric, texts": (
        RANKING,
        {"symmetric": True, "exclude_equal_ids": True},
        3,
        texts,
    ),
    "ranking, euclidean": (
        RANKING,
        {"similarity": "euclidean", "scale": 1.0, "symmetric": True},
        2,
        None,
    ),
    "ranking, manhattan": (RANKING, {"similarity": "manhattan", "scale": 1.0}, 2, None),
    "mega batch": (losses.MegaBatchMarginLoss, {}, 2, None),
    "mega batch, ids": (
        losses.MegaBatchMarginLoss,
        {"exclude_equal_ids": True, "negative_margin": 0.0},
        2,
        ids,
    ),
    "CLIP": (losses.CLIPLoss, {}, 2, None),
    "CLIP, ids": (losses.CLIPLoss, {"exclude_equal_ids": True}, 2, ids),
    "SigLIP": (losses.SigLIPLoss, {"bias": -1.0}, 2, None),
    "SigLIP, ids": (losses.SigLIPLoss, {"exclude_equal_ids": True}, 2, ids),
    "NTXent": (losses.NTXentLoss, {}, 0, ids),
    "NTXent, euclidean": (losses.NTXentLoss, {"distance": "euclidean"}, 0, ids),
    "NTXent, triplets": (
        losses.NTXentLoss,
        {"miner": miners.TripletMarginMiner(0.3, "semihard")},
        0,
        ids,
    ),
    "NTXent, random": (
        losses.NTXentLoss,
        {"miner": miners.DistanceWeightedMiner()},
        0,
        ids,
    ),
    "SupCon": (losses.SupConLoss, {}, 0, ids),
    "SupCon, pairs": (
        losses.SupConLoss,
        {"miner": miners.MultiSimilarityMiner(distance="cosine")},
        0,
        ids,
    ),
    "GIST": (losses.GISTEmbedLoss, {"temperature": 0.1}, 3, guides),
    "GIST, margin": (
        losses.GISTEmbedLoss,
        {
            "temperature": 0.1,
            "margin_strategy": "relative",
            "margin": 0.1,
            "contrast_positives": False,
        },
        3,
        guides,
    ),
}


def batch(name, num_rows, seed=0):
    _, _, num_columns, targets = OPTIONS[name]
    rng = np.random.default_rng(seed)
    x = rng.normal(size=[num_rows, num_columns, 6] if num_columns else [num_rows, 6])
    y = np.zeros([num_rows, 0]) if targets is None else targets(rng, num_rows)
    return tf.constant(y), tf.constant(x, tf.float32)


def value_and_gradient(loss, y, x):
    weights = tf.range(1.0, tf.shape(x)[0] + 1)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(y, x, sample_weight=weights)
    return value, tape.gradient(value, x)


def assert_same(result, expected):
    for ours, theirs, rtol in zip(result, expected, [1e-6, 1e-5], strict=True):
        error, size = np.linalg.norm(ours - theirs), np.linalg.norm(theirs)
        assert error <= rtol * size + 1e-9, (error, size)


@pytest.mark.parametrize(
    ("num_rows", "tile_sizes"), [(1, [4]), (10, [1, 4, 5]), (37, [16])]
)
@pytest.mark.parametrize("name", OPTIONS)
def test_tiles_of_any_size_give_the_same(name, num_rows, tile_sizes):
    kind, options, *_ = OPTIONS[name]
    rows = batch(name, num_rows)
    whole = value_and_gradient(kind(**options, tile_size=num_rows), *rows)
    for tile_size in tile_sizes:
        loss = kind(**options, tile_size=tile_size)
        assert_same(value_and_gradient(loss, *rows), whole)


@pytest.mark.parametrize("name", ["ranking, symmetric, ids", "NTXent"])
def test_a_replica_without_rows(name):
    """In a graph, as `fit` traces it; other sizes are in test_contract."""
    kind, options, *_ = OPTIONS[name]
    loss, rows = kind(**options, reduction="sum"), batch(name, 10)
    specs = [tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in rows]
    rows = [x[:0] for x in rows]
    with kernels(compiled=True):
        traced = tf.function(
            lambda *x: value_and_gradient(loss, *x), specs, autograph=False
        )
        results = traced(*rows), value_and_gradient(loss, *rows)
    for value, gradient in results:
        assert tf.reduce_sum(value) == 0
        assert gradient.shape == rows[1].shape


def test_a_batch_of_a_few_rows_is_not_tiled(monkeypatch):
    def fail(*_):
        raise AssertionError("tiled")

    monkeypatch.setattr(tiling, "_tiled", fail)
    y, x = batch("ranking", 10)
    RANKING()(y, x)
    RANKING(tile_size=10)(y, x)
    with pytest.raises(AssertionError, match="tiled"):
        RANKING(tile_size=9)(y, x)


def test_what_is_not_finite_shows():
    for name, (kind, options, *_) in OPTIONS.items():
        y, x = batch(name, 10)
        x = tf.tensor_scatter_nd_update(x, [[7]], [tf.fill(x.shape[1:], float("nan"))])
        assert np.isnan(kind(**options, tile_size=4)(y, x)), name


@pytest.mark.parametrize("tile_size", [0, -1, 1.5, "all", True])
def test_wrong_tile_sizes(tile_size):
    with pytest.raises(ValueError, match="`tile_size` must be an integer >= 1"):
        losses.SupConLoss(tile_size=tile_size)


def test_miners_of_all_pairs_take_no_tiles():
    with pytest.raises(ValueError, match=r"HDCMiner looks at all pairs.*tile_size=None"):
        losses.NTXentLoss(miner=miners.HDCMiner(), tile_size=4)
    y, x = batch("NTXent", 10)
    assert np.isfinite(losses.NTXentLoss(miner=miners.HDCMiner())(y, x))
