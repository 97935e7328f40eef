"""Losses of two encoders that begin as one and learn to agree on equal texts only.

`tfembloss.ContrastiveTensionModel` gives the columns `[B, 2, D]` that they take.
"""

import keras
import tensorflow as tf

from tfembloss import replicas
from tfembloss.losses.base import EmbeddingLoss
from tfembloss.losses.inputs import are_missing, check_columns, check_scores, require
from tfembloss.losses.ranking import MultipleNegativesRankingLoss


@keras.saving.register_keras_serializable("tfembloss")
class ContrastiveTensionLoss(EmbeddingLoss):
    r"""Are two texts the same? Binary cross-entropy of the two encoders' dot product.

    With the columns u, of one encoder, and v, of the other, and labels y:

    $$L = \sum_i -y_i \log \sigma(u_i \cdot v_i)
          - (1 - y_i) \log (1 - \sigma(u_i \cdot v_i))$$

    Each row's value is its term times the number of rows of all replicas, so that the mean
    of the values is the sum.

    Call arguments: `y_pred` columns `[B, 2, D]`; `y_true` labels `[B]`: 1 where both texts
    are the same, 0 where they are not. `tfembloss.data.contrastive_tension_batches` makes
    such pairs from texts.

    Args:
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: `y_pred` does not have two columns, the labels are not of shape `[B]`,
            or one is not within 0 to 1 (in a graph the error is TensorFlow's
            InvalidArgumentError, with the same words).

    Example:

    >>> import tensorflow as tf
    >>> pairs = tf.constant([[[1.0, 0.0], [2.0, 1.0]], [[0.0, 1.0], [3.0, -2.0]]])
    >>> round(float(ContrastiveTensionLoss()(tf.constant([1, 0]), pairs)), 4)
    0.2539

    Reference:
        Carlsson et al., "Semantic Re-tuning with Contrastive Tension", 2021,
        https://openreview.net/forum?id=Ov_sMNau-PF

    Relations:
        Equal to sentence-transformers' class of this name, which owns the second encoder
        and sums over each device's rows.
    """

    def call(self, y_true, y_pred):
        """Values `[B]` of the columns `y_pred [B, 2, D]` with labels `y_true [B]`."""
        columns = check_columns(y_pred, at_least=2, at_most=2)  # [B, 2, D]
        if are_missing(y_true):
            raise ValueError(
                "ContrastiveTensionLoss needs labels y, 1 where both texts are the same: "
                "tfembloss.data.contrastive_tension_batches(texts) makes such pairs. "
                "Without y there is ContrastiveTensionLossInBatchNegatives."
            )
        labels = check_scores(y_true, columns)  # [B]
        labels = require(
            tf.reduce_all((labels >= 0) & (labels <= 1)),
            tf.cast(labels, self.dtype),
            "ContrastiveTensionLoss expects labels y_true from 0 to 1, 1 where both texts "
            "are the same. Received others.",
        )
        u, v = tf.unstack(columns, 2, axis=1)  # [B, D] each
        scores = tf.reduce_sum(u * v, axis=1)  # [B]
        values = tf.nn.sigmoid_cross_entropy_with_logits(labels, scores)  # [B]
        return replicas.total(tf.cast(tf.size(values), self.dtype)) * values

    def truncate(self, y_pred, dim):
        """The first `dim` dimensions, of their own length: it tells dot products apart."""
        return y_pred[..., :dim]


@keras.saving.register_keras_serializable("tfembloss")
class ContrastiveTensionLossInBatchNegatives(MultipleNegativesRankingLoss):
    r"""Each text finds itself among the batch, in the other encoder: a softmax both ways.

    With the columns u, of one encoder, and v, of the other, both of the same texts, over
    the rows j of all replicas:

    $$L_i = -\frac{1}{2} \log \frac{e^{s \cos(u_i, v_i)}}{\sum_j e^{s \cos(u_i, v_j)}}
            -\frac{1}{2} \log \frac{e^{s \cos(u_i, v_i)}}{\sum_j e^{s \cos(u_j, v_i)}}$$

    Call arguments: `y_pred` columns `[B, 2, D]`. `y_true` is not used, or ids `[B]` with
    `exclude_equal_ids=True`.

    Args:
        scale: factor s on the cosine, > 0.
        exclude_equal_ids: if true, `y_true` are ids (integers or strings), and rows with
            equal ids, as copies of one text, are no negatives of each other.
        tile_size: see `MultipleNegativesRankingLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: a number is out of range, `y_pred` does not have two columns, or the ids
            are missing.

    Example:

    >>> import tensorflow as tf
    >>> pairs = tf.constant([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.8, 0.6]]])
    >>> loss = ContrastiveTensionLossInBatchNegatives(scale=1.0)
    >>> round(float(loss(None, pairs)), 4)
    0.7981

    Reference:
        Carlsson et al., "Semantic Re-tuning with Contrastive Tension", 2021,
        https://openreview.net/forum?id=Ov_sMNau-PF

    Relations:
        `MultipleNegativesRankingLoss(scale, symmetric=True)` of two encoders. Equal to
        sentence-transformers' class of this name, where the scale is learned from its
        first value on: `CLIPLoss` and `tfembloss.DualEncoder({"twin":
        tfembloss.models.twin(encoder), "text": encoder}, initial_scale=20.0)` do that.
    """

    def __init__(
        self,
        scale=20.0,
        exclude_equal_ids=False,
        tile_size=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(
            scale, "cosine", True, exclude_equal_ids, tile_size, reduction, name, dtype
        )

    def call(self, y_true, y_pred):
        """Values `[B]` of the columns `y_pred [B, 2, D]`."""
        return super().call(y_true, check_columns(y_pred, at_least=2, at_most=2))

    def get_config(self):
        """The arguments that make this loss again."""
        config = super().get_config()
        del config["similarity"], config["symmetric"]  # always the same
        return config
