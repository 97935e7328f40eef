"""Softmax losses over the labeled rows of a batch: InfoNCE on labels."""

from typing import NamedTuple

import keras
import tensorflow as tf

from tfembloss import distances, masks
from tfembloss.checks import positive
from tfembloss.kernels import in_xla
from tfembloss.losses.labeled.base import PairLoss


@keras.saving.register_keras_serializable("tfembloss")
class NTXentLoss(PairLoss):
    r"""InfoNCE on labels: softmax of each positive pair against the anchor's negatives.

    $$L = \mathrm{mean}_{(a,p)} -\log \frac{e^{-d(a,p)/T}}
          {e^{-d(a,p)/T} + \sum_n e^{-d(a,n)/T}}$$

    The anchor's other positives do not occur in the denominator. With several labels, the
    mean is weighted by the labels that a pair shares of all that both have.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings, or
    rows of labels, see `multi_label`. For two views of each row, give the rows of both with
    the same ids.

    Args:
        temperature: T, > 0.
        distance: see `tfembloss.distances`; `"cosine"` is the usual one.
        miner: of `tfembloss.miners`: only pairs that it selects. A pair that occurs in
            n selected triplets counts n times.
        tile_size: how many of the B rows are compared with all rows at a time; see
            `MultipleNegativesRankingLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.
        multi_label: for rows of several labels, `"multi_hot"` or `"ids"`: see `LabelLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid, or if `tile_size` is given with a
            miner that needs all pairs at once.

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
        Equal to pytorch-metric-learning's loss of the same name, except that here a loss
        above 87 does not saturate in float32. With pairs in columns and without labels, use
        `MultipleNegativesRankingLoss`.
    """

    tiled = True
    counts_repeats = True

    scaled_by = "temperature"

    def __init__(
        self,
        temperature=0.07,
        distance="cosine",
        miner=None,
        tile_size=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
        multi_label=None,
    ):
        super().__init__(distance, miner, reduction, name, dtype, tile_size, multi_label)
        self.temperature = positive("temperature", temperature)

    @staticmethod
    def formula(distances, positive, negative, *, temperature):
        """Returns sums over each anchor's positives, and their number."""
        logits = -distances / temperature  # [B, N]
        log_sum = masks.row_logsumexp(logits, negative)[:, None]  # [B, 1]
        values = tf.nn.softplus(log_sum - logits)  # [B, N]
        return masks.row_sum(values, positive), tf.reduce_sum(positive, axis=1)


@keras.saving.register_keras_serializable("tfembloss")
class DecoupledContrastiveLoss(NTXentLoss):
    r"""`NTXentLoss` without the positive pair in the denominator.

    $$L = \mathrm{mean}_{(a,p)} \frac{d(a,p)}{T} + \log \sum_n e^{-d(a,n)/T}$$

    So an easy positive does not lessen what the negatives teach, which matters in small
    batches. Anchors without negatives do not count.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings. Of views
    in columns, wrap it in `SelfSupervisedLoss`.

    Args:
        temperature: T, > 0.
        distance, miner, tile_size: see `NTXentLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: as for `NTXentLoss`.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> loss = DecoupledContrastiveLoss(temperature=0.5)
    >>> round(float(loss(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    0.9249

    Reference:
        Yeh et al., "Decoupled Contrastive Learning", 2021,
        https://arxiv.org/abs/2110.06848

    Relations:
        The paper's loss of two views with equal weights, as a mean over both.
    """

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
        super().__init__(temperature, distance, miner, tile_size, reduction, name, dtype)

    @staticmethod
    def formula(distances, positive, negative, *, temperature):
        """Returns sums over each anchor's positives, and their number."""
        logits = -distances / temperature  # [B, N]
        valid = masks.row_any(negative > 0)
        log_sum = tf.where(valid, masks.row_logsumexp(logits, negative), 0)[:, None]
        positive = tf.where(valid[:, None], positive, 0)
        return masks.row_sum(log_sum - logits, positive), tf.reduce_sum(positive, axis=1)


@keras.saving.register_keras_serializable("tfembloss")
class SupConLoss(PairLoss):
    r"""Supervised contrastive loss: softmax over all rows, mean over the positives.

    With $P$ the positives of an anchor and $K$ its positives and negatives:

    $$L = \mathrm{mean}_a \frac{1}{|P|} \sum_{p \in P} -\log
          \frac{e^{-d(a,p)/T}}{\sum_{k \in K} e^{-d(a,k)/T}}$$

    The mean is over the anchors whose value is not 0. The value of an anchor without a
    positive or without a negative is 0. With several labels, the term of a positive is
    multiplied by the labels that it shares with the anchor of all that both have.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings, or
    rows of labels, see `multi_label`.

    Args:
        temperature: T, > 0.
        distance: see `tfembloss.distances`; `"cosine"` is the usual one.
        miner: of `tfembloss.miners`: only pairs that it selects.
        tile_size: how many of the B rows are compared with all rows at a time; see
            `MultipleNegativesRankingLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.
        multi_label: for rows of several labels, `"multi_hot"` or `"ids"`: see `LabelLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid, or if `tile_size` is given with a
            miner that needs all pairs at once.

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
        Equal to pytorch-metric-learning's loss of the same name, which also keeps anchors
        that a miner leaves with positives but no negatives. With its MeanReducer, anchors
        without positives count in the mean, as 0. With several labels it is MultiSupCon,
        without that loss's threshold.
    """

    tiled = True

    scaled_by = "temperature"

    def __init__(
        self,
        temperature=0.1,
        distance="cosine",
        miner=None,
        tile_size=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
        multi_label=None,
    ):
        super().__init__(distance, miner, reduction, name, dtype, tile_size, multi_label)
        self.temperature = positive("temperature", temperature)

    @staticmethod
    def formula(distances, positive, negative, *, temperature):
        """Returns the value of each anchor, and 1 where it is not 0."""
        logits = -distances / temperature  # [B, N]
        log_sum = masks.row_logsumexp(logits, (positive > 0) | (negative > 0))  # [B]
        num_positives = tf.reduce_sum(tf.cast(positive > 0, logits.dtype), axis=1)  # [B]
        overlap = tf.math.divide_no_nan(tf.reduce_sum(positive, axis=1), num_positives)
        values = overlap * (log_sum - masks.row_mean(logits, positive))  # [B]
        valid = masks.row_any(positive > 0) & masks.row_any(negative > 0)
        values = tf.where(valid, values, 0)
        return values, tf.cast(values > 0, values.dtype)


