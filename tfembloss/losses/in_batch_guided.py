"""In-batch losses whose negatives a guide, another model, selects."""

import functools
from typing import NamedTuple

import keras
import tensorflow as tf

from tfembloss import distances, masks, replicas
from tfembloss.checks import non_negative, one_of, positive
from tfembloss.kernels import differentiable
from tfembloss.losses.base import Batch, InBatchLoss, keys_and_pairs, nan_where_not_finite
from tfembloss.losses.inputs import check_known_columns, described_both, of_shape


@keras.saving.register_keras_serializable("tfembloss")
class GISTEmbedLoss(InBatchLoss):
    r"""In-batch negatives without those that a guide model finds too similar.

    A softmax as in `MultipleNegativesRankingLoss`, over the positives and negatives of all
    rows and, optionally, over pairs of two anchors and pairs of two positives:

    $$L_i = -\log \frac{e^{\cos(a_i, p_i) / T}}
          {\sum_{(x, y) \in K_i} e^{\cos(x, y) / T}}$$

    where $K_i$ has $(a_i, p_i)$ and those of the pairs $(a_i, p_j)$, $(a_i, a_j)$,
    $(p_i, p_j)$, $(a_i, n_j)$ whose cosine by the guide is at most that of $(a_i, p_i)$
    minus a margin. No row is contrasted with itself.

    Call arguments: `y_pred` columns `[B, n, D]`, n >= 2: anchor, positive, negatives.
    `y_true` the guide's embeddings of the same texts, `[B, n, G]`.

    Args:
        temperature: T, > 0.
        margin_strategy: `"absolute"` subtracts `margin` from the guide's cosine;
            `"relative"` subtracts the fraction `margin` of its absolute value.
        margin: a cosine, or a fraction of one, >= 0.
        contrast_anchors, contrast_positives: whether to use $(a_i, a_j)$ and
            $(p_i, p_j)$.
        tile_size: see `MultipleNegativesRankingLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument is invalid, or the shapes do not match.

    Example:

    >>> import tensorflow as tf
    >>> pairs = tf.constant([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.8, 0.6]]])
    >>> guide = tf.constant([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
    >>> round(float(GISTEmbedLoss(temperature=1.0)(guide, pairs)), 4)
    1.4359
    >>> equal = tf.ones([2, 2, 2])   # equal cosines: only a margin excludes the negatives
    >>> float(GISTEmbedLoss(margin=0.1)(equal, pairs))
    0.0

    Reference:
        Solatorio, "GISTEmbed: Guided In-sample Selection of Training Negatives for Text
        Embedding Fine-tuning", 2024, https://arxiv.org/abs/2402.16829

    Relations:
        Equal to sentence-transformers' class of the same name, except that there an anchor
        is contrasted with itself if the guide does not distinguish it from its positive.
        With several negatives it is equal to `CachedGISTEmbedLoss` there.
    """

    scaled_by = "temperature"
    targets_are_ids = False
    takes_memory = False

    def __init__(
        self,
        temperature=0.01,
        margin_strategy="absolute",
        margin=0.0,
        contrast_anchors=True,
        contrast_positives=True,
        tile_size=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(False, tile_size, reduction, name, dtype)
        self.temperature = positive("temperature", temperature)
        self.margin_strategy = one_of(
            "margin_strategy", margin_strategy, ("absolute", "relative")
        )
        self.margin = non_negative("margin", margin)
        self.contrast_anchors = bool(contrast_anchors)
        self.contrast_positives = bool(contrast_positives)

    def batch(self, y_true, y_pred, memory):
        """Returns columns `y_pred [B, n, D]` and the guide's `y_true [B, n, G]`."""
        columns = check_known_columns(y_pred, at_least=2)  # [B, n, D]
        message = (
            "Expected the guide's embeddings of all columns as y_true, [B, n, G] with "
            f"n = {columns.shape[1]}. Received: {described_both(y_true, columns)}. Embed "
            "the columns with the guide and give np.stack(its embeddings, axis=1) as y."
        )
        guides = of_shape(y_true, [*columns.shape[:2], None], columns, message)
        guides = distances.l2_normalize(tf.cast(guides, self.dtype))  # [B, n, G]
        keys, pairs, num_rows, first = keys_and_pairs(columns, None)  # [N, n, D]
        pairs = _GuidedPairs(pairs["positions"], guides, replicas.gather(guides))
        return Batch(columns, keys, pairs, num_rows, first)

    def values(self, batch):
        """Returns the formula's values `[B]`."""
        return super().values(batch) + nan_where_not_finite(batch.pairs.key_guides)

    def compare(self, columns, keys, batch):
        """Applies the formula to the cosines between columns of the rows and the keys."""
        num_columns = columns.shape[1]
        return self._kernel((columns, keys), batch.pairs, num_columns, **self.options)

    @staticmethod
    def _kernel_of(formula):
        def of_columns(x, pairs, num_columns, **options):
            own = masks.at_positions(pairs.positions, tf.shape(x[1])[0])  # [B, N]
            guides = pairs.guides, tf.stop_gradient(pairs.key_guides)
            return formula(_cosines(*x), _cosines(*guides), own, num_columns, **options)

        return differentiable(of_columns)

    @staticmethod
    def formula(
        cosines,
        guide_cosines,
        own,
        num_columns,
        *,
        temperature,
        margin,
        margin_strategy,
        contrast_anchors,
        contrast_positives,
    ):
        """Returns -log of the own pair's fraction of all pairs that the guide keeps."""
        limit = masks.row_sum(guide_cosines(0, 1), own)  # [B]
        limit -= tf.abs(limit) * margin if margin_strategy == "relative" else margin
        # Anchors with positives, anchors, positives with positives, anchors with negatives.
        pairs = [(0, 1)] + [(0, 0)] * contrast_anchors + [(1, 1)] * contrast_positives
        pairs += [(0, column) for column in range(2, num_columns)]
        log_sums = []
        for a, b in pairs:
            kept = ~(guide_cosines(a, b) > limit[:, None])  # [B, N]
            if b < 2:  # the own pair counts, and no row with itself
                kept = kept | own if a < b else kept & ~own
            log_sums.append(masks.row_logsumexp(cosines(a, b) / temperature, kept))
        own_logit = masks.row_sum(cosines(0, 1), own) / temperature  # [B]
        return tf.reduce_logsumexp(tf.stack(log_sums, axis=1), axis=1) - own_logit


class _GuidedPairs(NamedTuple):
    """A guide's embeddings of this replica's rows `[B, n, G]` and of all `[N, n, G]`."""

    positions: tf.Tensor
    guides: tf.Tensor
    key_guides: tf.Tensor

    def of_each_row(self):
        return {"positions": self.positions, "guides": self.guides}


def _cosines(columns, keys):
    """Returns a function of two columns to the cosines `[B, N]` of rows of length 1."""

    @functools.cache
    def cosines(a, b):
        return tf.matmul(columns[:, a], keys[:, b], transpose_b=True)

    return cosines
