"""The angular loss, over all triplets without building them."""

import math

import keras
import tensorflow as tf

from tfembloss import masks
from tfembloss.checks import number
from tfembloss.kernels import differentiable
from tfembloss.losses.labeled.base import LabelLoss
from tfembloss.miners.base import over_positives


def _value(cosines, of_positive, positive, negative, tangent):
    """Returns the values `[B]` of one positive of each anchor, with all its negatives.

    Args:
        cosines: of the anchors with all rows `[B, N]`.
        of_positive: of the positives with all rows `[B, N]`.
        positive: `miners.base.Positive`.
        negative: mask `[B, N]`.
        tangent: the square of the angle's.
    """
    log_sum = masks.row_logsumexp(4 * tangent * (cosines + of_positive), negative)  # [B]
    return tf.nn.softplus(log_sum - 2 * (1 + tangent) * positive.of(cosines))


def _forward(x, labels, tangent):
    cosines, of_keys = x  # [B, N], [N, N]
    negative = labels.negative

    def step(positive, state):
        of_positive = tf.gather(of_keys, positive.column)
        value = _value(cosines, of_positive, positive, negative, tangent)
        found = tf.cast(positive.found, value.dtype)
        return state[0] + tf.where(positive.found, value, 0), state[1] + found

    zeros = tf.zeros_like(labels.positions, cosines.dtype)  # [B]
    return over_positives(labels, step, (zeros, zeros))


def _backward(upstreams, result, x, labels, tangent):
    upstream, _ = upstreams  # of the sums, and of the counts
    cosines, of_keys = x
    negative = labels.negative

    def step(positive, state):
        of_positive = tf.gather(of_keys, positive.column)
        with tf.GradientTape() as tape:
            tape.watch([cosines, of_positive])
            value = _value(cosines, of_positive, positive, negative, tangent)
        weights = tf.where(positive.found, upstream, 0)
        parts = tape.gradient(value, [cosines, of_positive], weights)
        column = positive.column[:, None]
        return state[0] + parts[0], tf.tensor_scatter_nd_add(state[1], column, parts[1])

    return over_positives(labels, step, tuple(map(tf.zeros_like, x)))


_sums_over_positives = differentiable(_forward, _backward)


@keras.saving.register_keras_serializable("tfembloss")
class AngularLoss(LabelLoss):
    r"""Bounds the angle at the negative of the triangle of a triplet.

    With rows of length 1, and $t = \tan^2 \alpha$:

    $$L = \mathrm{mean}_{(a,p)} \log\Big(1 +
          \sum_n e^{4 t\, (a + p) \cdot n - 2 (1 + t)\, a \cdot p}\Big)$$

    Time grows with the number of rows of the largest class, memory does not.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        alpha: $\alpha$, the angle in degrees, above 0 and below 90.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> round(float(AngularLoss()(tf.constant([0, 0, 1, 1]), embeddings)), 4)
    3.0264

    Reference:
        Wang et al., "Deep Metric Learning with Angular Loss", 2017,
        https://arxiv.org/abs/1708.01682

    Relations:
        pytorch-metric-learning's loss of the same name does not normalize the negatives, so
        that it grows with their lengths; of rows of length 1 they are equal. The paper adds
        it to `NPairsLoss`, as `WeightedSum` does.
    """

    takes_memory = False  # it needs the cosines between all keys

    def __init__(self, alpha=40.0, reduction="sum_over_batch_size", name=None, dtype=None):
        super().__init__("cosine", None, reduction, name, dtype)
        self.alpha = number(
            "alpha",
            alpha,
            "an angle in degrees, above 0 and below 90",
            lambda a: 0 < a < 90,
        )

    def sums_and_counts(self, batch):
        """Returns sums over each anchor's positives, and their number."""
        found = self.candidates(batch, key_distances=True)
        x = (1 - found.distances, 1 - found.key_distances)
        tangent = math.tan(math.radians(self.alpha)) ** 2
        sums, counts = _sums_over_positives(x, batch.pairs, tangent)
        return sums, tf.stop_gradient(counts)
