"""Layers on token embeddings: positions and pooling."""

import keras
from keras import ops

from tfembloss.config import Configurable


def _check_length(length, sequence_length):
    """Raises ValueError if texts are longer than the layer; None is an unknown length."""
    if length is not None and length > sequence_length:
        raise ValueError(
            f"Expected at most sequence_length={sequence_length} tokens, received "
            f"{length}. Give the encoder and the preprocessor the same sequence_length."
        )


@keras.saving.register_keras_serializable("tfembloss")
class TokenPooling(Configurable, keras.layers.Layer):
    r"""Weighted mean of token embeddings, with weights learned by token and position.

    $$y = \frac{\sum_t w_t x_t}{\sum_t w_t},\quad
      w_t = \exp(u_{token(t)} + v_{b,t})\ \text{where}\ token(t) \ne 0,\quad
      b = \lfloor \log_2 \text{number of tokens} \rfloor$$

    All u and v are initialized to zero, so that the layer begins as the mean over the
    tokens that are not padding. Training learns which words tell what a text is about
    (mostly rare ones), and where: in a document at the beginning, in a query anywhere.
    Hence v differs between short and long texts.

    Call arguments: token ids `[B, T]`, with 0 as padding, and embeddings `[B, T, D]`.
    Returns `[B, D]`; zeros for a text without tokens.

    Args:
        vocabulary_size: number of token ids.
        sequence_length: the largest T.
        **kwargs: as in `keras.layers.Layer`, `name` and `dtype`.

    Example:

    >>> import numpy as np
    >>> pooling = TokenPooling(vocabulary_size=10, sequence_length=3)
    >>> tokens, embeddings = np.array([[4, 5, 0]]), np.array([[[2.0], [4.0], [9.0]]])
    >>> pooling(tokens, embeddings).numpy().tolist()
    [[3.0]]
    """

    # u and v must change by several units while embeddings change by tenths, but Adam's
    # steps are equal for all variables, so the variables hold u and v divided by these.
    # In examples/search_api_docs.py this gains 0.01 in MRR@10.
    token_gain = 2.0
    position_gain = 5.0

    def __init__(self, vocabulary_size, sequence_length, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.sequence_length = sequence_length

    def build(self, tokens_shape, embeddings_shape):
        """Builds the weights."""
        self.token_weights = self.add_weight(
            shape=(self.vocabulary_size,), initializer="zeros", name="token_weights"
        )
        self.position_weights = self.add_weight(
            shape=(self.sequence_length.bit_length(), self.sequence_length),
            initializer="zeros",
            name="position_weights",
        )

    def call(self, tokens, embeddings):
        """Returns pooled embeddings `[B, D]`."""
        _check_length(tokens.shape[1], self.sequence_length)
        length = ops.sum(ops.cast(tokens != 0, "float32"), axis=-1)  # [B]
        # Of 1, 2 to 3, 4 to 7, ... tokens; the 0.5 avoids rounding at the boundaries.
        bucket = ops.cast(ops.log2(ops.maximum(length, 1.0) + 0.5), "int32")
        positions = ops.take(self.position_weights, bucket, axis=0)
        log_weights = self.token_gain * ops.take(self.token_weights, tokens, axis=0)
        log_weights += self.position_gain * positions[:, : ops.shape(tokens)[1]]  # [B, T]
        log_weights = ops.where(tokens != 0, log_weights, -1e4)
        weights = ops.softmax(log_weights, axis=-1)  # [B, T]
        pooled = ops.squeeze(ops.matmul(weights[:, None, :], embeddings), axis=1)
        empty = ops.all(tokens == 0, axis=-1, keepdims=True)
        return ops.where(empty, ops.zeros_like(pooled), pooled)  # [B, D]

    def compute_output_shape(self, tokens_shape, embeddings_shape):
        """Returns `[B, D]`."""
        return (embeddings_shape[0], embeddings_shape[2])


@keras.saving.register_keras_serializable("tfembloss")
class PositionEmbedding(Configurable, keras.layers.Layer):
    """Adds a learned position embedding to each token.

    Call arguments: embeddings `[B, T, D]`. Returns `[B, T, D]`.

    Args:
        sequence_length: the largest T.
        **kwargs: as in `keras.layers.Layer`, `name` and `dtype`.

    Example:

    >>> PositionEmbedding(sequence_length=4)(ops.zeros([1, 3, 2])).shape
    TensorShape([1, 3, 2])
    """

    def __init__(self, sequence_length, **kwargs):
        super().__init__(**kwargs)
        self.sequence_length = sequence_length

    def build(self, shape):
        """Builds the table of positions."""
        self.positions = self.add_weight(
            shape=(self.sequence_length, shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=0.05),
            name="positions",
        )

    def call(self, x):
        """Returns the embeddings plus those of their positions."""
        _check_length(x.shape[1], self.sequence_length)
        return x + self.positions[: ops.shape(x)[1]]
