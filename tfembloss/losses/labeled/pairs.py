"""Losses on pairs of labeled rows: positives near, negatives far."""

import keras
import tensorflow as tf

from tfembloss import masks, replicas
from tfembloss.checks import integer, non_negative, number, positive
from tfembloss.kernels import differentiable
from tfembloss.losses.base import nan_where_not_finite
from tfembloss.losses.classification.base import check_labels, of_label
from tfembloss.losses.inputs import check_rows, described
from tfembloss.losses.labeled.base import PairLoss, parts_of_mean


@keras.saving.register_keras_serializable("tfembloss")
class MultiSimilarityLoss(PairLoss):
    r"""Weights far positives and near negatives by the other pairs of their anchor.

    $$L = \mathrm{mean}_a \frac{1}{\alpha} \log(1 + \sum_p e^{\alpha (d(a,p) - b)})
        + \frac{1}{\beta} \log(1 + \sum_n e^{\beta (b - d(a,n))})$$

    with b = 1 - base for the cosine, whose similarity is 1 - d. The mean is over all rows;
    an anchor without positives has only the second term. With several labels, the
    exponential of a positive is multiplied by the labels that it shares with the anchor of
    all that both have.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings, or
    rows of labels, see `multi_label`.

    Args:
        alpha, beta: scales of the positives and of the negatives, > 0.
        base: where a pair becomes too far or too near: with `"cosine"` and `"dot"` a
            similarity (b is 1 - base or -base), with other distances the distance b.
        distance: see `tfembloss.distances`.
        miner: of `tfembloss.miners`: only pairs that it selects; the paper's is
            `MultiSimilarityMiner`.
        reduction, name, dtype: see `EmbeddingLoss`.
        multi_label: for rows of several labels, `"multi_hot"` or `"ids"`: see `LabelLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> round(float(MultiSimilarityLoss()(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    0.6791

    Reference:
        Wang et al., "Multi-Similarity Loss with General Pair Weighting for Deep Metric
        Learning", 2019, https://arxiv.org/abs/1904.06627

    Relations:
        Equal to pytorch-metric-learning's loss of the same name.
    """

    def __init__(
        self,
        alpha=2.0,
        beta=50.0,
        base=0.5,
        distance="cosine",
        miner=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
        multi_label=None,
    ):
        super().__init__(distance, miner, reduction, name, dtype, multi_label=multi_label)
        self.alpha = positive("alpha", alpha)
        self.beta = positive("beta", beta)
        self.base = number("base", base)

    @property
    def boundary(self):
        """The base, as a distance."""
        of_similarity = {"cosine": 1 - self.base, "dot": -self.base}
        return of_similarity.get(self.distance, self.base)

    @staticmethod
    def formula(distances, positive, negative, *, alpha, beta, boundary):
        """Returns the value of each anchor, and 1."""
        far = masks.row_logsumexp(alpha * (distances - boundary), positive)  # [B]
        near = masks.row_logsumexp(beta * (boundary - distances), negative)  # [B]
        values = tf.nn.softplus(far) / alpha + tf.nn.softplus(near) / beta
        return values, tf.ones_like(values)


