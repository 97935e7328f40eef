"""Layers on token embeddings: positions and pooling."""

import keras
import tensorflow as tf
from keras import ops

from tfembloss.checks import one_of
from tfembloss.config import Configurable
from tfembloss.kernels import in_xla


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

    def pooling_weights(self, tokens):
        """Returns the weights `[B, T]` of tokens, whose sum is 1; 0 for padding."""
        _check_length(tokens.shape[1], self.sequence_length)
        length = ops.sum(ops.cast(tokens != 0, "float32"), axis=-1)  # [B]
        # Of 1, 2 to 3, 4 to 7, ... tokens; the 0.5 avoids rounding at the boundaries.
        bucket = ops.cast(ops.log2(ops.maximum(length, 1.0) + 0.5), "int32")
        positions = ops.take(self.position_weights, bucket, axis=0)
        log_weights = self.token_gain * ops.take(self.token_weights, tokens, axis=0)
        log_weights += self.position_gain * positions[:, : ops.shape(tokens)[1]]  # [B, T]
        weights = ops.softmax(ops.where(tokens != 0, log_weights, -1e4), axis=-1)
        return ops.where(tokens != 0, weights, 0.0)  # also in a text without tokens

    def call(self, tokens, embeddings):
        """Returns pooled embeddings `[B, D]`."""
        weights = self.pooling_weights(tokens)  # [B, T]
        return ops.squeeze(ops.matmul(ops.expand_dims(weights, 1), embeddings), axis=1)

    def compute_output_shape(self, tokens_shape, embeddings_shape):
        """Returns `[B, D]`."""
        return (embeddings_shape[0], embeddings_shape[2])


def embedding_bag(tokens, weights, table):
    """Returns weighted sums of token embeddings, `[B, D]`, without a tensor `[B, T, D]`.

    They are the product of a matrix `[B, V]`, each token's weight in each text, with the
    table. The table's gradient is one dense tensor.

    Args:
        tokens: token ids `[B, T]`.
        weights: their weights `[B, T]`.
        table: the embeddings of all token ids, `[V, D]`.
    """
    # XLA needs no such tensor either, and only CPUs have a product that skips zeros.
    if in_xla() or tf.config.list_logical_devices("GPU"):
        return tf.einsum("bt,btd->bd", weights, tf.gather(table, tokens))

    @tf.custom_gradient
    def product(weights, table):
        used = tf.where(weights != 0)  # [N, 2], rows and places
        rows, columns = used[:, 0], tf.cast(tf.gather_nd(tokens, used), tf.int64)
        sizes = [tf.shape(tokens, tf.int64)[0], tf.shape(table, tf.int64)[0]]
        places = tf.stack([rows, columns], axis=1)
        bags = tf.scatter_nd(places, tf.gather_nd(weights, used), sizes)  # [B, V]

        def gradient(upstream):
            products = _row_products(upstream, rows, table, columns)  # [N]
            of_weights = tf.scatter_nd(used, products, tf.shape(weights, tf.int64))
            of_table = tf.matmul(bags, upstream, transpose_a=True, a_is_sparse=True)
            return of_weights, of_table

        return tf.matmul(bags, table, a_is_sparse=True), gradient

    return product(weights, table)


def _row_products(x, x_rows, y, y_rows, parts=8):
    """Returns the dot product `[N]` of each of N pairs of rows."""
    size = -(-tf.shape(x_rows)[0] // parts)
    found = []
    for start in range(parts):  # as new memory takes longer than the products
        part = slice(start * size, (start + 1) * size)
        rows = tf.gather(x, x_rows[part]) * tf.gather(y, y_rows[part])
        found.append(tf.reduce_sum(rows, axis=1))
    return tf.concat(found, axis=0)


@keras.saving.register_keras_serializable("tfembloss")
class Pooling(Configurable, keras.layers.Layer):
    r"""Pools the token embeddings of a text, in one or several ways.

    $$\text{mean: } \frac{\sum_t m_t x_t}{\sum_t m_t},\quad
      \text{weightedmean: } \frac{\sum_t t\, m_t x_t}{\sum_t t\, m_t}$$

    m is 1 at tokens and 0 at padding, and t begins with 1.

    Call arguments: embeddings `[B, T, D]` and a mask `[B, T]`. Returns `[B, D]`, or
    `[B, n D]` with n modes.

    Args:
        modes: `"mean"`, `"cls"` (the first token), `"max"`, `"mean_sqrt_len_tokens"` (the
            sum divided by the square root of the number of tokens), `"lasttoken"`,
            `"weightedmean"`; or a list of them, whose results are concatenated.
        **kwargs: as in `keras.layers.Layer`, `name` and `dtype`.

    Raises:
        ValueError: there is no mode of this name.

    Example:

    >>> import numpy as np
    >>> x, mask = np.array([[[2.0], [4.0], [9.0]]]), np.array([[1, 1, 0]])
    >>> Pooling(["mean", "max", "lasttoken"])(x, mask).numpy().tolist()
    [[3.0, 4.0, 4.0]]

    Relations:
        Equal to sentence-transformers' Pooling module.
    """

    def __init__(self, modes="mean", **kwargs):
        super().__init__(**kwargs)
        given = [modes] if isinstance(modes, str) else list(modes)
        for mode in given:
            one_of("modes", mode, list(_POOLING))
        self.modes = given[0] if len(given) == 1 else given

    def call(self, x, mask):
        """Returns pooled embeddings `[B, n D]`."""
        dtype = "float32" if self.compute_dtype in ("float16", "bfloat16") else x.dtype
        x, mask = ops.cast(x, dtype), ops.cast(mask, dtype)
        modes = [self.modes] if isinstance(self.modes, str) else self.modes
        pooled = [_POOLING[mode](x, mask) for mode in modes]
        return ops.cast(ops.concatenate(pooled, axis=-1), self.compute_dtype)

    def compute_output_shape(self, x_shape, mask_shape=None):
        """Returns `[B, n D]`."""
        count = 1 if isinstance(self.modes, str) else len(self.modes)
        return (x_shape[0], count * x_shape[-1])


def _weighted(x, weights, power=1.0):
    """Returns the sum over tokens, divided by a power of the sum of the weights."""
    total = ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1e-9)
    pooled = ops.squeeze(ops.matmul(ops.expand_dims(weights, 1), x), axis=1)
    return pooled / total**power


def _last_token(x, mask):
    places = ops.arange(ops.shape(mask)[1], dtype="int32")
    last = ops.max(ops.where(mask > 0, places[None], 0), axis=1, keepdims=True)
    at = ops.cast(places[None] == last, x.dtype) * mask  # zeros for a text without tokens
    return ops.squeeze(ops.matmul(ops.expand_dims(at, 1), x), axis=1)


def _positions(mask):
    return ops.cast(ops.arange(1, ops.shape(mask)[1] + 1), mask.dtype)


_POOLING = {
    "mean": _weighted,
    "cls": lambda x, mask: x[:, 0],
    "max": lambda x, mask: ops.max(x - 1e30 * (1 - ops.expand_dims(mask, 2)), axis=1),
    "mean_sqrt_len_tokens": lambda x, mask: _weighted(x, mask, power=0.5),
    "lasttoken": _last_token,
    "weightedmean": lambda x, mask: _weighted(x, mask * _positions(mask)),
}


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
