"""Losses on views of unlabeled rows, such as two augmentations of an image."""

import keras
import tensorflow as tf

from tfembloss import distances, masks, replicas
from tfembloss.checks import flag, non_negative, positive
from tfembloss.kernels import differentiable
from tfembloss.losses.base import Batch, EmbeddingLoss, nan_where_not_finite
from tfembloss.losses.inputs import check_columns
from tfembloss.losses.labeled.base import LabelLoss
from tfembloss.losses.regularizers import Regularizer


@keras.saving.register_keras_serializable("tfembloss")
class SelfSupervisedLoss(EmbeddingLoss):
    r"""A loss on labeled rows, where the views of a row are of one class of their own.

    With the default, all views of all rows are compared: each view is an anchor, the other
    views of its row are its positives, those of other rows its negatives. Otherwise only
    the first view is an anchor, and is compared with the second views.

    Call arguments: `y_pred` views `[B, n, D]`, as of a tuple of n columns; `y_true` is not
    used.

    Args:
        loss: a loss on labels, such as `NTXentLoss` (SimCLR), `SupConLoss`,
            `DecoupledContrastiveLoss` or `TripletMarginLoss`; its reduction is not used.
        symmetric: whether each view is an anchor; if not, n is 2, and the loss has no miner
            that needs distances between keys.
        reduction, name: see `EmbeddingLoss`. The dtype is that of `loss`.

    Raises:
        ValueError: if an argument or the shape of `y_pred` is invalid.

    Example:

    >>> import tensorflow as tf
    >>> from tfembloss.losses import NTXentLoss
    >>> views = tf.constant([[[1.0, 0.0], [0.6, 0.8]], [[0.8, 0.6], [0.0, 1.0]]])
    >>> loss = SelfSupervisedLoss(NTXentLoss(temperature=0.5))
    >>> round(float(loss(None, views)), 4)
    1.2707

    Reference:
        Chen et al., "A Simple Framework for Contrastive Learning of Visual
        Representations", 2020, https://arxiv.org/abs/2002.05709

    Relations:
        Equal to pytorch-metric-learning's class of the same name, which takes two views.
        A model cannot learn its scale: to learn that of `NTXentLoss`, give it the rows of
        all views with the same ids.
    """

    targets_are_ids = True  # which are not used

    def __init__(
        self, loss, symmetric=True, reduction="sum_over_batch_size", name=None, dtype=None
    ):
        if not isinstance(loss, LabelLoss):
            raise ValueError(
                "`loss` must be an instance of a loss on labeled rows, such as "
                f"NTXentLoss(). Received: loss={loss!r}"
            )
        if loss.multi_label is not None:
            raise ValueError(
                "Expected a loss on rows of one id each, since a row is a class of its own "
                f"here. Received: multi_label={loss.multi_label!r}. Leave it out."
            )
        if getattr(loss, "num_betas", None) is not None:
            raise ValueError(
                "Expected a loss without learned boundaries, which are of labeled rows. "
                f"Received: num_betas={loss.num_betas}. Use a fixed beta."
            )
        super().__init__(reduction=reduction, name=name, dtype=dtype or loss.dtype)
        self.loss = loss
        self.symmetric = flag("symmetric", symmetric)
        if not self.symmetric and loss.miner is not None:
            raise ValueError(
                "Expected a loss without a miner with symmetric=False, as the anchors are "
                f"not among the keys. Received: {type(loss.miner).__name__}."
            )

    def call(self, y_true, y_pred):
        """Returns values `[B]`: of the first view, or the mean over all views."""
        views = check_columns(y_pred, 2, None if self.symmetric else 2)  # [B, n, D]
        if not self.symmetric:
            return self._of_first_views(views)
        num_rows, num_views, dim = tf.unstack(tf.shape(views))
        rows = tf.reshape(views, [-1, views.shape[2] or dim])  # [B * n, D]
        ids = replicas.first_row(views) + tf.range(num_rows)
        values = self.loss.call(tf.repeat(ids, num_views), rows)  # [B * n]
        return tf.reduce_mean(tf.reshape(values, [-1, num_views]), axis=1)

    def _of_first_views(self, views):
        anchors, others = views[:, 0], views[:, 1]  # [B, D]
        keys, first = replicas.gather(others), replicas.first_row(others)  # [N, D]
        num_keys = tf.shape(keys)[0]
        positions = first + tf.range(tf.shape(anchors)[0])
        pairs = masks.ColumnPairs(None, None, positions, None, 1, num_keys)
        num_rows = tf.cast(num_keys, views.dtype)
        values = self.loss.values(Batch(anchors, keys, pairs, num_rows, first))
        return values + nan_where_not_finite(keys) + nan_where_not_finite(anchors)


