"""Losses on class scores `[B, C]`: cosines with class centres, or a classifier's logits.

The centres and the classifier are layers, `tfembloss.layers.CosineHead` and `PairHead`,
that `tfembloss.EmbeddingClassifier` trains with the encoder.
"""

import math

import keras
import tensorflow as tf

from tfembloss import distances, masks, replicas
from tfembloss.kernels import compiled, differentiable
from tfembloss.losses.base import (
    EmbeddingLoss,
    check_number,
    nan_where_not_finite,
    share_of_log_sum,
)
from tfembloss.losses.inputs import described, of_rows, of_shape, require


class ClassLoss(EmbeddingLoss):
    """Base of the losses on class scores `[B, C]` with labels `[B]` from 0 to C - 1.

    A subclass writes `formula(labels, scores) -> values [B]`.
    """

    takes_scores = True
    cosines = True  # whether the scores must be cosines

    def call(self, y_true, y_pred):
        """Values `[B]` of the class scores `y_pred [B, C]` with labels `y_true [B]`."""
        scores = self.check_scores(y_pred)
        labels = check_labels(y_true, scores, _num_classes(scores))  # [B]
        return self.formula(labels, scores)

    def check_scores(self, y_pred):
        """Scores `[B, C]`, or a ValueError that says how."""
        if y_pred.shape.rank != 2:
            raise ValueError(
                f"{type(self).__name__} expects class scores [B, C]. Received: "
                f"{described(y_pred, 'y_pred')}. Train with tfembloss."
                "EmbeddingClassifier(encoder, head), head = tfembloss.layers.CosineHead("
                "num_classes), or PairHead(num_labels) with SoftmaxLoss."
            )
        if self.cosines:
            # Of some rows: where embeddings or logits are given, any row shows it.
            largest = tf.reduce_max(tf.abs(y_pred[:16]))
            return require(
                ~(largest > 1.01),
                y_pred,
                f"{type(self).__name__} expects cosines, numbers from -1 to 1. Received "
                "larger ones: logits, or embeddings. Train with tfembloss."
                "EmbeddingClassifier(encoder, tfembloss.layers.CosineHead(num_classes)).",
            )
        return y_pred

    def truncate(self, y_pred, dim):
        """Not of scores."""
        raise ValueError(
            f"{type(self).__name__} takes class scores, not embeddings: expected another "
            "loss to truncate embeddings for."
        )


def check_labels(y_true, y_pred, num_classes):
    """Labels `[B]`, int64 from 0 to C - 1, or a ValueError that says how.

    Args:
        y_true: labels `[B]` or `[B, 1]`.
        y_pred: rows `[B, ...]`, one for each label.
        num_classes: C, a number or a tensor.
    """
    last = f"{num_classes - 1}" if isinstance(num_classes, int) else "C - 1"
    dtype = y_true.dtype
    given = of_rows(
        y_true,
        y_pred,
        f"labels y_true of shape [B], integers from 0 to {last}, one for each row",
        "Number the classes, as np.unique(labels, return_inverse=True) does.",
        dtype.is_integer or dtype.is_floating or dtype == tf.bool,
    )
    labels = tf.cast(given, tf.int64)
    right = (labels >= 0) & (labels < tf.cast(num_classes, tf.int64))
    if dtype.is_floating:
        right &= tf.cast(labels, dtype) == given
    return require(
        tf.reduce_all(right),
        labels,
        f"Expected labels from 0 to {last}. Received a label that is negative, too large "
        "or not an integer. Number the classes from 0, as np.unique(labels, "
        "return_inverse=True) does, and give the head as many as there are.",
    )


def _num_classes(scores):
    return scores.shape[1] or tf.shape(scores)[1]


def _hits(labels, scores):
    """Where a column is its row's label, `[B, C]`."""
    return labels[:, None] == tf.range(tf.shape(scores, tf.int64)[1])[None, :]


def _of_label(scores, labels):
    """Each row's score of its own label `[B]`; NaN without one, where no check was made."""
    num_classes = tf.shape(scores, tf.int64)[1]
    right = (labels >= 0) & (labels < num_classes)
    inside = tf.clip_by_value(labels, 0, num_classes - 1)
    return tf.where(right, tf.gather(scores, inside, batch_dims=1), float("nan"))


def _with_margin(own, margin, angular):
    """The cosine with the own centre, with a margin: on the angle, or on the cosine."""
    if not angular:
        return own - margin
    sine = distances.root(1 - own * own)
    turned = own * math.cos(margin) - sine * math.sin(margin)  # cos(angle + margin)
    # Beyond 180 degrees the cosine would rise again.
    beyond = own < math.cos(math.pi - margin)
    return tf.where(beyond, own - margin * math.sin(margin), turned)


