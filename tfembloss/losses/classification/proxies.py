"""Losses on cosines `[B, C]` to a proxy of each class.

The proxies are the centers of `tfembloss.layers.CosineHead`, which
`tfembloss.EmbeddingClassifier` trains with the encoder.
"""

import keras
import tensorflow as tf

from tfembloss import masks, replicas
from tfembloss.checks import number, positive
from tfembloss.kernels import compiled, differentiable
from tfembloss.losses.base import nan_where_not_finite, parts_of_log_sum
from tfembloss.losses.classification.base import ClassLoss, hits
from tfembloss.losses.classification.softmax import ClassSoftmaxLoss


@keras.saving.register_keras_serializable("tfembloss")
class ProxyNCALoss(ClassSoftmaxLoss):
    r"""Softmax over the squared distances of normalized embeddings to class proxies.

    $$L_i = -\log \frac{e^{-s |\hat x_i - \hat p_{y_i}|^2}}
          {\sum_c e^{-s |\hat x_i - \hat p_c|^2}},\quad
      |\hat x - \hat p|^2 = 2 - 2 \cos(x, p)$$

    Call arguments: `y_pred` cosines `[B, C]`, of `tfembloss.layers.CosineHead`; `y_true`
    labels `[B]`, integers from 0 to C - 1.

    Args:
        softmax_scale: s, > 0.
        label_smoothing: see `ArcFaceLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: as for `ArcFaceLoss`.

    Example:

    >>> import tensorflow as tf
    >>> cosines = tf.constant([[0.8, 0.6], [0.1, 0.9]])
    >>> round(float(ProxyNCALoss()(tf.constant([0, 1]), cosines)), 4)
    0.3485

    Reference:
        Movshovitz-Attias et al., "No Fuss Distance Metric Learning using Proxies", 2017,
        https://arxiv.org/abs/1703.07464

    Relations:
        Equal to pytorch-metric-learning's loss of the same name; unlike in the paper, the
        own proxy occurs in the denominator. It is `NormalizedSoftmaxLoss(1 / (2 s))`.
    """

    def __init__(
        self,
        softmax_scale=1.0,
        label_smoothing=0.0,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(label_smoothing, reduction, name, dtype)
        self.softmax_scale = positive("softmax_scale", softmax_scale)

    @property
    def scale(self):
        """Twice `softmax_scale`, since a squared distance has twice the cosine."""
        return 2 * self.softmax_scale


def _log_terms(cosines, labels, margin, alpha):
    """Returns logs of what a row adds to its own proxy's and others' sums, `[B, C]`."""
    at_label = hits(labels, cosines)
    near = tf.where(at_label, -alpha * (cosines - margin), float("-inf"))
    return near, tf.where(~at_label, alpha * (cosines + margin), float("-inf"))


@compiled
def _column_log_sums(cosines, labels, margin, alpha):
    """Log of each proxy's two sums over this replica's rows, `[1, 2, C]`."""
    near, far = _log_terms(cosines, labels, margin, alpha)  # [B, C]
    sums = [masks.column_logsumexp(terms, terms > float("-inf")) for terms in (near, far)]
    return tf.stack(sums)[None]


@differentiable
def _proxy_anchor(cosines, labels, log_sums, margin, alpha):
    near, far = _log_terms(cosines, labels, margin, alpha)  # [B, C]
    with_rows = tf.reduce_sum(tf.cast(log_sums[0] > float("-inf"), cosines.dtype))
    num_classes = tf.cast(tf.shape(cosines)[1], cosines.dtype)
    own = tf.reduce_sum(parts_of_log_sum(near, log_sums[0]), axis=1) / with_rows
    other = tf.reduce_sum(parts_of_log_sum(far, log_sums[1]), axis=1) / num_classes
    return tf.where(masks.row_any(hits(labels, cosines)), own + other, float("nan"))


@keras.saving.register_keras_serializable("tfembloss")
class ProxyAnchorLoss(ClassLoss):
    r"""Each proxy mostly pulls its farthest rows, and pushes the nearest of other classes.

    With $X_c$ the rows of class c of all replicas and $s$ the cosine, $C^+$ the classes
    that have rows in the batch:

    $$L = \frac{1}{|C^+|} \sum_{c \in C^+} \log\Big(1 + \sum_{i \in X_c}
          e^{-\alpha (s_{ic} - m)}\Big) + \frac{1}{C} \sum_c \log\Big(1 +
          \sum_{i \notin X_c} e^{\alpha (s_{ic} + m)}\Big)$$

    The mean of the values is L: a row's value is the number of rows times its fraction of
    the sums.

    Call arguments: `y_pred` cosines `[B, C]`, of `tfembloss.layers.CosineHead`; `y_true`
    labels `[B]`, integers from 0 to C - 1.

    Args:
        margin: m, a cosine.
        alpha: scale, > 0.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: as for `ArcFaceLoss`.

    Example:

    >>> import tensorflow as tf
    >>> cosines = tf.constant([[0.8, 0.6], [0.1, 0.9]])
    >>> round(float(ProxyAnchorLoss(alpha=4.0)(tf.constant([0, 1]), cosines)), 4)
    2.0646

    Reference:
        Kim et al., "Proxy Anchor Loss for Deep Metric Learning", 2020,
        https://arxiv.org/abs/2003.13911

    Relations:
        Equal to pytorch-metric-learning's loss of the same name without a miner, which
        there adds the weight of a row, less 1, to its exponents. All classes must be
        scored: with sampled classes, the second term is that of the sample.
    """

    def __init__(
        self,
        margin=0.1,
        alpha=32.0,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.margin = number("margin", margin)
        self.alpha = positive("alpha", alpha)

    def values(self, labels, scores):
        """Returns values `[B]`: parts of the sums of all replicas."""
        options = {"margin": self.margin, "alpha": self.alpha}
        log_sums = _column_log_sums(tf.stop_gradient(scores), labels, **options)
        log_sums = tf.reduce_logsumexp(replicas.gather(log_sums), axis=0)  # [2, C]
        values = _proxy_anchor(scores, labels, log_sums, **options)  # [B]
        num_rows = replicas.total(tf.cast(tf.size(labels), values.dtype))
        return num_rows * values + nan_where_not_finite(scores)


@differentiable
def _squared_errors(cosines, labels):
    at_label = hits(labels, cosines)  # [B, C]
    errors = cosines - tf.cast(at_label, cosines.dtype)
    means = tf.reduce_mean(errors * errors, axis=1)
    return tf.where(masks.row_any(at_label), means, float("nan"))


@keras.saving.register_keras_serializable("tfembloss")
class P2SGradLoss(ClassLoss):
    r"""Squared errors of the cosines, which should be 1 to the own class, 0 to others.

    $$L_i = \frac{1}{C} \sum_c (\cos \theta_{ic} - [c = y_i])^2$$

    It has neither a scale nor a margin to tune.

    Call arguments: `y_pred` cosines `[B, C]`, of `tfembloss.layers.CosineHead`; `y_true`
    labels `[B]`, integers from 0 to C - 1.

    Args:
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: as for `ArcFaceLoss`.

    Example:

    >>> import tensorflow as tf
    >>> cosines = tf.constant([[0.8, 0.6], [0.1, 0.9]])
    >>> round(float(P2SGradLoss()(tf.constant([0, 1]), cosines)), 4)
    0.105

    Reference:
        Zhang et al., "P2SGrad: Refined Gradients for Optimizing Deep Face Models", 2019,
        https://arxiv.org/abs/1905.02479; in this form: Wang and Yamagishi, "A Comparative
        Study on Recent Neural Spoofing Countermeasures for Synthetic Speech Detection",
        2021, https://arxiv.org/abs/2103.11326

    Relations:
        Equal to pytorch-metric-learning's loss of the same name; the papers sum over the
        classes, which is C times as much. With sampled classes, the mean is over these.
    """

    def __init__(self, reduction="sum_over_batch_size", name=None, dtype=None):
        super().__init__(reduction=reduction, name=name, dtype=dtype)

    def values(self, labels, scores):
        """Returns values `[B]`."""
        return _squared_errors(scores, labels)
