"""How miners and losses speak with each other; the miners themselves are in `miners`.

A loss makes `Candidates`: distances and labels. A miner turns them into masks, a
`PairMiner` of pairs, a `TripletMiner` of the negatives that go with one positive of each
row. `pairs_of` and `triplets_of` give a loss what it needs from a miner of either kind,
or from none.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfembloss import distances, masks
from tfembloss.kernels import compiled


class Candidates(NamedTuple):
    """What a miner selects from.

    Args:
        distances: of this replica's rows to all rows `[B, N]`, the miner's own.
        labels: `masks.Labels` of the same pairs.
        key_distances: of all rows to all rows `[N, N]`, for a miner that
            `needs_key_distances`; else None.
        dim: the embeddings' number of dimensions D.
    """

    distances: tf.Tensor
    labels: masks.Labels
    key_distances: tf.Tensor | None
    dim: int


def candidates(distance, embeddings, keys, labels, key_distances=False):
    """`Candidates` for rows `[B, D]` among the keys `[N, D]`, all replicas' rows."""
    pairwise = distances.get(distance).pairwise
    x = pairwise(embeddings, keys)
    if not key_distances:
        all_to_all = None
    else:  # one replica's rows are all rows
        all_to_all = x if keys is embeddings else pairwise(keys, keys)
    return Candidates(x, labels, all_to_all, keys.shape[-1])


def without_gradient(candidates):
    """The same candidates as constants, for kernels with loops that no tape can pass."""
    x, labels, key_distances, dim = candidates
    if key_distances is not None:
        key_distances = tf.stop_gradient(key_distances)
    return Candidates(tf.stop_gradient(x), labels, key_distances, dim)


class Positive(NamedTuple):
    """One positive of each row.

    Args:
        column: its position among all rows `[B]`.
        found: rows that have one `[B]`.
        number: which of the row's positives it is, from 0; a scalar.
    """

    column: tf.Tensor
    found: tf.Tensor
    number: tf.Tensor

    def of(self, x):
        """The positive's entry of each row of `x [B, N]`: `[B]`."""
        return tf.gather(x, self.column, batch_dims=1)

    def mask(self, num_keys):
        """Where the positives are `[B, N]`."""
        return self.found[:, None] & masks.own_rows(self.column, num_keys)


def over_positives(labels, step, state):
    """Goes through the positives of all rows at once: the first of each, the second, ...

    A loop of as many steps as the row with most positives has, each over `[B, N]`.

    Args:
        labels: `masks.Labels`.
        step: `(positive, state) -> state`, of the same shapes.
        state: tuple of tensors to begin with.

    Returns:
        The last state.
    """
    positive = labels.positive
    num_keys = tf.shape(positive)[1]
    columns = tf.range(num_keys)[None, :]
    steps = tf.reduce_max(tf.reduce_sum(tf.cast(positive, tf.int32), axis=1))

    def body(number, last, state):
        later = positive & (columns > last[:, None])
        column = tf.reduce_min(tf.where(later, columns, num_keys), axis=1)
        found = column < num_keys
        one = Positive(tf.where(found, column, 0), found, number)
        after = step(one, state)
        # Static shapes of one row, which masks of unknown shape make unknown, stay.
        after = [tf.ensure_shape(x, old.shape) for x, old in zip(after, state, strict=True)]
        return number + 1, column, tuple(after)

    before = tf.zeros_like(labels.rows) - 1
    return tf.while_loop(lambda n, *_: n < steps, body, (0, before, tuple(state)))[2]


class SelectedPairs(NamedTuple):
    """What a `PairMiner` selects: rows `(anchor, other)` as arrays `[n, 2]`."""

    positive: np.ndarray
    negative: np.ndarray


