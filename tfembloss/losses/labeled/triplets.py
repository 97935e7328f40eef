"""Triplet losses: an anchor's positive should be nearer than its negative by a margin.

From labeled rows, `[B, D]`, triplets are formed over the rows of all replicas.
`TripletLoss` takes triplets in columns, `[B, 3, D]`.
"""

import keras
import tensorflow as tf

from tfembloss import distances
from tfembloss.checks import non_negative, one_of
from tfembloss.losses.base import EmbeddingLoss
from tfembloss.losses.inputs import check_columns
from tfembloss.losses.labeled import triplet_sums
from tfembloss.losses.labeled.base import LabelLoss


@keras.saving.register_keras_serializable("tfembloss")
class TripletMarginLoss(LabelLoss):
    r"""Mean over all triplets of the batch that violate the margin, with optional mining.

    Over all triplets of the batch, each an anchor a, a positive p and a negative n:

    $$L = \frac{\sum_{(a,p,n)} \max(0,\; d(a, p) - d(a, n) + m)}
               {|\lbrace (a,p,n): d(a, p) - d(a, n) + m > 0 \rbrace|}$$

    The triplets are counted, not built: memory is a few matrices `[B, N]`.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        margin: m, a distance, >= 0.
        distance: see `tfembloss.distances`.
        miner: of `tfembloss.miners`: only triplets that it selects; by default all. A
            miner of pairs selects the triplets whose two pairs it selects.
        swap: if true, use the smaller of d(a, n) and d(p, n) instead of d(a, n).
        smooth: if true, the mean of log(1 + exp(violation)) over all triplets.
        mean_over: `"nonzero"` triplets, those that violate the margin, or `"all"`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> loss = TripletMarginLoss(margin=0.2, distance="cosine")
    >>> round(float(loss(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    0.4533
    >>> from tfembloss import miners
    >>> semihard = miners.TripletMarginMiner(0.1, "semihard", distance="cosine")
    >>> loss = TripletMarginLoss(margin=0.5, distance="cosine", miner=semihard)
    >>> float(loss(tf.constant([0, 0, 1, 1]), embeddings))   # no triplet is semihard
    0.0

    Reference:
        Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and
        Clustering", 2015, https://arxiv.org/abs/1503.03832

    Relations:
        Equal to pytorch-metric-learning's loss of the same name (`smooth` is its
        `smooth_loss`), which is Finetuner's default loss. `mean_over` is its reducer,
        AvgNonZeroReducer or MeanReducer. Its ClassWeightedReducer is `mean_over="all"` with
        the weight of each row's class as `sample_weight`; its SumReducer is that mean times
        the number of triplets; its ThresholdReducer is a miner of one's own, by the gap.
        `BatchAllTripletLoss` is the same loss with other defaults.
    """

    def __init__(
        self,
        margin=0.05,
        distance="normalized_euclidean",
        miner=None,
        swap=False,
        smooth=False,
        mean_over="nonzero",
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(distance, miner, reduction, name, dtype)
        self.margin = non_negative("margin", margin)
        self.swap = bool(swap)
        self.smooth = bool(smooth)
        self.mean_over = one_of("mean_over", mean_over, ("nonzero", "all"))

    def sums_and_counts(self, batch):
        """Returns the sum of each anchor's violations, and how many the mean is over."""
        own = self.candidates(batch, key_distances=self.swap)
        miners_own = self.miner_candidates(batch, own)
        if self.smooth or self.swap:
            sums, counts = triplet_sums.violations(
                own, self.margin, self.smooth, self.swap, self.miner, miners_own
            )
        else:
            sums, counts = triplet_sums.hinge(own, self.margin, self.miner, miners_own)
        if self.mean_over == "all" and not self.smooth:  # which counts all
            counts = triplet_sums.numbers(self.miner, miners_own)
        return sums, counts


class _BatchTripletLoss(LabelLoss):
    """What sentence-transformers' batch losses with a margin have in common."""

    def __init__(
        self,
        margin=5.0,
        distance="euclidean",
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(distance, None, reduction, name, dtype)
        self.margin = non_negative("margin", margin)


@keras.saving.register_keras_serializable("tfembloss")
class BatchAllTripletLoss(_BatchTripletLoss):
    r"""Mean over all triplets of the batch that violate the margin.

    $$L = \frac{\sum_{(a,p,n)} \max(0,\; d(a, p) - d(a, n) + m)}
               {|\lbrace (a,p,n): d(a, p) - d(a, n) + m > 0 \rbrace|}$$

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        margin: m, a distance, >= 0. 5 suits the euclidean distance of embeddings that are
            not normalized; use about 0.2 with `"cosine"`.
        distance: see `tfembloss.distances`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[0.0, 0.0], [0.0, 1.0], [4.0, 0.0], [8.0, 0.0]])
    >>> round(float(BatchAllTripletLoss()(tf.constant([0, 0, 1, 2]), embeddings)), 4)
    1.9384

    Reference:
        Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification",
        2017, https://arxiv.org/abs/1703.07737

    Relations:
        Equal to `TripletMarginLoss(margin, distance)`, and to sentence-transformers' class
        of the same name where every row has a positive and a negative. Here, a row that
        lacks one is left out.
    """

    def sums_and_counts(self, batch):
        """Returns the sum of each anchor's violations, and their number."""
        candidates = self.candidates(batch)
        return triplet_sums.hinge(candidates, self.margin, None, candidates)


@keras.saving.register_keras_serializable("tfembloss")
class BatchHardTripletLoss(_BatchTripletLoss):
    r"""Triplet loss of each anchor with its farthest positive and its nearest negative.

    $$L = \mathrm{mean}_a \max(0,\; \max_p d(a, p) - \min_n d(a, n) + m)$$

    The mean is over the anchors that have a positive and a negative.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        margin: m, a distance, >= 0.
        distance: see `tfembloss.distances`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[0.0, 0.0], [0.0, 1.0], [4.0, 0.0], [8.0, 0.0]])
    >>> round(float(BatchHardTripletLoss()(tf.constant([0, 0, 1, 2]), embeddings)), 4)
    1.9384

    Reference:
        Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification",
        2017, https://arxiv.org/abs/1703.07737

    Relations:
        Equal to sentence-transformers' class of the same name where every anchor has a
        positive and a negative. There, an anchor that lacks one is counted with an
        arbitrary distance; here, it is left out.
    """

    def sums_and_counts(self, batch):
        """Returns the hinge of each anchor, and whether it has one."""
        gap, valid = _hardest_gap(self.candidates(batch))  # [B], [B]
        return tf.where(valid > 0, tf.nn.relu(gap + self.margin), 0), valid


@keras.saving.register_keras_serializable("tfembloss")
class BatchHardSoftMarginTripletLoss(LabelLoss):
    r"""Soft-margin loss of each anchor with its farthest positive and nearest negative.

    $$L = \mathrm{mean}_a \log(1 + \exp(\max_p d(a, p) - \min_n d(a, n)))$$

    The mean is over the anchors that have a positive and a negative.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        distance: see `tfembloss.distances`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[0.0, 0.0], [0.0, 1.0], [4.0, 0.0], [8.0, 0.0]])
    >>> loss = BatchHardSoftMarginTripletLoss()
    >>> round(float(loss(tf.constant([0, 0, 1, 2]), embeddings)), 4)
    0.0458

    Reference:
        Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification",
        2017, https://arxiv.org/abs/1703.07737

    Relations:
        Equal to sentence-transformers' class of the same name where every anchor has a
        positive and a negative; an anchor that lacks one is left out.
    """

    def __init__(
        self,
        distance="euclidean",
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(distance, None, reduction, name, dtype)

    def sums_and_counts(self, batch):
        """Returns the soft margin of each anchor, and whether it has one."""
        gap, valid = _hardest_gap(self.candidates(batch))  # [B], [B]
        return tf.where(valid > 0, tf.nn.softplus(gap), 0), valid


def _hardest_gap(candidates):
    """Farthest positive minus nearest negative, 0 where one is missing: `[B]`."""
    pairs, valid = triplet_sums.hardest(candidates)
    return triplet_sums.weighted_sum(candidates.distances, pairs), valid


@keras.saving.register_keras_serializable("tfembloss")
class BatchSemiHardTripletLoss(_BatchTripletLoss):
    r"""Triplet loss of each positive pair with its semi-hard negative.

    $$L = \mathrm{mean}_{(a,p)} \max(0,\; d(a, p) - d(a, n_{ap}) + m)$$

    with $n_{ap}$ the nearest negative that is farther from a than p, or the farthest
    negative if all are nearer. The mean is over all positive pairs whose anchor has a
    negative.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        margin: m, a distance, >= 0.
        distance: see `tfembloss.distances`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[0.0, 0.0], [0.0, 1.0], [4.0, 0.0], [8.0, 0.0]])
    >>> round(float(BatchSemiHardTripletLoss()(tf.constant([0, 0, 1, 2]), embeddings)), 4)
    1.9384

    Reference:
        Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and
        Clustering", 2015, https://arxiv.org/abs/1503.03832

    Relations:
        Equal to sentence-transformers' class of the same name, and to TensorFlow Addons'
        TripletSemiHardLoss, where every anchor has a negative. For a batch of one class
        those use arbitrary distances; here, the loss is 0. Of equally near negatives only
        one gets the gradient.
    """

    def sums_and_counts(self, batch):
        """Returns the sum of each anchor's violations, and the number of its positives."""
        return triplet_sums.semihard(self.candidates(batch), self.margin)


@keras.saving.register_keras_serializable("tfembloss")
class TripletLoss(EmbeddingLoss):
    r"""Triplet loss on given triplets: the positive nearer than the negative by a margin.

    $$L_i = \max(0,\; d(a_i, p_i) - d(a_i, n_i) + m)$$

    Call arguments: `y_pred` columns `[B, 3, D]`: anchor, positive, negative. `y_true` is
    not used.

    Args:
        margin: m, a distance, >= 0.
        distance: see `tfembloss.distances`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or `y_pred` is invalid.

    Example:

    >>> import tensorflow as tf
    >>> triplet = tf.constant([[[0.0, 0.0], [0.0, 1.0], [4.0, 0.0]]])
    >>> float(TripletLoss()(None, triplet))
    2.0

    Reference:
        Weinberger and Saul, "Distance Metric Learning for Large Margin Nearest Neighbor
        Classification", 2009, https://jmlr.org/papers/v10/weinberger09a.html

    Relations:
        Equal to sentence-transformers' class of the same name.
    """

    targets_are_ids = True  # which are not used

    def __init__(
        self,
        margin=5.0,
        distance="euclidean",
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.margin = non_negative("margin", margin)
        self.distance = distance
        self._distance = distances.get(distance)

    def call(self, y_true, y_pred):
        """Returns values `[B]` of columns `y_pred [B, 3, D]`."""
        columns = check_columns(y_pred, at_least=3, at_most=3)  # [B, 3, D]
        anchors, positives, negatives = tf.unstack(columns, 3, axis=1)  # [B, D] each
        gap = self._distance.rowwise(anchors, positives)  # [B]
        gap -= self._distance.rowwise(anchors, negatives)
        return tf.nn.relu(gap + self.margin)
