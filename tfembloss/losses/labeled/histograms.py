"""A loss on labeled rows by the histograms of the similarities of all pairs."""

import keras
import tensorflow as tf

from tfembloss import masks, replicas
from tfembloss.checks import integer
from tfembloss.kernels import compiled, differentiable
from tfembloss.losses.labeled.base import LabelLoss


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
