"""Every loss with inputs for it: a new loss joins the contract by its lines in CASES."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import oracles

from tfembloss import losses


class Case(NamedTuple):
    """One loss, how to make inputs for it, and what it must give.

    Args:
        make: the loss's class with its options bound.
        oracle: `(y_true, y_pred) -> values [B]` in numpy.
        num_columns: n of y_pred `[B, n, D]`; 0 for `[B, D]`.
        targets: `(rng, num_rows) -> y_true`; None where the loss takes none.
    """

    make: Callable
    oracle: Callable
    num_columns: int
    targets: Callable | None = None

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
}