@keras.saving.register_keras_serializable("tfembloss")
class NPairsLoss(PairLoss):
    r"""Softmax over one anchor and one positive of each class.

    Of each class with two rows or more the first row is the anchor $a_c$ and the second
    the positive $p_c$:

    $$L = \mathrm{mean}_c -\log
          \frac{e^{-d(a_c, p_c)}}{\sum_{c'} e^{-d(a_c, p_{c'})}}$$

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        distance: see `tfembloss.distances`; the paper's is `"dot"`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> round(float(NPairsLoss()(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    0.6634

    Reference:
        Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", 2016

    Relations:
        Equal to pytorch-metric-learning's loss of the same name. `NTXentLoss` and
        `MultipleNegativesRankingLoss` use all rows of the batch.
    """

    takes_memory = False  # only the first two rows of a class count

    def __init__(
        self,
        distance="cosine",
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(distance, None, reduction, name, dtype)

    def sums_and_counts(self, batch):
        """Returns those of the formula, for the rows that are first in their class."""
        rows, columns, pairs = _first_two_of_classes(batch.pairs)  # [F], [S]
        distance = distances.get(self.distance)
        places = tf.concat([tf.gather(batch.pairs.positions, rows), columns], axis=0)
        both = distance.prepare(_take(batch.keys, places))  # [F + S, D]
        x = distance.of_prepared(*tf.split(both, [tf.size(rows), tf.size(columns)]))
        shape = [tf.shape(batch.anchors)[0], 2]
        both = tf.scatter_nd(rows[:, None], self._kernel(x, pairs), shape)  # [B, 2]
        return tf.unstack(both, 2, axis=1)

    @staticmethod
    def formula(distances, positive, negative):
        """Returns the value of each anchor, and whether it is one."""
        logits = -distances  # [F, S]
        log_sum = masks.row_logsumexp(logits, positive + negative)  # [F]
        values = log_sum - masks.row_mean(logits, positive)
        is_anchor = masks.row_any(positive > 0)
        return tf.where(is_anchor, values, 0), tf.cast(is_anchor, values.dtype)


class _FirstTwo(NamedTuple):
    """Pairs of rows that are first in their class, and keys that are second."""

    ids: tf.Tensor  # [F]
    is_first: tf.Tensor  # [F]
    key_ids: tf.Tensor  # [S]
    is_second: tf.Tensor  # [S]

    @property
    def positive(self):
        return masks.equal_ids(self.ids, self.key_ids) & self._valid

    @property
    def negative(self):
        return ~masks.equal_ids(self.ids, self.key_ids) & self._valid

    @property
    def _valid(self):
        return self.is_first[:, None] & self.is_second[None, :]


def _first_two_of_classes(labels):
    """Returns rows that are first in their class, keys that are second, and their pairs."""
    ids, num_keys = labels.key_ids, tf.size(labels.key_ids)
    order = tf.argsort(ids, stable=True)
    in_order = tf.gather(ids, order)
    same = tf.concat([[False], in_order[1:] == in_order[:-1], [False, False]], axis=0)
    starts = ~same[:num_keys] & same[1 : num_keys + 1]  # and has a second row
    follows = same[:num_keys] & ~tf.concat([[False], same], axis=0)[:num_keys]
    both = tf.cast(tf.stack([starts, follows], axis=1), tf.int32)
    both = tf.scatter_nd(order[:, None], both, [num_keys, 2]) > 0
    rows, is_first = _places(tf.gather(both[:, 0], labels.positions), num_keys // 2)
    columns, is_second = _places(both[:, 1], num_keys // 2)
    ids, key_ids = tf.gather(labels.ids, rows), tf.gather(labels.key_ids, columns)
    return rows, columns, _FirstTwo(ids, is_first, key_ids, is_second)


def _places(mask, at_most):
    """Returns where a mask is true, and whether each place is one of these.

    XLA, which needs to know how many there are, gets as many as there may be.
    """
    if not in_xla():
        places = tf.cast(tf.where(mask)[:, 0], tf.int32)
        return places, tf.fill(tf.shape(places), True)
    found = tf.math.top_k(tf.cast(mask, tf.int32), tf.minimum(tf.size(mask), at_most))
    return found.indices, found.values > 0


def _take(x, rows):
    """Some rows of x, with a dense gradient instead of IndexedSlices."""

    @tf.custom_gradient
    def take(x):
        shape = tf.shape(x)
        return tf.gather(x, rows), lambda up: tf.scatter_nd(rows[:, None], up, shape)

    return take(x)
