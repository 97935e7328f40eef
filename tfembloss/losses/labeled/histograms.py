"""Losses on labeled rows by histograms: of the pairs' cosines, of the triplets' gaps."""

from typing import NamedTuple

import keras
import tensorflow as tf

from tfembloss import masks, replicas
from tfembloss.checks import integer
from tfembloss.kernels import compiled, differentiable
from tfembloss.losses.base import nan_where_not_finite
from tfembloss.losses.labeled.base import LabelLoss, parts_of_mean
from tfembloss.miners.base import over_positives


def _places(distances, num_bins):
    """Returns the node below each cosine, and where between the two nodes it is, 0 to 1."""
    place = (2 - distances) * (num_bins / 2)  # [B, N], 0 to R
    node = tf.clip_by_value(tf.cast(tf.floor(place), tf.int32), 0, num_bins - 1)
    return node, place - tf.cast(node, place.dtype)


def _weights(pairs, counts, dtype):
    """Returns weights of negative pairs `[B, N]`, and of all."""
    of_negatives = tf.where(pairs.negative, counts[None, :], 0)
    return of_negatives, tf.cast(pairs.positive, dtype) + of_negatives


def _histograms(distances, pairs, counts, num_bins):
    """Returns histograms of each row's positives and negatives `[B, 2, R + 1]`."""
    node, part = _places(distances, num_bins)
    of_negatives, weights = _weights(pairs, counts, distances.dtype)
    num_rows, size = tf.shape(distances)[0], num_bins + 1
    row = tf.range(num_rows)[:, None] * 2 + tf.cast(of_negatives > 0, tf.int32)
    below = row * size + node  # [B, N]
    sums = tf.math.unsorted_segment_sum(weights * (1 - part), below, num_rows * 2 * size)
    sums += tf.math.unsorted_segment_sum(weights * part, below + 1, num_rows * 2 * size)
    return tf.reshape(sums, [num_rows, 2, size])


def _slopes(upstream, result, distances, pairs, counts, num_bins):
    node, _ = _places(distances, num_bins)
    of_negatives, weights = _weights(pairs, counts, distances.dtype)
    steps = upstream[:, :, 1:] - upstream[:, :, :-1]  # [B, 2, R]
    steps = tf.reshape(steps, [-1, 2 * num_bins])
    place = node + tf.where(of_negatives > 0, num_bins, 0)
    return weights * tf.gather(steps, place, batch_dims=1) * (-num_bins / 2)


_row_histograms = differentiable(_histograms, _slopes)


@compiled
def _has_both(pairs):
    return masks.row_any(pairs.positive) & masks.row_any(pairs.negative)


@keras.saving.register_keras_serializable("tfembloss")
class HistogramLoss(LabelLoss):
    r"""The odds that a random negative pair is nearer than a random positive pair.

    The cosines, -1 to 1, have $R$ bins; each counts for the two nodes that it lies between.
    With the parts $h^+_r$ of all positive pairs and $h^-_r$ of negative pairs at a node:

    $$L = \sum_r h^-_r \sum_{q \le r} h^+_q$$

    over the pairs of the rows that have both a positive and a negative. The value of an
    anchor is the part of its negative pairs.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        num_bins: R, >= 1.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> loss = HistogramLoss(num_bins=10)
    >>> round(float(loss(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    0.75

    Reference:
        Ustinova and Lempitsky, "Learning Deep Embeddings with Histogram Loss", 2016,
        https://arxiv.org/abs/1611.00822

    Relations:
        Equal to pytorch-metric-learning's loss of the same name with `n_bins=num_bins`,
        which raises an error for two equal rows. The paper has also the pairs of two rows
        without a positive.
    """

    takes_memory = False  # of whose rows the own positives are not known

    def __init__(
        self, num_bins=100, reduction="sum_over_batch_size", name=None, dtype=None
    ):
        super().__init__("cosine", None, reduction, name, dtype)
        self.num_bins = integer("num_bins", num_bins, 1)

    def sums_and_counts(self, batch):
        """Returns sums over each anchor's negative pairs, and how many they count for."""
        x = self.candidates(batch).distances  # [B, N]
        has_both = tf.cast(_has_both(batch.pairs), x.dtype)  # [B]
        # Of two such rows each is the anchor of their pair, so that it comes up twice.
        counts = 2 - replicas.gather(has_both)  # [N]
        histograms = _row_histograms(x, batch.pairs, counts, num_bins=self.num_bins)
        histograms *= has_both[:, None, None]  # [B, 2, R + 1]
        here = tf.reduce_sum(histograms[:, 0], axis=0)
        of_positives = tf.reduce_sum(replicas.gather(here[None]), axis=0)  # [R + 1]
        number = tf.stop_gradient(tf.reduce_sum(of_positives))
        up_to = tf.math.divide_no_nan(tf.cumsum(of_positives), number)
        sums = tf.linalg.matvec(histograms[:, 1], up_to)  # [B]
        return sums, tf.stop_gradient(tf.reduce_sum(histograms[:, 1], axis=1))


