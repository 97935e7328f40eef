"""A small text encoder that trains from scratch."""

import types

import keras
import tensorflow as tf
from keras import layers, ops

from tfembloss.checks import fraction, integer
from tfembloss.layers import PositionEmbedding, TokenPooling
from tfembloss.layers.pooling import embedding_bag
from tfembloss.losses.inputs import require


@keras.saving.register_keras_serializable("tfembloss")
class TextEncoder(keras.Model):
    """A small text encoder that trains well from scratch on a CPU.

    It consists of token embeddings, optional transformer blocks, and `TokenPooling`.
    Without blocks it is a bag of words that learns which words matter: hard to beat with
    thousands of training pairs instead of millions. Its time and memory then hardly depend
    on padding, as no tensor `[rows, T, dim]` is computed.

    Call arguments: token ids `[rows, T]`, 0 is padding. Returns `[rows, dim]`.

    Args:
        vocabulary_size: number of token ids, `len(vocabulary)` of the preprocessor.
        dim: dimension of the embeddings.
        sequence_length: the maximum T.
        num_layers: number of transformer blocks, >= 0.
        num_heads: attention heads of a block; must divide `dim`. By default the largest
            divisor up to 6.
        dropout: fraction of the embeddings' entries dropped in training, 0 to 1. Without
            blocks nothing is dropped. Instead the text's embedding gets Gaussian noise of
            the variance that dropout would give it, on average over the dimensions.
        name, dtype: as in `keras.Model`.

    Raises:
        ValueError: `num_heads` does not divide `dim`; when called, a token id is negative
            or not below `vocabulary_size`. XLA cannot raise errors: there the embeddings
            of such texts are NaN.

    Example:

    >>> import numpy as np
    >>> encoder = TextEncoder(vocabulary_size=100, dim=8, num_layers=1, num_heads=2)
    >>> encoder(np.array([[5, 6, 0], [7, 0, 0]])).shape
    TensorShape([2, 8])

    Reference:
        The noise: Wang and Manning, "Fast dropout training", 2013,
        https://proceedings.mlr.press/v28/wang13a.html
    """

    def __init__(
        self,
        vocabulary_size=None,
        dim=384,
        sequence_length=256,
        num_layers=0,
        num_heads=None,
        dropout=0.1,
        name=None,
        dtype=None,
    ):
        hint = ": vocabulary_size=len(vocabulary), of the preprocessor's vocabulary"
        vocabulary_size = integer("vocabulary_size", vocabulary_size, 1, hint=hint)
        dim = integer("dim", dim, 1)
        sequence_length = integer("sequence_length", sequence_length, 1)
        num_layers = integer("num_layers", num_layers, 0)
        if num_heads is None:
            num_heads = next(heads for heads in range(6, 0, -1) if dim % heads == 0)
        num_heads = integer("num_heads", num_heads, 1)
        dropout = fraction("dropout", dropout)
        if num_layers and dim % num_heads:
            raise ValueError(
                "Expected num_heads to divide dim. "
                f"Received: dim={dim}, num_heads={num_heads}"
            )
        dtype = keras.dtype_policies.get(dtype)  # None is the global policy
        tokens = keras.Input([None], dtype="int32", name="tokens")
        embed = layers.Embedding(
            vocabulary_size, dim, keras.initializers.RandomNormal(stddev=0.05), dtype=dtype
        )
        x = embed(tokens)
        if num_layers:
            x = PositionEmbedding(sequence_length, dtype=dtype)(x)
        states = [layers.Dropout(dropout, dtype=dtype)(x)]
        for _ in range(num_layers):
            x = _transformer_block(states[-1], tokens, dim, num_heads, dropout, dtype)
            states.append(x)
        pooling = TokenPooling(vocabulary_size, sequence_length, dtype=dtype)
        super().__init__(tokens, pooling(tokens, states[-1]), name=name)
        self._states = types.SimpleNamespace(hidden=states)  # which Keras does not track
        self._config = {
            "dtype": dtype.name,
            "vocabulary_size": vocabulary_size,
            "dim": dim,
            "sequence_length": sequence_length,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "dropout": dropout,
        }

    def call(self, inputs, training=None, mask=None):
        """Returns embeddings `[rows, dim]` of token ids `[rows, T]`."""
        tokens, unknown = self.checked_tokens(inputs)
        if self._config["num_layers"] or self.token_embedding.quantization_mode:
            embeddings = super().call(tokens, training=training, mask=mask)
        else:
            embeddings = self._bag_of_words(tf.cast(tokens, tf.int32), training)
        # XLA drops assertions, and would use the embedding of another token.
        unknown = tf.reduce_any(unknown, axis=1, keepdims=True)
        return tf.where(unknown, tf.cast(float("nan"), embeddings.dtype), embeddings)

    def checked_tokens(self, inputs):
        """Returns token ids `[rows, T]`, and which are unknown, where nothing raises."""
        tokens = next(iter(inputs.values()), None) if isinstance(inputs, dict) else inputs
        if (
            isinstance(tokens, list | tuple)
            and len(tokens) == 1
            and tf.is_tensor(tokens[0])
        ):
            tokens = tokens[0]
        size = self._config["vocabulary_size"]
        tokens = _token_ids(tokens)
        wide = tf.cast(tokens, tf.int64)
        unknown = (wide < 0) | (wide >= size)
        tokens = require(
            ~tf.reduce_any(unknown),
            tokens,
            f"Expected token ids from 0 to {size - 1}, as vocabulary_size={size}. "
            "Received others. Pass vocabulary_size=len(vocabulary) to the encoder, of the "
            "preprocessor's vocabulary.",
        )
        return tokens, unknown

    def _bag_of_words(self, tokens, training):
        """Returns pooled token embeddings, in training with the noise of dropout."""
        _, embed, dropout, pooling = self.layers
        table = tf.convert_to_tensor(embed.embeddings)  # [V, D]
        weights = tf.cast(pooling.pooling_weights(tokens), table.dtype)  # [B, T]
        embeddings = embedding_bag(tokens, weights, table)  # [B, D]
        if training and dropout.rate:
            deviation = _deviation_by_dropout(dropout.rate, tokens, weights, table)
            embeddings += deviation * keras.random.normal(
                tf.shape(embeddings), dtype=table.dtype, seed=dropout.seed_generator
            )
        return tf.cast(embeddings, pooling.compute_dtype)

    def hidden_states(self):
        """Returns symbolic tensors `[B, T, dim]`: of the tokens, and of each block."""
        return self._states.hidden

    @property
    def token_embedding(self):
        """The token embedding layer; keras-hub's backbones use the same name."""
        return next(x for x in self.layers if isinstance(x, layers.Embedding))

    def get_config(self):
        """Returns the config: the arguments, and which layers are trainable."""
        trainable = [layer.trainable for layer in self.layers]
        return {**self._config, "name": self.name, "trainable": trainable}

    @classmethod
    def from_config(cls, config):
        """Creates an encoder from its config."""
        trainable = config.pop("trainable", [])
        encoder = cls(**config)
        for layer, value in zip(encoder.layers, trainable, strict=False):
            layer.trainable = value
        return encoder


