"""Layers of the decoders of language models: rotary positions, grouped heads, gates."""

import math

import keras
import numpy as np
from keras import ops

from tfembloss.config import Configurable
from tfembloss.layers.lora import Dense
from tfembloss.layers.transformer import initializer


@keras.saving.register_keras_serializable("tfembloss")
class RMSNorm(Configurable, keras.layers.Layer):
    r"""Divides by the root mean square and multiplies by weights, in float32.

    $$y = \frac{x}{\sqrt{\operatorname{mean}(x^2) + \epsilon}}\,(o + w)$$

    Call arguments: x `[..., D]`. Returns the same shape.

    Args:
        epsilon: > 0.
        offset: o, 0 or 1, the part of the weights that is not learned. Weights are
            initialized to `1 - offset`.
        **kwargs: as in `keras.layers.Layer`, `name` and `dtype`.

    Example:

    >>> RMSNorm()(ops.convert_to_tensor([[3.0, -3.0]])).numpy().round(3).tolist()
    [[1.0, -1.0]]

    Reference:
        Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019,
        https://arxiv.org/abs/1910.07467

    Relations:
        With offset=0 it is `keras.layers.RMSNormalization`, whose weights are rounded to
        the compute dtype.
    """

    def __init__(self, epsilon=1e-6, offset=0.0, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.offset = offset

    def build(self, shape):
        """Builds the weights."""
        self.gamma = self.add_weight(
            shape=(shape[-1],),
            initializer=keras.initializers.Constant(1.0 - self.offset),
            autocast=False,
            name="gamma",
        )

    def call(self, x):
        """Returns x, normalized."""
        y = ops.cast(x, "float32")
        y *= ops.rsqrt(ops.mean(ops.square(y), axis=-1, keepdims=True) + self.epsilon)
        return ops.cast(y * (self.offset + ops.cast(self.gamma, "float32")), x.dtype)

    def compute_output_shape(self, shape):
        """Returns the same shape."""
        return shape


@keras.saving.register_keras_serializable("tfembloss")
class RotaryBlock(Configurable, keras.layers.Layer):
    r"""Self-attention with rotary positions and a gated perceptron, normalized before.

    $$x \leftarrow x + \operatorname{attention}(\operatorname{norm}(x)),\quad
      y = x + W_3\,(a(W_1 z) \cdot W_2 z),\quad z = \operatorname{norm}(x)$$

    Queries and keys are normalized by head and rotated by their position, so that their
    products depend on the distance. Several heads of queries may share a key and a value.

    Call arguments: embeddings `[B, T, D]` and a mask `[B, T]` that is 0 at padding.
    Returns `[B, T, D]`.

    Args:
        num_heads: number of heads of queries.
        num_key_heads: number of heads of keys and values, a divisor of `num_heads`.
        head_dim: number of dimensions of a head; even.
        intermediate_dim: number of hidden units of the perceptron.
        activation: a, as in `keras.layers.Dense`.
        rotary_base: b, of the angle of a rotation at position t, from t to about t / b.
        scale: factor of the logits of attention; None for `1 / sqrt(head_dim)`.
        causal: whether a token attends only to itself and to those before it.
        window: w, if a token attends only to others less than w tokens away; None for all.
        norms_after: whether attention and perceptron are also normalized after.
        norm_offset: see `RMSNorm`.
        epsilon: of the normalizations, > 0.
        dropout: fraction of each residual that is dropped in training.
        attention_dropout: fraction of the weights of attention that is dropped.
        **kwargs: as in `keras.layers.Layer`, `name` and `dtype`.

    Example:

    >>> block = RotaryBlock(4, num_key_heads=2, head_dim=8, intermediate_dim=16)
    >>> block(ops.ones([1, 3, 4]), ops.ones([1, 3], "int32")).shape
    TensorShape([1, 3, 4])

    Reference:
        Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021,
        https://arxiv.org/abs/2104.09864
        Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models from
        Multi-Head Checkpoints", 2023, https://arxiv.org/abs/2305.13245
        Shazeer, "GLU Variants Improve Transformer", 2020,
        https://arxiv.org/abs/2002.05202

    Relations:
        The defaults are a block of Qwen3; with norms_after=True and norm_offset=1 it is one
        of Gemma3.
    """

    def __init__(
        self,
        num_heads,
        num_key_heads,
        head_dim,
        intermediate_dim,
        activation="silu",
        rotary_base=10000.0,
        scale=None,
        causal=True,
        window=None,
        norms_after=False,
        norm_offset=0.0,
        epsilon=1e-6,
        dropout=0.0,
        attention_dropout=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if num_heads % num_key_heads or head_dim % 2:
            raise ValueError(
                "Expected num_heads to be a multiple of num_key_heads, and head_dim to be "
                f"even. Received: num_heads={num_heads}, num_key_heads={num_key_heads}, "
                f"head_dim={head_dim}"
            )
        self.num_heads = num_heads
        self.num_key_heads = num_key_heads
        self.head_dim = head_dim
        self.intermediate_dim = intermediate_dim
        self.activation = keras.activations.get(activation)
        self.rotary_base = rotary_base
        self.scale = scale
        self.causal = causal
        self.window = window
        self.norms_after = norms_after
        self.norm_offset = norm_offset
        self.epsilon = epsilon
        self.dropout = dropout
        self.attention_dropout = attention_dropout

    def build(self, x_shape, mask_shape=None):
        """Builds the weights."""
        dim, wide = x_shape[-1], (*x_shape[:-1], self.intermediate_dim)
        heads, key_heads = (
            (*x_shape[:-1], n * self.head_dim) for n in (self.num_heads, self.num_key_heads)
        )
        self.query = self._dense(x_shape, heads[-1], "query")
        self.key = self._dense(x_shape, key_heads[-1], "key")
        self.value = self._dense(x_shape, key_heads[-1], "value")
        self.output_dense = self._dense(heads, dim, "output")
        self.gate = self._dense(x_shape, wide[-1], "gate", self.activation)
        self.up = self._dense(x_shape, wide[-1], "up")
        self.down = self._dense(wide, dim, "down")
        self.attention_norm = self._norm(x_shape, "attention_norm")
        self.feed_forward_norm = self._norm(x_shape, "feed_forward_norm")
        self.query_norm = self._norm((self.head_dim,), "query_norm")
        self.key_norm = self._norm((self.head_dim,), "key_norm")
        if self.norms_after:
            self.attention_norm_after = self._norm(x_shape, "attention_norm_after")
            self.feed_forward_norm_after = self._norm(x_shape, "feed_forward_norm_after")
        self.attention_dropping, self.dropping = (
            keras.layers.Dropout(rate, dtype=self.dtype_policy)
            for rate in (self.attention_dropout, self.dropout)
        )

    def _dense(self, shape, units, name, activation=None):
        layer = Dense(
            units, activation, use_bias=False, kernel_initializer=initializer(), name=name,
            dtype=self.dtype_policy,
        )  # fmt: skip
        layer.build(shape)
        return layer

    def _norm(self, shape, name):
        layer = RMSNorm(self.epsilon, self.norm_offset, name=name, dtype=self.dtype_policy)
        layer.build(shape)
        return layer

    def call(self, x, mask, training=None):
        """Returns embeddings `[B, T, D]`."""
        y = self.output_dense(self._attention(self.attention_norm(x), mask, training))
        y = self.attention_norm_after(y) if self.norms_after else y
        x += self.dropping(y, training=training)
        y = self.feed_forward_norm(x)
        y = self.down(self.gate(y) * self.up(y))
        y = self.feed_forward_norm_after(y) if self.norms_after else y
        return x + self.dropping(y, training=training)

    def _attention(self, x, mask, training):
        length, groups = ops.shape(x)[1], self.num_heads // self.num_key_heads
        query = self._rotated(self.query_norm(self._heads(self.query(x))))
        key = self._rotated(self.key_norm(self._heads(self.key(x))))
        value = ops.transpose(self._heads(self.value(x)), (0, 2, 1, 3))  # [B, K, T, d]
        scale = 1 / math.sqrt(self.head_dim) if self.scale is None else self.scale
        query = ops.transpose(query * scale, (0, 2, 1, 3))
        # The queries that share a key are further rows of one product: no copies of keys.
        query = ops.reshape(query, (-1, self.num_key_heads, groups * length, self.head_dim))
        logits = ops.matmul(query, ops.transpose(key, (0, 2, 3, 1)))
        logits = ops.reshape(
            ops.cast(logits, "float32"),
            (-1, self.num_key_heads, groups, length, length),
        )
        attends = self._attends(length)[None] & ops.cast(mask, "bool")[:, None]
        # Added, which takes no memory for a second tensor of this size.
        logits += ops.where(attends, 0.0, -1e9)[:, None, None]
        weights = ops.cast(ops.softmax(logits), x.dtype)  # [B, K, G, T, T]
        weights = self.attention_dropping(weights, training=training)
        weights = ops.reshape(weights, (-1, self.num_key_heads, groups * length, length))
        y = ops.matmul(weights, value)
        y = ops.reshape(y, (-1, self.num_heads, length, self.head_dim))
        y = ops.transpose(y, (0, 2, 1, 3))
        return ops.reshape(y, (-1, length, self.num_heads * self.head_dim))

    def _heads(self, y):
        """Returns `[B, T, heads, head_dim]`."""
        return ops.reshape(
            y, (-1, ops.shape(y)[1], y.shape[-1] // self.head_dim, self.head_dim)
        )

    def _rotated(self, x):
        """Returns heads `[B, T, heads, d]`, each pair of dimensions rotated, in float32."""
        half = self.head_dim // 2
        speeds = self.rotary_base ** (-np.arange(half) / half)
        places = ops.arange(ops.shape(x)[1], dtype="float32")
        angles = (places[:, None] * speeds.astype("float32"))[:, None]  # [T, 1, d / 2]
        cos, sin = ops.cos(angles), ops.sin(angles)
        first, second = ops.split(ops.cast(x, "float32"), 2, axis=-1)
        rotated = [first * cos - second * sin, second * cos + first * sin]
        return ops.cast(ops.concatenate(rotated, axis=-1), x.dtype)

    def _attends(self, length):
        """Returns whether the token of a row attends to that of a column, `[T, T]`."""
        places = ops.arange(length, dtype="int32")
        distance = places[:, None] - places[None]  # from key to query
        attends = distance >= 0 if self.causal else ops.ones_like(distance, dtype="bool")
        if self.window is not None:
            attends &= ops.abs(distance) < self.window
        return attends

    def compute_output_shape(self, x_shape, mask_shape=None):
        """Returns `[B, T, D]`."""
        return x_shape
