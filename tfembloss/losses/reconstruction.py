"""A loss on the tokens that a decoder reconstructs from an embedding."""

import keras
import tensorflow as tf

from tfembloss import replicas
from tfembloss.checks import integer
from tfembloss.losses.base import EmbeddingLoss, nan_where_not_finite
from tfembloss.losses.inputs import check_integers, described_both, of_shape


@keras.saving.register_keras_serializable("tfembloss")
class DenoisingAutoEncoderLoss(EmbeddingLoss):
    r"""Cross-entropy of the tokens of a text, as reconstructed from its embedding.

    With the decoder's distribution $p_{it}$ over the vocabulary at token t of text i, M
    tokens on all replicas that are not padding, and N texts:

    $$L_i = -\frac{N}{M} \sum_{t:\; y_{it} \ne \text{padding}} \log p_{it}(y_{it})$$

    So the mean of the values is the mean over all tokens. A text without tokens adds 0.

    Call arguments: `y_pred` logits `[B, T, V]`; `y_true` token ids `[B, T]`, integers.

    Args:
        padding: the token id of padding.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if `padding` is not an integer, the logits do not have three axes, or
            the token ids are not integers of shape `[B, T]`.

    Example:

    >>> import tensorflow as tf
    >>> logits, tokens = tf.zeros([1, 3, 8]), tf.constant([[5, 2, 0]])
    >>> round(float(DenoisingAutoEncoderLoss()(tokens, logits)), 4)   # log 8
    2.0794

    Reference:
        Wang et al., "TSDAE: Using Transformer-based Sequential Denoising Auto-Encoder for
        Unsupervised Sentence Embedding Learning", 2021, https://arxiv.org/abs/2104.06979

    Relations:
        For `tfembloss.DenoisingAutoEncoder`, which computes the logits. Equal to
        sentence-transformers' class of the same name, which takes the texts and owns the
        decoder.
    """

    def __init__(self, padding=0, reduction="sum_over_batch_size", name=None, dtype=None):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.padding = integer("padding", padding)

    def call(self, y_true, y_pred):
        """Returns values `[B]` of logits `y_pred [B, T, V]` with tokens `y_true [B, T]`."""
        tokens = _check_tokens(y_true, y_pred)  # [B, T]
        is_token = tokens != self.padding
        targets = tf.where(is_token, tokens, tf.zeros_like(tokens))  # any within V
        errors = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, y_pred)
        errors = tf.where(is_token, errors, tf.zeros_like(errors))  # [B, T]
        num_tokens = replicas.total(tf.reduce_sum(tf.cast(is_token, self.dtype)))
        num_rows = replicas.total(tf.cast(tf.shape(tokens)[0], self.dtype))
        share = num_rows / tf.maximum(num_tokens, 1)
        return share * tf.reduce_sum(errors, axis=1) + nan_where_not_finite(y_pred)

    def truncate(self, y_pred, dim):
        """Raises ValueError: logits cannot be truncated."""
        raise ValueError(
            "DenoisingAutoEncoderLoss takes logits, which cannot be truncated: expected a "
            "loss on embeddings."
        )


def _check_tokens(y_true, y_pred):
    """Token ids `[B, T]`, one for each position of the logits, or a ValueError."""
    message = (
        "Expected logits y_pred of shape [B, T, V] and token ids y_true of shape [B, T], "
        f"integers. Received: {described_both(y_true, y_pred)}. "
        "tfembloss.DenoisingAutoEncoder makes both from texts."
    )
    if y_pred.shape.rank != 3:
        raise ValueError(message)
    return check_integers(of_shape(y_true, y_pred.shape[:2], y_pred, message), message)
