"""Losses in which each row's documents are the negatives of all other rows.

They take columns `[B, n, D]`: an anchor, its positive, and any negatives. On several
replicas, the documents of all replicas are compared.
"""

import keras
import tensorflow as tf

from tfembloss import distances, masks, replicas
from tfembloss.checks import fraction, non_negative, number, positive
from tfembloss.losses.base import InBatchLoss


@keras.saving.register_keras_serializable("tfembloss")
class MultipleNegativesRankingLoss(InBatchLoss):
    r"""Softmax cross-entropy over all documents of the batch, with in-batch negatives.

    With anchors $a_i$, positives $p_i$ and the documents $d$ of the batch (all positives
    and all negatives, of all replicas):

    $$L_i = -\log \frac{\exp(s \cdot sim(a_i, p_i))}{\sum_d \exp(s \cdot sim(a_i, d))}$$

    Also known as InfoNCE, NT-Xent on pairs, or in-batch negatives loss. The larger the
    batch, the harder the task and the better the embeddings.

    Call arguments: `y_pred` columns `[B, n, D]`, n >= 2: anchor, positive, negatives.
    `y_true` is not used, or with `exclude_equal_ids=True` ids, `[B]` or `[B, n]`.

    Args:
        scale: factor s on the similarity, > 0: the inverse of the temperature. 20 suits
            cosine; use 1 with `"dot"`.
        similarity: the negative of any distance of `tfembloss.distances`: `"cosine"`,
            `"dot"`, `"euclidean"`, ... or a function `(a, b) -> distances`.
        symmetric: if true, the mean of this loss and of the same loss in the other
            direction, from each positive to the anchors of all rows.
        exclude_equal_ids: if true, `y_true` are ids (integers or strings), `[B]` or
            `[B, n]`. Of rows: the documents of another row with the same id are not used
            as negatives. Of each column: documents whose id is that of the anchor or of
            its positive are not, also the row's own, nor are the positives of anchors with
            the same id. Without ids, a positive that occurs twice in a batch is its own
            negative, and the loss cannot fall below log 2 there.
            `tfembloss.EmbeddingModel(..., exclude_equal_texts=True)` gives ids of texts.
        tile_size: how many of the B rows are compared with all documents at a time, >= 1.
            By default a tile has at most 2^22 pairs, but at least 512 rows. It changes
            the memory used, not the result: tiles are recomputed in the backward pass.
            With `jit_compile=True` tiles are slow on CPUs, because XLA then computes the
            matrix products inside the loop.
        absolute_margin: documents of other rows whose similarity is above the positive's
            less this, >= 0, are not used as negatives, as they may be answers too; None
            for all. Also for a row's own negatives.
        relative_margin: the same as a fraction of the positive's similarity, 0 to 1: 0.05
            leaves out what is above 95% of it. Neither goes with `symmetric`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument, `y_pred` or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> loss = MultipleNegativesRankingLoss()
    >>> pairs = tf.constant([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.8, 0.6]]])
    >>> round(float(loss(None, pairs)), 4)   # each wrong positive is nearer
    4.0181
    >>> loss = MultipleNegativesRankingLoss(exclude_equal_ids=True)
    >>> float(loss(tf.constant(["same", "same"]), pairs))   # and is not a negative here
    0.0

    Reference:
        Henderson et al., "Efficient Natural Language Response Suggestion for Smart
        Reply", 2017, https://arxiv.org/abs/1705.00652

    Relations:
        Equal to sentence-transformers' class of the same name. `symmetric=True` is its
        directions ("query_to_doc", "doc_to_query"), with a softmax per direction.
        Finetuner spells it `MultipleNegativeRankingLoss`. The margins are NV-Retriever's
        (https://arxiv.org/abs/2407.15831), applied in the batch; sentence-transformers has
        them in mining and with a guide, `GISTEmbedLoss`, only. On several replicas it is
        what sentence-transformers computes with `gather_across_devices=True`. Its
        `CachedMultipleNegativesRankingLoss` is this loss with
        `tfembloss.EmbeddingModel(encoder, mini_batch_size=...)`.
    """

    scaled_by = "scale"

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
        absolute_margin=None,
        relative_margin=None,
    ):
        super().__init__(exclude_equal_ids, tile_size, reduction, name, dtype)
        self.scale = positive("scale", scale)
        self.similarity = similarity
        self.symmetric = symmetric
        distances.get(similarity, argument="similarity")
        if absolute_margin is not None:
            absolute_margin = non_negative("absolute_margin", absolute_margin)
        if relative_margin is not None:
            relative_margin = fraction("relative_margin", relative_margin)
        self.absolute_margin, self.relative_margin = absolute_margin, relative_margin
        if symmetric and (absolute_margin, relative_margin) != (None, None):
            raise ValueError(
                "Expected `symmetric` or a margin, which is one to the positive of the "
                "first column. Received both."
            )

    @property
    def distance(self):
        """The negative of the similarity, up to a constant, which softmax ignores."""
        return self.similarity

    @property
    def takes_memory(self):
        """Whether the loss takes a memory: only if it is not symmetric."""
        return not self.symmetric

    @staticmethod
    def formula(
        distances,
        positive,
        negative,
        *,
        scale,
        similarity,
        symmetric,
        absolute_margin,
        relative_margin,
    ):
        """Returns each anchor's cross-entropy; if symmetric, also documents' log sums."""
        if absolute_margin is not None or relative_margin is not None:
            own = masks.row_sum(distances, positive)[:, None]  # [B, 1]
            own_similarity = 1 - own if similarity == "cosine" else -own
            relative = (relative_margin or 0) * tf.abs(own_similarity)
            margin = tf.maximum(relative, absolute_margin or 0)
            negative &= ~(distances < own + margin)
        logits = -scale * distances  # [B, N * m]
        candidates = positive | negative
        own = masks.row_sum(logits, positive)  # [B]
        values = masks.row_logsumexp(logits, candidates) - own
        if not symmetric:
            return values
        return values - own, masks.column_logsumexp(logits, candidates)  # [B], [N * m]

    def values(self, batch):
        """Returns values `[B]`; if symmetric, with the log sums of the own documents."""
        if not self.symmetric:
            return super().values(batch)
        # The last tile is padded with zeros, which must not count as anchors.
        is_row = tf.ones_like(batch.pairs.positions, tf.bool)
        batch = batch._replace(pairs=batch.pairs._replace(is_row=is_row))
        values, log_sums = self.by_tiles(batch, log_sums=True)  # [B], [N * m]
        of_all = tf.reshape(replicas.logsumexp(log_sums), [-1, batch.pairs.num_documents])
        of_own = of_all[batch.first : batch.first + tf.shape(values)[0], 0]  # [B]
        return (values + of_own) / 2