def _gaps(distances, positive, negative, num_bins):
    """Returns gaps d(a, p) - d(a, n), their bins, where in these they are, and if so."""
    gaps = positive.of(distances)[:, None] - distances  # [B, N]
    places = (gaps + 2) * (num_bins / 4)  # 0 to R
    bins = tf.clip_by_value(tf.cast(tf.floor(places), tf.int32), 0, num_bins - 1)
    counted = positive.found[:, None] & negative
    return gaps, bins, places - tf.cast(bins, places.dtype), counted


def _forward(distances, labels, num_bins):
    num_rows, negative = tf.shape(distances)[0], labels.negative
    rows = tf.range(num_rows)[:, None] * num_bins

    def by_bin(x, bins, counted):
        x = tf.where(counted, x, 0)
        sums = tf.math.unsorted_segment_sum(x, rows + bins, num_rows * num_bins)
        return tf.reshape(sums, [num_rows, num_bins])

    def step(positive, state):
        gaps, bins, parts, counted = _gaps(distances, positive, negative, num_bins)
        above = tf.minimum(bins + 1, num_bins - 1)
        counts = by_bin(1 - parts, bins, counted) + by_bin(parts, above, counted)
        return state[0] + counts, state[1] + by_bin(gaps, bins, counted)

    zeros = tf.zeros([num_rows, num_bins], distances.dtype)
    return over_positives(labels, step, (zeros, zeros))


def _backward(upstreams, result, distances, labels, num_bins):
    of_counts, of_sums = upstreams  # [B, R] each
    negative, num_keys = labels.negative, tf.shape(distances)[1]
    steps = tf.concat([of_counts[:, 1:], of_counts[:, -1:]], axis=1) - of_counts
    of_bins = steps * (num_bins / 4) + of_sums

    def step(positive, state):
        _, bins, _, counted = _gaps(distances, positive, negative, num_bins)
        slopes = tf.where(counted, tf.gather(of_bins, bins, batch_dims=1), 0)  # [B, N]
        at_positive = tf.reduce_sum(slopes, axis=1, keepdims=True)
        there = positive.mask(num_keys)
        return (state[0] - slopes + tf.where(there, at_positive, 0),)

    return over_positives(labels, step, (tf.zeros_like(distances),))[0]


# Of each anchor's triplets, the histogram of the gaps, and the sums of those in each bin.
_histograms_of_gaps = differentiable(_forward, _backward)


class GapHistogram(NamedTuple):
    """The moving histogram of a `tfembloss.layers.TripletHistogram`.

    Args:
        parts: `[R]`, of the sum 1; or 0 before the first batch.
        momentum: the weight of a new batch, 0 to 1.
    """

    parts: tf.Tensor
    momentum: float

    @property
    def layer(self):
        """What it is of, for error messages."""
        return f"a tfembloss.layers.TripletHistogram of {self.parts.shape[0]} bins"

    def moved(self, counts):
        """Returns the parts after a batch with a histogram of these counts, `[R]`."""
        number = tf.reduce_sum(counts)
        before = tf.cast(self.parts, counts.dtype)
        new = tf.math.divide_no_nan(counts, number)
        moved = before + self.momentum * (new - before)
        moved = tf.where(tf.reduce_sum(before) > 0, moved, new)
        return tf.where(number > 0, moved, before)


