"""Losses on labeled rows that average positive pairs and negative pairs apart."""

import keras
import tensorflow as tf

from tfembloss import masks, replicas
from tfembloss.checks import non_negative, number, one_of, positive
from tfembloss.kernels import differentiable
from tfembloss.losses.labeled.base import PairMeansLoss


@keras.saving.register_keras_serializable("tfembloss")
class LabelContrastiveLoss(PairMeansLoss):
    r"""Pulls positive pairs within a distance, and pushes negative pairs beyond one.

    $$L = \mathrm{mean}_{(a,p)} \max(0,\; d(a,p) - m_p) +
          \mathrm{mean}_{(a,n)} \max(0,\; m_n - d(a,n))$$

    Each mean is over the pairs of the batch whose term is not 0, see `mean_over`. With
    several labels, that of the positives is weighted by the labels that a pair shares of
    all that both have.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings, or
    rows of labels, see `multi_label`.

    Args:
        pos_margin: $m_p$, the distance up to which a positive pair costs nothing.
        neg_margin: $m_n$, the distance from which a negative pair costs nothing.
        distance: see `tfembloss.distances`.
        miner: of `tfembloss.miners`: only pairs that it selects. A pair that occurs in
            n selected triplets counts n times.
        mean_over: `"nonzero"` pairs, those whose term is not 0; `"all"` pairs; or
            `"anchors"`: the mean over the rows of the mean over the pairs of each row.
        reduction, name, dtype: see `EmbeddingLoss`.
        multi_label: for rows of several labels, `"multi_hot"` or `"ids"`: see `LabelLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> round(float(LabelContrastiveLoss()(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    1.3785

    Reference:
        Hadsell et al., "Dimensionality Reduction by Learning an Invariant Mapping", 2006

    Relations:
        Equal to pytorch-metric-learning's ContrastiveLoss; where that takes a similarity,
        $m_p$ and $m_n$ are 1 minus its margins. `mean_over` is its reducer:
        AvgNonZeroReducer, MeanReducer and PerAnchorReducer. `ContrastiveLoss` is on pairs
        in columns, and squares its terms.
    """

    counts_repeats = True

    def __init__(
        self,
        pos_margin=0.0,
        neg_margin=1.0,
        distance="normalized_euclidean",
        miner=None,
        mean_over="nonzero",
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
        multi_label=None,
    ):
        super().__init__(distance, miner, reduction, name, dtype, multi_label=multi_label)
        self.pos_margin = number("pos_margin", pos_margin)
        self.neg_margin = number("neg_margin", neg_margin)
        self.mean_over = one_of("mean_over", mean_over, ("nonzero", "all", "anchors"))

    @staticmethod
    def formula(distances, positive, negative, *, pos_margin, neg_margin, mean_over):
        """Returns sums and numbers of the terms of a mean, of positives and negatives."""

        def parts(terms, pairs):
            if mean_over == "anchors":
                means = masks.row_mean(terms, pairs)  # [B]
                return means, tf.ones_like(means)
            counted = tf.where(terms > 0, pairs, 0) if mean_over == "nonzero" else pairs
            return masks.row_sum(terms, pairs), tf.reduce_sum(counted, axis=1)

        far = parts(tf.nn.relu(distances - pos_margin), positive)
        near = parts(tf.nn.relu(neg_margin - distances), negative)
        return *far, *near


