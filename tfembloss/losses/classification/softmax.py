"""Losses by a softmax over classes: of cosines to class centers, or of logits.

The centers and the classifier are layers, `tfembloss.layers.CosineHead` and `PairHead`,
which `tfembloss.EmbeddingClassifier` trains with the encoder.
"""

import math

import keras
import tensorflow as tf

from tfembloss import distances, masks, replicas
from tfembloss.checks import fraction, non_negative, number, positive
from tfembloss.kernels import differentiable
from tfembloss.losses.classification.base import ClassLoss, hits, num_classes, of_label
from tfembloss.losses.inputs import of_shape


def _softmax_over_classes(formula):
    """Cross-entropy of scores, with a margin on the score of each row's own class."""

    def smoothed(values, scores, own, scale, smoothing):
        """Adds what the other classes' parts of the target change, of `[B, C]`."""
        return values + smoothing * scale * (own - tf.reduce_mean(scores, axis=1))

    def forward(x, labels, scale, smoothing, **options):
        scores, *of_rows = x
        own = formula(of_label(scores, labels), *of_rows, **options)  # [B]
        scores = tf.where(hits(labels, scores), own[:, None], scores)  # [B, C]
        values = tf.reduce_logsumexp(scale * scores, axis=1) - scale * own
        return smoothed(values, scores, own, scale, smoothing) if smoothing else values

    def backward(upstream, values, x, labels, scale, smoothing, **options):
        scores, *of_rows = x
        arguments = [of_label(scores, labels), *of_rows]  # [B] each
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            own = formula(*arguments, **options)
        gradients = tape.gradient(own, arguments, unconnected_gradients="zero")
        at_label, shared = hits(labels, scores), 0
        if smoothing:
            with_own = tf.where(at_label, own[:, None], scores)
            values = smoothed(values, with_own, own, scale, -smoothing)
            shared = smoothing / tf.cast(tf.shape(scores)[1], scores.dtype)
        # Probabilities follow from the values, without summing again. Of large scores,
        # rounding would let them exceed 1.
        logs = scale * (scores - own[:, None]) - values[:, None]
        probabilities = tf.exp(tf.minimum(logs, 0))  # [B, C], of other classes
        of_scores = (scale * upstream)[:, None] * (probabilities - shared)
        of_own = scale * upstream * (tf.math.expm1(-values) + smoothing - shared)
        of_own, *of_others = [of_own * gradient for gradient in gradients]
        return tf.where(at_label, of_own[:, None], of_scores), *of_others

    return differentiable(forward, backward)


class ClassSoftmaxLoss(ClassLoss):
    """Base of the losses by a softmax over classes, with a margin on the own class.

    A subclass has an attribute `scale`, the factor on the scores, and may define a static
    method

        formula(own, *of_rows, margin) -> own with the margin [B]

    of the score of each row's own class `[B]`, and of what else of each row the loss passes
    to `values`. Its keyword arguments are the loss's attributes of the same names.
    """

    scale = 1.0

    def __init__(self, label_smoothing, reduction, name, dtype):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.label_smoothing = fraction("label_smoothing", label_smoothing)

    _kernel_of = staticmethod(_softmax_over_classes)

    @staticmethod
    def formula(own):
        """Returns the scores without a margin."""
        return own

    def values(self, labels, scores, *of_rows):
        """Returns values `[B]`."""
        constants = (labels, self.scale, self.label_smoothing)
        return self._kernel((scores, *of_rows), *constants, **self.options)

    @property
    def takes_shards(self):
        """Whether `values_of_shards` is the loss: if nothing else of a row counts."""
        return type(self).values is ClassSoftmaxLoss.values and self.lengths is None

    def values_of_shards(self, labels, scores, first, num_classes):
        """Returns values `[N]` of all rows, where each replica scores other classes.

        Args:
            labels: of the rows of all replicas `[N]`, int64.
            scores: of these rows and this replica's classes `[N, c]`.
            first: the first of this replica's classes.
            num_classes: C; those above are padding.
        """
        parts = _of_shard(scores, labels, first, num_classes, scale=self.scale)  # [3, N]
        parts = replicas.gather(parts[None])  # [R, 3, N]
        log_sums, own, sums = tf.unstack(parts, axis=1)  # [R, N]
        log_sum = masks.column_logsumexp(log_sums, log_sums != float("-inf"))
        own = self.formula(tf.reduce_sum(own, axis=0), **self.options)  # of one replica
        values = tf.nn.softplus(log_sum - self.scale * own)
        if not self.label_smoothing:
            return values
        mean = (tf.reduce_sum(sums, axis=0) + own) / num_classes
        return values + self.label_smoothing * self.scale * (own - mean)


