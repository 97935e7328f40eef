"""Layers with the variables that losses and encoders need; models own them."""

import numbers

import keras
import tensorflow as tf
from keras import ops

from tfembloss import distances, replicas
from tfembloss.losses.base import Past


def _check_length(length, sequence_length):
    """Texts no longer than a layer has positions; None is a length not known yet."""
    if length is not None and length > sequence_length:
        raise ValueError(
            f"Expected at most sequence_length={sequence_length} tokens, received "
            f"{length}. Give the encoder and the preprocessor the same sequence_length."
        )


@keras.saving.register_keras_serializable("tfembloss")
class TokenPooling(keras.layers.Layer):
    r"""Weighted mean of token embeddings, with weights learned by token and position.

    $$y = \frac{\sum_t w_t x_t}{\sum_t w_t},\quad
      w_t = \exp(u_{token(t)} + v_{b,t})\ \text{where}\ token(t) \ne 0,\quad
      b = \lfloor \log_2 \text{number of tokens} \rfloor$$

    With all u and v zero, as they start, this is the mean over the tokens that are not
    padding. Training finds which words say what a text is about (rare ones, mostly) and
    where a text says it: a document at its beginning, a query anywhere. Hence v differs
    between short and long texts.

    Call arguments: token ids `[B, T]`, 0 is padding, and embeddings `[B, T, D]`.
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

    # The logarithms u and v have to move by several units while embeddings move by
    # tenths, and Adam moves every variable alike: so the variables hold u and v divided
    # by these. On examples/search_api_docs.py that is worth 0.01 in MRR@10.
    token_gain = 2.0
    position_gain = 5.0

    def __init__(self, vocabulary_size, sequence_length, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.sequence_length = sequence_length

    def build(self, tokens_shape, embeddings_shape):
        """Makes the weights."""
        self.token_weights = self.add_weight(
            shape=(self.vocabulary_size,), initializer="zeros", name="token_weights"
        )
        self.position_weights = self.add_weight(
            shape=(self.sequence_length.bit_length(), self.sequence_length),
            initializer="zeros",
            name="position_weights",
        )

    def call(self, tokens, embeddings):
        """Pooled embeddings `[B, D]`."""
        _check_length(tokens.shape[1], self.sequence_length)
        length = ops.sum(ops.cast(tokens != 0, "float32"), axis=-1)  # [B]
        # Of 1, 2 to 3, 4 to 7, ... tokens; the half keeps rounding off the boundaries.
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
        """`[B, D]`."""
        return (embeddings_shape[0], embeddings_shape[2])

    def get_config(self):
        """The arguments that make this layer again."""
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "sequence_length": self.sequence_length,
        }


@keras.saving.register_keras_serializable("tfembloss")
class PositionEmbedding(keras.layers.Layer):
    """Adds a learned embedding of its position to each token.

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
        """Makes the table of positions."""
        self.positions = self.add_weight(
            shape=(self.sequence_length, shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=0.05),
            name="positions",
        )

    def call(self, x):
        """Embeddings with their positions added."""
        _check_length(x.shape[1], self.sequence_length)
        return x + self.positions[: ops.shape(x)[1]]

    def get_config(self):
        """The arguments that make this layer again."""
        return {**super().get_config(), "sequence_length": self.sequence_length}


