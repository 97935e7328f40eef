"""Losses of two towers, one for each of two kinds of things: images and their texts.

`tfembloss.DualEncoder` gives both the columns `[B, 2, D]` that they take, with a learned
scale (and bias) folded in, so that the dot products of the columns are the logits.
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
from tfembloss.losses.ranking import MultipleNegativesRankingLoss


@keras.saving.register_keras_serializable("tfembloss")
class CLIPLoss(MultipleNegativesRankingLoss):
    r"""Each image finds its text, and each text its image: a softmax both ways.

    With the columns a and b, over the rows j of all replicas:

    $$L_i = -\frac{1}{2} \log \frac{e^{s\, a_i \cdot b_i}}{\sum_j e^{s\, a_i \cdot b_j}}
            -\frac{1}{2} \log \frac{e^{s\, a_i \cdot b_i}}{\sum_j e^{s\, a_j \cdot b_i}}$$

    Call arguments: `y_pred` columns `[B, 2, D]`. `y_true` is not used, or ids `[B]` with
    `exclude_equal_ids=True`.

    Args:
        scale: factor s on the dot product, > 0: 1 for `tfembloss.DualEncoder`, whose
            columns carry its learned scale.
        exclude_equal_ids: if true, `y_true` are ids (integers or strings), and rows with
            equal ids, as images of one class with the same text, are no negatives of each
            other.
        tile_size: see `MultipleNegativesRankingLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: a number is out of range, `y_pred` does not have two columns, or the ids
            are missing.

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
        scale, "dot", symmetric=True)`. On embeddings of any length, with a fixed scale,
        that loss with `similarity="cosine"` is the one.
    """

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

    def call(self, y_true, y_pred):
        """Values `[B]` of the columns `y_pred [B, 2, D]`."""
        return super().call(y_true, check_columns(y_pred, at_least=2, at_most=2))

    def truncate(self, y_pred, dim):
        """The first dimensions, of the length of all, which carries the learned scale."""
        return distances.l2_normalize(y_pred[..., :dim]) * tf.norm(
            y_pred, axis=-1, keepdims=True
        )

    def get_config(self):
        """The arguments that make this loss again."""
        config = super().get_config()
        del config["similarity"], config["symmetric"]  # always the same
        return config


@differentiable
def _sig_lip(x, labels, scale, bias):
    (distances,) = x  # [B, N]
    logits = bias - scale * distances
    own = masks.own_rows(labels.rows, tf.shape(logits)[1])
    values = tf.nn.softplus(tf.where(own, -logits, logits))
    if labels.ids is not None:  # other rows of the same id are no negatives
        values = tf.where(labels.positive, tf.zeros_like(values), values)
    return tf.reduce_sum(values, axis=1)


@keras.saving.register_keras_serializable("tfembloss")
class SigLIPLoss(EmbeddingLoss):
    r"""Each pair of an image and a text by itself: do they belong together?

    With the columns a and b, over the rows j of all replicas:

    $$L_i = \sum_j \log(1 + e^{-z_{ij} (s\, a_i \cdot b_j + t)}),\quad
      z_{ij} = 1 \text{ if } i = j \text{ else} -1$$

    Call arguments: `y_pred` columns `[B, 2, D]`. `y_true` is not used, or ids `[B]` with
    `exclude_equal_ids=True`.

    Args:
        scale: factor s on the dot product, > 0: 1 for `tfembloss.DualEncoder`, whose
            columns carry its learned scale.
        bias: t: 0 for `tfembloss.DualEncoder(..., initial_bias=-10.0)`, whose columns
            carry its learned bias.
        exclude_equal_ids: if true, `y_true` are ids (integers or strings), and rows with
            equal ids are no negatives of each other.
        tile_size: see `MultipleNegativesRankingLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: a number is out of range, `y_pred` does not have two columns, or the ids
            are missing.

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
        learns both numbers from where the paper begins.
    """

    targets_are_ids = True

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
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.scale = check_number("scale", scale, "a number > 0", lambda s: s > 0)
        self.bias = check_number("bias", bias, "a finite number")
        self.exclude_equal_ids = exclude_equal_ids
        self.tile_size = check_tile_size(tile_size)

    def call(self, y_true, y_pred):
        """Values `[B]` of the columns `y_pred [B, 2, D]`."""
        columns = check_columns(y_pred, at_least=2, at_most=2)  # [B, 2, D]
        a, b = tf.unstack(columns, 2, axis=1)  # [B, D] each
        ids = check_ids(y_true, columns) if self.exclude_equal_ids else None  # [B]
        keys, labels = rows_and_past(replicas.gather(b), columns, ids)  # [N, D]

        def of_pairs(a, keys, ids, rows):
            x = distances.dot.pairwise(a, keys)  # [B, N]
            tile = labels._replace(ids=ids, rows=rows)
            return _sig_lip((x,), tile, self.scale, self.bias)

        of_rows = [labels.ids, labels.rows]
        values = softmax.by_tiles(of_pairs, a, keys, of_rows, self.tile_size)
        return values + nan_where_not_finite(keys)

    def first_batch_warning(self, y_true, shape):
        """Of a batch without negatives."""
        return in_batch_warning(y_true if self.exclude_equal_ids else None, shape)

    def truncate(self, y_pred, dim):
        """Not where the last dimension may carry the bias."""
        raise ValueError(
            "SigLIPLoss takes columns that carry a learned scale and bias, which do not "
            "survive truncation: expected another loss, as CLIPLoss."
        )

    def get_config(self):
        """The arguments that make this loss again."""
        return {
            **super().get_config(),
            "scale": self.scale,
            "bias": self.bias,
            "exclude_equal_ids": self.exclude_equal_ids,
            "tile_size": self.tile_size,
        }
