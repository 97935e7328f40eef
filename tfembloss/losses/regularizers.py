"""Losses of embeddings alone, to be added to another loss by `WeightedSum`."""

import keras
import tensorflow as tf

from tfembloss import distances, replicas
from tfembloss.checks import integer, non_negative, number, one_of, positive
from tfembloss.kernels import differentiable
from tfembloss.losses.base import EmbeddingLoss, first_dimensions, nan_where_not_finite
from tfembloss.losses.inputs import described


class Regularizer(EmbeddingLoss):
    """Base of losses of embeddings `[B, D]` or columns `[B, n, D]`, without targets."""

    targets_are_ids = True  # which are not used

    def truncate(self, y_pred, dim):
        """Returns the first `dim` dimensions, at the length that they have."""
        return first_dimensions(y_pred, dim)

    def columns(self, y_pred):
        """Returns columns `[B, n, D]`. Raises ValueError otherwise."""
        if y_pred.shape.rank in (2, 3):
            return y_pred if y_pred.shape.rank == 3 else y_pred[:, None]
        raise ValueError(
            "Expected embeddings [B, D], or columns of them [B, n, D]. Received: "
            f"{described(y_pred, 'y_pred')}"
        )


@differentiable
def _moments(rows):
    """Returns each row's mean similarity and mean squared similarity to others, `[B, n]`.

    From sums over the rows, so that no matrix of pairs is stored.
    """
    columns, keys = rows  # [B, n, D], [N, n, D]
    own = distances.sum_last(columns * columns)  # [B, n]
    sums = tf.reduce_sum(keys, axis=0)  # [n, D]
    products = tf.einsum("knd,kne->nde", keys, keys)  # [n, D, D]
    first = distances.sum_last(columns * sums) - own
    second = tf.einsum("bnd,nde,bne->bn", columns, products, columns) - own**2
    num_others = tf.cast(tf.maximum(tf.shape(keys)[0] - 1, 1), keys.dtype)
    return first / num_others, second / num_others