@keras.saving.register_keras_serializable("tfembloss")
class CosineHead(keras.layers.Layer):
    r"""Cosines of embeddings with a learned centre of each class.

    $$y_{ic} = \max_k \cos(x_i, w_{ck})$$

    over the sub-centres k of class c. `tfembloss.EmbeddingClassifier` trains it with an
    encoder, by a loss on class scores.

    Call arguments: embeddings `[B, D]`. Returns cosines `[B, C]`, in the precision of the
    centres, whatever the policy. With `classes [S]`, integers, of those alone: `[B, S]`.

    Args:
        num_classes: C, >= 1.
        sub_centers: centres of each class, >= 1; with several, a class may have more than
            one face, or noisy labels of its own.
        **kwargs: as in `keras.layers.Layer`, `name` and `dtype`.

    Raises:
        ValueError: a number is too small, or the input is not `[B, D]`.

    Example:

    >>> import numpy as np
    >>> head = CosineHead(num_classes=3)
    >>> head(np.array([[1.0, 2.0]])).shape
    TensorShape([1, 3])
    >>> tuple(head.centers.shape)
    (3, 2)

    Reference:
        Deng et al., "Sub-center ArcFace: Boosting Face Recognition by Large-scale Noisy
        Web Faces", 2020, https://doi.org/10.1007/978-3-030-58621-8_43

    Relations:
        The weights of pytorch-metric-learning's ArcFaceLoss (W, transposed) and of its
        proxy losses. Rows c K to c K + K - 1 of `centers` are those of class c.
    """

    def __init__(self, num_classes, sub_centers=1, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = _count("num_classes", num_classes)
        self.sub_centers = _count("sub_centers", sub_centers)

    def build(self, shape):
        """Makes the centres."""
        if len(shape) != 2:
            raise ValueError(
                "CosineHead takes embeddings [B, D] of one column of inputs. Received: "
                f"shape={tuple(shape)}"
            )
        # In directions alone, any scale is as good; 1 is what learning rates expect.
        self.centers = self.add_weight(
            shape=(self.num_classes * self.sub_centers, shape[1]),
            initializer=keras.initializers.RandomNormal(stddev=1.0),
            name="centers",
            autocast=False,
        )

    def call(self, embeddings, classes=None):
        """Cosines `[B, C]`, or `[B, S]` of the `classes [S]`."""
        x = distances.directions(tf.cast(embeddings, self.variable_dtype))  # [B, D]
        centers = self.centers.value  # [C * K, D]
        if classes is not None:
            rows = classes[:, None] * self.sub_centers + tf.range(
                self.sub_centers, dtype=classes.dtype
            )
            centers = tf.gather(centers, tf.reshape(rows, [-1]))  # [S * K, D]
        centers = distances.directions(tf.convert_to_tensor(centers))
        cosines = tf.matmul(x, centers, transpose_b=True)  # [B, C * K]
        if self.sub_centers == 1:
            return cosines
        num_classes = self.num_classes if classes is None else tf.size(classes)
        by_class = tf.reshape(cosines, [-1, num_classes, self.sub_centers])
        return tf.reduce_max(by_class, axis=2)

    def compute_output_shape(self, shape):
        """`[B, C]`."""
        return (shape[0], self.num_classes)

    def get_config(self):
        """The arguments that make this layer again."""
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "sub_centers": self.sub_centers,
        }


def _count(name, value):
    if isinstance(value, numbers.Integral) and value >= 1:
        return int(value)
    raise ValueError(f"`{name}` must be a whole number >= 1. Received: {name}={value!r}")


