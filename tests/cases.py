"""Every loss with inputs for it: a new loss joins the contract by its lines in CASES."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import oracles

from tfembloss import losses, miners


class Case(NamedTuple):
    """One loss, how to make inputs for it, and what it must give.

    Args:
        make: the loss's class with its options bound.
        oracle: `(y_true, y_pred) -> values [B]` in numpy.
        num_columns: n of y_pred `[B, n, D]`; 0 for `[B, D]`.
        targets: `(rng, num_rows) -> y_true`; None where the loss takes none.
        has_constants: whether the loss's gradient takes parts of the formula as constant;
            the oracle then has an argument `constant`, the embeddings of those parts.
        by_order: why the values depend on the order of the rows, if they do.
    """

    make: Callable
    oracle: Callable
    num_columns: int
    targets: Callable | None = None
    has_constants: bool = False
    by_order: str | None = None

    def inputs(self, num_rows, dim=6, seed=0):
        """y_true and y_pred of so many rows."""
        rng = np.random.default_rng(seed)
        shape = [num_rows, self.num_columns, dim] if self.num_columns else [num_rows, dim]
        y_pred = rng.normal(size=shape)
        y_true = (
            np.zeros([num_rows, 0]) if self.targets is None else self.targets(rng, num_rows)
        )
        return y_true, y_pred


def ids(rng, num_rows):
    """Ids of a third as many classes as rows, above what float32 can tell apart."""
    return 2**24 + rng.integers(max(1, num_rows // 3), size=num_rows)


def _ranking(num_columns, targets=None, **options):
    oracle_options = {("similarity_name" if k == "similarity" else k): v
                      for k, v in options.items()}  # fmt: skip

    def oracle(y_true, y_pred):
        y_true = None if targets is None else y_true
        return oracles.multiple_negatives_ranking(y_true, y_pred, **oracle_options)

    make = functools.partial(
        losses.MultipleNegativesRankingLoss,
        exclude_equal_ids=targets is not None,
        **options,
    )
    return Case(make, oracle, num_columns, targets)


def _labels(loss, oracle, has_constants=False, **options):
    """A loss on rows with ids: its oracle takes the same options."""
    return Case(
        functools.partial(loss, **options),
        functools.partial(oracle, **options),
        0,
        ids,
        has_constants,
    )


def _mined(loss, oracle, miner, select, kind, **options):
    """The same on what `select(ids, distances)` or `select(ids, x)` says was mined."""

    def mined_oracle(y_true, y_pred):
        x = y_pred
        if miner.distance and not isinstance(miner, miners.AngularMiner):
            x = oracles.distances(miner.distance, y_pred)
        mined = select(y_true, x)
        from_pairs = isinstance(mined, tuple)
        if kind == "triplets" and from_pairs:
            mined = oracles.triplets_of_pairs(mined)
        elif kind == "pairs" and not from_pairs:
            mined = oracles.pairs_of_triplets(mined)
        return oracle(y_true, y_pred, **{kind: mined}, **options)

    return Case(functools.partial(loss, miner=miner, **options), mined_oracle, 0, ids)


def _triplet(**options):
    def oracle(_, y_pred):
        return oracles.triplet(y_pred, options.get("margin", 5.0), options["distance"])

    return Case(functools.partial(losses.TripletLoss, **options), oracle, 3)


_semihard = functools.partial(
    oracles.mine_triplet_margin, margin=0.3, type_of_triplets="semihard"
)

CASES = {
    "ranking": _ranking(2),
    "ranking-negatives": _ranking(4),
    "ranking-dot": _ranking(2, similarity="dot", scale=1.0),
    "ranking-euclidean": _ranking(3, similarity="euclidean", scale=2.0),
    "ranking-manhattan": _ranking(2, similarity="manhattan", scale=1.0),
    "ranking-symmetric": _ranking(2, symmetric=True),
    "ranking-symmetric-negatives": _ranking(3, symmetric=True),
    "ranking-ids": _ranking(3, targets=ids),
    "ranking-symmetric-ids": _ranking(3, symmetric=True, targets=ids),
    "batch-all": _labels(losses.BatchAllTripletLoss, oracles.triplet_margin,
                         margin=1.0, distance="euclidean"),
    "batch-hard": _labels(losses.BatchHardTripletLoss, oracles.batch_hard,
                          margin=1.0, distance="squared_euclidean"),
    "batch-hard-soft": Case(
        losses.BatchHardSoftMarginTripletLoss,
        functools.partial(oracles.batch_hard, soft=True), 0, ids),
    "batch-semi-hard": _labels(losses.BatchSemiHardTripletLoss, oracles.batch_semi_hard,
                               margin=0.5, distance="cosine"),
    "triplet": _triplet(margin=1.0, distance="euclidean"),
    "triplet-margin": _labels(losses.TripletMarginLoss, oracles.triplet_margin, margin=0.2),
    "triplet-swap": _labels(losses.TripletMarginLoss, oracles.triplet_margin,
                            margin=0.2, swap=True),
    "triplet-smooth": _labels(losses.TripletMarginLoss, oracles.triplet_margin,
                              smooth=True),
    "triplet-semihard-mined": _mined(
        losses.TripletMarginLoss, oracles.triplet_margin,
        miners.TripletMarginMiner(0.3, "semihard"), _semihard, "triplets", margin=0.2),
    "triplet-angular-mined": _mined(
        losses.TripletMarginLoss, oracles.triplet_margin,
        miners.AngularMiner(30), functools.partial(oracles.mine_angular, angle=30),
        "triplets", margin=0.2),
    "triplet-hdc-mined": _mined(
        losses.TripletMarginLoss, oracles.triplet_margin,
        miners.HDCMiner(), oracles.mine_hdc, "triplets", margin=0.2,
    )._replace(by_order="of two equally hard pairs the first is taken"),
    "nt-xent": _labels(losses.NTXentLoss, oracles.nt_xent, temperature=0.5),
    "nt-xent-semihard-mined": _mined(
        losses.NTXentLoss, oracles.nt_xent,
        miners.TripletMarginMiner(0.3, "semihard"), _semihard, "pairs", temperature=0.5),
    "sup-con": _labels(losses.SupConLoss, oracles.sup_con),
    "multi-similarity": _labels(losses.MultiSimilarityLoss, oracles.multi_similarity),
    "multi-similarity-mined": _mined(
        losses.MultiSimilarityLoss, oracles.multi_similarity,
        miners.MultiSimilarityMiner(), oracles.mine_multi_similarity, "pairs"),
    "circle": _labels(losses.CircleLoss, oracles.circle, has_constants=True, gamma=8.0),
    "lifted": _labels(losses.LiftedStructureLoss, oracles.lifted),
    "lifted-generalized": _labels(losses.GeneralizedLiftedStructureLoss,
                                  oracles.generalized_lifted),
    "n-pairs": _labels(losses.NPairsLoss, oracles.n_pairs)._replace(
        by_order="a class's first row is the anchor"),
    "margin": _labels(losses.MarginLoss, oracles.margin),
    "margin-semihard-mined": _mined(
        losses.MarginLoss, oracles.margin,
        miners.TripletMarginMiner(0.3, "semihard"), _semihard, "triplets"),
}  # fmt: skip