@differentiable
def _variance_and_covariance(rows, eps):
    """Returns VICReg's two penalties of one view of all rows `[N, D]`."""
    num_rows, dim = (tf.cast(n, rows.dtype) for n in tf.unstack(tf.shape(rows)))
    rows -= tf.reduce_mean(rows, axis=0)
    covariance = tf.matmul(rows, rows, transpose_a=True) / tf.maximum(num_rows - 1, 1)
    variance = tf.linalg.diag_part(covariance)  # [D]
    too_small = tf.nn.relu(1 - tf.sqrt(variance + eps))
    others = tf.reduce_sum(covariance * covariance) - tf.reduce_sum(variance * variance)
    return tf.stack([tf.reduce_mean(too_small), others / dim])


@keras.saving.register_keras_serializable("tfembloss")
class VICRegLoss(EmbeddingLoss):
    r"""Agreement of two views, with enough variance and no covariance of the dimensions.

    With the variance $v_d$ and covariances $c_{de}$ of the dimensions over the rows of all
    replicas, for each view z:

    $$L_i = \lambda\, \overline{(z_{id} - z'_{id})^2} +
      \sum_{z, z'} \frac{\mu}{2}\, \overline{\max(0,\; 1 - \sqrt{v_d + \epsilon})} +
      \frac{\nu}{D} \sum_{d \ne e} c_{de}^2$$

    Call arguments: `y_pred` views `[B, 2, D]`, as of a tuple of two columns, not
    normalized; `y_true` is not used.

    Args:
        invariance_weight: $\lambda$, >= 0.
        variance_weight: $\mu$, >= 0.
        covariance_weight: $\nu$, >= 0.
        eps: $\epsilon$, > 0.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the shape of `y_pred` is invalid.

    Example:

    >>> import tensorflow as tf
    >>> views = tf.constant([[[1.0, 0.0], [0.6, 0.8]], [[0.8, 0.6], [0.0, 1.0]]])
    >>> round(float(VICRegLoss()(None, views)), 4)
    27.9302

    Reference:
        Bardes et al., "VICReg: Variance-Invariance-Covariance Regularization for
        Self-Supervised Learning", 2021, https://arxiv.org/abs/2105.04906

    Relations:
        Equal to pytorch-metric-learning's loss of the same name, on one device.
    """

    targets_are_ids = True  # which are not used

    def __init__(
        self,
        invariance_weight=25.0,
        variance_weight=25.0,
        covariance_weight=1.0,
        eps=1e-4,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.invariance_weight = non_negative("invariance_weight", invariance_weight)
        self.variance_weight = non_negative("variance_weight", variance_weight)
        self.covariance_weight = non_negative("covariance_weight", covariance_weight)
        self.eps = positive("eps", eps)

    def call(self, y_true, y_pred):
        """Returns values `[B]`: each row's agreement, and the penalties of all rows."""
        views = check_columns(y_pred, 2, 2)  # [B, 2, D]
        keys = replicas.gather(views)  # [N, 2, D]
        agreement = tf.reduce_mean(
            tf.math.squared_difference(views[:, 0], views[:, 1]), axis=1
        )  # [B]
        penalties = sum(
            _variance_and_covariance(keys[:, view], eps=self.eps) for view in range(2)
        )
        variance, covariance = tf.unstack(penalties, 2)
        return (
            self.invariance_weight * agreement
            + self.variance_weight * variance / 2
            + self.covariance_weight * covariance
        )


@differentiable
def _cross_correlation_penalties(views, eps):
    """Returns the penalties of the diagonal and of the other entries."""
    first, second = (_standardized(views[:, view], eps) for view in range(2))  # [N, D]
    num_rows = tf.cast(tf.maximum(tf.shape(first)[0], 1), first.dtype)
    correlation = tf.matmul(first, second, transpose_a=True) / num_rows  # [D, D]
    diagonal = tf.linalg.diag_part(correlation)
    others = tf.reduce_sum(correlation**2) - tf.reduce_sum(diagonal**2)
    return tf.stack([tf.reduce_sum((diagonal - 1) ** 2), others])


def _standardized(rows, eps):
    rows -= tf.reduce_mean(rows, axis=0)
    return rows / tf.sqrt(tf.reduce_mean(rows * rows, axis=0) + eps)


@keras.saving.register_keras_serializable("tfembloss")
class BarlowTwinsLoss(EmbeddingLoss):
    r"""Makes each dimension of two views equal, and all dimensions uncorrelated.

    With the correlations $c_{de}$ of dimension d of the first view with dimension e of the
    second, over the rows of all replicas:

    $$L = \sum_d (1 - c_{dd})^2 + \lambda \sum_{d \ne e} c_{de}^2$$

    Call arguments: `y_pred` views `[B, 2, D]`, as of a tuple of two columns, not
    normalized; `y_true` is not used.

    Args:
        redundancy_weight: $\lambda$, >= 0.
        eps: is added to each dimension's variance, > 0.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the shape of `y_pred` is invalid.

    Example:

    >>> import tensorflow as tf
    >>> views = tf.constant([[[1.0, 0.0], [0.6, 0.8]], [[0.8, 0.6], [0.0, 1.0]]])
    >>> round(float(BarlowTwinsLoss()(None, views)), 4)
    0.0102

    Reference:
        Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction",
        2021, https://arxiv.org/abs/2103.03230

    Relations:
        That of the paper's code, which standardizes over the rows of one device, with an
        `eps` of 1e-5, and sums correlations over all. TensorFlow Similarity's Barlow also
        divides by the number of rows.
    """

    targets_are_ids = True  # which are not used

    def __init__(
        self,
        redundancy_weight=0.0051,
        eps=1e-5,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.redundancy_weight = non_negative("redundancy_weight", redundancy_weight)
        self.eps = positive("eps", eps)

    def call(self, y_true, y_pred):
        """Returns values `[B]`, all of them the loss of the rows of all replicas."""
        views = check_columns(y_pred, 2, 2)  # [B, 2, D]
        keys = replicas.gather(views)  # [N, 2, D]
        penalties = _cross_correlation_penalties(keys, eps=self.eps)
        of_diagonal, of_others = tf.unstack(penalties, 2)
        value = of_diagonal + self.redundancy_weight * of_others
        return tf.fill(tf.shape(views)[:1], value)


@keras.saving.register_keras_serializable("tfembloss")
class SimSiamLoss(EmbeddingLoss):
    r"""The cosine of a prediction to its target, which gets no gradient, negated.

    $$L_i = -\cos(p_i,\; \mathrm{stopgrad}(t_i))$$

    There are no negatives. What keeps embeddings from becoming all equal is that the
    prediction of one view is made from its embedding by a small head, the predictor, and
    that the target, the embedding of the other view, is constant.
    `tfembloss.MomentumModel(encoder, predictor=...)` computes both, from two views, and the
    mean over both directions.

    Call arguments: `y_pred` predictions and targets in columns `[B, 2, D]`; `y_true` is not
    used.

    Args:
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if the shape of `y_pred` is invalid.

    Example:

    >>> import tensorflow as tf
    >>> pairs = tf.constant([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 2.0], [0.6, 0.8]]])
    >>> round(float(SimSiamLoss()(None, pairs)), 4)   # of the cosines 0.6 and 0.8
    -0.7

    Reference:
        Chen and He, "Exploring Simple Siamese Representation Learning", 2020,
        https://arxiv.org/abs/2011.10566

    Relations:
        TensorFlow Similarity's SimSiamLoss with "negative_cosine_sim", which takes
        predictions and targets as two arguments. BYOL's loss, the sum over both directions
        of the squared distances of unit vectors, is 4 (1 + L), so that its gradient is 4
        times as large.
    """

    targets_are_ids = True  # which are not used
    needs_predictor = True

    def call(self, y_true, y_pred):
        """Returns values `[B]`."""
        predictions, targets = tf.unstack(check_columns(y_pred, 2, 2), axis=1)  # [B, D]
        targets = distances.directions(tf.stop_gradient(targets))
        return -distances.sum_last(distances.directions(predictions) * targets)


@keras.saving.register_keras_serializable("tfembloss")
class AlignmentLoss(EmbeddingLoss):
    r"""The distance of a row's two views, whose lengths do not count.

    $$L_i = \lVert z_i - z'_i \rVert^{\alpha}, \quad \lVert z \rVert = 1$$

    Call arguments: `y_pred` views or pairs `[B, 2, D]`; `y_true` is not used.

    Args:
        power: $\alpha$, > 0.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the shape of `y_pred` is invalid.

    Example:

    >>> import tensorflow as tf
    >>> views = tf.constant([[[1.0, 0.0], [0.6, 0.8]], [[0.8, 0.6], [0.0, 1.0]]])
    >>> round(float(AlignmentLoss()(None, views)), 4)
    0.8

    Reference:
        Wang and Isola, "Understanding Contrastive Representation Learning through Alignment
        and Uniformity on the Hypersphere", 2020, https://arxiv.org/abs/2005.10242

    Relations:
        The paper's `align_loss`; add `UniformityLoss` by `WeightedSum`.
    """

    targets_are_ids = True  # which are not used

    def __init__(self, power=2.0, reduction="sum_over_batch_size", name=None, dtype=None):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.power = positive("power", power)

    def call(self, y_true, y_pred):
        """Returns values `[B]`."""
        views = check_columns(y_pred, 2, 2)  # [B, 2, D]
        squares = distances.squared_euclidean.rowwise(
            *(distances.directions(views[:, view]) for view in range(2))
        )
        return squares if self.power == 2 else distances.root(squares) ** self.power


@differentiable
def _log_sums_of_others(squares, others, t):
    return masks.row_logsumexp(-t * squares, others)


@keras.saving.register_keras_serializable("tfembloss")
class UniformityLoss(Regularizer):
    r"""Spreads embeddings over the sphere: few pairs of different rows are near.

    $$L = \log\, \mathrm{mean}_{i \ne j}\; e^{-t \lVert z_i - z_j \rVert^2},
      \quad \lVert z \rVert = 1$$

    over the rows of all replicas; the mean over the columns if there are several.

    Call arguments: `y_pred [B, D]` or columns `[B, n, D]`; `y_true` is not used.

    Args:
        t: > 0: the larger, the more the nearest pairs count.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the shape of `y_pred` is invalid.

    Example:

    >>> import tensorflow as tf
    >>> rows = tf.constant([[1.0, 0.0], [0.0, 1.0]])
    >>> float(UniformityLoss()(None, rows))
    -4.0

    Reference:
        Wang and Isola, "Understanding Contrastive Representation Learning through Alignment
        and Uniformity on the Hypersphere", 2020, https://arxiv.org/abs/2005.10242

    Relations:
        The paper's `uniform_loss`. `GlobalOrthogonalRegularizationLoss` is another way to
        spread embeddings, whose memory does not grow with the number of pairs.
    """

    def __init__(self, t=2.0, reduction="sum_over_batch_size", name=None, dtype=None):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.t = positive("t", t)

    def call(self, y_true, y_pred):
        """Returns values `[B]`, all of them the loss of the rows of all replicas."""
        columns = distances.directions(self.columns(y_pred))  # [B, n, D]
        keys, first = replicas.gather(columns), replicas.first_row(columns)  # [N, n, D]
        num_keys = tf.shape(keys)[0]
        positions = first + tf.range(tf.shape(columns)[0])
        others = ~masks.at_positions(positions, num_keys)  # [B, N]

        def of_column(rows, keys):
            squares = distances.squared_euclidean.pairwise(rows, keys)  # [B, N]
            log_sums = _log_sums_of_others(squares, others, t=self.t)  # [B]
            return replicas.logsumexp(tf.reduce_logsumexp(log_sums))

        both = zip(tf.unstack(columns, axis=1), tf.unstack(keys, axis=1), strict=True)
        log_sum = tf.reduce_mean(tf.stack([of_column(*column) for column in both]))
        num_pairs = tf.cast(num_keys, self.dtype) * tf.cast(num_keys - 1, self.dtype)
        value = log_sum - tf.math.log(tf.maximum(num_pairs, 1))
        value = tf.where(num_keys > 1, value, 0)
        return tf.fill(tf.shape(columns)[:1], value)
