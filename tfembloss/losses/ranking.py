"""Losses on columns `[B, n, D]`: an anchor, its positive, and negatives if there are any.

Every other row's documents serve as negatives too, on all replicas.
"""

import keras
import tensorflow as tf

from tfembloss import distances, masks, replicas, softmax
from tfembloss.kernels import differentiable
from tfembloss.losses.base import (
    EmbeddingLoss,
    check_number,
    check_tile_size,
    nan_where_not_finite,
    rows_and_past,
)
from tfembloss.losses.first_batch import in_batch_warning
from tfembloss.losses.inputs import check_columns, check_ids


def _first_and_rest(columns):
    return tf.split(columns, [1, tf.shape(columns)[1] - 1], axis=1)


@differentiable
def _find_own(x, labels, width, scale):
    """-log probability of each row's own first document among all documents."""
    logits, own = _logits(*x, labels, width, scale)
    return tf.reduce_logsumexp(logits, axis=1) - own


@differentiable
def _find_each_other(x, labels, real, width, scale):
    """The same, less the own logit again; and the log sum of each document's logits."""
    logits, own = _logits(*x, labels, width, scale)
    of_rows = tf.cast(real, logits.dtype)[:, None]  # [B, 1]
    allowed = tf.where(logits > float("-inf"), of_rows, tf.zeros_like(of_rows))
    log_sums = masks.column_logsumexp(logits, allowed)  # [N * m]
    return tf.reduce_logsumexp(logits, axis=1) - 2 * own, log_sums


def _logits(distances, labels, width, scale):
    # A softmax is blind to constants: -distance serves as the similarity.
    logits = -scale * distances  # [B, N * m]
    own = masks.own_rows(labels.rows * width, tf.shape(logits)[1])
    own_logits = tf.reduce_sum(tf.where(own, logits, tf.zeros_like(logits)), axis=1)  # [B]
    if labels.ids is not None or labels.present is not None:
        num_keys = tf.shape(logits)[1] // width
        rivals = labels.rivals(num_keys) | masks.own_rows(labels.rows, num_keys)  # [B, N]
        allowed = tf.repeat(rivals, width, axis=1)  # [B, N * m]
        logits = tf.where(allowed, logits, float("-inf"))
    return logits, own_logits


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
        tile_size: how many of the B rows are compared with all documents at a time, >= 1;
            by default as many as are fast. It sets the memory, not the result.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: a number is out of range, `similarity` is unknown, `y_pred` has fewer
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
        sentence-transformers computes with `gather_across_devices=True`. Its
        `CachedMultipleNegativesRankingLoss` is this loss with
        `tfembloss.EmbeddingModel(encoder, mini_batch_size=...)`.
    """

    targets_are_ids = True

    def __init__(
        self,
        scale=20.0,
        similarity="cosine",
        symmetric=False,
        exclude_equal_ids=False,
        tile_size=None,
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
        self.tile_size = check_tile_size(tile_size)
        self._distance = distances.get(similarity, argument="similarity")

    @property
    def takes_past(self):
        """Not in both directions: the past's positives would have to find anchors, too."""
        return not self.symmetric

    def call(self, y_true, y_pred, past=None):
        """Values `[B]` of the columns `y_pred [B, n, D]`."""
        columns = check_columns(y_pred, at_least=2)  # [B, n, D]
        ids = check_ids(y_true, columns) if self.exclude_equal_ids else None  # [B]
        # Split, not sliced: the gradient of a slice is a whole [B, n, D] each.
        anchors, documents = _first_and_rest(self._distance.prepare(columns))
        anchors = tf.squeeze(anchors, axis=1)  # [B, D]
        if past is not None:
            _, of_past = _first_and_rest(self._distance.prepare(past.embeddings))
            past = past._replace(embeddings=of_past)  # [M, m, D]
        keys, labels = rows_and_past(replicas.gather(documents), columns, ids, past)
        _, width, dim = tf.unstack(tf.shape(keys))
        keys = tf.reshape(keys, [-1, dim])  # [N * m, D]

        def find(anchors, keys, ids, rows, real):
            x = self._distance.of_prepared(anchors, keys)  # [B, N * m]
            tile = labels._replace(ids=ids, rows=rows)
            if self.symmetric:
                return _find_each_other((x,), tile, real, width, self.scale)
            return _find_own((x,), tile, width, self.scale)

        # Zeros fill the last tile: what is real there tells the documents' sums.
        of_rows = [labels.ids, labels.rows, tf.ones_like(labels.rows, tf.bool)]
        found = softmax.by_tiles(
            find, anchors, keys, of_rows, self.tile_size, log_sums=self.symmetric
        )
        if not self.symmetric:
            return found
        values, log_sums = found  # [B], [N * m]
        of_firsts = tf.reshape(replicas.logsumexp(log_sums), [-1, width])[:, 0]  # [N]
        first = replicas.first_row(columns)
        return (values + of_firsts[first : first + tf.shape(columns)[0]]) / 2

    def first_batch_warning(self, y_true, shape):
        """Of a batch without negatives."""
        return in_batch_warning(y_true if self.exclude_equal_ids else None, shape)

    def get_config(self):
        """The arguments that make this loss again."""
        return {
            **super().get_config(),
            "scale": self.scale,
            "similarity": self.similarity,
            "symmetric": self.symmetric,
            "exclude_equal_ids": self.exclude_equal_ids,
            "tile_size": self.tile_size,
        }


