"""Losses on pairs with a score or a label each, in columns `[B, 2, D]`."""

from collections.abc import Callable

import keras
import tensorflow as tf

from tfembloss import distances, replicas
from tfembloss.checks import non_negative
from tfembloss.kernels import differentiable
from tfembloss.losses.base import EmbeddingLoss, first_dimensions
from tfembloss.losses.first_batch import range_warning
from tfembloss.losses.inputs import are_missing, check_columns, check_scores, require


class ScoredPairLoss(EmbeddingLoss):
    """Base of the losses of each pair by itself, by its distance and its score.

    A subclass sets its `distance` and defines a static method

        formula(distances, scores, *, margin) -> values [B]

    of the distances `[B]` between the pairs' embeddings and the targets `[B]`. Its keyword
    arguments are the loss's attributes of the same names.
    """

    distance: str | Callable = "cosine"

    @staticmethod
    def _kernel_of(formula):
        def of_columns(columns, scores, distance, **options):
            x = distance.rowwise(columns[:, 0], columns[:, 1])  # [B]
            return formula(x, scores, **options)

        return differentiable(of_columns)

    def call(self, y_true, y_pred):
        """Returns values `[B]` of columns `y_pred [B, 2, D]` with scores `y_true [B]`."""
        columns = check_columns(y_pred, at_least=2, at_most=2)  # [B, 2, D]
        scores = tf.cast(check_scores(y_true, columns), self.dtype)  # [B]
        distance = distances.get(self.distance)
        return self._kernel(columns, scores, distance, **self.options)


@keras.saving.register_keras_serializable("tfembloss")
class CosineSimilarityLoss(ScoredPairLoss):
    r"""Squared error between the cosine similarity of a pair and its score.

    $$L_i = (\cos(u_i, v_i) - y_i)^2$$

    Call arguments: `y_pred` columns `[B, 2, D]`; `y_true` scores `[B]`, numbers in the
    range of cosines, -1 to 1.

    Args:
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if `y_pred` or the scores are invalid.

    Example:

    >>> import tensorflow as tf
    >>> pairs = tf.constant([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.8, 0.6]]])
    >>> round(float(CosineSimilarityLoss()(tf.constant([0.6, 0.1]), pairs)), 4)
    0.125

    Reference:
        Reimers and Gurevych, "Sentence-BERT: Sentence Embeddings using Siamese
        BERT-Networks", 2019, https://arxiv.org/abs/1908.10084

    Relations:
        Equal to sentence-transformers' class of the same name. `CoSENTLoss` and `AnglELoss`
        only ask for the order of the scores, and usually give better embeddings.
    """

    @staticmethod
    def formula(distances, scores):
        """Returns the squared error of each cosine."""
        return tf.square(1 - distances - scores)

    def first_batch_warning(self, y_true, shape):
        """Returns a warning of scores outside of the range of cosines, or None."""
        advice = "Divide them by the maximum, for example y / 5 for scores from 0 to 5."
        return range_warning(y_true, -1, 1, "scores in the range of cosines", advice)


