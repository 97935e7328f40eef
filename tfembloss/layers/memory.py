"""What a model remembers of earlier batches for its loss: embeddings, or a histogram."""

import keras
import tensorflow as tf

from tfembloss import replicas
from tfembloss.checks import fraction, integer
from tfembloss.config import Configurable
from tfembloss.losses.labeled.histograms import DynamicSoftMarginLoss, GapHistogram
from tfembloss.masks import MemoryRows


@keras.saving.register_keras_serializable("tfembloss")
class CrossBatchMemory(Configurable, keras.layers.Layer):
    """A queue of the embeddings of earlier batches, which a loss compares with each row.

    `tfembloss.EmbeddingModel(encoder, memory=CrossBatchMemory(size))` fills it in training
    with the rows of all replicas and their ids, or labels, as they were embedded then. They
    get no gradient, and are not anchors of the loss. `evaluate` neither uses nor changes
    the queue, and it is saved and loaded with the model.

    Embeddings become outdated as the encoder learns: a queue of the steps of a few epochs
    suits a low learning rate, and is best added after a few epochs without it.

    It cannot be used with `SigLIPLoss`, `GISTEmbedLoss`, `LiftedStructureLoss`,
    `NPairsLoss`, `AngularLoss`, `IntraPairVarianceLoss`, `HistogramLoss` or
    `QuadrupletLoss`, or with miners of all pairs (`HDCMiner`, `UniformHistogramMiner`,
    `AngularMiner`).

    Args:
        size: M, the number of rows that it holds, from 1 to 2^24.
        **kwargs: as in `keras.layers.Layer`, `name` and `dtype`.

    Raises:
        ValueError: if `size` is out of range, or the shape of the embeddings changes.

    Example:

    >>> import numpy as np
    >>> memory = CrossBatchMemory(size=4)
    >>> for number in range(3):
    ...     memory.enqueue(np.full([2, 3], number), np.array([number, number]))
    >>> memory.contents().ids.numpy().tolist()   # the oldest rows are gone
    [2, 2, 1, 1]

    Reference:
        Wang et al., "Cross-Batch Memory for Embedding Learning", 2020,
        https://arxiv.org/abs/1912.06798

    Relations:
        pytorch-metric-learning's CrossBatchMemory is a loss that wraps a loss. It compares
        the batch only with the queue, which has a copy of the batch without gradient. Here,
        the rows of the batch are compared with each other, with gradient, and with the
        queue: the values are those of a queue there that is longer by a batch. There, the
        queue is not saved. Its losses also take `ref_emb`, rows to compare with in place
        of the batch's own; a memory is always beside them.
    """

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = integer("size", size, 1)
        # A loaded file may have any size, and memory would be allocated for it.
        if self.size > 2**24:
            raise ValueError(
                "Expected a memory of at most 2^24 rows, more than a few epochs have. "
                f"Received: size={size}"
            )

    def build(self, shape, labels_shape=()):
        """Builds the queue for embeddings `[B, D]` or `[B, n, D]` of this shape.

        Args:
            shape: that of the embeddings.
            labels_shape: `(L,)` if rows have several labels, `()` if they have one id.
        """
        self.embeddings = self._state((self.size, *shape[1:]), "embeddings", "float32")
        self.ids = self._state((self.size, *labels_shape), "ids", "int64")
        self.num_rows = self._state((), "num_rows", "int64")  # enqueued so far
        self.built = True

    def load_own_variables(self, store):
        """Loads the saved queue; one that is not built takes its shape from the file."""
        names = set(store.keys())
        if "0" in names and not self.built:
            self.build((None, *store["0"].shape[1:]), tuple(store["1"].shape[1:]))
        if "0" in names:
            self._saved_size = store["0"].shape[0]
        # Keras then tries a second path in the file, and would show that path's error.
        if getattr(self, "_saved_size", self.size) != self.size:
            raise ValueError(
                f"Expected the saved rows of a memory of size {self.size}. Received: "
                f"{self._saved_size} rows. Make the memory as large as the saved one."
            )
        super().load_own_variables(store)

    def _state(self, shape, name, dtype):
        # Each replica writes the rows of all replicas, so that all hold the same.
        return self.add_weight(
            shape=shape,
            initializer="zeros",
            dtype=dtype,
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            name=name,
        )

    def contents(self):
        """Returns the contents of the queue, as `tfembloss.masks.MemoryRows`."""
        present = tf.range(self.size, dtype=tf.int64) < self.num_rows.value
        embeddings, ids = map(tf.convert_to_tensor, (self.embeddings, self.ids))
        return MemoryRows(tf.stop_gradient(embeddings), ids, present)

    def enqueue(self, embeddings, ids):
        """Replaces the oldest rows by the rows of all replicas.

        Args:
            embeddings: this replica's `[B, D]` or `[B, n, D]`.
            ids: their ids `[B]`, or labels `[B, L]`, int64.
        """
        embeddings = tf.cast(tf.stop_gradient(embeddings), tf.float32)
        if not self.built:
            self.build(embeddings.shape, tuple(tf.convert_to_tensor(ids).shape[1:]))
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


@keras.saving.register_keras_serializable("tfembloss")
class TripletHistogram(Configurable, keras.layers.Layer):
    """A moving histogram of the gaps of triplets, for `DynamicSoftMarginLoss`.

    `tfembloss.EmbeddingModel(encoder, memory=TripletHistogram())` mixes in each batch in
    training. `evaluate` neither uses nor changes it, and it is saved with the model.

    Args:
        num_bins: number of bins, as in the loss.
        momentum: the weight of a new batch, 0 to 1.
        **kwargs: as in `keras.layers.Layer`, `name` and `dtype`.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> import numpy as np
    >>> memory = TripletHistogram(num_bins=4)
    >>> memory.enqueue(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), np.array([0, 1, 1]))
    >>> [round(part, 2) for part in memory.contents().parts.numpy().tolist()]
    [0.41, 0.59, 0.0, 0.0]

    Relations:
        The `hist_` of pytorch-metric-learning's DynamicSoftMarginLoss, which is not saved.
    """

    def __init__(self, num_bins=10, momentum=0.01, **kwargs):
        super().__init__(**kwargs)
        self.num_bins = integer("num_bins", num_bins, 1)
        self.momentum = fraction("momentum", momentum)
        self.parts = self.add_weight(
            shape=(self.num_bins,),
            initializer="zeros",
            dtype="float32",
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            name="parts",
        )
        self.built = True

    def contents(self):
        """Returns the histogram, as the loss takes it."""
        return GapHistogram(tf.convert_to_tensor(self.parts), self.momentum)

    def enqueue(self, embeddings, ids):
        """Mixes in the triplets of the rows of all replicas.

        Args:
            embeddings: this replica's `[B, D]`.
            ids: their ids `[B]`, int64.
        """
        loss = DynamicSoftMarginLoss(self.num_bins, dtype="float32")
        ids, rows = tf.convert_to_tensor(ids), tf.stop_gradient(embeddings)
        self.parts.assign(self.contents().moved(loss.counts(ids, rows)))
