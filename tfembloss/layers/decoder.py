"""A transformer decoder that attends to one embedding, for the denoising auto-encoder."""

import keras
import tensorflow as tf

from tfembloss.config import Configurable
from tfembloss.layers.pooling import PositionEmbedding


@keras.saving.register_keras_serializable("tfembloss")
class SentenceDecoder(Configurable, keras.layers.Layer):
    """A transformer decoder that reconstructs the tokens of a text from its embedding.

    Position t attends only to the tokens before t and to the embedding: causal
    self-attention, and cross-attention to the embedding. Cross-attention to a single
    vector is a linear map of it, since a softmax over one number is 1, so each block adds
    a linear map of the embedding.

    Call arguments: embedded tokens `[B, T, D]` and embeddings of the texts `[B, E]`.
    Returns states `[B, T, D]`, of which the logits are the products with the token
    embeddings.

    Args:
        num_layers: number of blocks.
        num_heads: attention heads of a block, with D // num_heads dimensions each; None
            for one head per 64 dimensions.
        sequence_length: the largest T.
        dropout: fraction of the entries dropped in training, 0 to 1.
        **kwargs: as in `keras.layers.Layer`, `name` and `dtype`.

    Raises:
        ValueError: at the call, if there are more heads than dimensions, or texts longer
            than `sequence_length`.

    Example:

    >>> import numpy as np
    >>> decoder = SentenceDecoder(num_layers=2, sequence_length=16)
    >>> decoder(np.zeros([3, 5, 8]), np.zeros([3, 4])).shape
    TensorShape([3, 5, 8])
    """

    def __init__(
        self, num_layers=1, num_heads=None, sequence_length=256, dropout=0.1, **kwargs
    ):
        super().__init__(**kwargs)
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.sequence_length = sequence_length
        self.dropout = dropout

    def build(self, tokens_shape, embeddings_shape):
        """Builds the blocks."""
        dim = tokens_shape[-1]
        num_heads = max(1, dim // 64) if self.num_heads is None else self.num_heads
        if num_heads > dim:
            raise ValueError(
                "Expected at most one head for each dimension. Received: "
                f"num_heads={num_heads}, token embeddings of {dim} dimensions."
            )
        self.start = self.add_weight(shape=(dim,), name="start")
        self.positions = PositionEmbedding(self.sequence_length, dtype=self.dtype_policy)
        self.blocks = [
            _DecoderBlock(num_heads, self.dropout, dtype=self.dtype_policy)
            for _ in range(self.num_layers)
        ]
        self.norm = keras.layers.LayerNormalization(dtype=self.dtype_policy)
        for layer in (self.positions, self.norm):
            layer.build(tokens_shape)
        for block in self.blocks:
            block.build(tokens_shape, embeddings_shape)
        self.built = True

    def call(self, tokens, embeddings, training=None):
        """Returns states `[B, T, D]`; that of position t depends on the tokens before t."""
        start = tf.broadcast_to(self.start, tf.shape(tokens[:, :1]))
        x = self.positions(tf.concat([start, tokens[:, :-1]], axis=1))  # [B, T, D]
        for block in self.blocks:
            x = block(x, embeddings, training=training)
        return self.norm(x)

    def compute_output_shape(self, tokens_shape, embeddings_shape):
        """Returns `[B, T, D]`."""
        return tokens_shape


class _DecoderBlock(keras.layers.Layer):
    """Decoder block: causal self-attention, cross-attention, MLP."""

    def __init__(self, num_heads, dropout, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.dropout = dropout

    def build(self, tokens_shape, embeddings_shape):
        layers, options = keras.layers, {"dtype": self.dtype_policy}
        dim = tokens_shape[-1]
        self.attention_norm = layers.LayerNormalization(**options)
        self.attention = layers.MultiHeadAttention(
            self.num_heads, dim // self.num_heads, dropout=self.dropout, **options
        )
        self.cross_attention = layers.Dense(dim, **options)
        self.feed_forward = keras.Sequential(
            [
                layers.LayerNormalization(**options),
                layers.Dense(4 * dim, activation="gelu", **options),
                layers.Dense(dim, **options),
                layers.Dropout(self.dropout, **options),
            ]
        )
        self.attention_norm.build(tokens_shape)
        self.attention.build(tokens_shape, tokens_shape)
        self.cross_attention.build(embeddings_shape)
        self.feed_forward.build(tokens_shape)
        self.built = True

    def call(self, x, embeddings, training=None):
        y = self.attention_norm(x)
        x += self.attention(y, y, use_causal_mask=True, training=training)
        x += self.cross_attention(embeddings)[:, None]
        return x + self.feed_forward(x, training=training)  # [B, T, D]
