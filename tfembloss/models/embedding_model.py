"""One encoder over one or several columns of inputs."""

import keras
import tensorflow as tf

from tfembloss.layers import CrossBatchMemory
from tfembloss.losses.base import EmbeddingLoss
from tfembloss.losses.inputs import check_ids, no_targets
from tfembloss.models.encoder_model import EncoderModel


@keras.saving.register_keras_serializable("tfembloss")
class EmbeddingModel(EncoderModel):
    """Trains an encoder with any loss of `tfembloss.losses`.

    One column `x` gives embeddings `[B, D]`; a tuple of n columns (anchors, positives,
    negatives, ...) gives them stacked, `[B, n, D]`. Both are one tensor, so `compile`,
    validation and callbacks are Keras's own. `fit` needs no `y` where the loss needs none,
    though metrics given to `compile` do. Trains under any `tf.distribute` strategy: make it
    in the strategy's scope.

    To build another model on this one, replace `call` (columns in, embeddings out) or
    `compute_loss` (loss from embeddings).

    Args:
        encoder: Keras model or layer from one column's input (a tensor, or a dict of
            tensors) to embeddings `[rows, D]`.
        preprocessor: function from a batch of raw inputs of one column (strings, say) to
            the encoder's input. With it `fit`, `evaluate` and `predict` take raw inputs,
            as arrays, lists, a batched `tf.data.Dataset` or a `keras.utils.PyDataset`, and
            it runs in tf.data. If it has an argument `training`, as Keras's layers have,
            that is true in `fit` and false otherwise: augmentation belongs here. To
            be saved with the model it must be Keras-serialisable, as
            `tfembloss.text.TextPreprocessor` is.
        mini_batch_size: number of rows of a batch that go through the encoder at once, all
            columns of these, in `fit` and `evaluate`: a step then takes the encoder's
            memory for so many rows, and the batch may be as large as the loss alone
            allows. The loss and its gradient are those of the whole batch, dropout
            included (gradient caching), for a second forward pass of the encoder. None
            for all rows at once.
        memory: `tfembloss.layers.CrossBatchMemory`: the loss compares each row with those
            of earlier batches, too, in training. For losses on ids and on columns in one
            direction.
        name, dtype: as in `keras.Model`.

    Raises:
        ValueError: `encoder` is no Keras layer, `preprocessor` cannot be called,
            `mini_batch_size` is no number of rows or `memory` no memory; in use, inputs
            that cannot be columns, with `mini_batch_size` an encoder with
            `BatchNormalization` that is not frozen or with layers that add losses when they
            are called, with `memory` a loss that takes none.

    Example:

    >>> import tfembloss
    >>> texts = ["a red apple", "a green pear", "the blue sky", "the grey sea"]
    >>> vocabulary = tfembloss.text.learn_vocabulary(texts, size=100)
    >>> model = EmbeddingModel(
    ...     tfembloss.text.TextEncoder(len(vocabulary), dim=8),
    ...     tfembloss.text.TextPreprocessor(vocabulary, sequence_length=16),
    ... )
    >>> model.compile("adam", loss=tfembloss.losses.MultipleNegativesRankingLoss())
    >>> history = model.fit((texts[:2], texts[2:]), epochs=2, verbose=0)
    >>> model.predict(texts, verbose=0).shape
    (4, 8)

    Reference:
        Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited
        Setup", 2021, https://arxiv.org/abs/2101.06983

    Relations:
        sentence-transformers has losses of their own for mini-batches:
        CachedMultipleNegativesRankingLoss, CachedGISTEmbedLoss and the others named Cached,
        and the mini-batched version of MegaBatchMarginLoss. Here that is any loss of
        `tfembloss.losses` with `mini_batch_size`.
    """

    def __init__(
        self,
        encoder,
        preprocessor=None,
        mini_batch_size=None,
        memory=None,
        name=None,
        dtype=None,
    ):
        super().__init__(encoder, preprocessor, mini_batch_size, name, dtype)
        if memory is not None and not isinstance(memory, CrossBatchMemory):
            raise ValueError(
                "`memory` holds the rows of earlier batches: expected a "
                "tfembloss.layers.CrossBatchMemory(size) or None. Received: "
                f"memory={memory!r}"
            )
        self.memory = memory

    def _layers_of_steps(self):
        """The memory, whose shape follows from the columns that the model trains on."""
        return [] if self.memory is None else [self.memory]

    # Loss from embeddings, and from those of earlier batches.

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The compiled loss of the embeddings `y_pred`, and in training of the memory."""
        if self.memory is None:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        if not self.memory.built:
            self.memory.build(tuple(y_pred.shape))
        if not training:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        if not isinstance(self.loss, EmbeddingLoss):
            raise ValueError(
                "With `memory`, expected one loss of tfembloss.losses in `compile`. "
                f"Received: loss={self.loss!r}"
            )
        y = no_targets(y_pred) if y is None else tf.convert_to_tensor(y)
        loss = self.loss(y, y_pred, sample_weight, memory=self.memory.contents())
        has_ids = not y.dtype.is_floating
        ids = check_ids(y, y_pred) if has_ids else tf.zeros(tf.shape(y_pred)[:1], tf.int64)
        self.memory.enqueue(y_pred, ids)
        return sum(map(self._aggregate_additional_loss, self.losses), loss)
