"""Pair losses on rows with a label each: positives near, negatives far.

Every anchor is compared with the rows of all replicas, `[B, N]`. A formula takes
distances and the weights of the positive and of the negative pairs, 0 where a pair does
not count, and gives each anchor's sum and the number of what was summed; a miner only
changes the weights. Where a formula needs a similarity, it is the negative distance.
"""

import math

import keras
import tensorflow as tf

from tfembloss import masks, mining, replicas
from tfembloss.kernels import compiled, differentiable
from tfembloss.losses.base import LabelLoss


class _PairLoss(LabelLoss):
    """Base of the losses whose formula is one kernel on distances and pair weights.

    A subclass names its kernel and `options`, its own arguments in the kernel's order.
    """

    kernel = None
    options = ()
    repeats = False  # whether a pair counts once for each mined triplet it stands in

    def formula(self, batch):
        """Sums and counts of each anchor, by the kernel."""
        candidates = self.candidates(batch)
        pairs = self.pairs(batch, candidates)
        options = [getattr(self, name) for name in self.options]
        return type(self).kernel((candidates.distances,), pairs, *options)

    def pairs(self, batch, candidates):
        """Which pairs count: `masks.Labels` for all, or `masks.Pairs` as mined."""
        if self.miner is None:
            return batch.labels
        mined = self.mined(batch, candidates)
        return _mined_pairs(self.miner, mining.without_gradient(mined), self.repeats)

    def get_config(self):
        """The arguments that make this loss again."""
        return {**super().get_config(), **{n: getattr(self, n) for n in self.options}}


@compiled
def _mined_pairs(miner, candidates, repeats):
    pairs = mining.pairs_of(miner, candidates)
    return pairs if repeats else masks.Pairs(*map(tf.sign, pairs))


def _weights(pairs, distances):
    return (tf.cast(mask, distances.dtype) for mask in (pairs.positive, pairs.negative))


def _check(loss, name, right, expected):
    if not right:
        raise ValueError(
            f"{type(loss).__name__}: `{name}` must be {expected}. "
            f"Received: {name}={getattr(loss, name)!r}"
        )


@differentiable
def _nt_xent(x, pairs, temperature):
    (distances,) = x
    positive, negative = _weights(pairs, distances)  # [B, N]
    logits = -distances / temperature
    rivals = masks.row_logsumexp(logits, negative)[:, None]  # [B, 1]
    value = tf.nn.softplus(rivals - logits)
    value = tf.where(positive > 0, positive * value, 0)
    return tf.reduce_sum(value, axis=1), tf.reduce_sum(positive, axis=1)


