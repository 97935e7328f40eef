"""What the losses on class scores `[B, C]` have in common."""

import tensorflow as tf

from tfembloss.losses.base import EmbeddingLoss
from tfembloss.losses.inputs import described, of_rows, require


class ClassLoss(EmbeddingLoss):
    """Base of the losses on class scores `[B, C]` with labels `[B]` from 0 to C - 1.

    A subclass defines `values(labels, scores) -> values [B]`.
    """

    takes_scores = True
    cosines = True  # whether the scores must be cosines
    # With which lengths, as an argument of CosineHead's call: "embedding" or "product". The
    # scores are then cosines and lengths [B, 2, C].
    lengths = None

    def call(self, y_true, y_pred):
        """Returns values `[B]` of scores `y_pred [B, C]` with labels `y_true [B]`."""
        scores = self.check_scores(y_pred)
        labels = check_labels(y_true, scores, num_classes(scores))  # [B]
        return self.values(labels, scores)

    def check_scores(self, y_pred):
        """Returns scores `[B, C]`, or `[B, 2, C]`. Raises ValueError otherwise."""
        if self.lengths is not None:
            right = y_pred.shape.rank == 3 and y_pred.shape[1] in (2, None)
            expected = "cosines and lengths [B, 2, C]"
            mend = (
                "Train with tfembloss.EmbeddingClassifier(encoder, tfembloss.layers."
                f"CosineHead(num_classes)), or call head(x, lengths={self.lengths!r})."
            )
        else:
            right, expected = y_pred.shape.rank == 2, "class scores [B, C]"
            mend = (
                "Train with tfembloss.EmbeddingClassifier(encoder, head), head = "
                "tfembloss.layers.CosineHead(num_classes), or PairHead(num_labels) with "
                "SoftmaxLoss."
            )
        if not right:
            raise ValueError(
                f"{type(self).__name__} expects {expected}. Received: "
                f"{described(y_pred, 'y_pred')}. {mend}"
            )
        if self.cosines:
            # A few rows suffice: embeddings or logits show in any row.
            some = y_pred[:16] if self.lengths is None else y_pred[:16, 0]
            largest = tf.reduce_max(tf.abs(some))
            return require(
                ~(largest > 1.01),
                y_pred,
                f"{type(self).__name__} expects cosines, numbers from -1 to 1. Received "
                "larger ones: logits, or embeddings. Train with tfembloss."
                "EmbeddingClassifier(encoder, tfembloss.layers.CosineHead(num_classes)).",
            )
        return y_pred

    def truncate(self, y_pred, dim):
        """Raises ValueError: scores cannot be truncated."""
        raise ValueError(
            f"{type(self).__name__} takes class scores, which cannot be truncated: "
            "expected another loss, on embeddings."
        )


def check_labels(y_true, y_pred, num_classes):
    """Returns labels `[B]`, int64 from 0 to C - 1. Raises ValueError otherwise.

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
        "return_inverse=True) does, and give the head that many classes.",
    )


def num_classes(scores):
    """Returns the number of classes of scores `[..., C]`, a number or a tensor."""
    return scores.shape[-1] or tf.shape(scores)[-1]


def hits(labels, scores):
    """Returns where a column is the label of its row, `[B, C]`."""
    return labels[:, None] == tf.range(tf.shape(scores, tf.int64)[1])[None, :]


def of_label(scores, labels):
    """Returns the score of each row's label `[B]`; NaN for an unchecked, invalid label."""
    last = tf.shape(scores, tf.int64)[1] - 1
    right = (labels >= 0) & (labels <= last)
    inside = tf.clip_by_value(labels, 0, last)
    return tf.where(right, tf.gather(scores, inside, batch_dims=1), float("nan"))