# Finetuner's spelling.
MultipleNegativeRankingLoss = MultipleNegativesRankingLoss


@differentiable
def _with_hardest(x, labels, positive_margin, negative_margin):
    (distances,) = x  # [B, N]
    similarity = 1 - distances
    own = masks.own_rows(labels.rows, tf.shape(distances)[1])
    positive = tf.reduce_sum(tf.where(own, similarity, 0), axis=1)  # [B]
    rivals = labels.rivals(tf.shape(distances)[1])
    hardest = masks.row_max(similarity, rivals)  # -inf without a negative
    too_near = tf.where(masks.row_any(rivals), hardest - negative_margin, 0)
    return tf.nn.relu(positive_margin - positive) + tf.nn.relu(too_near)


@keras.saving.register_keras_serializable("tfembloss")
class MegaBatchMarginLoss(EmbeddingLoss):
    r"""Each anchor near its positive and far from the nearest of all other positives.

    With cosines s of the anchors $a_i$ and the positives $p_j$ of all replicas, and
    $[x] = \max(0, x)$:

    $$L_i = [m_p - s(a_i, p_i)] + [\max_{j \ne i} s(a_i, p_j) - m_n]$$

    One negative for each anchor, which is the harder the larger the batch: large ones need
    `tfembloss.EmbeddingModel(encoder, mini_batch_size=...)`.

    Call arguments: `y_pred` columns `[B, 2, D]`. `y_true` is not used, or ids `[B]` with
    `exclude_equal_ids=True`.

    Args:
        positive_margin: $m_p$, the cosine that a positive should have at least.
        negative_margin: $m_n$, the cosine that a negative should have at most.
        exclude_equal_ids, tile_size: see `MultipleNegativesRankingLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: a number is out of range, `y_pred` does not have two columns, or the ids
            are missing.

    Example:

    >>> import tensorflow as tf
    >>> pairs = tf.constant([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.8, 0.6]]])
    >>> round(float(MegaBatchMarginLoss()(None, pairs)), 4)   # 0.8 - 0.6 + 0.8 - 0.3
    0.7

    Reference:
        Wieting and Gimpel, "ParaNMT-50M: Pushing the Limits of Paraphrastic Sentence
        Embeddings with Millions of Machine Translations", 2018,
        https://arxiv.org/abs/1711.05732

    Relations:
        Equal to sentence-transformers' class of this name. Its mini-batched version is this
        loss with `mini_batch_size`; there the negatives are those of one device.
    """

    targets_are_ids = True

    takes_past = True

    def __init__(
        self,
        positive_margin=0.8,
        negative_margin=0.3,
        exclude_equal_ids=False,
        tile_size=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.positive_margin = check_number(
            "positive_margin", positive_margin, "a finite number"
        )
        self.negative_margin = check_number(
            "negative_margin", negative_margin, "a finite number"
        )
        self.exclude_equal_ids = exclude_equal_ids
        self.tile_size = check_tile_size(tile_size)

    def call(self, y_true, y_pred, past=None):
        """Values `[B]` of the columns `y_pred [B, 2, D]`."""
        columns = check_columns(y_pred, at_least=2, at_most=2)  # [B, 2, D]
        ids = check_ids(y_true, columns) if self.exclude_equal_ids else None  # [B]
        prepare = distances.cosine.prepare
        anchors, positives = tf.unstack(prepare(columns), 2, axis=1)  # [B, D] each
        if past is not None:
            past = past._replace(embeddings=prepare(past.embeddings[:, 1]))  # [M, D]
        keys, labels = rows_and_past(replicas.gather(positives), columns, ids, past)

        def with_hardest(anchors, keys, ids, rows):
            x = distances.cosine.of_prepared(anchors, keys)  # [B, N]
            tile = labels._replace(ids=ids, rows=rows)
            return _with_hardest((x,), tile, self.positive_margin, self.negative_margin)

        of_rows = [labels.ids, labels.rows]
        values = softmax.by_tiles(with_hardest, anchors, keys, of_rows, self.tile_size)
        return values + nan_where_not_finite(keys)

    def first_batch_warning(self, y_true, shape):
        """Of a batch without negatives."""
        return in_batch_warning(y_true if self.exclude_equal_ids else None, shape)

    def get_config(self):
        """The arguments that make this loss again."""
        return {
            **super().get_config(),
            "positive_margin": self.positive_margin,
            "negative_margin": self.negative_margin,
            "exclude_equal_ids": self.exclude_equal_ids,
            "tile_size": self.tile_size,
        }