def _softmax_with_margin(x, labels, scale, margin, angular):
    (scores,) = x  # [B, C]
    own = _with_margin(_of_label(scores, labels), margin, angular)  # [B]
    scores = tf.where(_hits(labels, scores), own[:, None], scores)
    return tf.reduce_logsumexp(scale * scores, axis=1) - scale * own


def _gradient_of_softmax(upstream, values, x, labels, scale, margin, angular):
    # The values have the logarithm of the sum in them, which is not summed again.
    (scores,) = x  # [B, C]
    own = _of_label(scores, labels)  # [B]
    with tf.GradientTape() as tape:
        tape.watch(own)
        own_with_margin = _with_margin(own, margin, angular)
    slope = tape.gradient(own_with_margin, own)
    hits, log_sum = _hits(labels, scores), values + scale * own_with_margin
    logits = scale * tf.where(hits, own_with_margin[:, None], scores)
    probabilities = tf.exp(logits - log_sum[:, None])
    of_scores = tf.where(hits, (probabilities - 1) * slope[:, None], probabilities)
    return (scale * upstream[:, None] * of_scores,)


_cross_entropy = differentiable(_softmax_with_margin, _gradient_of_softmax)


@keras.saving.register_keras_serializable("tfembloss")
class ArcFaceLoss(ClassLoss):
    r"""Softmax over class centres, with an angle added between a row and its own centre.

    With $\theta_c$ the angle between an embedding and the centre of class c:

    $$L_i = -\log \frac{e^{s \cos(\theta_{y_i} + m)}}
          {e^{s \cos(\theta_{y_i} + m)} + \sum_{c \ne y_i} e^{s \cos \theta_c}}$$

    Where $\theta + m$ passes 180 degrees, $\cos \theta - m \sin m$ stands for
    $\cos(\theta + m)$.

    Call arguments: `y_pred` cosines `[B, C]`, of `tfembloss.layers.CosineHead`; `y_true`
    labels `[B]`, integers from 0 to C - 1.

    Args:
        margin: m, an angle in radians, 0 to pi.
        scale: s, > 0.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: a number is out of range; `y_pred` are no cosines; a label is missing,
            negative or too large. In a graph, what takes the values to see is TensorFlow's
            InvalidArgumentError at the first batch, with the same words.

    Example:

    >>> import tensorflow as tf
    >>> cosines = tf.constant([[0.8, 0.6], [0.1, 0.9]])
    >>> round(float(ArcFaceLoss(scale=4.0)(tf.constant([0, 1]), cosines)), 4)
    0.6328

    Reference:
        Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition",
        2018, https://arxiv.org/abs/1801.07698

    Relations:
        Equal to pytorch-metric-learning's loss of this name, whose margin is in degrees;
        with `CosineHead(num_classes, sub_centers=3)` it is its SubCenterArcFaceLoss.
    """

    def __init__(
        self,
        margin=math.radians(28.6),
        scale=64.0,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.margin = check_number(
            "margin",
            margin,
            "an angle in radians, 0 to pi, as in math.radians(28.6)",
            lambda m: 0 <= m <= math.pi,
        )
        self.scale = _positive("scale", scale)

    def formula(self, labels, scores):
        """Values `[B]`."""
        return _cross_entropy((scores,), labels, self.scale, self.margin, True)

    def get_config(self):
        """The arguments that make this loss again."""
        return {**super().get_config(), "margin": self.margin, "scale": self.scale}


def _positive(name, value):
    return check_number(name, value, "a number > 0", lambda x: x > 0)


@keras.saving.register_keras_serializable("tfembloss")
class CosFaceLoss(ClassLoss):
    r"""Softmax over class centres, with a margin off the cosine of a row's own centre.

    $$L_i = -\log \frac{e^{s (\cos \theta_{y_i} - m)}}
          {e^{s (\cos \theta_{y_i} - m)} + \sum_{c \ne y_i} e^{s \cos \theta_c}}$$

    Call arguments: `y_pred` cosines `[B, C]`, of `tfembloss.layers.CosineHead`; `y_true`
    labels `[B]`, integers from 0 to C - 1.

    Args:
        margin: m, a cosine, >= 0.
        scale: s, > 0.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: as `ArcFaceLoss`.

    Example:

    >>> import tensorflow as tf
    >>> cosines = tf.constant([[0.8, 0.6], [0.1, 0.9]])
    >>> round(float(CosFaceLoss(scale=4.0)(tf.constant([0, 1]), cosines)), 4)
    0.5952

    Reference:
        Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", 2018,
        https://arxiv.org/abs/1801.09414

    Relations:
        Equal to pytorch-metric-learning's loss of this name.
    """

    def __init__(
        self,
        margin=0.35,
        scale=64.0,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.margin = check_number("margin", margin, "a cosine >= 0", lambda m: m >= 0)
        self.scale = _positive("scale", scale)

    def formula(self, labels, scores):
        """Values `[B]`."""
        return _cross_entropy((scores,), labels, self.scale, self.margin, False)

    def get_config(self):
        """The arguments that make this loss again."""
        return {**super().get_config(), "margin": self.margin, "scale": self.scale}


@keras.saving.register_keras_serializable("tfembloss")
class NormalizedSoftmaxLoss(ClassLoss):
    r"""Softmax over the cosines with class centres.

    $$L_i = -\log \frac{e^{\cos \theta_{y_i} / T}}{\sum_c e^{\cos \theta_c / T}}$$

    Call arguments: `y_pred` cosines `[B, C]`, of `tfembloss.layers.CosineHead`; `y_true`
    labels `[B]`, integers from 0 to C - 1.

    Args:
        temperature: T, > 0.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: as `ArcFaceLoss`.

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
        Equal to pytorch-metric-learning's loss of this name.
    """

    def __init__(
        self,
        temperature=0.05,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.temperature = _positive("temperature", temperature)

    def formula(self, labels, scores):
        """Values `[B]`."""
        return _cross_entropy((scores,), labels, 1 / self.temperature, 0.0, False)

    def get_config(self):
        """The arguments that make this loss again."""
        return {**super().get_config(), "temperature": self.temperature}


@keras.saving.register_keras_serializable("tfembloss")
class ProxyNCALoss(ClassLoss):
    r"""Softmax over the squared distances between directions, to a proxy of each class.

    $$L_i = -\log \frac{e^{-s |\hat x_i - \hat p_{y_i}|^2}}
          {\sum_c e^{-s |\hat x_i - \hat p_c|^2}},\quad
      |\hat x - \hat p|^2 = 2 - 2 \cos(x, p)$$

    Call arguments: `y_pred` cosines `[B, C]`, of `tfembloss.layers.CosineHead`; `y_true`
    labels `[B]`, integers from 0 to C - 1.

    Args:
        softmax_scale: s, > 0.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: as `ArcFaceLoss`.

    Example:

    >>> import tensorflow as tf
    >>> cosines = tf.constant([[0.8, 0.6], [0.1, 0.9]])
    >>> round(float(ProxyNCALoss()(tf.constant([0, 1]), cosines)), 4)
    0.3485

    Reference:
        Movshovitz-Attias et al., "No Fuss Distance Metric Learning using Proxies", 2017,
        https://arxiv.org/abs/1703.07464

    Relations:
        Equal to pytorch-metric-learning's loss of this name; unlike in the paper, the own
        proxy stands in the denominator. It is `NormalizedSoftmaxLoss(1 / (2 s))`.
    """

    def __init__(
        self,
        softmax_scale=1.0,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.softmax_scale = _positive("softmax_scale", softmax_scale)

    def formula(self, labels, scores):
        """Values `[B]`."""
        return _cross_entropy((scores,), labels, 2 * self.softmax_scale, 0.0, False)

    def get_config(self):
        """The arguments that make this loss again."""
        return {**super().get_config(), "softmax_scale": self.softmax_scale}


def _log_terms(cosines, labels, margin, alpha):
    """Logarithms of what a row adds to its own proxy's sum and to the others', `[B, C]`."""
    hits = _hits(labels, cosines)
    near = tf.where(hits, -alpha * (cosines - margin), float("-inf"))
    return near, tf.where(~hits, alpha * (cosines + margin), float("-inf"))


@compiled
def _column_log_sums(cosines, labels, margin, alpha):
    """Log of each proxy's two sums over this replica's rows, `[1, 2, C]`."""
    terms = tf.stack(_log_terms(cosines, labels, margin, alpha), axis=1)  # [B, 2, C]
    terms = tf.transpose(terms, [1, 2, 0])
    of_each = [masks.row_logsumexp(t, tf.cast(t > float("-inf"), t.dtype))
               for t in tf.unstack(terms)]  # fmt: skip
    return tf.stack(of_each)[None]


@differentiable
def _proxy_anchor(x, labels, log_sums, margin, alpha):
    (cosines,) = x  # [B, C]
    near, far = _log_terms(cosines, labels, margin, alpha)  # [B, C]
    with_rows = tf.reduce_sum(tf.cast(log_sums[0] > float("-inf"), cosines.dtype))
    num_classes = tf.cast(tf.shape(cosines)[1], cosines.dtype)
    own = tf.reduce_sum(share_of_log_sum(near, log_sums[0]), axis=1) / with_rows
    other = tf.reduce_sum(share_of_log_sum(far, log_sums[1]), axis=1) / num_classes
    return tf.where(masks.row_any(_hits(labels, cosines)), own + other, float("nan"))


@keras.saving.register_keras_serializable("tfembloss")
class ProxyAnchorLoss(ClassLoss):
    r"""Each class's proxy pulls its far rows most, and pushes the near ones of others most.

    With $X_c$ the rows of class c of all replicas and $s$ the cosine, $C^+$ the classes
    that have rows in the batch:

    $$L = \frac{1}{|C^+|} \sum_{c \in C^+} \log\Big(1 + \sum_{i \in X_c}
          e^{-\alpha (s_{ic} - m)}\Big) + \frac{1}{C} \sum_c \log\Big(1 +
          \sum_{i \notin X_c} e^{\alpha (s_{ic} + m)}\Big)$$

    The mean of the values is L: a row has the number of rows times its shares of the sums.

    Call arguments: `y_pred` cosines `[B, C]`, of `tfembloss.layers.CosineHead`; `y_true`
    labels `[B]`, integers from 0 to C - 1.

    Args:
        margin: m, a cosine.
        alpha: scale, > 0.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: as `ArcFaceLoss`.

    Example:

    >>> import tensorflow as tf
    >>> cosines = tf.constant([[0.8, 0.6], [0.1, 0.9]])
    >>> round(float(ProxyAnchorLoss(alpha=4.0)(tf.constant([0, 1]), cosines)), 4)
    2.0646

    Reference:
        Kim et al., "Proxy Anchor Loss for Deep Metric Learning", 2020,
        https://arxiv.org/abs/2003.13911

    Relations:
        Equal to pytorch-metric-learning's loss of this name. All classes must be scored:
        with sampled classes its second term is that of the sample.
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
        self.margin = check_number("margin", margin, "a finite number")
        self.alpha = _positive("alpha", alpha)

    def formula(self, labels, scores):
        """Values `[B]`: shares of the sums of all replicas."""
        options = (self.margin, self.alpha)
        log_sums = _column_log_sums(tf.stop_gradient(scores), labels, *options)
        log_sums = tf.reduce_logsumexp(replicas.gather(log_sums), axis=0)  # [2, C]
        values = _proxy_anchor((scores,), labels, log_sums, *options)
        num_rows = replicas.total(tf.cast(tf.size(labels), values.dtype))
        return num_rows * values + nan_where_not_finite(scores)

    def get_config(self):
        """The arguments that make this loss again."""
        return {**super().get_config(), "margin": self.margin, "alpha": self.alpha}


@differentiable
def _softmax_of_probabilities(x, probabilities):
    (logits,) = x  # [B, L]
    return -tf.reduce_sum(probabilities * tf.nn.log_softmax(logits), axis=1)


@keras.saving.register_keras_serializable("tfembloss")
class SoftmaxLoss(ClassLoss):
    r"""Cross-entropy of a classifier's logits, as of `tfembloss.layers.PairHead` on pairs.

    $$L_i = -\log \frac{e^{z_{i y_i}}}{\sum_l e^{z_{il}}}$$

    Call arguments: `y_pred` logits `[B, L]`; `y_true` labels `[B]`, integers from 0 to
    L - 1, or their probabilities `[B, L]`.

    Args:
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: the shapes do not agree, or a label is negative or too large.

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
        sentence-transformers' class of this name.
    """

    cosines = False

    def call(self, y_true, y_pred):
        """Values `[B]` of the logits `y_pred [B, L]` with `y_true`."""
        logits = self.check_scores(y_pred)
        alike = y_true.shape.rank == 2 and y_true.shape.is_compatible_with(logits.shape)
        if y_true.dtype.is_floating and alike:
            message = "Expected probabilities y_true of the shape of the logits, [B, L]."
            probabilities = of_shape(y_true, logits.shape, logits, message)
            return _softmax_of_probabilities((logits,), tf.cast(probabilities, self.dtype))
        labels = check_labels(y_true, logits, _num_classes(logits))  # [B]
        return _cross_entropy((logits,), labels, 1.0, 0.0, False)
