"""Pair losses on rows with a label each: positives near, negatives far.

Every anchor is compared with the rows of all replicas, `[B, N]`. A formula takes
distances and the weights of the positive and of the negative pairs, 0 where a pair does
not count, and gives each anchor's sum and the number of what was summed; a miner only
changes the weights. Where a formula needs a similarity, it is the negative distance.
"""

import keras
import tensorflow as tf

from tfembloss import distances, masks, mining, replicas, softmax
from tfembloss.kernels import compiled, differentiable
from tfembloss.losses.base import Batch, LabelLoss, check_number, check_tile_size


class _PairLoss(LabelLoss):
    """Base of the losses whose formula is one kernel on distances and pair weights.

    A subclass names its kernel and its `options`, which are numbers.
    """

    kernel = None
    options = ()
    counts_repeats = False  # whether a pair counts once for each mined triplet it is in

    def formula(self, batch):
        """Sums and counts of each anchor, by the kernel."""
        candidates = self.candidates(batch)
        pairs = self.pairs(batch, candidates)
        return type(self).kernel((candidates.distances,), pairs, *self.kernel_options())

    def kernel_options(self):
        """What the kernel takes after the distances and the pairs."""
        return [getattr(self, name) for name in self.options]

    def pairs(self, batch, candidates):
        """Which pairs count: `masks.Labels` for all, or `masks.Pairs` as mined."""
        if self.miner is None:
            return batch.labels
        constant = mining.without_gradient(self.miner_candidates(batch, candidates))
        return tf.nest.map_structure(
            tf.stop_gradient, _mined_pairs(self.miner, constant, self.counts_repeats)
        )

    def get_config(self):
        """The arguments that make this loss again."""
        return {**super().get_config(), **{n: getattr(self, n) for n in self.options}}


@compiled
def _mined_pairs(miner, candidates, counts_repeats):
    pairs = mining.pairs_of(miner, candidates)
    return pairs if counts_repeats else masks.Pairs(*map(tf.sign, pairs))


def _weights(pairs, distances):
    return (tf.cast(mask, distances.dtype) for mask in (pairs.positive, pairs.negative))


def _positive(name, value):
    return check_number(name, value, "a number > 0", lambda x: x > 0)


def _finite(name, value):
    return check_number(name, value, "a finite number")