@keras.saving.register_keras_serializable("tfembloss")
class SignalToNoiseRatioContrastiveLoss(LabelContrastiveLoss):
    r"""`LabelContrastiveLoss` of the noise-to-signal ratio of each pair.

    The distance is $d(a, b) = \mathrm{var}(a - b) / \mathrm{var}(a)$, `"snr"` in
    `tfembloss.distances`.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        pos_margin, neg_margin, miner: see `LabelContrastiveLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> loss = SignalToNoiseRatioContrastiveLoss()
    >>> round(float(loss(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    19.08

    Reference:
        Yuan et al., "Signal-to-Noise Ratio: A Robust Distance Metric for Deep Metric
        Learning", 2019, https://arxiv.org/abs/1904.02616

    Relations:
        Equal to pytorch-metric-learning's loss of the same name, but for rows without
        variance, where that is infinite and this 0. The paper's regularizer is
        `ZeroMeanRegularizationLoss`, in a `WeightedSum`.
    """

    def __init__(
        self,
        pos_margin=0.0,
        neg_margin=1.0,
        miner=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(
            pos_margin,
            neg_margin,
            "snr",
            miner,
            reduction=reduction,
            name=name,
            dtype=dtype,
        )


@keras.saving.register_keras_serializable("tfembloss")
class ThresholdConsistentMarginLoss(PairMeansLoss):
    r"""Brings all classes to one threshold of the cosine; a regularizer of another loss.

    With $s = \cos$:

    $$L = \lambda_p\, \mathrm{mean}_{s(a,p) \le m_p} (m_p - s(a,p)) +
          \lambda_n\, \mathrm{mean}_{s(a,n) \ge m_n} (s(a,n) - m_n)$$

    Only pairs on the wrong side of their margin count.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        pos_weight, neg_weight: $\lambda_p$ and $\lambda_n$, >= 0.
        pos_margin, neg_margin: $m_p$ and $m_n$, cosines.
        miner: of `tfembloss.miners`: only pairs that it selects.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> loss = ThresholdConsistentMarginLoss()
    >>> round(float(loss(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    0.6533

    Reference:
        Zhang et al., "Learning for Transductive Threshold Calibration in Open-World
        Recognition", 2023, https://arxiv.org/abs/2307.04047

    Relations:
        Equal to pytorch-metric-learning's loss of the same name.
    """

    def __init__(
        self,
        pos_weight=1.0,
        neg_weight=1.0,
        pos_margin=0.9,
        neg_margin=0.5,
        miner=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__("cosine", miner, reduction, name, dtype)
        self.pos_weight = non_negative("pos_weight", pos_weight)
        self.neg_weight = non_negative("neg_weight", neg_weight)
        self.pos_margin = number("pos_margin", pos_margin)
        self.neg_margin = number("neg_margin", neg_margin)

    @staticmethod
    def formula(
        distances, positive, negative, *, pos_weight, neg_weight, pos_margin, neg_margin
    ):
        """Returns sums and numbers of terms, of positives and of negatives."""
        cosines = 1 - distances  # [B, N]
        positive = tf.where(cosines <= pos_margin, positive, 0)
        negative = tf.where(cosines >= neg_margin, negative, 0)
        return (
            pos_weight * masks.row_sum(pos_margin - cosines, positive),
            tf.reduce_sum(positive, axis=1),
            neg_weight * masks.row_sum(cosines - neg_margin, negative),
            tf.reduce_sum(negative, axis=1),
        )


@differentiable
def _sums_of_pairs(distances, pairs):
    """Returns sums and counts of positive and of negative pairs' distances `[B, 4]`."""
    positive = tf.cast(pairs.positive, distances.dtype)  # [B, N]
    negative = tf.cast(pairs.negative, distances.dtype)  # [B, N]
    return tf.stack(
        [
            masks.row_sum(distances, positive),
            tf.reduce_sum(positive, axis=1),
            masks.row_sum(distances, negative),
            tf.reduce_sum(negative, axis=1),
        ],
        axis=1,
    )


@keras.saving.register_keras_serializable("tfembloss")
class IntraPairVarianceLoss(PairMeansLoss):
    r"""Draws the pairs that are worse than the mean of their kind towards it.

    With $s = \cos$, and $\bar s_p$, $\bar s_n$ its means over all positive and all negative
    pairs of the batch, which have gradients too:

    $$L = \mathrm{mean}_{(a,p)} \max(0,\; (1 - \epsilon_p)\, \bar s_p - s(a,p))^2 +
          \mathrm{mean}_{(a,n)} \max(0,\; s(a,n) - (1 + \epsilon_n)\, \bar s_n)^2$$

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        pos_eps, neg_eps: $\epsilon_p$ and $\epsilon_n$, > 0.
        miner: of `tfembloss.miners`: only pairs that it selects.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> round(float(IntraPairVarianceLoss()(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    0.0364

    Reference:
        Yu and Tao, "Deep Metric Learning with Tuplet Margin Loss", 2019

    Relations:
        Equal to pytorch-metric-learning's loss of the same name. The paper adds it to
        `TupletMarginLoss`, as `WeightedSum` does.
    """

    takes_memory = False  # whose pairs' mean is not known to the others

    def __init__(
        self,
        pos_eps=0.01,
        neg_eps=0.01,
        miner=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__("cosine", miner, reduction, name, dtype)
        self.pos_eps = positive("pos_eps", pos_eps)
        self.neg_eps = positive("neg_eps", neg_eps)

    def sums_and_counts(self, batch):
        """Returns those of the formula, which takes the means over all pairs."""
        x = self.candidates(batch).distances  # [B, N]
        pairs = self.selected_pairs(batch, x)
        here = tf.reduce_sum(_sums_of_pairs(x, pairs), axis=0)  # [4]
        sums = tf.reduce_sum(replicas.gather(here[None]), axis=0)  # of all replicas
        means = 1 - tf.math.divide_no_nan(sums[::2], sums[1::2])  # of the cosines
        parts = self._kernel((x, means[0], means[1]), pairs, **self.options)
        return tf.unstack(parts, self.num_parts, axis=1)

    @staticmethod
    def formula(x, positive, negative, *, pos_eps, neg_eps):
        """Returns sums and numbers of the pairs, of positives and of negatives."""
        distances, of_positives, of_negatives = x  # [B, N], [], []
        cosines = 1 - distances
        far = tf.nn.relu((1 - pos_eps) * of_positives - cosines)
        near = tf.nn.relu(cosines - (1 + neg_eps) * of_negatives)
        return (
            masks.row_sum(far * far, positive),
            tf.reduce_sum(positive, axis=1),
            masks.row_sum(near * near, negative),
            tf.reduce_sum(negative, axis=1),
        )