def _of_all_replicas(counts):
    return tf.reduce_sum(replicas.gather(tf.reduce_sum(counts, axis=0)[None]), axis=0)


@keras.saving.register_keras_serializable("tfembloss")
class DynamicSoftMarginLoss(LabelLoss):
    r"""Weights each triplet by how many triplets of the batch violate less.

    With the gap $g = d(a,p) - d(a,n)$ of distances of rows at length 1, -2 to 2:

    $$L = \mathrm{mean}_{(a,p,n)}\; w(g)\, g, \quad w(g) = P(G \le g)$$

    So there is no margin to tune. P is the cumulative histogram of the gaps of all triplets
    on all replicas, in R bins; each gap counts for the bin that it is in and for the next.
    An `EmbeddingModel(encoder, memory=tfembloss.layers.TripletHistogram())` mixes it with
    those of earlier batches. In a wrapper, such as `MatryoshkaLoss`, it takes no memory.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        num_bins: R, >= 1.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid, or a memory is another one than a
            `TripletHistogram` of as many bins.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> loss = DynamicSoftMarginLoss()
    >>> round(float(loss(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    0.1783

    Reference:
        Zhang and Rusinkiewicz, "Learning Local Descriptors with a CDF-Based Dynamic Soft
        Margin", 2019

    Relations:
        Equal to pytorch-metric-learning's loss of the same name in its first step. There,
        a batch of T triplets is mixed in with the weight m T / (1 - m + m T) in place of
        the momentum m, which of more than a few rows is almost 1.
    """

    takes_memory = False  # of rows

    def __init__(self, num_bins=10, reduction="sum_over_batch_size", name=None, dtype=None):
        super().__init__("normalized_euclidean", None, reduction, name, dtype)
        self.num_bins = integer("num_bins", num_bins, 1)

    def _check_memory(self, memory):
        if isinstance(memory, GapHistogram) and memory.parts.shape == (self.num_bins,):
            return memory
        raise ValueError(
            "Expected as memory of DynamicSoftMarginLoss a tfembloss.layers."
            f"TripletHistogram({self.num_bins}), with as many bins. Received: "
            f"{getattr(memory, 'layer', type(memory).__name__)}."
        )

    def call(self, y_true, y_pred, memory=None):
        """Returns values `[B]` of this replica's anchors."""
        if memory is None:
            return super().call(y_true, y_pred)
        batch = self.batch(y_true, y_pred, None)
        values = parts_of_mean(*self.sums_and_counts(batch, memory), batch.num_rows)
        return values + nan_where_not_finite(batch.keys)

    def sums_and_counts(self, batch, memory=None):
        """Returns sums over each anchor's triplets, and their number."""
        counts, sums = self._by_bin(batch)  # [B, R] each
        if memory is None:
            memory = GapHistogram(tf.zeros([self.num_bins], counts.dtype), 1.0)
        weights = tf.cumsum(memory.moved(_of_all_replicas(counts)))  # [R]
        number = tf.stop_gradient(tf.reduce_sum(counts, axis=1))
        return tf.linalg.matvec(sums, weights), number

    def counts(self, y_true, y_pred):
        """Returns the histogram of the gaps of all replicas `[R]`, as counts."""
        counts, _ = self._by_bin(self.batch(y_true, tf.cast(y_pred, self.dtype), None))
        return _of_all_replicas(counts)

    def _by_bin(self, batch):
        x = self.candidates(batch).distances  # [B, N]
        return _histograms_of_gaps(x, batch.pairs, num_bins=self.num_bins)
