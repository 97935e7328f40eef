"""Losses in which each row's documents are the negatives of all other rows.

They take columns `[B, n, D]`: an anchor, its positive, and any negatives. On several
replicas, the documents of all replicas are compared.
"""

import functools

import keras
import tensorflow as tf

from tfembloss import distances, masks, replicas
from tfembloss.checks import fraction, non_negative, number, one_of, positive
from tfembloss.kernels import differentiable
from tfembloss.losses.base import InBatchLoss, nan_where_not_finite

DIRECTIONS = ("query_to_doc", "doc_to_query", "query_to_query", "doc_to_doc")
FORWARD, BOTH_WAYS = DIRECTIONS[:1], DIRECTIONS[:2]


@keras.saving.register_keras_serializable("tfembloss")
class MultipleNegativesRankingLoss(InBatchLoss):
    r"""Softmax cross-entropy over all documents of the batch, with in-batch negatives.

    With anchors $a_i$, positives $p_i$ and the documents $d$ of the batch (all positives
    and all negatives, of all replicas):

    $$L_i = -\log \frac{\exp(s \cdot sim(a_i, p_i))}{\sum_d \exp(s \cdot sim(a_i, d))}$$

    Also known as InfoNCE, NT-Xent on pairs, or in-batch negatives loss. The larger the
    batch, the harder the task and the better the embeddings.

    Further `directions` add terms to the denominator:

    | direction | compares | terms of row i |
    |---|---|---|
    | `"query_to_doc"` | $a_i$ with all documents | those above |
    | `"doc_to_query"` | $p_i$ with all anchors | $sim(p_i, a_j)$ of all rows j |
    | `"query_to_query"` | $a_i$ with the other anchors | $sim(a_i, a_j)$, j not i |
    | `"doc_to_doc"` | $p_i$ with the documents of other rows | $sim(p_i, d)$ |

    Call arguments: `y_pred` columns `[B, n, D]`, n >= 2: anchor, positive, negatives.
    `y_true` is not used, or with `exclude_equal_ids=True` ids, `[B]` or `[B, n]`.

    Args:
        scale: factor s on the similarity, > 0: the inverse of the temperature. 20 suits
            cosine; use 1 with `"dot"`.
        similarity: the negative of any distance of `tfembloss.distances`: `"cosine"`,
            `"dot"`, `"euclidean"`, ... or a function `(a, b) -> distances`.
        symmetric: short for `directions=("query_to_doc", "doc_to_query")` with
            `partition="per_direction"`: the mean of this loss and of the same loss in the
            other direction, from each positive to the anchors of all rows.
        exclude_equal_ids: if true, `y_true` are ids (integers or strings), `[B]` or
            `[B, n]`. Of rows: the documents of another row with the same id are not used
            as negatives. Of each column: documents whose id is that of the anchor or of
            its positive are not, also the row's own, nor are the positives of anchors with
            the same id; and as for documents, so for anchors in the other directions.
            Without ids, a positive that occurs twice in a batch is its own negative, and
            the loss cannot fall below log 2 there.
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
            leaves out what is above 95% of it. Neither goes with further directions.
        directions: those of the table, `"query_to_doc"` among them.
        partition: `"joint"` for one softmax over the terms of all directions;
            `"per_direction"` for the mean of one softmax in each direction, which is not
            possible with `"query_to_query"` or `"doc_to_doc"`, where no pair matches.
        hardness: which negatives of `"query_to_doc"` count the more, the more similar they
            are: `"in_batch"`, the documents of other rows; `"hard"`, the row's own
            negatives; `"all"`, both; or None. Their logits are raised by
            `hardness_strength` times their similarity, of which no gradient is taken.
        hardness_strength: a number > 0 with `hardness`; the papers take 9 for `"in_batch"`
            and 5 for `"hard"`.
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
    >>> loss = MultipleNegativesRankingLoss(
    ...     directions=("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
    ... )
    >>> round(float(loss(None, pairs)), 4)   # the positives are nearer to one another, too
    7.2798

    Reference:
        Henderson et al., "Efficient Natural Language Response Suggestion for Smart
        Reply", 2017, https://arxiv.org/abs/1705.00652. All directions: Li et al., "Towards
        General Text Embeddings with Multi-stage Contrastive Learning", 2023,
        https://arxiv.org/abs/2308.03281. Hardness: Lan et al., "LLaVE: Large Language and
        Vision Embedding Models with Hardness-Weighted Contrastive Learning", 2025,
        https://arxiv.org/abs/2503.04812

    Relations:
        Equal to sentence-transformers' class of the same name, whose `partition_mode` is
        `partition` and whose `hardness_mode`s are "in_batch_negatives", "hard_negatives"
        and "all_negatives". `symmetric=True` is its
        `MultipleNegativesSymmetricRankingLoss`. Finetuner spells it
        `MultipleNegativeRankingLoss`. The margins are NV-Retriever's
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
        directions=FORWARD,
        partition="joint",
        hardness=None,
        hardness_strength=0.0,
    ):
        super().__init__(exclude_equal_ids, tile_size, reduction, name, dtype)
        self.scale = positive("scale", scale)
        self.similarity = similarity
        self.symmetric = symmetric
        distances.get(similarity, argument="similarity")
        self.directions = _check_directions(BOTH_WAYS if symmetric else directions)
        if symmetric and tuple(directions) not in (FORWARD, BOTH_WAYS):
            raise ValueError(
                f"`symmetric` is short for directions={BOTH_WAYS}, each with a softmax: "
                f"expected no others. Received: directions={directions!r}"
            )
        partition = "per_direction" if symmetric else partition
        self.partition = one_of("partition", partition, ["joint", "per_direction"])
        if self.partition == "per_direction" and not {*self.directions} <= {*BOTH_WAYS}:
            raise ValueError(
                "Expected partition='joint' with query_to_query or doc_to_doc, in which "
                "there is no matching pair for a softmax of its own. Received: "
                f"partition='per_direction', directions={directions!r}"
            )
        self.absolute_margin, self.relative_margin = absolute_margin, relative_margin
        if absolute_margin is not None:
            self.absolute_margin = non_negative("absolute_margin", absolute_margin)
        if relative_margin is not None:
            self.relative_margin = fraction("relative_margin", relative_margin)
        has_margin = (absolute_margin, relative_margin) != (None, None)
        if has_margin and self.directions != FORWARD:
            raise ValueError(
                "Expected a margin, which is one to the positive of an anchor, with "
                "directions=('query_to_doc',) only. Received: "
                f"symmetric={symmetric!r}, directions={directions!r}"
            )
        self.hardness = one_of("hardness", hardness, [None, "in_batch", "hard", "all"])
        self.hardness_strength = non_negative("hardness_strength", hardness_strength)
        if (hardness is None) != (self.hardness_strength == 0):
            raise ValueError(
                "Expected `hardness` with a `hardness_strength` > 0, such as 9 for "
                f"'in_batch', or neither. Received: hardness={hardness!r}, "
                f"hardness_strength={hardness_strength!r}"
            )

    @property
    def distance(self):
        """The negative of the similarity, up to a constant, which softmax ignores."""
        return self.similarity

    @staticmethod
    def _kernel_of(formula):
        return differentiable(formula)

    @staticmethod
    def formula(
        distances,
        pairs,
        *,
        scale,
        similarity,
        directions,
        absolute_margin,
        relative_margin,
        hardness,
        hardness_strength,
    ):
        """Returns each anchor's log sum over the documents, and the logit of its positive.

        That is `[B, 2]`; with doc_to_query also each document's log sum over anchors.
        """
        logits, positive, negative = -scale * distances, pairs.positive, pairs.negative
        similarities = 1 - distances if similarity == "cosine" else -distances  # [B, N * m]
        if absolute_margin is not None or relative_margin is not None:
            own_similarity = masks.row_sum(similarities, positive)[:, None]  # [B, 1]
            relative = (relative_margin or 0) * tf.abs(own_similarity)
            margin = tf.maximum(relative, absolute_margin or 0)
            negative &= ~(similarities > own_similarity - margin)
        raised = logits
        if hardness is not None:
            of_own, of_others = negative & pairs.own_row, negative & ~pairs.own_row
            harder = {"in_batch": of_others, "hard": of_own, "all": negative}[hardness]
            bonus = hardness_strength * tf.stop_gradient(similarities)
            raised += tf.where(harder, bonus, tf.zeros_like(bonus))
        candidates = positive | negative
        log_sum = masks.row_logsumexp(raised, candidates)  # [B]
        values = tf.stack([log_sum, masks.row_sum(logits, positive)], axis=1)
        if "doc_to_query" not in directions:
            return values
        return values, masks.column_logsumexp(logits, candidates)  # [B, 2], [N * m]

    def call(self, y_true, y_pred, memory=None):
        """Returns values `[B]` of this replica's anchors."""
        documents = self.batch(y_true, y_pred, memory)
        # The anchors of a memory are not in the tiles.
        both_ways = "doc_to_query" in self.directions and memory is None
        log_sums, own = self._to_documents(documents, both_ways)
        others = {*self.directions} - {*(BOTH_WAYS if both_ways else FORWARD)}
        if others:
            anchors = self.batch(*_with_roles_swapped(y_true, y_pred, memory))
            log_sums += self._to_other_rows(others, documents, anchors, own)
        log_sums = tf.stack(log_sums, axis=1)  # [B, number of directions]
        if self.partition == "joint":
            log_sum = tf.reduce_logsumexp(log_sums, axis=1)
        else:
            log_sum = tf.reduce_mean(log_sums, axis=1)
        # A mask would hide what is not finite.
        return log_sum - own + nan_where_not_finite(documents.keys)

    def _to_documents(self, batch, both_ways):
        """Returns log sums `[B]` of query_to_doc, and of doc_to_query if both ways.

        That is a list, and then the logits `[B]` of the anchors with their positives.
        """
        compare = functools.partial(
            self.compare, directions=BOTH_WAYS if both_ways else FORWARD
        )
        if not both_ways:
            log_sum, own = tf.unstack(self.by_tiles(batch, compare), 2, axis=1)
            return [log_sum], own
        # The last tile is padded with zeros, which must not count as anchors.
        is_row = tf.ones_like(batch.pairs.positions, tf.bool)
        batch = batch._replace(pairs=batch.pairs._replace(is_row=is_row))
        values, of_documents = self.by_tiles(batch, compare, log_sums=True)
        log_sum, own = tf.unstack(values, 2, axis=1)  # [B] each
        of_all = replicas.logsumexp(of_documents)  # [N * m]
        of_positives = tf.reshape(of_all, [-1, batch.pairs.num_documents])[:, 0]  # [N]
        return [log_sum, of_positives[batch.first : batch.first + tf.size(own)]], own

    def _to_other_rows(self, directions, documents, anchors, own):
        """Returns the list of log sums `[B]` in further directions.

        Args:
            directions: which.
            documents: `Batch` of this replica's anchors and all documents.
            anchors: `Batch` of this replica's positives and all anchors.
            own: logits `[B]` of the anchors with their positives.
        """

        def log_sums(batch):
            return self.by_tiles(batch, self._compare_other_rows)

        found = []
        if "doc_to_query" in directions:
            found.append(tf.reduce_logsumexp([log_sums(anchors), own], axis=0))
        if "query_to_query" in directions:
            found.append(log_sums(anchors._replace(anchors=documents.anchors)))
        if "doc_to_doc" in directions:
            found.append(log_sums(documents._replace(anchors=anchors.anchors)))
        return found

    def _compare_other_rows(self, rows, keys, batch):
        x = distances.get(self.distance).of_prepared(rows, keys)  # [B, N * m]
        return _log_sums_of_other_rows(x, batch.pairs, scale=self.scale)


@differentiable
def _log_sums_of_other_rows(distances, pairs, scale):
    return masks.row_logsumexp(-scale * distances, pairs.negative & ~pairs.own_row)


def _with_roles_swapped(y_true, y_pred, memory):
    """Returns the same with the positives as anchors, and the anchors as the documents."""

    def swapped(columns):  # [B, n, ...]
        return tf.reverse(columns[:, :2], axis=[1])

    if y_true.shape.rank == 2:  # ids of each column
        y_true = swapped(y_true)
    if memory is not None:
        memory = memory._replace(embeddings=swapped(memory.embeddings))
    return y_true, swapped(y_pred), memory


def _check_directions(directions):
    """Returns directions as a tuple. Raises ValueError if they are not known."""
    found = (directions,) if isinstance(directions, str) else tuple(directions)
    is_known = {*found} <= {*DIRECTIONS} and len({*found}) == len(found)
    if is_known and FORWARD[0] in found:
        return found
    raise ValueError(
        f"Expected `directions` among {DIRECTIONS}, the first of which has the matching "
        f"pairs and is needed. Received: directions={directions!r}"
    )


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