@differentiable
def _of_shard(scores, labels, first, num_classes, scale):
    """Returns rows' log sums and sums of other classes' scores, and own scores, `[3, N]`.

    In the order log sums, own scores, sums: -inf and 0 where this replica has none.
    """
    classes = tf.cast(first, tf.int64) + tf.range(tf.shape(scores, tf.int64)[1])
    own = labels[:, None] == classes[None, :]  # [N, c]
    others = ~own & (classes < num_classes)
    log_sums = masks.row_logsumexp(scale * scores, others)
    return tf.stack([log_sums, masks.row_sum(scores, own), masks.row_sum(scores, others)])


@differentiable
def _cross_entropy(logits, probabilities):
    return -tf.reduce_sum(probabilities * tf.nn.log_softmax(logits), axis=1)


@keras.saving.register_keras_serializable("tfembloss")
class ArcFaceLoss(ClassSoftmaxLoss):
    r"""Softmax over class centers, with a margin added to the angle to the own center.

    With $\theta_c$ the angle between an embedding and the center of class c:

    $$L_i = -\log \frac{e^{s \cos(\theta_{y_i} + m)}}
          {e^{s \cos(\theta_{y_i} + m)} + \sum_{c \ne y_i} e^{s \cos \theta_c}}$$

    Where $\theta + m$ exceeds 180 degrees, $\cos \theta - m \sin m$ replaces
    $\cos(\theta + m)$.

    Call arguments: `y_pred` cosines `[B, C]`, of `tfembloss.layers.CosineHead`; `y_true`
    labels `[B]`, integers from 0 to C - 1.

    Args:
        margin: m, an angle in radians, 0 to pi.
        scale: s, > 0.
        label_smoothing: 0 to 1, the part of a row's target that all classes share equally,
            as in `keras.losses.CategoricalCrossentropy`; with `num_sampled` of
            `EmbeddingClassifier` all sampled classes.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument is out of range, `y_pred` are not cosines, or a label is
            invalid. In a graph, checks of values raise TensorFlow's InvalidArgumentError
            at the first batch, with the same message. With `jit_compile=True` they are
            left out, and a label out of range makes the loss NaN.

    Example:

    >>> import tensorflow as tf
    >>> cosines = tf.constant([[0.8, 0.6], [0.1, 0.9]])
    >>> round(float(ArcFaceLoss(scale=4.0)(tf.constant([0, 1]), cosines)), 4)
    0.6328

    Reference:
        Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition",
        2018, https://arxiv.org/abs/1801.07698

    Relations:
        Equal to pytorch-metric-learning's loss of the same name, whose margin is in
        degrees. With `CosineHead(num_classes, sub_centers=3)` it is its
        SubCenterArcFaceLoss. A miner of its losses on classes weights each row by how often
        it was mined, as a part of the most: here such weights are a `sample_weight`.
    """

    def __init__(
        self,
        margin=math.radians(28.6),
        scale=64.0,
        label_smoothing=0.0,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(label_smoothing, reduction, name, dtype)
        self.margin = number(
            "margin",
            margin,
            "an angle in radians, 0 to pi, as in math.radians(28.6)",
            lambda m: 0 <= m <= math.pi,
        )
        self.scale = positive("scale", scale)

    @staticmethod
    def formula(own, *, margin):
        """Returns cos(angle + margin) from the cosine to the own center `[B]`."""
        sine = distances.root(1 - own * own)
        turned = own * math.cos(margin) - sine * math.sin(margin)
        # Beyond 180 degrees the cosine would increase again.
        beyond = own < math.cos(math.pi - margin)
        return tf.where(beyond, own - margin * math.sin(margin), turned)


@keras.saving.register_keras_serializable("tfembloss")
class CosFaceLoss(ClassSoftmaxLoss):
    r"""Softmax over class centers, with a margin subtracted from the own class's cosine.

    $$L_i = -\log \frac{e^{s (\cos \theta_{y_i} - m)}}
          {e^{s (\cos \theta_{y_i} - m)} + \sum_{c \ne y_i} e^{s \cos \theta_c}}$$

    Call arguments: `y_pred` cosines `[B, C]`, of `tfembloss.layers.CosineHead`; `y_true`
    labels `[B]`, integers from 0 to C - 1.

    Args:
        margin: m, a cosine, >= 0.
        scale: s, > 0.
        label_smoothing: see `ArcFaceLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: as for `ArcFaceLoss`.

    Example:

    >>> import tensorflow as tf
    >>> cosines = tf.constant([[0.8, 0.6], [0.1, 0.9]])
    >>> round(float(CosFaceLoss(scale=4.0)(tf.constant([0, 1]), cosines)), 4)
    0.5952

    Reference:
        Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", 2018,
        https://arxiv.org/abs/1801.09414

    Relations:
        Equal to pytorch-metric-learning's loss of the same name.
    """

    def __init__(
        self,
        margin=0.35,
        scale=64.0,
        label_smoothing=0.0,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(label_smoothing, reduction, name, dtype)
        self.margin = non_negative("margin", margin)
        self.scale = positive("scale", scale)

    @staticmethod
    def formula(own, *, margin):
        """Returns the cosine to the own center `[B]`, minus the margin."""
        return own - margin


@keras.saving.register_keras_serializable("tfembloss")
class SoftTripleLoss(CosFaceLoss):
    r"""CosFace of classes with several sub-centers, whose cosines are weighted.

    With the weighted mean $u_{ic}$ of the cosines of row i to the sub-centers of class c,
    as `CosineHead` with a temperature gives it:

    $$L_i = -\log \frac{e^{s (u_{i y_i} - m)}}
          {e^{s (u_{i y_i} - m)} + \sum_{c \ne y_i} e^{s u_{ic}}}$$

    Call arguments: `y_pred` cosines `[B, C]`, of `tfembloss.layers.CosineHead(num_classes,
    sub_centers=10, temperature=0.1)`; `y_true` labels `[B]`, integers from 0 to C - 1.

    Args:
        margin: m, a cosine, >= 0.
        scale: s, > 0.
        label_smoothing: see `ArcFaceLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: as for `ArcFaceLoss`.

    Example:

    >>> import tensorflow as tf
    >>> cosines = tf.constant([[0.8, 0.6], [0.1, 0.9]])
    >>> round(float(SoftTripleLoss()(tf.constant([0, 1]), cosines)), 4)
    0.0111

    Reference:
        Qian et al., "SoftTriple Loss: Deep Metric Learning Without Triplet Sampling", 2019,
        https://arxiv.org/abs/1909.05235

    Relations:
        Equal to pytorch-metric-learning's loss of the same name: its centers_per_class and
        gamma are the head's `sub_centers` and `temperature`, la is `scale`. The paper's
        regularizer is `tfembloss.layers.SparseCentersRegularizer`, of the head. A
        `CosFaceLoss` with other defaults.
    """

    def __init__(
        self,
        margin=0.01,
        scale=20.0,
        label_smoothing=0.0,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(margin, scale, label_smoothing, reduction, name, dtype)


@keras.saving.register_keras_serializable("tfembloss")
class NormalizedSoftmaxLoss(ClassSoftmaxLoss):
    r"""Softmax over the cosines to class centers.

    $$L_i = -\log \frac{e^{\cos \theta_{y_i} / T}}{\sum_c e^{\cos \theta_c / T}}$$

    Call arguments: `y_pred` cosines `[B, C]`, of `tfembloss.layers.CosineHead`; `y_true`
    labels `[B]`, integers from 0 to C - 1.

    Args:
        temperature: T, > 0.
        label_smoothing: see `ArcFaceLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: as for `ArcFaceLoss`.

    Example:

    >>> import tensorflow as tf
    >>> cosines = tf.constant([[0.8, 0.6], [0.1, 0.9]])
    >>> loss = NormalizedSoftmaxLoss(temperature=0.25)
    >>> round(float(loss(tf.constant([0, 1]), cosines)), 4)
    0.2055

    Reference:
        Zhai and Wu, "Classification is a Strong Baseline for Deep Metric Learning", 2018,
        https://arxiv.org/abs/1811.12649

    Relations:
        Equal to pytorch-metric-learning's loss of the same name. With a class for each
        instance it is the instance loss of Zheng et al., 2017,
        https://arxiv.org/abs/1711.05535. pytorch-metric-learning's InstanceLoss is this
        loss of the cosines of a batch's rows with each other, where it takes the number of
        a row's class for the position of a row.
    """

    def __init__(
        self,
        temperature=0.05,
        label_smoothing=0.0,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(label_smoothing, reduction, name, dtype)
        self.temperature = positive("temperature", temperature)

    @property
    def scale(self):
        """The inverse of the temperature."""
        return 1 / self.temperature


@keras.saving.register_keras_serializable("tfembloss")
class SoftmaxLoss(ClassSoftmaxLoss):
    r"""Cross-entropy of a classifier's logits, such as `tfembloss.layers.PairHead`'s.

    $$L_i = -\log \frac{e^{z_{i y_i}}}{\sum_l e^{z_{il}}}$$

    Call arguments: `y_pred` logits `[B, L]`; `y_true` labels `[B]`, integers from 0 to
    L - 1, or their probabilities `[B, L]`.

    Args:
        label_smoothing: see `ArcFaceLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if the shapes do not match, or a label is invalid, as for `ArcFaceLoss`.

    Example:

    >>> import tensorflow as tf
    >>> logits = tf.constant([[2.0, 1.0, 0.0]])
    >>> round(float(SoftmaxLoss()(tf.constant([0]), logits)), 4)
    0.4076
    >>> round(float(SoftmaxLoss()(tf.constant([[1.0, 0.0, 0.0]]), logits)), 4)
    0.4076

    Reference:
        Reimers and Gurevych, "Sentence-BERT: Sentence Embeddings using Siamese
        BERT-Networks", 2019, https://arxiv.org/abs/1908.10084

    Relations:
        With `tfembloss.EmbeddingClassifier(encoder, PairHead(num_labels))` equal to
        sentence-transformers' class of the same name.
    """

    cosines = False

    def __init__(
        self,
        label_smoothing=0.0,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(label_smoothing, reduction, name, dtype)

    def call(self, y_true, y_pred):
        """Returns values `[B]` of logits `y_pred [B, L]` with `y_true`."""
        logits = self.check_scores(y_pred)
        similar = y_true.shape.rank == 2 and y_true.shape.is_compatible_with(logits.shape)
        if not (y_true.dtype.is_floating and similar):
            return super().call(y_true, y_pred)
        message = "Expected probabilities y_true of the shape of the logits, [B, L]."
        probabilities = of_shape(y_true, logits.shape, logits, message)
        probabilities = (1 - self.label_smoothing) * tf.cast(probabilities, self.dtype)
        shared = self.label_smoothing / tf.cast(num_classes(logits), self.dtype)
        return _cross_entropy(logits, probabilities + shared)
