"""Losses on the order of pairs by their scores, in columns `[B, 2, D]`."""

import keras
import tensorflow as tf

from tfembloss import distances, replicas
from tfembloss.checks import positive
from tfembloss.kernels import differentiable
from tfembloss.losses.base import EmbeddingLoss, nan_where_not_finite, parts_of_log_sum
from tfembloss.losses.first_batch import order_warning
from tfembloss.losses.inputs import are_missing, check_columns, check_scores


def _log_sums_over_greater(x, scores):
    """For each row, log of the sum of exp(x) over all rows with a greater score; or -inf.

    By sorting: the rows with a greater score are the first ones of a descending order.
    """
    num_rows = tf.size(x)
    order = tf.argsort(scores, direction="DESCENDING", stable=True)
    x, scores = tf.gather(x, order), tf.gather(scores, order)
    before = tf.math.cumulative_logsumexp(x, exclusive=True)
    before = tf.where(tf.range(num_rows) > 0, before, float("-inf"))
    # Rows with equal scores have the same rows before them: those before their first.
    new = tf.concat([[0], tf.cast(scores[1:] != scores[:-1], tf.int32)], axis=0)[:num_rows]
    group = tf.cumsum(new)
    first = tf.math.unsorted_segment_min(tf.range(num_rows), group, num_rows)
    result = tf.gather(before, tf.gather(first, group))
    return tf.gather(result, tf.math.invert_permutation(order))


@differentiable
def _scaled_similarities(columns, scale, similarity):
    # Of cosines less the scale, a constant: only differences count.
    rowwise = distances.get(similarity).rowwise
    return -scale * rowwise(columns[:, :1], columns[:, 1:])  # [B, n - 1]