class Miner:
    """What the two kinds of miners have in common; make a subclass of one of them."""

    distance: str | Callable = "normalized_euclidean"
    needs_key_distances = False

    def __call__(self, embeddings, ids):
        """What is selected among `embeddings [B, D]` with `ids [B]`, as numpy arrays."""
        embeddings = tf.convert_to_tensor(embeddings)
        ids = tf.convert_to_tensor(ids)
        if embeddings.shape.rank != 2 or ids.shape != embeddings.shape[:1]:
            raise ValueError(
                "Expected embeddings [B, D] and one id for each row, [B]. Received: "
                f"embeddings.shape={tuple(embeddings.shape)}, ids.shape={tuple(ids.shape)}"
            )
        if ids.dtype == tf.string:
            ids = tf.convert_to_tensor(np.unique(ids.numpy(), return_inverse=True)[1])
        labels = masks.Labels(ids, ids, tf.range(tf.shape(ids)[0]))
        return self._look(
            candidates(
                self.distance, embeddings, embeddings, labels, self.needs_key_distances
            )
        )

    def get_config(self):
        """The arguments that make this miner again."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config):
        """The miner that `get_config` described."""
        return cls(**config)

    def _check(self, name, right, expected):
        if not right:
            raise ValueError(
                f"{type(self).__name__}: `{name}` must be {expected}. "
                f"Received: {name}={getattr(self, name)!r}"
            )


class PairMiner(Miner):
    """Base of the miners that select pairs.

    A subclass is a frozen dataclass with a field `distance` and writes `select`.
    """

    def select(self, candidates):
        """`masks.Pairs`: boolean masks `[B, N]` of the selected pairs."""
        raise NotImplementedError

    def _look(self, candidates):
        pairs = _select(self, candidates)
        return SelectedPairs(*(np.argwhere(mask.numpy()) for mask in pairs))


class TripletMiner(Miner):
    """Base of the miners that select triplets.

    A subclass is a frozen dataclass with a field `distance` and writes `negatives`.
    """

    def negatives(self, candidates, positive):
        """Negatives that make a triplet with one positive of each row, mask `[B, N]`.

        Args:
            candidates: `Candidates`.
            positive: `Positive`; what is returned for rows that have none is not used.
        """
        raise NotImplementedError

    def _look(self, candidates):
        """Rows `(anchor, positive, negative)` as an array `[n, 3]`."""
        most = int(
            tf.reduce_max(tf.reduce_sum(tf.cast(candidates.labels.positive, "int32"), 1))
        )
        found = [np.zeros([0, 3], "int64")]
        for number in range(most):
            positives, mask = _negatives(self, candidates, tf.constant(number))
            anchor, negative = np.nonzero(mask.numpy())
            found.append(np.stack([anchor, positives.numpy()[anchor], negative], axis=1))
        return np.concatenate(found)


@compiled
def _select(miner, candidates):
    return miner.select(candidates)


@compiled
def _negatives(miner, candidates, number):
    """One step of `over_positives` by itself: columns `[B]` and negatives `[B, N]`."""

    def step(positive, state):
        mask = triplets_of(miner, candidates)(positive) > 0
        now = positive.number == number
        return (
            tf.where(now, positive.column, state[0]),
            tf.where(now & positive.found[:, None], mask, state[1]),
        )

    nothing = tf.zeros_like(candidates.distances, tf.bool)
    return over_positives(candidates.labels, step, (candidates.labels.rows, nothing))


def triplets_of(miner, candidates):
    """How often each negative makes a triplet with one positive of each row.

    Args:
        miner: a miner of any kind, or None for all triplets.
        candidates: `Candidates`; of the loss itself where there is no miner.

    Returns:
        Function of a `Positive` that gives weights `[B, N]`; of rows that have no such
        positive they are not to be used.
    """
    labels, dtype = candidates.labels, candidates.distances.dtype
    if miner is None:
        return lambda positive: tf.cast(labels.negative, dtype)
    if isinstance(miner, PairMiner):
        chosen, others = (tf.cast(mask, dtype) for mask in miner.select(candidates))
        return lambda positive: positive.of(chosen)[:, None] * others
    return lambda positive: tf.cast(
        miner.negatives(candidates, positive) & labels.negative, dtype
    )


def pairs_of(miner, candidates, from_triplets=False):
    """How often each pair counts, `masks.Pairs` of weights.

    Args:
        miner: a miner of any kind, or None for all pairs.
        candidates: `Candidates`; of the loss itself where there is no miner.
        from_triplets: whether a pair counts once for each triplet that it stands in also
            where pairs were selected.
    """
    labels, dtype = candidates.labels, candidates.distances.dtype
    if isinstance(miner, TripletMiner):
        return _pairs_of_triplets(miner, candidates)
    masks_ = (
        (labels.positive, labels.negative) if miner is None else miner.select(candidates)
    )
    positive, negative = (tf.cast(mask, dtype) for mask in masks_)
    if from_triplets:
        partners = [tf.reduce_sum(x, 1, keepdims=True) for x in (negative, positive)]
        positive, negative = positive * partners[0], negative * partners[1]
    return masks.Pairs(positive, negative)


def _pairs_of_triplets(miner, candidates):
    negatives_of = triplets_of(miner, candidates)
    num_keys = tf.shape(candidates.distances)[1]

    def step(positive, state):
        triplets = tf.where(positive.found[:, None], negatives_of(positive), 0)
        many = tf.reduce_sum(triplets, axis=1, keepdims=True)
        return (
            tf.where(positive.mask(num_keys), many, state[0]),
            state[1] + triplets,
        )

    nothing = tf.zeros_like(candidates.distances)
    return masks.Pairs(*over_positives(candidates.labels, step, (nothing, nothing)))
