"""Losses that set an anchor's positives against all of its negatives at once."""

import math

import keras
import tensorflow as tf

from tfembloss import distances as distances_between
from tfembloss import masks
from tfembloss.checks import non_negative, number, positive
from tfembloss.losses.labeled.base import PairLoss


@keras.saving.register_keras_serializable("tfembloss")
class NCALoss(PairLoss):
    r"""Neighborhood components analysis: the odds that a random neighbor is a positive.

    With $P$ the positives of an anchor and $K$ its positives and negatives:

    $$L = \mathrm{mean}_a -\log
          \frac{\sum_{p \in P} e^{-s\, d(a,p)^2}}{\sum_{k \in K} e^{-s\, d(a,k)^2}}$$

    The mean is over the anchors with a positive.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        scale: s, > 0.
        distance: d, see `tfembloss.distances`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> round(float(NCALoss()(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    1.2707

    Reference:
        Goldberger et al., "Neighbourhood Components Analysis", 2004

    Relations:
        Equal to pytorch-metric-learning's loss of the same name with `softmax_scale=s`,
        which drops anchors whose odds round to 0. A miner there weights each anchor by how
        often it was mined, as a part of the most: here such weights are a `sample_weight`.
        `ProxyNCALoss` is on class centers.
    """

    def __init__(
        self,
        scale=1.0,
        distance="normalized_euclidean",
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(distance, None, reduction, name, dtype)
        self.scale = positive("scale", scale)

    @staticmethod
    def formula(distances, positive, negative, *, scale):
        """Returns the value of each anchor with a positive, and 1."""
        logits = -scale * distances * distances  # [B, N]
        of_positives = masks.row_logsumexp(logits, positive)  # [B]
        of_all = masks.row_logsumexp(logits, positive + negative)
        valid = masks.row_any(positive > 0)
        both = (tf.where(valid, log_sum, 0) for log_sum in (of_all, of_positives))
        of_all, of_positives = both
        return of_all - of_positives, tf.cast(valid, distances.dtype)


@keras.saving.register_keras_serializable("tfembloss")
class TupletMarginLoss(PairLoss):
    r"""Sets each positive, with a margin of the angle, against all negatives of the anchor.

    $$L = \mathrm{mean}_{(a,p)}
          \log\Big(1 + \sum_n e^{s (\cos\theta_{an} - \cos(\theta_{ap} - m))}\Big)$$

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        margin: m, an angle in radians, 0 to pi.
        scale: s, > 0.
        miner: of `tfembloss.miners`: only pairs that it selects. A pair that occurs in
            n selected triplets counts n times.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> loss = TupletMarginLoss(scale=2.0)
    >>> round(float(loss(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    1.1638

    Reference:
        Yu and Tao, "Deep Metric Learning with Tuplet Margin Loss", 2019

    Relations:
        Equal to pytorch-metric-learning's loss of the same name, whose margin is in
        degrees, and whose gradient is NaN for two equal rows of a class.
    """

    counts_repeats = True

    def __init__(
        self,
        margin=0.1,
        scale=64.0,
        miner=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__("cosine", miner, reduction, name, dtype)
        self.margin = number(
            "margin", margin, "an angle from 0 to pi", lambda m: 0 <= m <= math.pi
        )
        self.scale = positive("scale", scale)

    @staticmethod
    def formula(distances, positive, negative, *, margin, scale):
        """Returns sums over each anchor's positives, and their number."""
        cosines = 1 - distances  # [B, N]
        sines = distances_between.root(1 - cosines * cosines)
        with_margin = math.cos(margin) * cosines + math.sin(margin) * sines
        log_sum = masks.row_logsumexp(scale * cosines, negative)[:, None]  # [B, 1]
        values = tf.nn.softplus(log_sum - scale * with_margin)  # [B, N]
        return masks.row_sum(values, positive), tf.reduce_sum(positive, axis=1)


@keras.saving.register_keras_serializable("tfembloss")
class RankedListLoss(PairLoss):
    r"""Draws positives into a ball around the anchor, and negatives out of a larger one.

    With $[x] = \max(0, x)$ and the boundary $b = \alpha - m$ of the positives, weights
    $w_p = e^{T_p [d(a,p) - b]}$ of the positives beyond it, and
    $w_n = e^{T_n [\alpha - d(a,n)]}$ of the negatives nearer than $\alpha$:

    $$L = \mathrm{mean}_a
          (1 - \lambda) \frac{\sum_p w_p\, [d(a,p) - b]}{\sum_p w_p + \epsilon} +
          \lambda \frac{\sum_n w_n\, [\alpha - d(a,n)]}{\sum_n w_n + \epsilon}$$

    with $\epsilon$ 1e-5 times the number of rows. The mean is over all rows.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        margin: m, between the two boundaries, a distance >= 0.
        negative_temperature: $T_n$, >= 0: how much nearer negatives count more.
        imbalance: $\lambda$, 0 to 1: the weight of the negatives.
        alpha: $\alpha$, a distance; None for 1 + m / 2.
        positive_temperature: $T_p$, >= 0.
        distance: see `tfembloss.distances`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> round(float(RankedListLoss()(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    0.4158

    Reference:
        Wang et al., "Ranked List Loss for Deep Metric Learning", 2019,
        https://arxiv.org/abs/1903.03238

    Relations:
        Equal to pytorch-metric-learning's loss of the same name: margin, Tn, imbalance,
        alpha and Tp.
    """

    def __init__(
        self,
        margin=0.4,
        negative_temperature=10.0,
        imbalance=0.5,
        alpha=None,
        positive_temperature=0.0,
        distance="normalized_euclidean",
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(distance, None, reduction, name, dtype)
        self.margin = non_negative("margin", margin)
        self.negative_temperature = non_negative(
            "negative_temperature", negative_temperature
        )
        self.imbalance = number(
            "imbalance", imbalance, "a number from 0 to 1", lambda x: 0 <= x <= 1
        )
        self.alpha = None if alpha is None else number("alpha", alpha)
        self.positive_temperature = non_negative(
            "positive_temperature", positive_temperature
        )

    @property
    def boundary(self):
        """Where negatives should be beyond."""
        return 1 + self.margin / 2 if self.alpha is None else self.alpha

    @staticmethod
    def formula(
        distances, positive, negative, *, boundary, margin, imbalance,
        positive_temperature, negative_temperature,
    ):  # fmt: skip
        """Returns the value of each anchor, and 1."""

        def mean(excess, pairs, temperature):
            pairs = tf.where(excess > 0, pairs, 0)  # [B, N]
            weights = pairs * tf.exp(temperature * excess)
            total = tf.reduce_sum(weights, axis=1) + epsilon
            return masks.row_sum(excess * weights, pairs) / total

        # Of the number of rows, also if a memory of some is not yet full.
        num_rows = 1 + tf.reduce_sum(positive + negative, axis=1)  # [B]
        epsilon = 1e-5 * num_rows
        far = mean(distances - (boundary - margin), positive, positive_temperature)
        near = mean(boundary - distances, negative, negative_temperature)
        values = (1 - imbalance) * far + imbalance * near
        return values, tf.ones_like(values)