@keras.saving.register_keras_serializable("tfembloss")
class ContrastiveLoss(ScoredPairLoss):
    r"""Pulls matching pairs together, and pushes others apart up to a margin.

    $$L_i = \frac{1}{2} \big(y_i\, d_i^2 + (1 - y_i) \max(0,\; m - d_i)^2\big),\quad
      d_i = d(u_i, v_i)$$

    Call arguments: `y_pred` columns `[B, 2, D]`; `y_true` labels `[B]`: 1 for a match, 0
    for none; a number in between weights both terms.

    Args:
        margin: m, a distance, >= 0.
        distance: see `tfembloss.distances`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument, `y_pred` or the labels are invalid.

    Example:

    >>> import tensorflow as tf
    >>> pairs = tf.constant([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.8, 0.6]]])
    >>> round(float(ContrastiveLoss()(tf.constant([1, 0]), pairs)), 4)
    0.0425

    Reference:
        Hadsell et al., "Dimensionality Reduction by Learning an Invariant Mapping", 2006,
        https://doi.org/10.1109/CVPR.2006.100

    Relations:
        Equal to sentence-transformers' class of the same name, which adds 1e-6 to every
        component of the difference in its euclidean and manhattan distance. Its
        `size_average=False` is `reduction="sum"`.
    """

    def __init__(
        self,
        margin=0.5,
        distance="cosine",
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.margin = non_negative("margin", margin)
        self.distance = distance
        distances.get(distance)

    @staticmethod
    def formula(distances, labels, *, margin):
        """Returns half the square of each distance, or of what it lacks to the margin."""
        far, near = tf.square(distances), tf.square(tf.nn.relu(margin - distances))
        return (labels * far + (1 - labels) * near) / 2

    def first_batch_warning(self, y_true, shape):
        """Returns a warning of labels outside of 0 to 1, or None."""
        advice = "For scores of another range use CoSENTLoss, which only compares them."
        return range_warning(y_true, 0, 1, "labels, 1 for a match and 0 for none", advice)


@differentiable
def _distances(columns, rowwise):
    return rowwise(columns[:, 0], columns[:, 1])


def _mean(x, mask):
    mask = tf.cast(mask, x.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(mask * x), tf.reduce_sum(mask))


@keras.saving.register_keras_serializable("tfembloss")
class OnlineContrastiveLoss(ContrastiveLoss):
    r"""Sum of `ContrastiveLoss` over the hard pairs of the batch only.

    With P the matching pairs of all replicas and N the others:

    $$L = \sum_{i \in P,\; d_i > \min_N d} d_i^2
        + \sum_{i \in N,\; d_i < \max_P d} \max(0,\; m - d_i)^2$$

    Where a batch has pairs of one kind only, they are compared with their own mean
    distance. Each row's value is its term times the number of rows of all replicas, so
    that the mean of the values is the sum above.

    Call arguments: `y_pred` columns `[B, 2, D]`; `y_true` labels `[B]`: 1 for a match, 0
    for none.

    Args:
        margin: m, a distance, >= 0.
        distance: see `tfembloss.distances`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: as for `ContrastiveLoss`, and if a label is neither 0 nor 1 (in a graph
            this is TensorFlow's InvalidArgumentError, with the same message).

    Example:

    >>> import tensorflow as tf
    >>> pairs = tf.constant([[[1.0, 0.0], [0.8, 0.6]], [[0.0, 1.0], [0.8, 0.6]]])
    >>> round(float(OnlineContrastiveLoss()(tf.constant([0, 1]), pairs)), 4)
    0.25

    Reference:
        Hadsell et al., "Dimensionality Reduction by Learning an Invariant Mapping", 2006,
        https://doi.org/10.1109/CVPR.2006.100

    Relations:
        Equal to sentence-transformers' class of the same name, which finds the hard pairs
        of each device separately and leaves out pairs with other labels.
    """

    def call(self, y_true, y_pred):
        """Returns values `[B]` of columns `y_pred [B, 2, D]` with labels `y_true [B]`."""
        columns = check_columns(y_pred, at_least=2, at_most=2)  # [B, 2, D]
        labels = check_scores(y_true, columns)  # [B]
        labels = require(
            tf.reduce_all((labels == 0) | (labels == 1)),
            labels,
            "OnlineContrastiveLoss expects labels y_true that are 0 or 1. Received others: "
            "scores between them are for ContrastiveLoss or CoSENTLoss.",
        )
        match = labels == 1
        d = _distances(columns, distances.get(self.distance).rowwise)  # [B]
        hard = self._is_hard(tf.stop_gradient(d), match)  # [B]
        value = tf.where(match, tf.square(d), tf.square(tf.nn.relu(self.margin - d)))
        num_rows = replicas.total(tf.cast(tf.size(d), d.dtype))
        return tf.where(hard, num_rows * value, 0 * d)  # 0 * d: NaN stays

    def _is_hard(self, d, match):
        """Returns which pairs are hard: matches that are far, or others that are near."""
        keys, key_match = replicas.gather(d), replicas.gather(tf.cast(match, tf.int64)) == 1
        infinity = tf.constant(float("inf"), d.dtype)
        farthest = tf.reduce_max(tf.where(key_match, keys, -infinity))
        nearest = tf.reduce_min(tf.where(key_match, infinity, keys))
        if_no_match = tf.where(farthest == -infinity, _mean(keys, ~key_match), farthest)
        if_no_other = tf.where(nearest == infinity, _mean(keys, key_match), nearest)
        return tf.where(match, d > if_no_other, d < if_no_match)


@keras.saving.register_keras_serializable("tfembloss")
class ContrastiveTensionLoss(EmbeddingLoss):
    r"""Binary cross-entropy of whether two texts are the same, by two encoders.

    With the embeddings u of one encoder and v of the other, and labels y:

    $$L = \sum_i -y_i \log \sigma(u_i \cdot v_i)
          - (1 - y_i) \log (1 - \sigma(u_i \cdot v_i))$$

    Each row's value is its term times the number of rows of all replicas, so that the mean
    of the values is the sum.

    Call arguments: `y_pred` columns `[B, 2, D]`; `y_true` labels `[B]`: 1 where both texts
    are the same, 0 where they are not. `tfembloss.data.contrastive_tension_batches` makes
    such pairs from texts.

    Args:
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if `y_pred` is invalid, or a label is not within 0 to 1 (in a graph this
            is TensorFlow's InvalidArgumentError, with the same message).

    Example:

    >>> import tensorflow as tf
    >>> pairs = tf.constant([[[1.0, 0.0], [2.0, 1.0]], [[0.0, 1.0], [3.0, -2.0]]])
    >>> round(float(ContrastiveTensionLoss()(tf.constant([1, 0]), pairs)), 4)
    0.2539

    Reference:
        Carlsson et al., "Semantic Re-tuning with Contrastive Tension", 2021,
        https://openreview.net/forum?id=Ov_sMNau-PF

    Relations:
        Equal to sentence-transformers' class of the same name, which owns the second
        encoder and sums over each device's rows.
    """

    def call(self, y_true, y_pred):
        """Returns values `[B]` of columns `y_pred [B, 2, D]` with labels `y_true [B]`."""
        columns = check_columns(y_pred, at_least=2, at_most=2)  # [B, 2, D]
        if are_missing(y_true):
            raise ValueError(
                "ContrastiveTensionLoss needs labels y, 1 where both texts are the same: "
                "tfembloss.data.contrastive_tension_batches(texts) makes such pairs. "
                "Without y there is ContrastiveTensionLossInBatchNegatives."
            )
        labels = check_scores(y_true, columns)  # [B]
        labels = require(
            tf.reduce_all((labels >= 0) & (labels <= 1)),
            tf.cast(labels, self.dtype),
            "ContrastiveTensionLoss expects labels y_true from 0 to 1, 1 where both texts "
            "are the same. Received others.",
        )
        u, v = tf.unstack(columns, 2, axis=1)  # [B, D] each
        scores = tf.reduce_sum(u * v, axis=1)  # [B]
        values = tf.nn.sigmoid_cross_entropy_with_logits(labels, scores)  # [B]
        return replicas.total(tf.cast(tf.size(values), self.dtype)) * values

    def truncate(self, y_pred, dim):
        """Returns the first `dim` dimensions as they are: dot products depend on length."""
        return first_dimensions(y_pred, dim)
