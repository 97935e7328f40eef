"""Softmax losses with other margins than an angle or a cosine, on cosines `[B, C]`."""

import math

import keras
import tensorflow as tf

from tfembloss import distances, masks, replicas
from tfembloss.checks import flag, integer, non_negative, number, positive
from tfembloss.kernels import compiled, differentiable, uniform
from tfembloss.losses.classification.base import hits, of_label
from tfembloss.losses.classification.softmax import ArcFaceLoss, ClassSoftmaxLoss
from tfembloss.miners.base import seed_of_batch


def angles(cosines):
    """Returns angles in radians, 0 to pi, with gradient 0 at both ends."""
    # The product is exact near 1, and may be negative where rounding made a cosine larger.
    return tf.atan2(distances.root((1 - cosines) * (1 + cosines)), cosines)


def falling_cosine(angle):
    """Returns the cosine up to pi, and mirrored and shifted so that it falls beyond."""
    turns = tf.floor(angle / math.pi)
    return (1 - 2 * tf.math.floormod(turns, 2)) * tf.cos(angle) - 2 * turns


@keras.saving.register_keras_serializable("tfembloss")
class CombinedMarginLoss(ClassSoftmaxLoss):
    r"""Softmax over class centers, with three margins on the angle to the own center.

    With $\theta_c$ the angle between an embedding and the center of class c:

    $$L_i = -\log \frac{e^{s (\psi(m_1 \theta_{y_i} + m_2) - m_3)}}
          {e^{s (\psi(m_1 \theta_{y_i} + m_2) - m_3)} +
           \sum_{c \ne y_i} e^{s \cos \theta_c}}$$

    $$\psi(\phi) = (-1)^k \cos \phi - 2 k,\quad k = \lfloor \phi / \pi \rfloor$$

    is the cosine up to 180 degrees, and falls further beyond.

    Call arguments: `y_pred` cosines `[B, C]`, of `tfembloss.layers.CosineHead`; `y_true`
    labels `[B]`, integers from 0 to C - 1.

    Args:
        angle_factor: $m_1$, > 0.
        angle_margin: $m_2$, an angle in radians, 0 to pi.
        cosine_margin: $m_3$, a cosine, >= 0.
        scale: s, > 0.
        label_smoothing: see `ArcFaceLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: as for `ArcFaceLoss`.

    Example:

    >>> import tensorflow as tf
    >>> cosines = tf.constant([[0.8, 0.6], [0.1, 0.9]])
    >>> round(float(CombinedMarginLoss(scale=4.0)(tf.constant([0, 1]), cosines)), 4)
    0.6858

    Reference:
        Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition",
        2018, https://arxiv.org/abs/1801.07698

    Relations:
        With (1, m, 0) it is `ArcFaceLoss(m)` up to 180 degrees less the margin, beyond
        which that continues in another way; with (1, 0, m) `CosFaceLoss(m)`; with
        (m, 0, 0) `SphereFaceLoss(m)` of embeddings of length 1. insightface's class of the
        same name lets the cosine rise beyond 180 degrees.
    """

    def __init__(
        self,
        angle_factor=1.0,
        angle_margin=0.3,
        cosine_margin=0.2,
        scale=64.0,
        label_smoothing=0.0,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(label_smoothing, reduction, name, dtype)
        self.angle_factor = positive("angle_factor", angle_factor)
        self.angle_margin = number(
            "angle_margin",
            angle_margin,
            "an angle in radians, 0 to pi",
            lambda m: 0 <= m <= math.pi,
        )
        self.cosine_margin = non_negative("cosine_margin", cosine_margin)
        self.scale = positive("scale", scale)

    @staticmethod
    def formula(own, *, angle_factor, angle_margin, cosine_margin):
        """Returns the cosine to the own center `[B]` with the margins."""
        return falling_cosine(angle_factor * angles(own) + angle_margin) - cosine_margin


@differentiable
def _emphasized(cosines, labels, mean_own, margin):
    own = ArcFaceLoss.formula(of_label(cosines, labels), margin=margin)  # [B]
    hard = (cosines > own[:, None]) & ~hits(labels, cosines)  # [B, C]
    return tf.where(hard, cosines * (mean_own + cosines), cosines)


@keras.saving.register_keras_serializable("tfembloss")
class CurricularFaceLoss(ArcFaceLoss):
    r"""ArcFace that weights hard negative classes more, the further training has come.

    With $t$ the mean of $\cos \theta_{y_i}$ over the rows of all replicas, as a constant,
    and $a(\theta)$ ArcFace's cosine of the angle with the margin:

    $$L_i = -\log \frac{e^{s\, a(\theta_{y_i})}}
          {e^{s\, a(\theta_{y_i})} + \sum_{c \ne y_i} e^{s\, n_i(\cos \theta_c)}},\quad
      n_i(u) = \begin{cases} u & u \le a(\theta_{y_i}) \\ u (t + u) & \text{otherwise}
      \end{cases}$$

    Call arguments: `y_pred` cosines `[B, C]`, of `tfembloss.layers.CosineHead`; `y_true`
    labels `[B]`, integers from 0 to C - 1.

    Args:
        margin: m, an angle in radians, 0 to pi.
        scale: s, > 0.
        label_smoothing: see `ArcFaceLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: as for `ArcFaceLoss`.

    Example:

    >>> import tensorflow as tf
    >>> cosines = tf.constant([[0.8, 0.6], [0.1, 0.9]])
    >>> round(float(CurricularFaceLoss(scale=4.0)(tf.constant([0, 1]), cosines)), 4)
    1.0543

    Reference:
        Huang et al., "CurricularFace: Adaptive Curriculum Learning Loss for Deep Face
        Recognition", 2020, https://arxiv.org/abs/2004.00288

    Relations:
        The paper's t is a moving average over batches that starts at 0 and takes in 1 % of
        each batch's mean. Here it is that mean itself, since a loss keeps no state: the
        same up to noise once the average has settled, after some hundred steps.
    """

    def __init__(
        self,
        margin=0.5,
        scale=64.0,
        label_smoothing=0.0,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(margin, scale, label_smoothing, reduction, name, dtype)

    def values(self, labels, scores):
        """Returns values `[B]`."""
        own = of_label(tf.stop_gradient(scores), labels)  # [B]
        of_all = tf.stack([tf.reduce_sum(own), tf.cast(tf.size(own), own.dtype)])
        total, count = tf.unstack(replicas.total(of_all))
        scores = _emphasized(scores, labels, total / count, margin=self.margin)
        return super().values(labels, scores)


@compiled
def normals(labels, seed, dtype):
    """Returns normally distributed numbers `[N]`, by the labels `[N]` and a seed."""
    pairs = masks.LabelPairs(labels, labels, tf.range(tf.size(labels)))
    first, second = (
        uniform(tf.shape(labels), seed_of_batch(seed, pairs, part), dtype)
        for part in (0, 1)
    )
    return tf.sqrt(-2 * tf.math.log(1 - first)) * tf.cos(2 * math.pi * second)


@compiled
def _by_hardness(own, margins):
    """Returns the margins `[N]` such that rows with smaller cosines have larger ones."""
    place = tf.argsort(tf.argsort(own, direction="DESCENDING", stable=True))
    return tf.gather(tf.sort(margins), place)


@keras.saving.register_keras_serializable("tfembloss")
class ElasticFaceLoss(ClassSoftmaxLoss):
    r"""ArcFace with a margin that is drawn anew for each row.

    With $\theta_c$ the angle between an embedding and the center of class c, and margins
    $m_i$ from a normal distribution, 0 to 180 degrees:

    $$L_i = -\log \frac{e^{s \cos(\theta_{y_i} + m_i)}}
          {e^{s \cos(\theta_{y_i} + m_i)} + \sum_{c \ne y_i} e^{s \cos \theta_c}}$$

    Beyond 180 degrees as in `CombinedMarginLoss`. Classes that are by nature less compact
    than others may so be less compact. The margins depend only on `seed`, the labels of the
    batch and the positions of the rows: shuffle the rows, as `fit` does.

    Call arguments: `y_pred` cosines `[B, C]`, of `tfembloss.layers.CosineHead`; `y_true`
    labels `[B]`, integers from 0 to C - 1.

    Args:
        margin: the mean of the margins, an angle in radians, 0 to pi.
        std: their standard deviation, in radians, >= 0. The authors' code has 0.0175 with
            `by_hardness`.
        by_hardness: whether rows with larger angles to their centers get the larger ones of
            the margins that are drawn for the batch (the paper's ElasticFace+).
        scale: s, > 0.
        seed: a non-negative integer; another seed draws other margins.
        label_smoothing: see `ArcFaceLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: as for `ArcFaceLoss`.

    Example:

    >>> import tensorflow as tf
    >>> cosines = tf.constant([[0.8, 0.6], [0.1, 0.9]])
    >>> loss = ElasticFaceLoss(margin=0.5, std=0.0, scale=4.0)
    >>> round(float(loss(tf.constant([0, 1]), cosines)), 4)
    0.634

    Reference:
        Boutros et al., "ElasticFace: Elastic Margin Loss for Deep Face Recognition", 2022,
        https://arxiv.org/abs/2109.09416

    Relations:
        The paper's ElasticFace-Arc. With `std=0` it is `CombinedMarginLoss(1, margin, 0)`.
    """

    def __init__(
        self,
        margin=0.5,
        std=0.05,
        by_hardness=False,
        scale=64.0,
        seed=0,
        label_smoothing=0.0,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(label_smoothing, reduction, name, dtype)
        self.margin = number(
            "margin",
            margin,
            "an angle in radians, 0 to pi",
            lambda m: 0 <= m <= math.pi,
        )
        self.std = non_negative("std", std)
        self.by_hardness = flag("by_hardness", by_hardness)
        self.scale = positive("scale", scale)
        self.seed = integer("seed", seed, 0, 2**63 - 1)

    @staticmethod
    def formula(own, margins):
        """Returns the cosine to the own center `[B]` with the margins."""
        return falling_cosine(angles(own) + margins)

    def values(self, labels, scores):
        """Returns values `[B]`."""
        first, num_rows = replicas.first_row(labels), tf.shape(labels)[0]
        # Of all rows, so that they do not depend on how these are dealt to replicas.
        drawn = normals(replicas.gather(labels), seed=self.seed, dtype=scores.dtype)
        margins = tf.clip_by_value(self.margin + self.std * drawn, 0.0, math.pi)  # [N]
        if self.by_hardness:
            own = of_label(tf.stop_gradient(scores), labels)  # [B]
            margins = _by_hardness(replicas.gather(own), margins)
        return super().values(labels, scores, margins[first : first + num_rows])