def _token_ids(tokens):
    """Returns token ids `[rows, T]` as a tensor. Raises ValueError otherwise."""
    try:
        tokens = tf.convert_to_tensor(tokens)
    except (TypeError, ValueError):
        received = f"{type(tokens).__name__}, {tokens!r:.80}"
    else:
        if tokens.dtype != tf.string and tokens.shape.rank in (2, None):
            return tokens
        shape = "unknown" if tokens.shape.rank is None else tuple(tokens.shape)
        received = f"shape={shape}, dtype={tokens.dtype.name}"
    raise ValueError(
        "Expected token ids, integers of shape [rows, T], as TextPreprocessor returns "
        f"them for texts. Received: {received}"
    )


def _deviation_by_dropout(rate, tokens, weights, table):
    """Returns the standard deviation `[B, 1]` of weighted sums of entries, by dropout.

    An entry x becomes 0 or x / (1 - rate), whose variance is rate / (1 - rate) x^2.
    """
    squares = tf.reduce_mean(tf.square(tf.cast(table, tf.float32)), axis=1)  # [V]
    weights = tf.cast(weights, tf.float32)
    terms = tf.square(weights) * tf.gather(squares, tokens)  # [B, T]
    variance = tf.reduce_sum(terms, axis=1, keepdims=True) * (rate / max(1 - rate, 1e-6))
    # The square root, but with a gradient of 0 in a text without tokens.
    return tf.cast(variance * tf.math.rsqrt(variance + 1e-12), table.dtype)


def _transformer_block(x, tokens, dim, num_heads, dropout, dtype):
    """A pre-norm block of attention and a feed-forward layer, with residual connections."""
    seen = ops.expand_dims(ops.not_equal(tokens, 0), axis=1)  # [B, 1, T]
    y = layers.LayerNormalization(dtype=dtype)(x)
    attention = layers.MultiHeadAttention(
        num_heads, dim // num_heads, dropout=dropout, dtype=dtype
    )
    x = x + attention(y, y, attention_mask=seen)
    y = layers.LayerNormalization(dtype=dtype)(x)
    y = layers.Dense(4 * dim, activation="gelu", dtype=dtype)(y)
    return x + layers.Dropout(dropout, dtype=dtype)(layers.Dense(dim, dtype=dtype)(y))