@keras.saving.register_keras_serializable("tfembloss")
class CircleLoss(PairLoss):
    r"""Weights each pair by how far its cosine is from its optimum.

    With $s = \cos$, and weights $w$ that have no gradient:

    $$L = \mathrm{mean}_a \log\Big(1 + \sum_p e^{-\gamma w_p (s(a,p) - (1 - m))}
          \sum_n e^{\gamma w_n (s(a,n) - m)}\Big), \quad
      w_p = \max(0, 1 + m - s(a,p)),\ w_n = \max(0, s(a,n) + m)$$

    The mean is over the anchors whose value is not 0.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        m: relaxation: positives should have cosines above 1 - m, negatives below m.
        gamma: scale, > 0.
        miner: of `tfembloss.miners`: only pairs that it selects.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> round(float(CircleLoss()(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    49.664

    Reference:
        Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization",
        2020, https://arxiv.org/abs/2002.10857

    Relations:
        Equal to pytorch-metric-learning's loss of the same name.
    """

    def __init__(
        self,
        m=0.4,
        gamma=80.0,
        miner=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__("cosine", miner, reduction, name, dtype)
        self.m = number("m", m)
        self.gamma = positive("gamma", gamma)

    @staticmethod
    def formula(distances, positive, negative, *, m, gamma):
        """Returns the value of each anchor, and 1 where it is not 0."""
        cosines = 1 - distances  # [B, N]
        constant = tf.stop_gradient(cosines)
        far = -gamma * tf.nn.relu(1 + m - constant) * (cosines - (1 - m))
        near = gamma * tf.nn.relu(constant + m) * (cosines - m)
        log_product = masks.row_logsumexp(far, positive)  # [B]
        log_product += masks.row_logsumexp(near, negative)
        values = tf.nn.softplus(log_product)
        return values, tf.cast(values > 0, values.dtype)


class _LiftedLoss(PairLoss):
    """What both lifted structure losses have in common."""

    def __init__(
        self,
        neg_margin=1.0,
        pos_margin=0.0,
        distance="normalized_euclidean",
        miner=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(distance, miner, reduction, name, dtype)
        self.neg_margin = number("neg_margin", neg_margin)
        self.pos_margin = number("pos_margin", pos_margin)


@differentiable
def _log_sum_of_negatives(distances, pairs, neg_margin):
    """Logarithm of each row's sum over its negatives `[B]`."""
    weights = tf.cast(pairs.negative, distances.dtype)  # [B, N]
    log_sum = masks.row_logsumexp(neg_margin - distances, weights)
    # Finite, since the sum of two empty sums needs a gradient that is not NaN.
    return tf.maximum(log_sum, distances.dtype.min / 4)


@keras.saving.register_keras_serializable("tfembloss")
class LiftedStructureLoss(_LiftedLoss):
    r"""Contrasts each positive pair with all negatives of both its rows.

    $$L = \mathrm{mean}_{(a,p)} \frac{1}{2} \max\Big(0,\; d(a,p) - m_p +
          \log\big(\sum_n e^{m_n - d(a,n)} + \sum_n e^{m_n - d(p,n)}\big)\Big)^2$$

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        neg_margin: $m_n$, a distance.
        pos_margin: $m_p$, a distance.
        distance: see `tfembloss.distances`.
        miner: of `tfembloss.miners`: only pairs that it selects. A pair that occurs in
            n selected triplets counts n times.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> round(float(LiftedStructureLoss()(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    3.4238

    Reference:
        Oh Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding",
        2016, https://arxiv.org/abs/1511.06452

    Relations:
        Equal to pytorch-metric-learning's loss of the same name. There, a pair whose rows
        are left without negatives by a miner counts with a sum of 1, here with 0.
        `GeneralizedLiftedStructureLoss` takes all of an anchor's positives at once.
    """

    takes_memory = False  # of whose rows the own negatives are not known
    counts_repeats = True

    def sums_and_counts(self, batch):
        """Returns those of the formula, which takes the log sums of both rows of a pair."""
        x = self.candidates(batch).distances  # [B, N]
        pairs = self.selected_pairs(batch, x)
        log_sums = _log_sum_of_negatives(x, pairs, neg_margin=self.neg_margin)  # [B]
        x = (x, log_sums, replicas.gather(log_sums))
        return tf.unstack(self._kernel(x, pairs, pos_margin=self.pos_margin), 2, axis=1)

    @staticmethod
    def formula(x, positive, negative, *, pos_margin):
        """Returns sums over each anchor's positives, and their number."""
        distances, own, other = x  # [B, N], [B], [N]
        own = tf.broadcast_to(own[:, None], tf.shape(distances))  # [B, N]
        largest = tf.stop_gradient(tf.maximum(own, other))
        both = tf.math.log(tf.exp(own - largest) + tf.exp(other - largest)) + largest
        hinge = tf.nn.relu(both + distances - pos_margin)
        return masks.row_sum(hinge * hinge / 2, positive), tf.reduce_sum(positive, axis=1)


@keras.saving.register_keras_serializable("tfembloss")
class GeneralizedLiftedStructureLoss(_LiftedLoss):
    r"""Contrasts all positives of an anchor with all of its negatives.

    $$L = \mathrm{mean}_a \max\Big(0,\; \log \sum_p e^{d(a,p) - m_p} +
          \log \sum_n e^{m_n - d(a,n)}\Big)$$

    The mean is over all rows; the logarithm of an empty sum counts as 0.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        neg_margin: $m_n$, a distance.
        pos_margin: $m_p$, a distance.
        distance: see `tfembloss.distances`.
        miner: of `tfembloss.miners`: only pairs that it selects.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> loss = GeneralizedLiftedStructureLoss()
    >>> round(float(loss(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    1.8919

    Reference:
        Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification",
        2017, https://arxiv.org/abs/1703.07737

    Relations:
        Equal to pytorch-metric-learning's loss of the same name.
    """

    @staticmethod
    def formula(distances, positive, negative, *, neg_margin, pos_margin):
        """Returns the value of each anchor, and 1."""
        far = masks.row_logsumexp(distances - pos_margin, positive)  # [B]
        near = masks.row_logsumexp(neg_margin - distances, negative)  # [B]
        # Not `x > -inf`, which would treat NaN as an empty sum.
        far, near = (tf.where(x == float("-inf"), 0.0, x) for x in (far, near))
        values = tf.nn.relu(far + near)
        return values, tf.ones_like(values)


@keras.saving.register_keras_serializable("tfembloss")
class MarginLoss(PairLoss):
    r"""Keeps positives nearer and negatives farther than a boundary, each by a margin.

    Over all triplets of the batch, with $[x] = \max(0, x)$:

    $$L = \frac{\sum_{(a,p,n)} [d(a,p) - \beta + m] + [\beta - d(a,n) + m]}
               {\text{number of these terms that are not 0}}$$

    So a pair that occurs in n triplets counts n times. The boundary may be learned, one or
    one of each class, by an `EmbeddingClassifier` with the head
    `tfembloss.layers.MarginHead`; the loss is then

    $$L + \nu\, \beta \quad \text{or} \quad L + \nu \frac{\sum_{(a,p,n)} \beta_{y_a}}
      {\text{number of terms that are not 0}}$$

    Call arguments: `y_pred [B, D]`, with learned boundaries `[B, D + num_betas]`; `y_true`
    class ids `[B]`, integers or strings, with a boundary of each class integers from 0 to
    `num_betas` - 1.

    Args:
        margin: m, a distance, >= 0.
        beta: the boundary, a distance, if it is not learned.
        distance: see `tfembloss.distances`.
        miner: of `tfembloss.miners`: only triplets that it selects; the paper's is
            `DistanceWeightedMiner`. A miner of pairs selects the triplets whose two pairs
            it selects.
        nu: $\nu$, >= 0: how much large boundaries that are learned cost; 0 without
            `num_betas`.
        num_betas: number of learned boundaries, 1 or the number of classes, as in the
            `MarginHead`; None for the fixed `beta`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> round(float(MarginLoss()(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    0.8841

    Reference:
        Wu et al., "Sampling Matters in Deep Embedding Learning", 2017,
        https://arxiv.org/abs/1706.07567

    Relations:
        Equal to pytorch-metric-learning's loss of the same name, which owns its learned
        boundaries: with `num_betas` and a `MarginHead` its `learn_beta=True`.
    """

    counts_triplets = True

    def __init__(
        self,
        margin=0.2,
        beta=1.2,
        distance="normalized_euclidean",
        miner=None,
        nu=0.0,
        num_betas=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(distance, miner, reduction, name, dtype)
        self.margin = non_negative("margin", margin)
        self.beta = number("beta", beta)
        self.nu = non_negative("nu", nu)
        self.num_betas = num_betas
        if num_betas is not None:
            self.num_betas = integer("num_betas", num_betas, 1, hint=", or None")
        elif self.nu:
            raise ValueError(
                "`nu` is the cost of learned boundaries: expected num_betas too. Received: "
                f"nu={nu}, num_betas=None."
            )

    def call(self, y_true, y_pred, memory=None):
        """Returns values `[B]` of this replica's anchors."""
        if self.num_betas is None:
            return super().call(y_true, y_pred, memory)
        rows, betas = self._rows_and_betas(y_pred)
        if memory is not None:
            of_memory, _ = self._rows_and_betas(memory.embeddings)
            memory = memory._replace(embeddings=of_memory)
        batch = self.batch(y_true, rows, memory)
        if self.num_betas == 1:
            beta = betas[:, 0]
        else:
            beta = of_label(betas, check_labels(y_true, betas, self.num_betas))  # [B]
        values = parts_of_mean(*self.sums_and_counts(batch, beta), batch.num_rows)
        if self.num_betas == 1:
            values += self.nu * beta
        values += self._nan_where_miner_overflows(batch.keys)
        return values + nan_where_not_finite(batch.keys)

    def truncate(self, y_pred, dim):
        """Returns the first `dim` dimensions, at length 1, and any learned boundaries."""
        if self.num_betas is None:
            return super().truncate(y_pred, dim)
        rows, betas = self._rows_and_betas(y_pred)
        return tf.concat([super().truncate(rows, dim), betas], axis=1)

    def num_dimensions(self, y_pred):
        """Returns the number of dimensions of the embeddings; None if unknown."""
        width = y_pred.shape[-1]
        return None if width is None else width - (self.num_betas or 0)

    def _rows_and_betas(self, y_pred):
        """Returns embeddings `[B, D]` and boundaries `[B, num_betas]`."""
        number, width = self.num_betas, check_rows(y_pred).shape[1]
        if width is not None and width <= number:
            raise ValueError(
                f"With num_betas={number}, expected embeddings and boundaries [B, D + "
                f"{number}]. Received: {described(y_pred, 'y_pred')}. Train with tfembloss."
                f"EmbeddingClassifier(encoder, tfembloss.layers.MarginHead({number}))."
            )
        return y_pred[:, :-number], y_pred[:, -number:]

    def sums_and_counts(self, batch, beta=None):
        """Returns those of the formula, with the boundary of each anchor `[B]`."""
        x = self.candidates(batch).distances  # [B, N]
        if beta is None:
            beta = tf.fill(tf.shape(x)[:1], tf.constant(self.beta, x.dtype))
        # That of one boundary is not of the triplets.
        nu = 0.0 if self.num_betas in (1, None) else self.nu
        pairs = self.selected_pairs(batch, x)
        parts = self._kernel((x, beta), pairs, margin=self.margin, nu=nu)
        return tf.unstack(parts, self.num_parts, axis=1)

    @staticmethod
    def formula(x, positive, negative, *, margin, nu):
        """Returns sums over each anchor's triplets, and the number of terms not 0."""
        distances, beta = x  # [B, N], [B]
        far = tf.nn.relu(distances - beta[:, None] + margin)  # [B, N]
        near = tf.nn.relu(beta[:, None] - distances + margin)  # [B, N]
        sums = tf.reduce_sum(positive * far + negative * near, axis=1)
        counts = tf.where(far > 0, positive, 0) + tf.where(near > 0, negative, 0)
        num_triplets = tf.reduce_sum(positive, axis=1)  # [B]
        return sums + nu * beta * num_triplets, tf.reduce_sum(counts, axis=1)
