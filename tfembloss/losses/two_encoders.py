"""In-batch losses between two encoders, as of images and texts.

They take columns `[B, 2, D]`, one of each encoder. On several replicas, the rows of all
replicas are compared.
"""

import keras
import tensorflow as tf

from tfembloss import distances, masks
from tfembloss.checks import number, positive
from tfembloss.losses.base import InBatchLoss, first_dimensions
from tfembloss.losses.in_batch import MultipleNegativesRankingLoss


@keras.saving.register_keras_serializable("tfembloss")
class CLIPLoss(MultipleNegativesRankingLoss):
    r"""Symmetric cross-entropy between two modalities, such as images and their texts.

    With the columns a and b, over the rows j of all replicas:

    $$L_i = -\frac{1}{2} \log \frac{e^{s\, a_i \cdot b_i}}{\sum_j e^{s\, a_i \cdot b_j}}
            -\frac{1}{2} \log \frac{e^{s\, a_i \cdot b_i}}{\sum_j e^{s\, a_j \cdot b_i}}$$

    Call arguments: `y_pred` columns `[B, 2, D]`. `y_true` is not used, or with
    `exclude_equal_ids=True` ids, `[B]` or `[B, 2]`.

    Args:
        scale: factor s on the dot product, > 0: 1 for `tfembloss.DualEncoder`, whose
            columns carry its learned scale.
        exclude_equal_ids: if true, `y_true` are ids (integers or strings), and rows with
            equal ids, such as images of one class with the same text, are not negatives of
            each other; of each column as in `MultipleNegativesRankingLoss`.
        tile_size: see `MultipleNegativesRankingLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument, `y_pred` or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> pairs = tf.constant([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.8, 0.6]]])
    >>> round(float(CLIPLoss()(None, pairs)), 4)
    0.7981

    Reference:
        Radford et al., "Learning Transferable Visual Models From Natural Language
        Supervision", 2021, https://arxiv.org/abs/2103.00020

    Relations:
        Equal to open_clip's ClipLoss, on several replicas to that with
        `gather_with_grad=True, local_loss=True`; and to `MultipleNegativesRankingLoss(
        scale, "dot", symmetric=True)`. For embeddings of any length and a fixed scale use
        that loss with `similarity="cosine"`.
    """

    num_columns = (2, 2)

    def __init__(
        self,
        scale=1.0,
        exclude_equal_ids=False,
        tile_size=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(
            scale, "dot", True, exclude_equal_ids, tile_size, reduction, name, dtype
        )

    def truncate(self, y_pred, dim):
        """Returns the first `dim` dimensions, at the old length, which has the scale."""
        return distances.l2_normalize(first_dimensions(y_pred, dim)) * tf.norm(
            y_pred, axis=-1, keepdims=True
        )


@keras.saving.register_keras_serializable("tfembloss")
class SigLIPLoss(InBatchLoss):
    r"""Sigmoid loss: for each image and each text, do the two belong together?

    With the columns a and b, over the rows j of all replicas:

    $$L_i = \sum_j \log(1 + e^{-z_{ij} (s\, a_i \cdot b_j + t)}),\quad
      z_{ij} = 1 \text{ if } i = j \text{ else} -1$$

    Call arguments: `y_pred` columns `[B, 2, D]`. `y_true` is not used, or with
    `exclude_equal_ids=True` ids, `[B]` or `[B, 2]`.

    Args:
        scale: factor s on the dot product, > 0: 1 for `tfembloss.DualEncoder`, whose
            columns carry its learned scale.
        bias: t: 0 for `tfembloss.DualEncoder(..., initial_bias=-10.0)`, whose columns
            carry its learned bias.
        exclude_equal_ids: if true, `y_true` are ids (integers or strings), and rows with
            equal ids are not negatives of each other; of each column as in
            `MultipleNegativesRankingLoss`.
        tile_size: see `MultipleNegativesRankingLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument, `y_pred` or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> pairs = tf.constant([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.8, 0.6]]])
    >>> round(float(SigLIPLoss(scale=10.0, bias=-10.0)(None, pairs)), 4)
    4.1451

    Reference:
        Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023,
        https://arxiv.org/abs/2303.15343

    Relations:
        Equal to big_vision's and open_clip's SigLIP loss, the sum over j and the mean over
        the rows. `tfembloss.DualEncoder(towers, initial_scale=10.0, initial_bias=-10.0)`
        learns both numbers, starting from the paper's initial values; with one encoder,
        `tfembloss.EmbeddingModel(encoder, learn_scale=True, initial_scale=10.0,
        initial_bias=-10.0)`.
    """

    scaled_by = "scale"
    distance = "dot"
    num_columns = (2, 2)
    takes_memory = False

    def __init__(
        self,
        scale=1.0,
        bias=0.0,
        exclude_equal_ids=False,
        tile_size=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(exclude_equal_ids, tile_size, reduction, name, dtype)
        self.scale = positive("scale", scale)
        self.bias = number("bias", bias)

    @staticmethod
    def formula(distances, positive, negative, *, scale, bias):
        """Returns the sum over the pairs of each row of the first column."""
        logits = bias - scale * distances  # [B, N]
        values = tf.nn.softplus(tf.where(positive, -logits, logits))  # [B, N]
        return masks.row_sum(values, positive | negative)

    def truncate(self, y_pred, dim):
        """Raises ValueError: the last dimension may carry the bias."""
        raise ValueError(
            "SigLIPLoss takes columns that carry a learned scale and bias, which do not "
            "survive truncation: expected another loss, such as CLIPLoss, or an "
            "EmbeddingModel(..., learn_scale=True)."
        )


@keras.saving.register_keras_serializable("tfembloss")
class ContrastiveTensionLossInBatchNegatives(MultipleNegativesRankingLoss):
    r"""Contrastive tension with in-batch negatives, between two encoders of the same texts.

    With the embeddings u of one encoder and v of the other, of the same texts, over the
    rows j of all replicas:

    $$L_i = -\frac{1}{2} \log \frac{e^{s \cos(u_i, v_i)}}{\sum_j e^{s \cos(u_i, v_j)}}
            -\frac{1}{2} \log \frac{e^{s \cos(u_i, v_i)}}{\sum_j e^{s \cos(u_j, v_i)}}$$

    Call arguments: `y_pred` columns `[B, 2, D]`. `y_true` is not used, or with
    `exclude_equal_ids=True` ids, `[B]` or `[B, 2]`.

    Args:
        scale: factor s on the cosine, > 0.
        exclude_equal_ids: if true, `y_true` are ids (integers or strings), and rows with
            equal ids, such as copies of one text, are not negatives of each other; of each
            column as in `MultipleNegativesRankingLoss`.
        tile_size: see `MultipleNegativesRankingLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument, `y_pred` or the ids are invalid.

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
        sentence-transformers' class of the same name at its initial scale, which is
        learned there. To learn it here, use `CLIPLoss` with `tfembloss.DualEncoder(
        {"twin": tfembloss.models.twin(encoder), "text": encoder}, initial_scale=20.0)`.
    """

    num_columns = (2, 2)

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