# Finetuner's spelling.
MultipleNegativeRankingLoss = MultipleNegativesRankingLoss


@keras.saving.register_keras_serializable("tfembloss")
class MegaBatchMarginLoss(InBatchLoss):
    r"""Margin loss that contrasts each anchor with its hardest negative of a large batch.

    With cosines s of the anchors $a_i$ and the positives $p_j$ of all replicas, and
    $[x] = \max(0, x)$:

    $$L_i = [m_p - s(a_i, p_i)] + [\max_{j \ne i} s(a_i, p_j) - m_n]$$

    There is one negative for each anchor. The larger the batch, the harder it is; large
    batches need `tfembloss.EmbeddingModel(encoder, mini_batch_size=...)`.

    Call arguments: `y_pred` columns `[B, 2, D]`. `y_true` is not used, or with
    `exclude_equal_ids=True` ids, `[B]` or `[B, 2]`.

    Args:
        positive_margin: $m_p$, the smallest cosine that a positive should have.
        negative_margin: $m_n$, the largest cosine that a negative should have.
        exclude_equal_ids, tile_size: see `MultipleNegativesRankingLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument, `y_pred` or the ids are invalid.

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
        Equal to sentence-transformers' class of the same name, whose negatives are those
        of one device. Its mini-batched version is this loss with `mini_batch_size`.
    """

    num_columns = (2, 2)

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
        super().__init__(exclude_equal_ids, tile_size, reduction, name, dtype)
        self.positive_margin = number("positive_margin", positive_margin)
        self.negative_margin = number("negative_margin", negative_margin)

    @staticmethod
    def formula(distances, positive, negative, *, positive_margin, negative_margin):
        """Returns the sum of the two hinges of each anchor."""
        cosines = 1 - distances  # [B, N]
        own = masks.row_sum(cosines, positive)  # [B]
        hardest = masks.row_max(cosines, negative)  # [B], -inf without a negative
        too_near = tf.where(masks.row_any(negative), hardest - negative_margin, 0)
        return tf.nn.relu(positive_margin - own) + tf.nn.relu(too_near)