@keras.saving.register_keras_serializable("tfembloss")
class PairHead(keras.layers.Layer):
    r"""Logits of what two embeddings are to each other, as entailment or contradiction.

    $$y_i = W [u_i; v_i; |u_i - v_i|; u_i v_i] + b$$

    of the parts that are wanted, in this order. `tfembloss.EmbeddingClassifier` trains it
    with an encoder, by `tfembloss.losses.SoftmaxLoss`.

    Call arguments: columns `[B, 2, D]`. Returns logits `[B, num_labels]`, in the precision
    of the weights, whatever the policy.

    Args:
        num_labels: number of labels, >= 1.
        embeddings: whether u and v are parts.
        difference: whether |u - v| is.
        product: whether u v, entry by entry, is.
        **kwargs: as in `keras.layers.Layer`, `name` and `dtype`.

    Raises:
        ValueError: there are no parts or no labels, or the input is not `[B, 2, D]`.

    Example:

    >>> import numpy as np
    >>> PairHead(num_labels=3)(np.ones([4, 2, 5])).shape
    TensorShape([4, 3])

    Reference:
        Reimers and Gurevych, "Sentence-BERT: Sentence Embeddings using Siamese
        BERT-Networks", 2019, https://arxiv.org/abs/1908.10084

    Relations:
        The classifier of sentence-transformers' SoftmaxLoss: `embeddings`, `difference`,
        `product` are its concatenation_sent_rep, _difference, _multiplication.
    """

    def __init__(
        self,
        num_labels,
        embeddings=True,
        difference=True,
        product=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_labels = _count("num_labels", num_labels)
        self.embeddings, self.difference, self.product = embeddings, difference, product
        if not (embeddings or difference or product):
            raise ValueError(
                "Expected at least one of `embeddings`, `difference` and `product` to be "
                "true. Received none."
            )

    def build(self, shape):
        """Makes the weights."""
        if len(shape) != 3 or shape[1] != 2:
            raise ValueError(
                "PairHead takes the columns [B, 2, D] of a tuple of two inputs. Received: "
                f"shape={tuple(shape)}"
            )
        parts = 2 * bool(self.embeddings) + bool(self.difference) + bool(self.product)
        self.kernel = self.add_weight(
            shape=(parts * shape[2], self.num_labels), name="kernel", autocast=False
        )
        self.bias = self.add_weight(
            shape=(self.num_labels,), initializer="zeros", name="bias", autocast=False
        )

    def call(self, columns):
        """Logits `[B, num_labels]`."""
        columns = tf.cast(columns, self.variable_dtype)
        u, v = tf.unstack(columns, 2, axis=1)  # [B, D] each
        parts = [u, v] if self.embeddings else []
        if self.difference:
            parts.append(tf.abs(u - v))
        if self.product:
            parts.append(u * v)
        return tf.matmul(tf.concat(parts, axis=1), self.kernel) + self.bias

    def compute_output_shape(self, shape):
        """`[B, num_labels]`."""
        return (shape[0], self.num_labels)

    def get_config(self):
        """The arguments that make this layer again."""
        return {
            **super().get_config(),
            "num_labels": self.num_labels,
            "embeddings": self.embeddings,
            "difference": self.difference,
            "product": self.product,
        }


@keras.saving.register_keras_serializable("tfembloss")
class CrossBatchMemory(keras.layers.Layer):
    """A queue of the embeddings of past batches, with which a loss compares each new row.

    `tfembloss.EmbeddingModel(encoder, memory=CrossBatchMemory(size))` fills it in training:
    the rows of all replicas, with their ids, as they were embedded then. They have no
    gradient, and no values of their own in the loss. `evaluate` leaves it as it is, and it
    is saved and loaded with the model.

    Embeddings go out of date as the encoder learns: a queue of a few epochs' steps suits a
    low learning rate, and begins best after a few epochs without one.

    Args:
        size: M, the number of rows that it holds, from 1 to 2^24.
        **kwargs: as in `keras.layers.Layer`, `name` and `dtype`.

    Raises:
        ValueError: `size` is no number of rows; in use, embeddings of another shape.

    Example:

    >>> import numpy as np
    >>> memory = CrossBatchMemory(size=4)
    >>> for number in range(3):
    ...     memory.enqueue(np.full([2, 3], number), np.array([number, number]))
    >>> memory.past().ids.numpy().tolist()   # the oldest rows are gone
    [2, 2, 1, 1]

    Reference:
        Wang et al., "Cross-Batch Memory for Embedding Learning", 2020,
        https://arxiv.org/abs/1912.06798

    Relations:
        pytorch-metric-learning's CrossBatchMemory is a loss around a loss, which compares
        the batch with the queue alone, the batch itself in it without gradient. Here the
        rows of the batch are compared with each other, with gradient, and with the queue.
        There the queue is not in what is saved.
    """

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = _count("size", size)
        # A file that is loaded may say anything, and would get the memory for it.
        if self.size > 2**24:
            raise ValueError(
                "Expected a memory of at most 2^24 rows, more than a few epochs have. "
                f"Received: size={size}"
            )

    def build(self, shape):
        """Makes the queue, for embeddings `[B, D]` or `[B, n, D]` of this shape."""
        self.embeddings = self._state((self.size, *shape[1:]), "embeddings", "float32")
        self.ids = self._state((self.size,), "ids", "int64")
        self.num_rows = self._state((), "num_rows", "int64")  # that have ever come
        self.built = True

    def load_own_variables(self, store):
        """What was saved; a queue that is not built takes its shape from there."""
        names = set(store.keys())
        if "0" in names and not self.built:
            self.build((None, *store["0"].shape[1:]))
        if "0" in names:
            self._saved_size = store["0"].shape[0]
        # Keras tries a second path in the file, and shows what failed there.
        if getattr(self, "_saved_size", self.size) != self.size:
            raise ValueError(
                f"Expected the saved rows of a memory of size {self.size}. Received: "
                f"{self._saved_size} rows. Make the memory as large as the saved one."
            )
        super().load_own_variables(store)

    def _state(self, shape, name, dtype):
        # Each replica writes the rows of all, so that the first one's will do for all.
        return self.add_weight(
            shape=shape,
            initializer="zeros",
            dtype=dtype,
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            name=name,
        )

    def past(self):
        """What the queue holds, `tfembloss.losses.base.Past`."""
        present = tf.range(self.size, dtype=tf.int64) < self.num_rows.value
        embeddings, ids = map(tf.convert_to_tensor, (self.embeddings, self.ids))
        return Past(embeddings, ids, present)

    def enqueue(self, embeddings, ids):
        """Puts the rows of all replicas in the place of the oldest.

        Args:
            embeddings: this replica's `[B, D]` or `[B, n, D]`.
            ids: their ids `[B]`, int64.
        """
        embeddings = tf.cast(tf.stop_gradient(embeddings), tf.float32)
        if not self.built:
            self.build(embeddings.shape)
        expected = tuple(self.embeddings.shape[1:])
        if tuple(embeddings.shape[1:]) != expected:
            raise ValueError(
                f"Expected embeddings of the shape that the memory holds, [B, "
                f"{', '.join(map(str, expected))}]. Received: embeddings.shape="
                f"{tuple(embeddings.shape)}. A model with a memory trains on one number of "
                "columns."
            )
        rows = replicas.gather(embeddings)[-self.size :]
        row_ids = replicas.gather(tf.cast(ids, tf.int64))[-self.size :]
        before = tf.convert_to_tensor(self.num_rows)
        places = before + tf.range(tf.shape(rows, tf.int64)[0])
        places = (places % self.size)[:, None]
        for state, new in ((self.embeddings, rows), (self.ids, row_ids)):
            state.assign(tf.tensor_scatter_nd_update(state.value, places, new))
        self.num_rows.assign(before + tf.shape(rows, tf.int64)[0])

    def get_config(self):
        """The arguments that make this layer again."""
        return {**super().get_config(), "size": self.size}