class _TiledPairLoss(_PairLoss):
    """Base of those that compare a tile of rows with all keys at a time."""

    def __init__(self, distance, miner, tile_size, reduction, name, dtype):
        super().__init__(distance, miner, reduction, name, dtype)
        self.tile_size = check_tile_size(tile_size)
        if tile_size is not None and self.mines_all_pairs:
            raise ValueError(
                f"{type(miner).__name__} looks at all pairs of the batch at once, which "
                "tiles would not leave in memory. Expected tile_size=None with it. "
                f"Received: tile_size={tile_size!r}"
            )

    def formula(self, batch):
        """Sums and counts of each anchor, by the kernel on tiles of anchors."""
        if self.mines_all_pairs:
            return super().formula(batch)
        distance = distances.get(self.distance)
        anchors, keys = distance.prepare(batch.embeddings), distance.prepare(batch.keys)

        def of_rows(anchors, keys, ids, rows, embeddings):
            labels = batch.labels._replace(ids=ids, rows=rows)
            x = distance.of_prepared(anchors, keys)  # [B, N]
            candidates = mining.Candidates(x, labels, None, batch.keys.shape[-1])
            pairs = self.pairs(Batch(embeddings, batch.keys, labels), candidates)
            sums, counts = type(self).kernel((x,), pairs, *self.kernel_options())
            return tf.stack([sums, counts], axis=1)  # [B, 2]

        # A miner may have a distance of its own, for which it prepares them otherwise.
        embeddings = None if self.miner is None else batch.embeddings
        constants = [batch.labels.ids, batch.labels.rows, embeddings]
        both = softmax.by_tiles(of_rows, anchors, keys, constants, self.tile_size)
        return tf.unstack(both, 2, axis=1)

    def get_config(self):
        """The arguments that make this loss again."""
        return {**super().get_config(), "tile_size": self.tile_size}


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
class NTXentLoss(_TiledPairLoss):
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
        tile_size: how many of the B rows are compared with all rows at a time, >= 1; by
            default as many as are fast. It sets the memory, not the result.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: a number is out of range, `distance` or `miner` is unknown, `miner`
            needs all pairs at once and there is a `tile_size`, or the ids are missing.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> loss = NTXentLoss(temperature=0.5)
    >>> round(float(loss(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    1.2707

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
    counts_repeats = True

    def __init__(
        self,
        temperature=0.07,
        distance="cosine",
        miner=None,
        tile_size=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(distance, miner, tile_size, reduction, name, dtype)
        self.temperature = _positive("temperature", temperature)


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
class SupConLoss(_TiledPairLoss):
    r"""Supervised contrastive loss: a softmax over all rows, the mean over the positives.

    With $P$ the positives of an anchor and $K$ its positives and negatives:

    $$L = \mathrm{mean}_a \frac{1}{|P|} \sum_{p \in P} -\log
          \frac{e^{-d(a,p)/T}}{\sum_{k \in K} e^{-d(a,k)/T}}$$

    The mean is over the anchors whose value is not 0; those without a positive or without
    a negative have 0.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        temperature: T, > 0.
        distance: see `tfembloss.distances`; `"cosine"` is the usual one.
        miner: of `tfembloss.miners`: only pairs that it selects.
        tile_size: how many of the B rows are compared with all rows at a time, >= 1; by
            default as many as are fast. It sets the memory, not the result.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: a number is out of range, `distance` or `miner` is unknown, `miner`
            needs all pairs at once and there is a `tile_size`, or the ids are missing.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> loss = SupConLoss(temperature=0.5)
    >>> round(float(loss(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    1.2707

    Reference:
        Khosla et al., "Supervised Contrastive Learning", 2020,
        https://arxiv.org/abs/2004.11362

    Relations:
        Equal to pytorch-metric-learning's loss of this name, which keeps an anchor also
        where a miner leaves it positives but no negative.
    """

    kernel = _sup_con
    options = ("temperature",)

    def __init__(
        self,
        temperature=0.1,
        distance="cosine",
        miner=None,
        tile_size=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(distance, miner, tile_size, reduction, name, dtype)
        self.temperature = _positive("temperature", temperature)


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

    $$L = \mathrm{mean}_a \frac{1}{\alpha} \log(1 + \sum_p e^{\alpha (d(a,p) - b)})
        + \frac{1}{\beta} \log(1 + \sum_n e^{\beta (b - d(a,n))})$$

    with b = 1 - base for the cosine, whose similarity is 1 - d. The mean is over all rows;
    an anchor without positives has the second term only.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        alpha, beta: scales of the positives and of the negatives, > 0.
        base: where a pair becomes too far or too near: with `"cosine"` and `"dot"` a
            similarity (b is 1 - base, -base), with other distances the distance b.
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
    >>> round(float(MultiSimilarityLoss()(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    0.6791

    Reference:
        Wang et al., "Multi-Similarity Loss with General Pair Weighting for Deep Metric
        Learning", 2019, https://arxiv.org/abs/1904.06627

    Relations:
        Equal to pytorch-metric-learning's loss of this name.
    """

    kernel = _multi_similarity
    options = ("alpha", "beta", "base")

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
        self.alpha = _positive("alpha", alpha)
        self.beta = _positive("beta", beta)
        self.base = _finite("base", base)

    def kernel_options(self):
        """With the base as a distance."""
        of_similarity = {"cosine": 1 - self.base, "dot": -self.base}
        return [self.alpha, self.beta, of_similarity.get(self.distance, self.base)]


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
    >>> round(float(CircleLoss()(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    49.664

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
        self.m = _finite("m", m)
        self.gamma = _positive("gamma", gamma)

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
    >>> round(float(LiftedStructureLoss()(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    3.4238

    Reference:
        Oh Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding",
        2016, https://arxiv.org/abs/1511.06452

    Relations:
        Equal to pytorch-metric-learning's loss of this name; there a pair to whose rows a
        miner leaves no negative counts with a sum of 1, here with 0.
        `GeneralizedLiftedStructureLoss` takes all of an anchor's positives at once.
    """

    takes_past = False  # of which the negatives of their own are not known
    options = ("neg_margin", "pos_margin")
    counts_repeats = True

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
        self.neg_margin = _finite("neg_margin", neg_margin)
        self.pos_margin = _finite("pos_margin", pos_margin)

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
    # Not `x > -inf`, which would take NaN for an empty sum.
    far, near = (tf.where(x == float("-inf"), 0.0, x) for x in (far, near))
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
    >>> round(float(loss(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    1.8919

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
        self.neg_margin = _finite("neg_margin", neg_margin)
        self.pos_margin = _finite("pos_margin", pos_margin)


@compiled
def _firsts_and_seconds(labels):
    """Rows that are first in their class, and keys that are second: each with a mask.

    At most half of all rows are one of either, so there is room for as many.
    """
    columns = tf.range(tf.shape(labels.key_ids)[0])
    same = masks.equal_ids(labels.key_ids, labels.key_ids)  # [N, N]
    count = lambda mask: tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)  # noqa: E731
    earlier = count(same & (columns < columns[:, None]))  # [N], of the same class
    first = (earlier == 0) & (count(same) > 1)
    room = tf.minimum(tf.maximum(tf.size(columns) // 2, 1), tf.size(columns))
    room_here = tf.minimum(tf.size(labels.rows), room)
    firsts = tf.math.top_k(tf.cast(tf.gather(first, labels.rows), tf.int32), room_here)
    seconds = tf.math.top_k(tf.cast(earlier == 1, tf.int32), room)
    return firsts.indices, firsts.values > 0, seconds.indices, seconds.values > 0


def _take(x, rows):
    """Some rows of x, with a dense gradient instead of IndexedSlices."""

    @tf.custom_gradient
    def take(x):
        shape = tf.shape(x)
        return tf.gather(x, rows), lambda up: tf.scatter_nd(rows[:, None], up, shape)

    return take(x)


@differentiable
def _n_pairs(x, ids, valid, key_ids, key_valid):
    (distances,) = x  # [F, S]
    second = tf.cast(tf.ones_like(distances, tf.bool) & key_valid, distances.dtype)
    own = tf.cast(masks.equal_ids(ids, key_ids), distances.dtype) * second
    values = masks.row_logsumexp(-distances, second) - masks.row_mean(-distances, own)
    return tf.where(valid, values, 0), tf.cast(valid, distances.dtype)


@keras.saving.register_keras_serializable("tfembloss")
class NPairsLoss(LabelLoss):
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
    >>> round(float(NPairsLoss()(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    0.6634

    Reference:
        Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", 2016

    Relations:
        Equal to pytorch-metric-learning's loss of this name. `NTXentLoss` and
        `MultipleNegativesRankingLoss` use all rows of the batch.
    """

    takes_past = False  # only the first two rows of a class count

    def __init__(
        self,
        distance="cosine",
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(distance, None, reduction, name, dtype)

    def formula(self, batch):
        """The cross-entropy of the anchors that are first in their class."""
        labels = batch.labels
        rows, valid, columns, key_valid = _firsts_and_seconds(labels)  # [F], [F], [S], [S]
        anchors, positives = _take(batch.embeddings, rows), _take(batch.keys, columns)
        values, counts = _n_pairs(
            (distances.get(self.distance).pairwise(anchors, positives),),
            tf.gather(labels.ids, rows),
            valid,
            tf.gather(labels.key_ids, columns),
            key_valid,
        )  # [F], [F]
        of_all = tf.scatter_nd(rows[:, None], values, tf.shape(labels.ids))  # [B]
        return of_all, tf.scatter_nd(rows[:, None], counts, tf.shape(labels.ids))


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
    >>> round(float(MarginLoss()(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    0.8841

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
        self.margin = check_number("margin", margin, "a number >= 0", lambda m: m >= 0)
        self.beta = _finite("beta", beta)

    def pairs(self, batch, candidates):
        """In how many triplets each pair stands: `masks.Pairs`."""
        constant = mining.without_gradient(self.miner_candidates(batch, candidates))
        return tf.nest.map_structure(
            tf.stop_gradient, _pairs_in_triplets(self.miner, constant)
        )


@compiled
def _pairs_in_triplets(miner, candidates):
    return mining.pairs_of(miner, candidates, from_triplets=True)
