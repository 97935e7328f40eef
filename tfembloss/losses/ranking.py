"""Losses on columns `[B, n, D]`: an anchor, its positive, and negatives if there are any.

Every other row's documents serve as negatives too, on all replicas.
"""

import keras
import tensorflow as tf

from tfembloss import distances, masks, replicas
from tfembloss.kernels import differentiable
from tfembloss.losses.base import (
    EmbeddingLoss,
    check_columns,
    check_ids,
    check_number,
)


def _first_and_rest(columns):
    return tf.split(columns, [1, tf.shape(columns)[1] - 1], axis=1)


@differentiable
def _find_own(x, rows, labels, width, scale):
    (distances,) = x  # [B, N * m]
    # A softmax is blind to constants: -distance serves as the similarity.
    logits = -scale * distances
    own = masks.own_rows(rows * width, tf.shape(logits)[1])  # [B, N * m]
    positives = tf.reduce_sum(tf.where(own, logits, tf.zeros_like(logits)), axis=1)  # [B]
    if labels is not None:  # other rows of the same id are no negatives
        allowed = tf.repeat(~labels.positive, width, axis=1)  # [B, N * m]
        logits = tf.where(allowed, logits, float("-inf"))
    return tf.reduce_logsumexp(logits, axis=1) - positives


@keras.saving.register_keras_serializable("tfembloss")
class MultipleNegativesRankingLoss(EmbeddingLoss):
    r"""Softmax over all documents of the batch: each anchor finds its own positive.

    With anchors $a_i$, positives $p_i$ and the documents $d$ of the batch (all positives
    and all negatives, of all replicas):

    $$L_i = -\log \frac{\exp(s \cdot sim(a_i, p_i))}{\sum_d \exp(s \cdot sim(a_i, d))}$$

    Also known as InfoNCE, NT-Xent of pairs, or in-batch negatives. The larger the batch,
    the harder the task and the better the embeddings.

    Call arguments: `y_pred` columns `[B, n, D]`, n >= 2: anchor, positive, negatives.
    `y_true` is not used, or ids `[B]` with `exclude_equal_ids=True`.

    Args:
        scale: factor s on the similarity, > 0: the inverse of the temperature. 20 suits
            cosine; use 1 with `"dot"`.
        similarity: the negative of any distance of `tfembloss.distances`: `"cosine"`,
            `"dot"`, `"euclidean"`, ... or a function `(a, b) -> distances`.
        symmetric: if true, the mean of this loss and of the one in which each positive
            finds its anchor among the anchors of all rows.
        exclude_equal_ids: if true, `y_true` are ids (integers or strings), and the
            documents of another row with the same id are no negatives. Without it a
            positive that stands twice in a batch is its own negative, and the loss
            cannot fall below log 2.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: `scale` is not positive, `similarity` is unknown, `y_pred` has fewer
            than two columns, or the ids are missing.

    Example:

    >>> import tensorflow as tf
    >>> loss = MultipleNegativesRankingLoss()
    >>> pairs = tf.constant([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.8, 0.6]]])
    >>> round(float(loss(None, pairs)), 4)   # the wrong one is nearer
    4.0181
    >>> loss = MultipleNegativesRankingLoss(exclude_equal_ids=True)
    >>> float(loss(tf.constant(["same", "same"]), pairs))   # and here it is no negative
    0.0

    Reference:
        Henderson et al., "Efficient Natural Language Response Suggestion for Smart
        Reply", 2017, https://arxiv.org/abs/1705.00652

    Relations:
        Equal to sentence-transformers' class of this name; `symmetric=True` is its
        directions ("query_to_doc", "doc_to_query") per direction. Finetuner spells it
        `MultipleNegativeRankingLoss`. On several replicas it is what
        sentence-transformers computes with `gather_across_devices=True`.
    """

    def __init__(
        self,
        scale=20.0,
        similarity="cosine",
        symmetric=False,
        exclude_equal_ids=False,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.scale = check_number(
            "scale", scale, "the inverse of a temperature, a number > 0", lambda s: s > 0
        )
        self.similarity = similarity
        self.symmetric = symmetric
        self.exclude_equal_ids = exclude_equal_ids
        self._distance = distances.get(similarity, argument="similarity")

    def call(self, y_true, y_pred):
        """Values `[B]` of the columns `y_pred [B, n, D]`."""
        columns = check_columns(y_pred, at_least=2)  # [B, n, D]
        # Split, not sliced: the gradient of a slice is a whole [B, n, D] each.
        anchors, documents = _first_and_rest(columns)  # [B, 1, D], [B, n - 1, D]
        rows = replicas.first_row(columns) + tf.range(tf.shape(columns)[0])  # [B]
        labels = None
        if self.exclude_equal_ids:
            ids = check_ids(y_true, columns)  # [B]
            labels = masks.Labels(ids, replicas.gather(ids), rows)
        values = self._find_own(anchors, documents, rows, labels)  # [B]
        if self.symmetric:
            positives = documents
            if columns.shape[1] != 2:
                positives, _ = _first_and_rest(documents)
            values += self._find_own(positives, anchors, rows, labels)
            values /= 2
        return values

    def _find_own(self, queries, documents, rows, labels):
        """-log probability of each query's own first document, among all replicas'."""
        keys = replicas.gather(documents)  # [N, m, D]
        _, width, dim = tf.unstack(tf.shape(keys))
        flat = tf.reshape(keys, [-1, dim])  # [N * m, D]
        x = self._distance.pairwise(tf.squeeze(queries, axis=1), flat)  # [B, N * m]
        return _find_own((x,), rows, labels, width, self.scale)

    def get_config(self):
        """The arguments that make this loss again."""
        return {
            **super().get_config(),
            "scale": self.scale,
            "similarity": self.similarity,
            "symmetric": self.symmetric,
            "exclude_equal_ids": self.exclude_equal_ids,
        }


# Finetuner's spelling.
MultipleNegativeRankingLoss = MultipleNegativesRankingLoss
