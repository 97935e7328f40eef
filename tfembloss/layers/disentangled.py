"""Layers of DeBERTa: attention to contents and to relative positions, apart."""

import math

import keras
import numpy as np
from keras import ops

from tfembloss.config import Configurable
from tfembloss.layers.transformer import TransformerBlock, initializer


@keras.saving.register_keras_serializable("tfembloss")
class RelativeEmbeddings(Configurable, keras.layers.Layer):
    """Embeddings of the distances of two tokens, normalized, which all blocks share.

    Call arguments: embeddings `[B, T, D]`, of which only the shape counts. Returns
    `[num_embeddings, D]`.

    Args:
        num_embeddings: number of embeddings, two for each number of a distance.
        epsilon: of the layer normalization, > 0.
        **kwargs: as in `keras.layers.Layer`, `name` and `dtype`.

    Example:

    >>> RelativeEmbeddings(num_embeddings=8)(ops.ones([1, 3, 4])).shape
    TensorShape([8, 4])
    """

    def __init__(self, num_embeddings, epsilon=1e-7, **kwargs):
        super().__init__(**kwargs)
        self.num_embeddings = num_embeddings
        self.epsilon = epsilon

    def build(self, shape):
        """Builds the table."""
        self.table = self.add_weight(
            shape=(self.num_embeddings, shape[-1]), initializer=initializer(), name="table"
        )
        self.norm = keras.layers.LayerNormalization(
            epsilon=self.epsilon, name="norm", dtype=self.dtype_policy
        )
        self.norm.build((self.num_embeddings, shape[-1]))

    def call(self, x):
        """Returns the embeddings of distances, `[num_embeddings, D]`."""
        return self.norm(ops.cast(self.table, x.dtype))

    def compute_output_shape(self, shape):
        """Returns `[num_embeddings, D]`."""
        return (self.num_embeddings, shape[-1])


@keras.saving.register_keras_serializable("tfembloss")
class DisentangledBlock(TransformerBlock):
    r"""A `TransformerBlock` whose attention knows how far apart two tokens are.

    The logit of the query of token i and the key of token j, with the embedding r of their
    distance, is

    $$\frac{q_i \cdot k_j + q_i \cdot K r_{\delta(i, j)} + k_j \cdot Q r_{\delta(i, j)}}
      {\sqrt{3 d}}$$

    where K and Q are the maps of keys and queries themselves, and d is the number of
    dimensions of a head. Distances up to half of the buckets have their own number
    $\delta$ in both directions; longer ones share them, by their logarithm.

    Call arguments: embeddings `[B, T, D]`, a mask `[B, T]` that is 0 at padding, and the
    output of `RelativeEmbeddings`, of twice `num_buckets`. Returns `[B, T, D]`.

    Args:
        num_heads, intermediate_dim: see `TransformerBlock`.
        num_buckets: number of buckets of the distances in one direction; 0 for one of
            each distance up to `max_distance`.
        max_distance: the distance from which on all are alike.
        activation, dropout, attention_dropout, epsilon: see `TransformerBlock`.
        **kwargs: as in `keras.layers.Layer`, `name` and `dtype`.

    Example:

    >>> block = DisentangledBlock(2, intermediate_dim=8, num_buckets=4, max_distance=16)
    >>> relative = RelativeEmbeddings(num_embeddings=8)(ops.ones([1, 3, 4]))
    >>> block(ops.ones([1, 3, 4]), ops.ones([1, 3], "int32"), relative).shape
    TensorShape([1, 3, 4])

    Reference:
        He et al., "DeBERTaV3: Improving DeBERTa using ELECTRA-Style Pre-Training with
        Gradient-Disentangled Embedding Sharing", 2021, https://arxiv.org/abs/2111.09543
    """

    def __init__(
        self,
        num_heads,
        intermediate_dim,
        num_buckets,
        max_distance,
        activation="gelu",
        dropout=0.1,
        attention_dropout=0.1,
        epsilon=1e-7,
        **kwargs,
    ):
        super().__init__(
            num_heads,
            intermediate_dim,
            activation,
            dropout,
            attention_dropout,
            epsilon,
            **kwargs,
        )
        if max_distance < 2 or num_buckets // 2 >= max_distance - 1:
            raise ValueError(
                "Expected max_distance > num_buckets // 2 + 1, as longer distances share "
                f"buckets. Received: num_buckets={num_buckets}, max_distance={max_distance}"
            )
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self._numbers = _numbers(num_buckets, max_distance)

    def _shared(self, relative, training):
        """Returns the maps K and Q of relative embeddings, `[2, H, d, count]`."""
        relative = self.dropping(relative, training=training)[None]
        tables = [self._heads(layer(relative)) for layer in (self.key, self.query)]
        return ops.transpose(ops.concatenate(tables), (0, 1, 3, 2))

    def _logits(self, query, key, tables):
        scale = 1 / math.sqrt(3 * query.shape[-1])
        length, count = ops.shape(query)[2], tables.shape[-1]
        places = ops.arange(length, dtype="int32")
        number = self._number(places[:, None] - places[None], count // 2)  # [T, T]

        def by_distance(x, table, rows):  # x . W r of the number of each pair of tokens
            products = ops.reshape(
                ops.matmul(x * scale, table), (-1, self.num_heads, length * count)
            )
            # All texts and heads have the same numbers: no index for each of them.
            products = ops.take(products, rows * count + number, axis=2)  # [B, H, T, T]
            return ops.cast(products, "float32")

        logits = ops.matmul(query * scale, ops.transpose(key, (0, 1, 3, 2)))
        logits = ops.cast(logits, "float32")
        logits += by_distance(query, tables[0], places[:, None])
        return logits + by_distance(key, tables[1], places[None])

    def _number(self, distance, middle):
        """Returns the row of the table of relative embeddings for each distance."""
        far = ops.minimum(ops.abs(distance), self.max_distance)
        number = ops.take(ops.convert_to_tensor(self._numbers), far, axis=0)
        return ops.clip(ops.sign(distance) * number + middle, 0, 2 * middle - 1)


def _numbers(num_buckets, max_distance):
    """Returns the number of each distance from 0 to `max_distance`, int32."""
    distance = np.arange(max_distance + 1, dtype="float32")
    if num_buckets <= 0:
        return distance.astype("int32")
    # In float32, as the checkpoints were trained.
    exact = num_buckets // 2
    logarithm = np.log(np.maximum(distance, exact) / np.float32(exact))
    shared = np.ceil(logarithm / logarithm[max_distance - 1] * np.float32(exact - 1))
    return np.where(distance <= exact, distance, shared + exact).astype("int32")