@keras.saving.register_keras_serializable("tfembloss")
class NTXentLoss(_PairLoss):
    r"""Each positive pair against the anchor's negatives, by a softmax: InfoNCE on labels.

    $$L = \mathrm{mean}_{(a,p)} -\log \frac{e^{-d(a,p)/T}}
          {e^{-d(a,p)/T} + \sum_n e^{-d(a,n)/T}}$$

    The anchor's other positives stand in no denominator.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings. For two
    views of each row, give the rows of both with the same ids.

    Args:
        temperature: T, > 0.
        distance: see `tfembloss.distances`; `"cosine"` is the usual one.
        miner: of `tfembloss.miners`: only pairs that it selects. A pair that stands in
            several selected triplets counts as often.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: `temperature` is not positive, `distance` or `miner` is unknown, or
            the ids are missing.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> loss = NTXentLoss(temperature=0.5)
    >>> loss(tf.constant([0, 0, 1, 1]), embeddings).numpy().round(4)
    1.2911

    Reference:
        Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective",
        2016; Chen et al., "A Simple Framework for Contrastive Learning of Visual
        Representations", 2020, https://arxiv.org/abs/2002.05709

    Relations:
        Equal to pytorch-metric-learning's loss of this name, except that a loss above
        87 in float32 does not saturate. With pairs in columns and without labels, use
        `MultipleNegativesRankingLoss`.
    """

    kernel = _nt_xent
    options = ("temperature",)
    repeats = True

    def __init__(
        self,
        temperature=0.07,
        distance="cosine",
        miner=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(distance, miner, reduction, name, dtype)
        self.temperature = temperature
        _check(self, "temperature", 0 < temperature < math.inf, "a number > 0")


@differentiable
def _sup_con(x, pairs, temperature):
    (distances,) = x
    positive, negative = _weights(pairs, distances)  # [B, N]
    logits = -distances / temperature
    log_sum = masks.row_logsumexp(logits, positive + negative)  # [B]
    values = log_sum - masks.row_mean(logits, positive)
    valid = masks.row_any(positive > 0) & masks.row_any(negative > 0)
    values = tf.where(valid, values, 0)
    return values, tf.cast(values > 0, values.dtype)


@keras.saving.register_keras_serializable("tfembloss")
class SupConLoss(_PairLoss):
    r"""Supervised contrastive loss: a softmax over all rows, the mean over the positives.

    With $P$ the positives of an anchor and $K$ its positives and negatives:

    $$L = \mathrm{mean}_a \frac{1}{|P|} \sum_{p \in P} -\log
          \frac{e^{-d(a,p)/T}}{\sum_{k \in K} e^{-d(a,k)/T}}$$

    The mean is over the anchors that have a positive and a negative.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        temperature: T, > 0.
        distance: see `tfembloss.distances`; `"cosine"` is the usual one.
        miner: of `tfembloss.miners`: only pairs that it selects.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: `temperature` is not positive, `distance` or `miner` is unknown, or
            the ids are missing.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> loss = SupConLoss(temperature=0.5)
    >>> loss(tf.constant([0, 0, 1, 1]), embeddings).numpy().round(4)
    1.2911

    Reference:
        Khosla et al., "Supervised Contrastive Learning", 2020,
        https://arxiv.org/abs/2004.11362

    Relations:
        Equal to pytorch-metric-learning's loss of this name, which counts an anchor
        also where a miner leaves it positives but no negative.
    """

    kernel = _sup_con
    options = ("temperature",)

    def __init__(
        self,
        temperature=0.1,
        distance="cosine",
        miner=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(distance, miner, reduction, name, dtype)
        self.temperature = temperature
        _check(self, "temperature", 0 < temperature < math.inf, "a number > 0")


@differentiable
def _multi_similarity(x, pairs, alpha, beta, base):
    (distances,) = x
    positive, negative = _weights(pairs, distances)  # [B, N]
    far = masks.row_logsumexp(alpha * (distances - base), positive)  # [B]
    near = masks.row_logsumexp(beta * (base - distances), negative)
    values = tf.nn.softplus(far) / alpha + tf.nn.softplus(near) / beta
    return values, tf.ones_like(values)


@keras.saving.register_keras_serializable("tfembloss")
class MultiSimilarityLoss(_PairLoss):
    r"""Far positives and near negatives, each weighed against the others of its anchor.

    With the similarity $s = 1 - d$:

    $$L = \mathrm{mean}_a \frac{1}{\alpha} \log(1 + \sum_p e^{-\alpha (s(a,p) - base)})
        + \frac{1}{\beta} \log(1 + \sum_n e^{\beta (s(a,n) - base)})$$

    The mean is over all rows; an anchor without positives has the second term only.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        alpha, beta: scales of the positives and of the negatives, > 0.
        base: where a pair becomes too far or too near: with `"cosine"` and `"dot"` a
            similarity, with other distances a distance.
        distance: see `tfembloss.distances`.
        miner: of `tfembloss.miners`: only pairs that it selects; the paper's is
            `MultiSimilarityMiner`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: a number is out of range, `distance` or `miner` is unknown, or the ids
            are missing.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> MultiSimilarityLoss()(tf.constant([0, 0, 1, 1]), embeddings).numpy().round(4)
    0.6804

    Reference:
        Wang et al., "Multi-Similarity Loss with General Pair Weighting for Deep Metric
        Learning", 2019, https://arxiv.org/abs/1904.06627

    Relations:
        Equal to pytorch-metric-learning's loss of this name.
    """

    kernel = _multi_similarity
    options = ("alpha", "beta", "_base_distance")

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
    ):
        super().__init__(distance, miner, reduction, name, dtype)
        self.alpha = alpha
        self.beta = beta
        self.base = base
        for scale in ("alpha", "beta"):
            _check(self, scale, 0 < getattr(self, scale) < math.inf, "a number > 0")
        _check(self, "base", math.isfinite(base), "a finite number")
        self._base_distance = {"cosine": 1 - base, "dot": -base}.get(distance, base)

    def get_config(self):
        """The arguments that make this loss again."""
        config = super().get_config()
        del config["_base_distance"]
        return {**config, "base": self.base}


@differentiable
def _circle(x, pairs, m, gamma):
    (distances,) = x
    positive, negative = _weights(pairs, distances)  # [B, N]
    similarity = 1 - distances
    constant = tf.stop_gradient(similarity)
    far = -gamma * tf.nn.relu(1 + m - constant) * (similarity - (1 - m))
    near = gamma * tf.nn.relu(constant + m) * (similarity - m)
    both = masks.row_logsumexp(far, positive) + masks.row_logsumexp(near, negative)  # [B]
    values = tf.nn.softplus(both)
    return values, tf.cast(values > 0, values.dtype)


@keras.saving.register_keras_serializable("tfembloss")
class CircleLoss(_PairLoss):
    r"""Pairs weighed by how far they are from where they should be, on cosines.

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
        ValueError: a number is out of range, `miner` is unknown, or the ids are missing.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> CircleLoss()(tf.constant([0, 0, 1, 1]), embeddings).numpy().round(4)
    50.2813

    Reference:
        Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization",
        2020, https://arxiv.org/abs/2002.10857

    Relations:
        Equal to pytorch-metric-learning's loss of this name.
    """

    kernel = _circle
    options = ("m", "gamma")

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
        self.m = m
        self.gamma = gamma
        _check(self, "m", math.isfinite(m), "a finite number")
        _check(self, "gamma", 0 < gamma < math.inf, "a number > 0")

    def get_config(self):
        """The arguments that make this loss again."""
        config = super().get_config()
        del config["distance"]  # always the cosine
        return config


@differentiable
def _negative_logsumexp(x, pairs, neg_margin):
    (distances,) = x
    _, negative = _weights(pairs, distances)  # [B, N]
    values = masks.row_logsumexp(neg_margin - distances, negative)  # [B]
    # Finite, so that nothing at all and nothing at all have a sum with a gradient.
    values = tf.maximum(values, distances.dtype.min / 4)
    return values, tf.ones_like(values)


@differentiable
def _lifted(x, pairs, pos_margin):
    distances, own, others = x  # [B, N], [B], [B, N]
    positive, _ = _weights(pairs, distances)  # [B, N]
    own = tf.broadcast_to(own[:, None], tf.shape(others))
    largest = tf.stop_gradient(tf.maximum(own, others))
    both = tf.math.log(tf.exp(own - largest) + tf.exp(others - largest)) + largest
    hinge = tf.nn.relu(both + distances - pos_margin)
    value = tf.where(positive > 0, positive * hinge * hinge / 2, 0)
    return tf.reduce_sum(value, axis=1), tf.reduce_sum(positive, axis=1)


@keras.saving.register_keras_serializable("tfembloss")
class LiftedStructureLoss(_PairLoss):
    r"""Each positive pair against all negatives of both its rows.

    $$L = \mathrm{mean}_{(a,p)} \frac{1}{2} \max\Big(0,\; d(a,p) - m_p +
          \log\big(\sum_n e^{m_n - d(a,n)} + \sum_n e^{m_n - d(p,n)}\big)\Big)^2$$

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        neg_margin: $m_n$, a distance.
        pos_margin: $m_p$, a distance.
        distance: see `tfembloss.distances`.
        miner: of `tfembloss.miners`: only pairs that it selects. A pair that stands in
            several selected triplets counts as often.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: a margin is not finite, `distance` or `miner` is unknown, or the ids
            are missing.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> LiftedStructureLoss()(tf.constant([0, 0, 1, 1]), embeddings).numpy().round(4)
    3.4206

    Reference:
        Oh Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding",
        2016, https://arxiv.org/abs/1511.06452

    Relations:
        Equal to pytorch-metric-learning's loss of this name; `GeneralizedLiftedStructureLoss`
        takes all of an anchor's positives at once.
    """  # noqa: E501

    options = ("neg_margin", "pos_margin")
    repeats = True

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
        self.neg_margin = neg_margin
        self.pos_margin = pos_margin
        for margin in self.options:
            _check(self, margin, math.isfinite(getattr(self, margin)), "a finite number")

    def formula(self, batch):
        """Sums over each anchor's positives, and their number."""
        candidates = self.candidates(batch)
        pairs = self.pairs(batch, candidates)
        x = candidates.distances  # [B, N]
        own, _ = _negative_logsumexp((x,), pairs, self.neg_margin)  # [B]
        others = tf.broadcast_to(replicas.gather(own)[None, :], tf.shape(x))  # [B, N]
        return _lifted((x, own, others), pairs, self.pos_margin)


@differentiable
def _generalized_lifted(x, pairs, neg_margin, pos_margin):
    (distances,) = x
    positive, negative = _weights(pairs, distances)  # [B, N]
    far = masks.row_logsumexp(distances - pos_margin, positive)  # [B]
    near = masks.row_logsumexp(neg_margin - distances, negative)
    far, near = (tf.where(x > float("-inf"), x, 0) for x in (far, near))
    values = tf.nn.relu(far + near)
    return values, tf.ones_like(values)


@keras.saving.register_keras_serializable("tfembloss")
class GeneralizedLiftedStructureLoss(_PairLoss):
    r"""All of an anchor's positives against all of its negatives.

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
        ValueError: a margin is not finite, `distance` or `miner` is unknown, or the ids
            are missing.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> loss = GeneralizedLiftedStructureLoss()
    >>> loss(tf.constant([0, 0, 1, 1]), embeddings).numpy().round(4)
    1.9132

    Reference:
        Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification",
        2017, https://arxiv.org/abs/1703.07737

    Relations:
        Equal to pytorch-metric-learning's loss of this name.
    """

    kernel = _generalized_lifted
    options = ("neg_margin", "pos_margin")

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
        self.neg_margin = neg_margin
        self.pos_margin = pos_margin
        for margin in self.options:
            _check(self, margin, math.isfinite(getattr(self, margin)), "a finite number")


@differentiable
def _n_pairs(x, labels):
    (distances,) = x
    columns = tf.range(tf.shape(distances)[1])
    every = labels.of_all()
    earlier = masks.equal_ids(every.ids, every.key_ids) & (columns < columns[:, None])
    earlier = tf.reduce_sum(tf.cast(earlier, tf.int32), axis=1)  # [N], of its class
    second = tf.ones_like(distances) * tf.cast(earlier == 1, distances.dtype)  # [B, N]
    own = tf.cast(labels.positive, distances.dtype) * second
    first = (tf.gather(earlier, labels.rows) == 0) & masks.row_any(own > 0)  # [B]
    values = masks.row_logsumexp(-distances, second) - masks.row_mean(-distances, own)
    return tf.where(first, values, 0), tf.cast(first, distances.dtype)


@keras.saving.register_keras_serializable("tfembloss")
class NPairsLoss(_PairLoss):
    r"""One anchor and one positive of each class: a softmax over the positives.

    Of each class with two rows or more the first row is the anchor $a_c$ and the second
    the positive $p_c$:

    $$L = \mathrm{mean}_c -\log
          \frac{e^{-d(a_c, p_c)}}{\sum_{c'} e^{-d(a_c, p_{c'})}}$$

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        distance: see `tfembloss.distances`; the paper's is `"dot"`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: `distance` is unknown, or the ids are missing.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> NPairsLoss()(tf.constant([0, 0, 1, 1]), embeddings).numpy().round(4)
    0.6527

    Reference:
        Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", 2016

    Relations:
        Equal to pytorch-metric-learning's loss of this name. `NTXentLoss` and
        `MultipleNegativesRankingLoss` use all rows of the batch.
    """

    kernel = _n_pairs

    def __init__(
        self,
        distance="cosine",
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(distance, None, reduction, name, dtype)


@differentiable
def _margin(x, pairs, margin, beta):
    (distances,) = x
    positive, negative = pairs  # [B, N]
    far = tf.nn.relu(distances - beta + margin)
    near = tf.nn.relu(beta - distances + margin)
    sums = positive * far + negative * near
    counts = tf.where(far > 0, positive, 0) + tf.where(near > 0, negative, 0)
    return tf.reduce_sum(sums, axis=1), tf.reduce_sum(counts, axis=1)


@keras.saving.register_keras_serializable("tfembloss")
class MarginLoss(_PairLoss):
    r"""Positives nearer, negatives farther than a boundary, each by a margin.

    Over all triplets of the batch, with $[x] = \max(0, x)$:

    $$L = \frac{\sum_{(a,p,n)} [d(a,p) - \beta + m] + [\beta - d(a,n) + m]}
               {\text{number of these terms that are not 0}}$$

    So a pair counts as often as it stands in triplets.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        margin: m, a distance, >= 0.
        beta: the boundary, a distance.
        distance: see `tfembloss.distances`.
        miner: of `tfembloss.miners`: only triplets that it selects, the paper's is
            `DistanceWeightedMiner`; a miner of pairs selects the triplets of which it
            selects both pairs.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: a number is out of range, `distance` or `miner` is unknown, or the ids
            are missing.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> MarginLoss()(tf.constant([0, 0, 1, 1]), embeddings).numpy().round(4)
    0.598

    Reference:
        Wu et al., "Sampling Matters in Deep Embedding Learning", 2017,
        https://arxiv.org/abs/1706.07567

    Relations:
        Equal to pytorch-metric-learning's loss of this name with `learn_beta=False`. Losses
        here own no variables, so beta is not learned.
    """

    kernel = _margin
    options = ("margin", "beta")

    def __init__(
        self,
        margin=0.2,
        beta=1.2,
        distance="normalized_euclidean",
        miner=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(distance, miner, reduction, name, dtype)
        self.margin = margin
        self.beta = beta
        _check(self, "margin", 0 <= margin < math.inf, "a number >= 0")
        _check(self, "beta", math.isfinite(beta), "a finite number")

    def pairs(self, batch, candidates):
        """In how many triplets each pair stands: `masks.Pairs`."""
        mined = mining.without_gradient(self.mined(batch, candidates))
        return _pairs_of_triplets(self.miner, mined)


@compiled
def _pairs_of_triplets(miner, candidates):
    return mining.pairs_of(miner, candidates, from_triplets=True)
