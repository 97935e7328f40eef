"""The interface between miners and losses, and what the miners have in common.

A loss makes `Candidates`: distances and labels. A miner turns them into masks: a
`PairMiner` into a mask of pairs, a `TripletMiner` into a mask of the negatives that form a
triplet with one positive of each row. `pairs_of` and `triplets_of` return what a loss needs
from a miner of either kind, or without a miner.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfembloss import distances, masks
from tfembloss.config import Configurable
from tfembloss.kernels import compiled


class Candidates(NamedTuple):
    """What a miner selects from.

    Args:
        distances: from this replica's rows to all rows `[B, N]`, by the miner's distance.
        labels: `masks.LabelPairs` of the same pairs.
        key_distances: from all rows to all rows `[N, N]`, for a miner that
            `needs_key_distances`; otherwise None.
        dim: the number of dimensions D of the embeddings.
    """

    distances: tf.Tensor
    labels: masks.LabelPairs
    key_distances: tf.Tensor | None
    dim: int


def candidates(distance, rows, keys, labels, key_distances=False, x=None):
    """Returns the `Candidates` of rows among keys.

    Args:
        distance: see `tfembloss.distances`.
        rows: embeddings of this replica's rows `[B, D]`.
        keys: embeddings of all rows `[N, D]`.
        labels: `masks.LabelPairs` of both.
        key_distances: whether to add the distances between all keys.
        x: distances of the rows to the keys `[B, N]`, if they are known.
    """
    pairwise = distances.get(distance).pairwise
    x = pairwise(rows, keys) if x is None else x
    all_to_all = None
    if key_distances:  # with one replica, its rows are all rows
        all_to_all = x if keys is rows else pairwise(keys, keys)
    return Candidates(x, labels, all_to_all, keys.shape[-1])


def without_gradient(candidates):
    """Returns the candidates as constants, for kernels with loops, which block tapes."""
    x, labels, key_distances, dim = candidates
    if key_distances is not None:
        key_distances = tf.stop_gradient(key_distances)
    return Candidates(tf.stop_gradient(x), labels, key_distances, dim)


class Positive(NamedTuple):
    """One positive of each row.

    Args:
        column: its position among all rows `[B]`.
        found: whether the row has one `[B]`.
        number: which of the row's positives it is, from 0; a scalar.
    """

    column: tf.Tensor
    found: tf.Tensor
    number: tf.Tensor

    def of(self, x):
        """Returns the entry of the positive in each row of `x [B, N]`: `[B]`."""
        return tf.gather(x, self.column, batch_dims=1)

    def mask(self, num_keys):
        """Returns where the positives are, a mask `[B, N]`."""
        return self.found[:, None] & masks.at_positions(self.column, num_keys)


def over_positives(labels, step, state):
    """Loops over the positives of all rows at once: the first of each row, the second, ...

    The loop has as many steps as the row with most positives has, each over `[B, N]`.

    Args:
        labels: `masks.LabelPairs`.
        step: `(positive, state) -> state`, of the same shapes.
        state: tuple of initial tensors.

    Returns:
        The last state.
    """
    positive = labels.positive
    num_keys = tf.shape(positive)[1]
    columns = tf.range(num_keys)[None, :]
    steps = most_positives(labels)

    def body(number, last, state):
        later = positive & (columns > last[:, None])
        column = tf.reduce_min(tf.where(later, columns, num_keys), axis=1)
        found = column < num_keys
        one = Positive(tf.where(found, column, 0), found, number)
        after = step(one, state)
        # A loop must keep static shapes, and masks of [B, N] may have lost B or N.
        after = [tf.ensure_shape(x, old.shape) for x, old in zip(after, state, strict=True)]
        return number + 1, column, tuple(after)

    before = tf.zeros_like(labels.positions) - 1
    return tf.while_loop(lambda n, *_: n < steps, body, (0, before, tuple(state)))[2]


@compiled
def most_positives(labels):
    """Returns the largest number of positives of a row; a scalar."""
    return tf.reduce_max(tf.reduce_sum(tf.cast(labels.positive, tf.int32), axis=1))


class SelectedPairs(NamedTuple):
    """What a `PairMiner` selects: rows `(anchor, other)` as arrays `[n, 2]`."""

    positive: np.ndarray
    negative: np.ndarray


class Miner(Configurable):
    """What the two kinds of miners have in common; subclass one of them instead."""

    distance: str | Callable = "normalized_euclidean"
    needs_key_distances = False

    def __call__(self, embeddings, ids):
        """Returns what is selected from `embeddings [B, D]` with `ids [B]`, in numpy."""
        embeddings = np.asarray(embeddings)
        double = embeddings.dtype == "float64"  # any other in float32, as in losses
        embeddings = tf.constant(embeddings if double else embeddings.astype("float32"))
        ids = tf.convert_to_tensor(ids)
        right = not (ids.dtype.is_floating or ids.dtype.is_complex)
        if embeddings.shape.rank != 2 or ids.shape != embeddings.shape[:1] or not right:
            raise ValueError(
                "Expected embeddings [B, D] and one id for each row, [B], integers or "
                f"strings. Received: embeddings.shape={tuple(embeddings.shape)}, "
                f"ids.shape={tuple(ids.shape)}, ids.dtype={ids.dtype.name}"
            )
        ids = masks.integer_ids(ids)
        labels = masks.LabelPairs(ids, ids, tf.range(tf.shape(ids)[0]))
        return known(self)._selected(
            candidates(
                self.distance, embeddings, embeddings, labels, self.needs_key_distances
            )
        )

    @classmethod
    def from_config(cls, config):
        """Creates a miner from the result of `get_config`."""
        # JSON has no tuples, and a miner must be hashable.
        tuples = {n: tuple(v) if isinstance(v, list) else v for n, v in config.items()}
        return super().from_config(tuples)


class PairMiner(Miner):
    """Base of the miners that select pairs.

    A subclass defines `select`. It is a frozen dataclass, whose fields are its options,
    registered with Keras; `distance` is a field, or a class attribute if it is fixed.
    `needs_key_distances = True` adds the distances between all rows to the candidates.

    Example:

    >>> import dataclasses, keras
    >>> from tfembloss import masks
    >>> @keras.saving.register_keras_serializable("mine")
    ... @dataclasses.dataclass(frozen=True)
    ... class NearMiner(PairMiner):
    ...     radius: float = 0.5
    ...     distance: str = "euclidean"
    ...
    ...     def select(self, candidates):
    ...         near = candidates.distances < self.radius
    ...         labels = candidates.labels
    ...         return masks.Pairs(labels.positive & near, labels.negative & near)
    >>> NearMiner(2.5)([[0.0], [1.0], [3.0]], [0, 0, 1]).negative
    array([[1, 2], [2, 1]])
    """

    def select(self, candidates):
        """Returns `masks.Pairs`: boolean masks `[B, N]` of the selected pairs."""
        raise NotImplementedError

    def _selected(self, candidates):
        pairs = _selected_pairs(self, candidates)
        return SelectedPairs(*(np.argwhere(mask.numpy()) for mask in pairs))


class TripletMiner(Miner):
    """Base of the miners that select triplets.

    A subclass defines `negatives`, and otherwise follows `PairMiner`.
    """

    def negatives(self, candidates, positive):
        """Returns the negatives for one positive of each row, a mask `[B, N]`.

        Args:
            candidates: `Candidates`.
            positive: `Positive`; the mask is not used in rows that do not have one.
        """
        raise NotImplementedError

    def _selected(self, candidates):
        """Returns rows `(anchor, positive, negative)` as an array `[n, 3]`."""
        found = [np.zeros([0, 3], "int64")]
        for number in range(int(most_positives(candidates.labels))):
            column, mask = _selected_negatives(self, candidates, tf.constant(number))
            anchor, negative = np.nonzero(mask.numpy())
            found.append(np.stack([anchor, column.numpy()[anchor], negative], axis=1))
        return np.concatenate(found)


@compiled
def _selected_pairs(miner, candidates):
    return masks.Pairs(*(mask > 0 for mask in pairs_of(miner, candidates)))


@compiled
def _selected_negatives(miner, candidates, number):
    """Returns columns `[B]` of one positive of each row, and its negatives `[B, N]`."""
    positive = candidates.labels.positive
    is_it = positive & (tf.cumsum(tf.cast(positive, tf.int32), axis=1) == number + 1)
    column = tf.argmax(tf.cast(is_it, tf.int32), axis=1, output_type=tf.int32)
    found = masks.row_any(is_it)
    negatives = triplets_of(miner, candidates)(Positive(column, found, number))
    return column, found[:, None] & (negatives > 0)


_known = {}


def known(miner):
    """Returns the first of equal miners, for which functions are compiled already."""
    try:
        return _known.setdefault(miner, miner)
    except TypeError as error:
        raise ValueError(
            "A miner must be hashable, as a frozen dataclass of numbers, strings and "
            f"tuples is. Received: {miner!r}"
        ) from error


def triplets_of(miner, candidates):
    """Returns how often each negative forms a triplet with one positive of each row.

    Args:
        miner: a miner of any kind, or None for all triplets.
        candidates: `Candidates`; those of the loss if there is no miner.

    Returns:
        Function of a `Positive` that returns weights `[B, N]`, which are undefined in rows
        that do not have this positive.
    """
    labels, dtype = candidates.labels, candidates.distances.dtype
    if isinstance(miner, TripletMiner):
        return lambda positive: tf.cast(
            miner.negatives(candidates, positive) & labels.negative, dtype
        )
    if miner is None:
        return lambda positive: tf.cast(labels.negative, dtype)
    chosen, others = _pair_masks(miner, candidates)
    return lambda positive: positive.of(chosen)[:, None] * others


def _pair_masks(miner, candidates):
    """Returns weights 0 or 1 of the pairs that a miner of pairs, or None, selects."""
    labels, dtype = candidates.labels, candidates.distances.dtype
    positive, negative = labels.positive, labels.negative
    if miner is not None:
        selected = miner.select(candidates)
        positive, negative = positive & selected.positive, negative & selected.negative
    return tf.cast(positive, dtype), tf.cast(negative, dtype)


def pairs_of(miner, candidates, from_triplets=False):
    """Returns how often each pair counts, `masks.Pairs` of weights.

    Args:
        miner: a miner of any kind, or None for all pairs.
        candidates: `Candidates`; those of the loss if there is no miner.
        from_triplets: whether a pair counts once for each triplet in which it occurs even
            if the miner selects pairs.
    """
    if isinstance(miner, TripletMiner):
        return _pairs_of_triplets(miner, candidates)
    positive, negative = _pair_masks(miner, candidates)
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


def nearest(x, mask):
    """Returns where each row's minimum under the mask is: a mask `[B, N]`, one or none."""
    x_in_mask = tf.where(mask, x, float("inf"))
    # One more column, since argmin needs at least one.
    x_in_mask = tf.pad(x_in_mask, [[0, 0], [0, 1]], constant_values=float("inf"))
    column = tf.argmin(x_in_mask, axis=1, output_type=tf.int32)
    return masks.at_positions(column, tf.shape(x)[1]) & mask


def seed_of_batch(seed, labels, number=0):
    """Returns a seed `[2]` of a batch from the miner's seed, the ids, and a number."""
    ids = tf.cast(tf.reshape(labels.key_ids, [-1]), tf.int64)
    odd = 2 * tf.range(tf.size(ids, tf.int64), dtype=tf.int64) + 1
    mixed = ids * 0x5851F42D4C957F2D + odd * 0x14057B7EF767814F
    digest = tf.reduce_sum(odd * (mixed ^ tf.bitwise.right_shift(mixed, 29)))
    return tf.stack(
        [tf.constant(seed, tf.int64) + tf.cast(number, tf.int64) * 7919, digest]
    )
