"""Layers of pretrained transformer encoders: embeddings, blocks, relative positions."""

import math

import keras
from keras import ops

from tfembloss.config import Configurable
from tfembloss.layers.attention import attention
from tfembloss.layers.lean import LayerNormalization
from tfembloss.layers.lora import Dense


@keras.saving.register_keras_serializable("tfembloss")
def gelu_tanh(x):
    """Returns the approximation of gelu by a tanh."""
    return keras.activations.gelu(x, approximate=True)


@keras.saving.register_keras_serializable("tfembloss")
class TransformerEmbeddings(Configurable, keras.layers.Layer):
    """Sum of the embeddings of tokens and positions, normalized, as in BERT.

    Call arguments: token ids `[B, T]`, and optionally their types `[B, T]`, without which
    all tokens have the first. Returns `[B, T, D]`.

    Args:
        vocabulary_size: number of token ids.
        num_positions: number of position embeddings; 0 for none.
        dim: D.
        num_types: number of token types; 0 for none.
        epsilon: of the layer normalization, > 0.
        dropout: fraction of the output that is dropped in training.
        padding_id: if given, positions are counted as in RoBERTa: from `padding_id + 1`,
            over the tokens that are not this one. None: from 0, over all tokens.
        **kwargs: as in `keras.layers.Layer`, `name` and `dtype`.

    Example:

    >>> layer = TransformerEmbeddings(10, num_positions=8, dim=4)
    >>> layer(ops.ones([1, 3], "int32")).shape
    TensorShape([1, 3, 4])
    """

    def __init__(
        self,
        vocabulary_size,
        num_positions,
        dim,
        num_types=0,
        epsilon=1e-12,
        dropout=0.1,
        padding_id=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.num_positions = num_positions
        self.dim = dim
        self.num_types = num_types
        self.epsilon = epsilon
        self.dropout = dropout
        self.padding_id = padding_id
        options = {"embeddings_initializer": initializer(), "dtype": self.dtype_policy}
        self.token_embedding = keras.layers.Embedding(
            vocabulary_size, dim, name="tokens", **options
        )
        self.position_embedding = self.type_embedding = None
        if num_positions:
            self.position_embedding = keras.layers.Embedding(
                num_positions, dim, name="positions", **options
            )
        if num_types:
            self.type_embedding = keras.layers.Embedding(
                num_types, dim, name="types", **options
            )
        self.norm = LayerNormalization(
            epsilon=epsilon, name="norm", dtype=self.dtype_policy
        )
        self.dropping = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def build(self, tokens_shape, types_shape=None):
        """Builds the tables."""
        for part in (self.token_embedding, self.position_embedding, self.type_embedding):
            if part is not None:
                part.build(tokens_shape)
        self.norm.build((*tokens_shape, self.dim))

    def call(self, tokens, types=None, training=None):
        """Returns embeddings `[B, T, D]`."""
        x = self.token_embedding(tokens)
        if self.position_embedding is not None:
            x += self.position_embedding(self._positions(tokens))
        if self.type_embedding is not None:
            types = ops.zeros((1, 1), "int32") if types is None else types
            x += self.type_embedding(types)
        return self.dropping(self.norm(x), training=training)

    def _positions(self, tokens):
        if self.padding_id is None:
            return ops.arange(ops.shape(tokens)[1], dtype="int32")[None]
        counted = ops.cast(tokens != self.padding_id, "int32")
        return ops.cumsum(counted, axis=1) * counted + self.padding_id

    def compute_output_shape(self, tokens_shape, types_shape=None):
        """Returns `[B, T, D]`."""
        return (*tokens_shape, self.dim)


@keras.saving.register_keras_serializable("tfembloss")
class TransformerBlock(Configurable, keras.layers.Layer):
    r"""Self-attention and a multilayer perceptron, each normalized after its residual.

    $$x \leftarrow \operatorname{norm}(x + \operatorname{attention}(x)),\quad
      y = \operatorname{norm}(x + W_2\, a(W_1 x))$$

    Call arguments: embeddings `[B, T, D]`, a mask `[B, T]` that is 0 at padding, and
    optionally what is added to the logits of attention, `[1, num_heads, T, T]`. Returns
    `[B, T, D]`.

    Args:
        num_heads: number of heads of attention; D is a multiple of it.
        intermediate_dim: number of hidden units of the perceptron.
        activation: a, as in `keras.layers.Dense`.
        dropout: fraction of each residual that is dropped in training.
        attention_dropout: fraction of the weights of attention that is dropped.
        epsilon: of the layer normalizations, > 0.
        **kwargs: as in `keras.layers.Layer`, `name` and `dtype`.

    Example:

    >>> block = TransformerBlock(num_heads=2, intermediate_dim=8)
    >>> block(ops.ones([1, 3, 4]), ops.ones([1, 3], "int32")).shape
    TensorShape([1, 3, 4])

    Reference:
        Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
        Understanding", 2019, https://arxiv.org/abs/1810.04805
    """

    def __init__(
        self,
        num_heads,
        intermediate_dim,
        activation="gelu",
        dropout=0.1,
        attention_dropout=0.1,
        epsilon=1e-12,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.activation = keras.activations.get(activation)
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.epsilon = epsilon

    def build(self, x_shape, mask_shape=None, bias_shape=None):
        """Builds the weights."""
        dim = x_shape[-1]

        def dense(units, name, activation=None):
            return Dense(
                units, activation, kernel_initializer=initializer(), name=name,
                dtype=self.dtype_policy,
            )  # fmt: skip

        def norm(name):
            return LayerNormalization(
                epsilon=self.epsilon, name=name, dtype=self.dtype_policy
            )

        self.query, self.key, self.value = (
            dense(dim, x) for x in ("query", "key", "value")
        )
        self.output_dense = dense(dim, "output")
        self.attention_norm = norm("attention_norm")
        self.intermediate = dense(self.intermediate_dim, "intermediate", self.activation)
        self.feed_forward = dense(dim, "feed_forward")
        self.norm = norm("norm")
        for layer in (self.query, self.key, self.value, self.output_dense):
            layer.build(x_shape)
        self.intermediate.build(x_shape)
        self.feed_forward.build((*x_shape[:-1], self.intermediate_dim))
        self.attention_norm.build(x_shape)
        self.norm.build(x_shape)
        self.attention_dropping, self.dropping = (
            keras.layers.Dropout(rate, dtype=self.dtype_policy)
            for rate in (self.attention_dropout, self.dropout)
        )

    def call(self, x, mask, bias=None, training=None):
        """Returns embeddings `[B, T, D]`."""
        y = self.output_dense(self._attention(x, mask, bias, training))
        x = self.attention_norm(x + self.dropping(y, training=training))
        y = self.feed_forward(self.intermediate(x))
        return self.norm(x + self.dropping(y, training=training))

    def _attention(self, x, mask, bias, training):
        query, key, value = map(self._heads, (self.query(x), self.key(x), self.value(x)))
        shared = self._shared(bias, training)
        dropping = self.attention_dropping if training else None
        y = attention(query, key, value, mask, self._logits, shared, dropping)
        y = ops.transpose(y, (0, 2, 1, 3))
        return ops.reshape(y, (-1, ops.shape(x)[1], x.shape[-1]))

    def _heads(self, y):
        """Returns `[B, H, T, D / H]` of `[B, T, D]`."""
        length, dim = ops.shape(y)[1], y.shape[-1]
        y = ops.reshape(y, (-1, length, self.num_heads, dim // self.num_heads))
        return ops.transpose(y, (0, 2, 1, 3))

    def _shared(self, bias, training):
        """Returns what the logits of all texts depend on."""
        return bias

    def _logits(self, query, key, bias):
        """Returns the logits of attention `[n, H, T, T]`, float32, of some texts."""
        query *= 1 / math.sqrt(query.shape[-1])
        logits = ops.cast(ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))), "float32")
        return logits if bias is None else logits + ops.cast(bias, "float32")

    def compute_output_shape(self, x_shape, mask_shape=None, bias_shape=None):
        """Returns `[B, T, D]`."""
        return x_shape


@keras.saving.register_keras_serializable("tfembloss")
class RelativePositions(Configurable, keras.layers.Layer):
    """What attention adds to its logits for each distance of two tokens, as in MPNet.

    Distances up to a quarter of the buckets have their own number, in both directions;
    longer ones share them, by their logarithm, up to 128.

    Call arguments: embeddings `[B, T, D]`. Returns `[1, num_heads, T, T]`.

    Args:
        num_heads: number of heads of attention.
        num_buckets: number of buckets of distances; even.
        **kwargs: as in `keras.layers.Layer`, `name` and `dtype`.

    Example:

    >>> RelativePositions(num_heads=2)(ops.ones([1, 3, 4])).shape
    TensorShape([1, 2, 3, 3])

    Reference:
        Song et al., "MPNet: Masked and Permuted Pre-training for Language Understanding",
        2020, https://arxiv.org/abs/2004.09297
    """

    def __init__(self, num_heads, num_buckets=32, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.num_buckets = num_buckets

    def build(self, shape):
        """Builds the table of buckets."""
        self.table = self.add_weight(
            shape=(self.num_buckets, self.num_heads),
            initializer=initializer(),
            name="table",
        )

    def call(self, x):
        """Returns what is added to logits, `[1, num_heads, T, T]`."""
        places = ops.arange(ops.shape(x)[1], dtype="int32")
        distance = places[:, None] - places[None, :]  # from key to query
        half = self.num_buckets // 2
        exact = half // 2
        far = ops.abs(distance)
        logarithm = ops.log(ops.cast(ops.maximum(far, 1), "float32") / exact)
        shared = exact + ops.cast(
            logarithm / math.log(_FARTHEST / exact) * (half - exact), "int32"
        )
        bucket = ops.where(far < exact, far, ops.minimum(shared, half - 1))
        bucket += ops.where(distance < 0, half, 0)
        return ops.transpose(ops.take(self.table, bucket, axis=0), (2, 0, 1))[None]

    def compute_output_shape(self, shape):
        """Returns `[1, num_heads, T, T]`."""
        return (1, self.num_heads, shape[1], shape[1])


_FARTHEST = 128


def initializer():
    """Returns that of BERT's weights."""
    return keras.initializers.TruncatedNormal(stddev=0.02)
