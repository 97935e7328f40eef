"""Losses that learn from a teacher: its embeddings, its scores, its margins."""

import keras
import tensorflow as tf

from tfembloss import distances
from tfembloss.checks import one_of, positive
from tfembloss.kernels import differentiable
from tfembloss.losses.base import EmbeddingLoss
from tfembloss.losses.inputs import check_known_columns, described_both, of_shape

_TO_TEACHER = {
    "cosine": distances.cosine.rowwise,
    "l2": distances.euclidean.rowwise,
    "mse": distances.squared_euclidean.rowwise,
}


@differentiable
def _distances_to_teacher(columns, targets, distance):
    """Returns each row's mean distance of its columns `[B, n, D]` to the targets `[B]`."""
    values = tf.reduce_mean(_TO_TEACHER[distance](columns, targets), axis=1)
    return values / tf.cast(tf.shape(columns)[2] if distance == "mse" else 1, values.dtype)


@keras.saving.register_keras_serializable("tfembloss")
class EmbedDistillLoss(EmbeddingLoss):
    r"""Distance between the embeddings and a teacher's.

    $$L_i = \frac{1}{n} \sum_{c=1}^n d(u_{ic}, t_{ic})$$

    Call arguments: `y_pred [B, D]` or columns `[B, n, D]`; `y_true` the teacher's
    embeddings of the same shape, or `[B, D]` for all columns, as for a text and its
    translations. If the teacher's dimension differs, train a projection with the encoder,
    and save it with it: `tfembloss.EmbeddingClassifier(encoder,
    keras.layers.Dense(dimension))`.

    Args:
        distance: `"cosine"`, $1 - \cos(u, t)$; `"l2"`, $|u - t|$; or `"mse"`,
            $|u - t|^2 / D$.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if `distance` is unknown, or the shapes do not match.

    Example:

    >>> import tensorflow as tf
    >>> teacher = tf.constant([[1.0, 0.0], [0.0, 1.0]])
    >>> student = tf.constant([[3.0, 4.0], [0.0, 2.0]])
    >>> round(float(EmbedDistillLoss()(teacher, student)), 4)   # 1 - 0.6, and 0
    0.2

    Reference:
        Kim et al., "EmbedDistill: A Geometric Knowledge Distillation for Information
        Retrieval", 2023, https://arxiv.org/abs/2301.12005

    Relations:
        Equal to sentence-transformers' class of the same name, whose `distance_metric` is
        `distance` and whose `projection_dim` is the projection above, which the loss owns
        there. With `"mse"` it is `MSELoss`.
    """

    targets_are_embeddings = True

    def __init__(
        self, distance="cosine", reduction="sum_over_batch_size", name=None, dtype=None
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.distance = one_of("distance", distance, list(_TO_TEACHER))

    def call(self, y_true, y_pred):
        """Returns values `[B]` of embeddings `y_pred` with the teacher's `y_true`."""
        message = (
            "Expected the teacher's embeddings as y_true, of the shape of y_pred, [B, D] "
            "or [B, n, D], or [B, D] for all columns. Received: "
            f"{described_both(y_true, y_pred)}. If only the dimensions differ, train a "
            "projection: tfembloss.EmbeddingClassifier(encoder, keras.layers.Dense("
            "dimension_of_the_teacher))."
        )
        rank = y_pred.shape.rank
        if rank not in (2, 3):
            raise ValueError(message)
        columns = y_pred if rank == 3 else y_pred[:, None]  # [B, n, D]
        expected = y_pred.shape
        if rank == 3 and y_true.shape.rank == 2:  # for all columns
            expected = [expected[0], expected[2]]
        elif y_true.shape.rank == 3 and y_true.shape[1] == 1:
            expected = [expected[0], 1, columns.shape[2]]
        targets = of_shape(y_true, expected, y_pred, message)
        targets = targets[:, None] if targets.shape.rank == 2 else targets  # [B, n or 1, D]
        targets = tf.cast(targets, self.dtype)
        return _distances_to_teacher(columns, targets, distance=self.distance)


@keras.saving.register_keras_serializable("tfembloss")
class MSELoss(EmbedDistillLoss):
    r"""Mean squared error between the embeddings and a teacher's.

    $$L_i = \frac{1}{n D} \sum_{c=1}^n |u_{ic} - t_{ic}|^2$$

    Call arguments: those of `EmbedDistillLoss`.

    Args:
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if the shapes do not match.

    Example:

    >>> import tensorflow as tf
    >>> teacher = tf.constant([[1.0, 0.0], [0.0, 1.0]])
    >>> float(MSELoss()(teacher, tf.constant([[1.0, 2.0], [0.0, 1.0]])))
    1.0

    Reference:
        Reimers and Gurevych, "Making Monolingual Sentence Embeddings Multilingual using
        Knowledge Distillation", 2020, https://arxiv.org/abs/2004.09813

    Relations:
        Equal to sentence-transformers' class of the same name, whose `projection_dim` is
        the projection of `EmbedDistillLoss`.
    """

    def __init__(self, reduction="sum_over_batch_size", name=None, dtype=None):
        super().__init__("mse", reduction=reduction, name=name, dtype=dtype)


@differentiable
def _similarities(columns, rowwise):
    """Returns similarities of the first column `[B, 1 + m, D]` to the others, `[B, m]`."""
    return -rowwise(columns[:, :1], columns[:, 1:])  # [B, m]


def refuse_one_column(loss, y_pred):
    """Raises ValueError if a loss would take the embeddings of one column as scores."""
    if isinstance(loss, MarginMSELoss | DistillKLDivLoss) and y_pred.shape.rank == 2:
        raise ValueError(
            f"{type(loss).__name__} compares a query with documents: expected columns, "
            "x=(queries, positives, negatives). Received: one column. For a teacher's "
            "embeddings use EmbedDistillLoss or MSELoss."
        )


def _scores_of_documents(y_pred, rowwise):
    """Returns scores `[B, m]`, m >= 2, of columns `[B, 1 + m, D]` or as they are given."""
    if y_pred.shape.rank != 2 or (y_pred.shape[1] or 0) < 2:
        return _similarities(check_known_columns(y_pred, at_least=3), rowwise=rowwise)
    return y_pred


@keras.saving.register_keras_serializable("tfembloss")
class MarginMSELoss(EmbeddingLoss):
    r"""Mean squared error between the model's and a teacher's margins of triplets.

    $$L_i = \frac{1}{n} \sum_{k=1}^n
          \big(s(q_i, p_i) - s(q_i, n_{ik}) - m_{ik}\big)^2$$

    Call arguments: `y_pred` columns `[B, 2 + n, D]`: query, positive, n negatives; or
    scores s themselves, `[B, 1 + n]`, as a `CrossEncoder` gives them for the documents of a
    query. `y_true` the teacher's margins `[B]` (n = 1) or `[B, n]`, or its scores
    `[B, 1 + n]` of the positive and the negatives.

    Args:
        similarity: the negative of any distance of `tfembloss.distances`. With `"dot"`,
            search with the trained model must use the dot product.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if `similarity` is unknown, or the shapes do not match.

    Example:

    >>> import tensorflow as tf
    >>> triplet = tf.constant([[[1.0, 2.0], [3.0, 1.0], [1.0, 1.0]]])
    >>> float(MarginMSELoss()(tf.constant([1.0]), triplet))   # (5 - 3 - 1)^2
    1.0

    Reference:
        Hofstätter et al., "Improving Efficient Neural Ranking Models with
        Cross-Architecture Knowledge Distillation", 2020, https://arxiv.org/abs/2010.02666

    Relations:
        Equal to sentence-transformers' class of the same name, and on scores to that for
        cross-encoders.
    """

    def __init__(
        self,
        similarity="dot",
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.similarity = similarity
        self._distance = distances.get(similarity, argument="similarity")

    def call(self, y_true, y_pred):
        """Returns values `[B]` of columns or scores `y_pred` with margins `y_true`."""
        scores = _scores_of_documents(y_pred, self._distance.rowwise)  # [B, 1 + n]
        num_negatives = scores.shape[1] - 1
        margins = _teacher_scores(
            y_true, y_pred, (num_negatives, num_negatives + 1), self.dtype
        )
        if margins.shape[1] == num_negatives + 1:
            margins = margins[:, :1] - margins[:, 1:]
        errors = scores[:, :1] - scores[:, 1:] - margins  # [B, n]
        return tf.reduce_mean(tf.square(errors), axis=1)


def _teacher_scores(y_true, columns, widths, dtype):
    """Returns the teacher's numbers `[B, m]`, m one of the widths."""
    message = (
        f"Expected the teacher's numbers y_true of shape [B, m], m = "
        f"{' or '.join(map(str, widths))} for {columns.shape[1]} columns. Received: "
        f"{described_both(y_true, columns)}. Give them as y."
    )
    if y_true.shape.rank == 1 and 1 in widths:
        y_true = y_true[:, None]
    width = y_true.shape[1] if y_true.shape.rank == 2 else None
    if width is None and len(widths) == 1:
        (width,) = widths
    if width not in widths:
        raise ValueError(message)
    scores = of_shape(y_true, [columns.shape[0], width], columns, message)
    return tf.cast(scores, dtype)


@keras.saving.register_keras_serializable("tfembloss")
class DistillKLDivLoss(EmbeddingLoss):
    r"""Kullback-Leibler divergence from a teacher's distribution over a query's documents.

    With p the softmax of the teacher's scores divided by its temperature and q that of the
    similarities divided by the student's:

    $$L_i = T_s^2 \sum_k p_{ik} (\log p_{ik} - \log q_{ik})$$

    Call arguments: `y_pred` columns `[B, 1 + m, D]`, m >= 2: query and documents; or the
    documents' scores themselves, `[B, m]`, as a `CrossEncoder` gives them. `y_true` the
    teacher's scores `[B, m]`.

    Args:
        similarity: the negative of any distance of `tfembloss.distances`.
        temperature: the temperature of both, > 0.
        student_temperature, teacher_temperature: $T_s$ and $T_t$, if they differ from
            `temperature`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument is invalid, or the shapes do not match.

    Example:

    >>> import tensorflow as tf
    >>> columns = tf.constant([[[1.0, 2.0], [3.0, 1.0], [1.0, 1.0]]])   # scores 5 and 3
    >>> round(float(DistillKLDivLoss()(tf.constant([[2.0, 0.0]]), columns)), 4)
    0.0
    >>> round(float(DistillKLDivLoss()(tf.constant([[0.0, 2.0]]), columns)), 4)
    1.5232

    Reference:
        Hinton et al., "Distilling the Knowledge in a Neural Network", 2015,
        https://arxiv.org/abs/1503.02531

    Relations:
        Equal to sentence-transformers' class of the same name.
    """

    def __init__(
        self,
        similarity="dot",
        temperature=1.0,
        student_temperature=None,
        teacher_temperature=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.similarity = similarity
        self._distance = distances.get(similarity, argument="similarity")
        student = temperature if student_temperature is None else student_temperature
        teacher = temperature if teacher_temperature is None else teacher_temperature
        self.temperature = positive("temperature", temperature)
        self.student_temperature = positive("student_temperature", student)
        self.teacher_temperature = positive("teacher_temperature", teacher)

    def call(self, y_true, y_pred):
        """Returns values `[B]` of columns or scores `y_pred` with scores `y_true`."""
        logits = _scores_of_documents(y_pred, self._distance.rowwise)  # [B, m]
        scores = _teacher_scores(y_true, y_pred, (logits.shape[1],), self.dtype)
        log_p = tf.nn.log_softmax(scores / self.teacher_temperature)  # [B, m]
        log_q = tf.nn.log_softmax(logits / self.student_temperature)
        divergence = tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=1)  # [B]
        return self.student_temperature**2 * divergence