@keras.saving.register_keras_serializable("tfembloss")
class GlobalOrthogonalRegularizationLoss(Regularizer):
    r"""Keeps embeddings of different rows as far from one another as random directions.

    With the similarities $s_{ij}$ of different rows i and j, of all replicas, for each
    column by itself:

    $$L = w_1 \left(\overline{s_{ij}}\right)^2 +
          w_2 \max\left(0,\; \overline{s_{ij}^2} - \tfrac{1}{D}\right)$$

    A row's value is its part: their mean is L. Memory does not grow with the number of
    pairs.

    Call arguments: `y_pred [B, D]` or columns `[B, n, D]`; `y_true` is not used.

    Args:
        similarity: `"cosine"` or `"dot"`.
        mean_weight: $w_1$, >= 0.
        second_moment_weight: $w_2$, >= 0.
        aggregation: `"mean"` or `"sum"` over the columns.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the shape of `y_pred` is invalid.

    Example:

    >>> import tensorflow as tf
    >>> loss = GlobalOrthogonalRegularizationLoss()
    >>> float(loss(None, tf.constant([[1.0, 0.0], [0.0, 1.0]])))
    0.0
    >>> float(loss(None, tf.constant([[1.0, 0.0], [1.0, 0.0]])))  # 1 + (1 - 1/2)
    1.5

    Reference:
        Zhang et al., "Learning Spread-out Local Feature Descriptors", 2017,
        https://arxiv.org/abs/1708.06320

    Relations:
        Equal to sentence-transformers' class of the same name.
    """

    def __init__(
        self,
        similarity="cosine",
        mean_weight=1.0,
        second_moment_weight=1.0,
        aggregation="mean",
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.similarity = one_of("similarity", similarity, ["cosine", "dot"])
        self.mean_weight = non_negative("mean_weight", mean_weight)
        self.second_moment_weight = non_negative(
            "second_moment_weight", second_moment_weight
        )
        self.aggregation = one_of("aggregation", aggregation, ["mean", "sum"])

    def call(self, y_true, y_pred):
        """Returns values `[B]` of this replica's rows among those of all."""
        columns = distances.get(self.similarity).prepare(self.columns(y_pred))
        keys = replicas.gather(columns)  # [N, n, D]
        mean, square = _moments((columns, keys))  # [B, n] each
        num_rows = tf.cast(tf.shape(keys)[0], self.dtype)

        def over_rows(x):
            return replicas.total(tf.reduce_sum(x, axis=0)) / tf.maximum(num_rows, 1)

        # Parts whose mean, and its gradient, are those of the square and of the maximum.
        part = over_rows(mean) * (2 * mean - tf.stop_gradient(mean))
        excess = square - 1 / tf.cast(tf.shape(keys)[2], self.dtype)
        is_above = tf.cast(over_rows(excess) > 0, self.dtype)
        values = self.mean_weight * part + self.second_moment_weight * is_above * excess
        values = tf.where(num_rows > 1, values, tf.zeros_like(values))
        reduce = tf.reduce_mean if self.aggregation == "mean" else tf.reduce_sum
        return reduce(values, axis=1) + nan_where_not_finite(keys)


@keras.saving.register_keras_serializable("tfembloss")
class FlopsLoss(Regularizer):
    r"""Keeps sparse embeddings sparse: the expected number of products of two of them.

    With the mean $a_d$ of dimension d over the rows of all replicas, and over the columns:

    $$L = \sum_d a_d^2$$

    A row's value is its part: their mean is L.

    Call arguments: `y_pred [B, D]` or columns `[B, n, D]`, of numbers >= 0, as those of
    SPLADE; `y_true` is not used.

    Args:
        threshold: rows with at most so many dimensions that are not 0 count as 0, or None.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the shape of `y_pred` is invalid.

    Example:

    >>> import tensorflow as tf
    >>> float(FlopsLoss()(None, tf.constant([[2.0, 0.0], [0.0, 0.0]])))
    1.0

    Reference:
        Paria et al., "Minimizing FLOPs to Learn Efficient Sparse Representations", 2020,
        https://arxiv.org/abs/2004.05665

    Relations:
        Equal to sentence-transformers' class of the same name.
    """

    def __init__(
        self, threshold=None, reduction="sum_over_batch_size", name=None, dtype=None
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        if threshold is not None:
            threshold = integer("threshold", threshold, 0, hint=", or None")
        self.threshold = threshold

    def call(self, y_true, y_pred):
        """Returns values `[B]` of this replica's rows among those of all."""
        columns = self.columns(y_pred)
        if self.threshold is not None:
            used = tf.reduce_sum(tf.cast(columns != 0, tf.int32), axis=2, keepdims=True)
            columns = tf.where(used > self.threshold, columns, tf.zeros_like(columns))
        rows = tf.reduce_mean(columns, axis=1)  # [B, D]
        num_rows = replicas.total(tf.cast(tf.shape(rows)[0], self.dtype))
        mean = replicas.total(tf.reduce_sum(rows, axis=0)) / tf.maximum(num_rows, 1)  # [D]
        # Parts whose mean, and its gradient, are those of the squares.
        values = distances.sum_last(mean * (2 * rows - tf.stop_gradient(rows)))
        return values + nan_where_not_finite(y_pred)


@keras.saving.register_keras_serializable("tfembloss")
class LpRegularizationLoss(Regularizer):
    r"""Keeps embeddings short.

    $$L_i = |x_i|_p^{power}$$

    the mean over the columns of row i.

    Call arguments: `y_pred [B, D]` or columns `[B, n, D]`; `y_true` is not used.

    Args:
        p: of the norm, >= 1.
        power: of the norm, > 0.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the shape of `y_pred` is invalid.

    Example:

    >>> import tensorflow as tf
    >>> float(LpRegularizationLoss()(None, tf.constant([[3.0, 4.0], [0.0, 1.0]])))
    3.0

    Relations:
        pytorch-metric-learning's LpRegularizer, its `embedding_regularizer`.
    """

    def __init__(
        self, p=2, power=1, reduction="sum_over_batch_size", name=None, dtype=None
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.p = number("p", p, "a number >= 1", lambda value: value >= 1)
        self.power = positive("power", power)

    def call(self, y_true, y_pred):
        """Returns values `[B]`."""
        sums = distances.sum_last(tf.abs(self.columns(y_pred)) ** self.p)  # [B, n]
        zero = sums <= 0  # whose gradient is 0; NaN takes the other branch
        norms = tf.where(zero, tf.ones_like(sums), sums) ** (self.power / self.p)
        return tf.reduce_mean(tf.where(zero, tf.zeros_like(sums), norms), axis=1)


@keras.saving.register_keras_serializable("tfembloss")
class ZeroMeanRegularizationLoss(Regularizer):
    r"""Keeps the sum of an embedding's dimensions at 0.

    $$L_i = \left|\sum_d x_{id}\right|$$

    the mean over the columns of row i.

    Call arguments: `y_pred [B, D]` or columns `[B, n, D]`; `y_true` is not used.

    Args:
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if the shape of `y_pred` is invalid.

    Example:

    >>> import tensorflow as tf
    >>> float(ZeroMeanRegularizationLoss()(None, tf.constant([[1.0, -1.0], [1.0, 1.0]])))
    1.0

    Relations:
        pytorch-metric-learning's ZeroMeanRegularizer.
    """

    def call(self, y_true, y_pred):
        """Returns values `[B]`."""
        sums = distances.sum_last(self.columns(y_pred))  # [B, n]
        return tf.reduce_mean(tf.abs(sums), axis=1)