@keras.saving.register_keras_serializable("tfembloss")
class CoSENTLoss(EmbeddingLoss):
    r"""Ranks pairs by their scores: a pair with a higher score gets a higher cosine.

    There is one loss for the pairs of all replicas:

    $$L = \log\Big(1 + \sum_{i,j:\; y_i < y_j} e^{s_i - s_j}\Big),\quad
      s_i = scale \cdot \cos(u_i, v_i)$$

    The mean of the values is L: the value of row i is the number of rows times the
    fraction of L that is due to its terms $\sum_{j: y_i < y_j} e^{s_i - s_j}$. So a weight
    of 0 removes the terms in which this row is ranked too high. Rows are sorted, not
    compared pair by pair: memory is a few vectors `[N]`.

    Call arguments: `y_pred` columns `[B, 2, D]`; `y_true` scores `[B]`, any numbers,
    compared exactly, without a cast to a lower precision.

    Args:
        scale: factor on the cosine, > 0: the inverse of a temperature.
        similarity: the negative of any distance of `tfembloss.distances`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument, `y_pred` or the scores are invalid.

    Example:

    >>> import tensorflow as tf
    >>> pairs = tf.constant([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.8, 0.6]]])
    >>> round(float(CoSENTLoss()(tf.constant([0.2, 0.1]), pairs)), 4)   # the right order
    0.6931

    Reference:
        Su, "CoSENT: a more efficient sentence vector scheme than Sentence-BERT", 2022,
        https://kexue.fm/archives/8847

    Relations:
        Equal to sentence-transformers' class of the same name.
    """

    scaled_by = "scale"

    def __init__(
        self,
        scale=20.0,
        similarity="cosine",
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.scale = positive("scale", scale)
        self.similarity = similarity
        distances.get(similarity, argument="similarity")

    def call(self, y_true, y_pred):
        """Returns values `[B]` of columns `y_pred [B, 2, D]` with scores `y_true [B]`."""
        columns = check_columns(y_pred, at_least=2, at_most=2)  # [B, 2, D]
        scores = check_scores(y_true, columns)[:, None]  # [B, 1]
        options = {"scale": self.scale, "similarity": self.similarity}
        return self._rank(_scaled_similarities(columns, **options), scores)

    def first_batch_warning(self, y_true, shape):
        """Returns a warning of scores that are all equal, or None."""
        return order_warning(y_true)

    def _rank(self, similarities, scores):
        """Returns values `[B]` of pairs `[B, m]`, of which each is ranked among all."""
        keys = tf.reshape(replicas.gather(similarities), [-1])  # [N * m]
        key_scores = tf.reshape(replicas.gather(scores), [-1])
        log_terms = keys + _log_sums_over_greater(-keys, key_scores)  # [N * m]
        log_sum = tf.reduce_logsumexp(tf.stop_gradient(log_terms))
        width = tf.shape(similarities)[1]
        start = replicas.first_row(similarities) * width
        own = log_terms[start : start + tf.size(similarities)]
        values = tf.reshape(parts_of_log_sum(own, log_sum), [-1, width])  # [B, m]
        num_rows = tf.cast(tf.size(keys) // width, keys.dtype)
        bad = nan_where_not_finite(keys) + nan_where_not_finite(key_scores, keys.dtype)
        return num_rows * tf.reduce_sum(values, axis=1) + bad


@differentiable
def _scaled_angles(columns, scale):
    half = (tf.shape(columns)[2] + 1) // 2
    columns = distances.l2_normalize(columns)
    columns = tf.pad(columns, [[0, 0], [0, 0], [0, tf.shape(columns)[2] % 2]])
    real, imaginary = columns[..., :half], columns[..., half:]  # [B, n, D / 2]
    product = columns[:, :1] * columns[:, 1:]  # [B, n - 1, D]
    turned = imaginary[:, :1] * real[:, 1:] - real[:, :1] * imaginary[:, 1:]
    both = distances.sum_last(product) + distances.sum_last(turned)
    return scale * tf.abs(both)  # [B, n - 1]


@keras.saving.register_keras_serializable("tfembloss")
class AnglELoss(CoSENTLoss):
    r"""`CoSENTLoss` on angles in the complex plane, whose gradient does not vanish near 1.

    The halves of a vector of length 1 are the real and the imaginary part of complex
    numbers, $u = a + ib$ and $v = c + id$, and

    $$s_i = scale \cdot |\textstyle\sum (a c + b d) + \sum (b c - a d)|$$

    takes the place of the scaled cosine in `CoSENTLoss`. A vector of odd dimension is
    padded with a 0.

    Call arguments: `y_pred` columns `[B, 2, D]` and `y_true` scores `[B]`; or columns
    `[B, n, D]`, n >= 3, and no `y_true`: an anchor, its positive and negatives, which are
    pairs of score 1 and 0.

    Args:
        scale: factor on the similarity, > 0: the inverse of a temperature.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if `scale` or `y_pred` is invalid, if the scores of two columns are
            missing, or if scores are given for more than two.

    Example:

    >>> import tensorflow as tf
    >>> pairs = tf.constant([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.8, 0.6]]])
    >>> round(float(AnglELoss()(tf.constant([0.2, 0.1]), pairs)), 4)
    24.0

    Reference:
        Li and Li, "AnglE-optimized Text Embeddings", 2023,
        https://arxiv.org/abs/2309.12871

    Relations:
        Equal to sentence-transformers' class of the same name.
    """

    scaled_by = None  # not of a cosine

    def __init__(self, scale=20.0, reduction="sum_over_batch_size", name=None, dtype=None):
        super().__init__(scale, reduction=reduction, name=name, dtype=dtype)

    def call(self, y_true, y_pred):
        """Returns values `[B]` of columns `y_pred [B, n, D]`."""
        columns = check_columns(y_pred, at_least=2)  # [B, n, D]
        angles = _scaled_angles(columns, self.scale)  # [B, n - 1]
        if columns.shape[1] == 2:
            return self._rank(angles, check_scores(y_true, columns)[:, None])
        if not are_missing(y_true):
            raise ValueError(
                "AnglELoss takes scores y_true for pairs, y_pred [B, 2, D], and none for "
                "columns of an anchor, its positive and negatives. Received: y_pred.shape="
                f"{tuple(y_pred.shape)} and y_true.shape={y_true.shape}. Leave y out."
            )
        is_positive = tf.range(columns.shape[1] - 1) == 0  # [n - 1]
        scores = tf.cast(tf.broadcast_to(is_positive, tf.shape(angles)), angles.dtype)
        return self._rank(angles, scores)
