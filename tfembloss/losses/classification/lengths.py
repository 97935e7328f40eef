"""Softmax losses on cosines to class centers and on lengths, `[B, 2, C]`.

Cosines alone do not say how long an embedding is. `tfembloss.layers.CosineHead` returns
both, and `tfembloss.EmbeddingClassifier` asks it for them where the loss takes them, while
the metrics get cosines as ever.
"""

import math

import keras
import tensorflow as tf

from tfembloss import replicas
from tfembloss.checks import number, positive
from tfembloss.losses.classification.base import of_label
from tfembloss.losses.classification.margins import angles, falling_cosine
from tfembloss.losses.classification.softmax import ClassSoftmaxLoss


@keras.saving.register_keras_serializable("tfembloss")
class SphereFaceLoss(ClassSoftmaxLoss):
    r"""Softmax over class centers, with the angle to the own center multiplied.

    With $\theta_c$ the angle between an embedding x and the center of class c:

    $$L_i = -\log \frac{e^{s |x_i| \psi(m \theta_{y_i})}}
          {e^{s |x_i| \psi(m \theta_{y_i})} + \sum_{c \ne y_i} e^{s |x_i| \cos \theta_c}}$$

    $$\psi(\phi) = (-1)^k \cos \phi - 2 k,\quad k = \lfloor \phi / \pi \rfloor$$

    Call arguments: `y_pred` cosines and lengths `[B, 2, C]`, of
    `tfembloss.layers.CosineHead` with `lengths="embedding"`; `y_true` labels `[B]`,
    integers from 0 to C - 1.

    Args:
        margin: m, a factor >= 1.
        scale: s, > 0.
        label_smoothing: see `ArcFaceLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: as for `ArcFaceLoss`.

    Example:

    >>> import tensorflow as tf
    >>> cosines, lengths = [[0.8, 0.6], [0.1, 0.9]], [[2.0, 2.0], [4.0, 4.0]]
    >>> scores = tf.stack([cosines, lengths], axis=1)
    >>> round(float(SphereFaceLoss()(tf.constant([0, 1]), scores)), 4)
    2.2506

    Reference:
        Liu et al., "SphereFace: Deep Hypersphere Embedding for Face Recognition", 2017,
        https://arxiv.org/abs/1704.08063

    Relations:
        Equal to pytorch-metric-learning's loss of the same name. The paper begins with a
        mean of the cosine with and without the margin, whose weights change in training.
        `CombinedMarginLoss(m, 0, 0)` leaves the length out.
    """

    lengths = "embedding"

    def __init__(
        self,
        margin=4.0,
        scale=1.0,
        label_smoothing=0.0,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(label_smoothing, reduction, name, dtype)
        self.margin = number("margin", margin, "a number >= 1", lambda m: m >= 1)
        self.scale = positive("scale", scale)

    @staticmethod
    def formula(own, lengths, *, margin):
        """Returns the products with the own center `[B]`, with the margin."""
        cosines = tf.math.divide_no_nan(own, lengths)
        return lengths * falling_cosine(margin * angles(cosines))

    def values(self, labels, scores):
        """Returns values `[B]`."""
        cosines, lengths = tf.unstack(scores, num=2, axis=1)  # [B, C]
        return super().values(labels, lengths * cosines, of_label(lengths, labels))


@keras.saving.register_keras_serializable("tfembloss")
class LargeMarginSoftmaxLoss(SphereFaceLoss):
    r"""`SphereFaceLoss` in which the lengths of the centers count, too.

    $$L_i = -\log \frac{e^{s |x_i| |w_{y_i}| \psi(m \theta_{y_i})}}
          {e^{s |x_i| |w_{y_i}| \psi(m \theta_{y_i})} +
           \sum_{c \ne y_i} e^{s |x_i| |w_c| \cos \theta_c}}$$

    Call arguments: `y_pred` cosines and lengths `[B, 2, C]`, of
    `tfembloss.layers.CosineHead` with `lengths="product"`; `y_true` labels `[B]`, integers
    from 0 to C - 1.

    Args:
        margin: m, a factor >= 1.
        scale: s, > 0.
        label_smoothing: see `ArcFaceLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: as for `ArcFaceLoss`.

    Example:

    >>> import tensorflow as tf
    >>> cosines, lengths = [[0.8, 0.6], [0.1, 0.9]], [[2.0, 3.0], [4.0, 2.0]]
    >>> scores = tf.stack([cosines, lengths], axis=1)
    >>> round(float(LargeMarginSoftmaxLoss()(tf.constant([0, 1]), scores)), 4)
    2.3656

    Reference:
        Liu et al., "Large-Margin Softmax Loss for Convolutional Neural Networks", 2016,
        https://arxiv.org/abs/1612.02295

    Relations:
        Equal to pytorch-metric-learning's loss of the same name.
    """

    lengths = "product"


@keras.saving.register_keras_serializable("tfembloss")
class AdaFaceLoss(ClassSoftmaxLoss):
    r"""Softmax over class centers, with a margin that stresses hard rows of good quality.

    An embedding's length tells its quality $z_i$. With $\mu$ and $\sigma$ the mean and the
    standard deviation of the lengths over the rows of all replicas, as constants, as is z:

    $$L_i = -\log \frac{e^{s\, o_i}}{e^{s\, o_i} + \sum_{c \ne y_i} e^{s \cos \theta_c}},
      \quad o_i = \cos(\theta_{y_i} - m z_i) - m (1 + z_i)$$

    $$z_i = \operatorname{clip}\Big(h \frac{|x_i| - \mu}{\sigma + \mu / 1000}, -1, 1\Big)$$

    with the angle kept between 0 and 180 degrees. At z = -1 this is ArcFace, at 0 CosFace.

    Call arguments: `y_pred` cosines and lengths `[B, 2, C]`, of
    `tfembloss.layers.CosineHead` with `lengths="embedding"`; `y_true` labels `[B]`,
    integers from 0 to C - 1. The encoder must not normalize its embeddings.

    Args:
        margin: m, a cosine and an angle in radians, 0 to pi.
        concentration: h, > 0: with 1/3 most rows are not clipped.
        scale: s, > 0.
        label_smoothing: see `ArcFaceLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: as for `ArcFaceLoss`.

    Example:

    >>> import tensorflow as tf
    >>> cosines, lengths = [[0.8, 0.6], [0.1, 0.9]], [[2.0, 2.0], [4.0, 4.0]]
    >>> scores = tf.stack([cosines, lengths], axis=1)
    >>> round(float(AdaFaceLoss(scale=4.0)(tf.constant([0, 1]), scores)), 4)
    0.6475

    Reference:
        Kim et al., "AdaFace: Quality Adaptive Margin for Face Recognition", 2022,
        https://arxiv.org/abs/2204.00964

    Relations:
        The paper's $\mu$ and $\sigma$ are moving averages over batches. Here they are those
        of the batch, since a loss keeps no state, as in the authors' code with t_alpha = 1.
        That divides by N - 1, adds 0.001 to the deviation and clips lengths at 0.001 and
        100; here z depends on no scale of the lengths.
    """

    lengths = "embedding"

    def __init__(
        self,
        margin=0.4,
        concentration=0.333,
        scale=64.0,
        label_smoothing=0.0,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(label_smoothing, reduction, name, dtype)
        self.margin = number(
            "margin", margin, "a number from 0 to pi", lambda m: 0 <= m <= math.pi
        )
        self.concentration = positive("concentration", concentration)
        self.scale = positive("scale", scale)

    @staticmethod
    def formula(own, quality, *, margin):
        """Returns the cosine to the own center `[B]`, with the margins."""
        turned = tf.clip_by_value(angles(own) - margin * quality, 0.0, math.pi)
        return tf.cos(turned) - margin * (1 + quality)

    def values(self, labels, scores):
        """Returns values `[B]`."""
        cosines, lengths = tf.unstack(scores, num=2, axis=1)  # [B, C]
        return super().values(labels, cosines, self._quality(lengths[:, 0]))

    def _quality(self, lengths):
        """Returns z `[B]` of this replica's lengths `[B]`."""
        lengths = tf.stop_gradient(lengths)
        count = replicas.total(tf.cast(tf.size(lengths), lengths.dtype))
        mean = replicas.total(tf.reduce_sum(lengths)) / count
        relative = tf.math.divide_no_nan(lengths - mean, mean)  # no square overflows
        variance = replicas.total(tf.reduce_sum(relative**2)) / count
        z = self.concentration * relative / (tf.sqrt(variance) + 0.001)
        return tf.clip_by_value(z, -1.0, 1.0)


@keras.saving.register_keras_serializable("tfembloss")
class MagFaceLoss(ClassSoftmaxLoss):
    r"""ArcFace with a margin that grows with the embedding's length, which is rewarded.

    Rows that are easy to tell get long embeddings, and so the length tells a row's quality.
    With the length $a_i = \operatorname{clip}(|x_i|, l, u)$:

    $$L_i = -\log \frac{e^{s \psi(\theta_{y_i} + m(a_i))}}{e^{s \psi(\theta_{y_i} + m(a_i))}
          + \sum_{c \ne y_i} e^{s \cos \theta_c}}
          + \lambda \Big(\frac{a_i}{u^2} + \frac{1}{a_i}\Big)$$

    $$m(a) = m_l + (m_u - m_l) \frac{a - l}{u - l}$$

    $\psi$ is the cosine up to 180 degrees, and falls further beyond, as in
    `CombinedMarginLoss`.

    Call arguments: `y_pred` cosines and lengths `[B, 2, C]`, of
    `tfembloss.layers.CosineHead` with `lengths="embedding"`; `y_true` labels `[B]`,
    integers from 0 to C - 1. The encoder must not normalize its embeddings.

    Args:
        min_margin: $m_l$, an angle in radians, 0 to pi.
        max_margin: $m_u$, an angle in radians, from `min_margin` to pi.
        min_length: l, > 0.
        max_length: u, above `min_length`. Beyond these a length has no gradient.
        length_weight: $\lambda$, > 0.
        scale: s, > 0.
        label_smoothing: see `ArcFaceLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: as for `ArcFaceLoss`.

    Example:

    >>> import tensorflow as tf
    >>> cosines, lengths = [[0.8, 0.6], [0.1, 0.9]], [[20.0, 20.0], [40.0, 40.0]]
    >>> scores = tf.stack([cosines, lengths], axis=1)
    >>> round(float(MagFaceLoss(scale=4.0)(tf.constant([0, 1]), scores)), 4)
    2.0276

    Reference:
        Meng et al., "MagFace: A Universal Representation for Face Recognition and Quality
        Assessment", 2021, https://arxiv.org/abs/2103.06627

    Relations:
        Equal to the authors' code up to 180 degrees less the margin, beyond which that
        continues as `ArcFaceLoss`.
    """

    lengths = "embedding"

    def __init__(
        self,
        min_margin=0.45,
        max_margin=0.8,
        min_length=10.0,
        max_length=110.0,
        length_weight=35.0,
        scale=64.0,
        label_smoothing=0.0,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(label_smoothing, reduction, name, dtype)
        self.min_margin = number(
            "min_margin",
            min_margin,
            "an angle in radians, 0 to pi",
            lambda m: 0 <= m <= math.pi,
        )
        self.max_margin = number(
            "max_margin",
            max_margin,
            "an angle in radians, from `min_margin` to pi",
            lambda m: min_margin <= m <= math.pi,
        )
        self.min_length = positive("min_length", min_length)
        self.max_length = number(
            "max_length",
            max_length,
            "a number above `min_length`",
            lambda length: length > min_length,
        )
        self.length_weight = positive("length_weight", length_weight)
        self.scale = positive("scale", scale)

    @staticmethod
    def formula(own, lengths, *, min_margin, max_margin, min_length, max_length):
        """Returns the cosine to the own center `[B]`, with the margins."""
        slope = (max_margin - min_margin) / (max_length - min_length)
        margins = min_margin + slope * (lengths - min_length)
        return falling_cosine(angles(own) + margins)

    def values(self, labels, scores):
        """Returns values `[B]`."""
        cosines, lengths = tf.unstack(scores, num=2, axis=1)  # [B, C]
        lengths = tf.clip_by_value(lengths[:, 0], self.min_length, self.max_length)
        short = lengths / self.max_length**2 + 1 / lengths  # the least at max_length
        return super().values(labels, cosines, lengths) + self.length_weight * short
