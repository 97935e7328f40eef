"""A model with one encoder for one or several columns of inputs."""

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
    validation and callbacks are Keras's own. `fit` needs no `y` if the loss needs none,
    but metrics passed to `compile` do. The model trains under any `tf.distribute` strategy
    if it is created in the strategy's scope.

    To customize, override `call` (from columns to embeddings) or `compute_loss` (from
    embeddings to the loss).

    Args:
        encoder: Keras model or layer from the input of one column (a tensor, or a dict of
            tensors) to embeddings `[rows, D]`; or a `keras_hub.models.TextEmbedder`, whose
            preprocessor is used too, with less padding.
        preprocessor: function from a batch of raw inputs of one column, such as strings, to
            the encoder's input. With it, `fit`, `evaluate` and `predict` take raw inputs,
            as arrays, lists, a batched `tf.data.Dataset` or a `keras.utils.PyDataset`, and
            it runs in tf.data. If it has an argument `training`, like Keras layers, this is
            true in `fit` and false otherwise, so data augmentation belongs here. To be
            saved with the model it must be serializable by Keras, like
            `tfembloss.text.TextPreprocessor`.
        mini_batch_size: number of rows of a batch (with all their columns) that go through
            the encoder at once, in `fit` and `evaluate`; None for all rows. A step then
            needs the encoder's memory for that many rows only, so that the batch may be as
            large as the loss allows. The loss and its gradient are those of the whole
            batch (gradient caching), at the cost of a second forward pass of the encoder
            with the same dropout. Replicas reduce gradients once per step. The encoder
            must treat every row by itself: `BatchNormalization` that is not frozen, other
            states that depend on the batch, layers that add losses when they are called,
            and draws from `tf.random` raise an error that names the cause. Under
            `jit_compile=True`, such states and draws make the loss NaN instead.
        memory: `tfembloss.layers.CrossBatchMemory`: in training, the loss also compares
            each row with those of earlier batches. For losses on ids, or on columns in one
            direction; `CrossBatchMemory` lists those that cannot use it.
        name, dtype: as in `keras.Model`.

    Raises:
        ValueError: if an argument is invalid; at the first step, if the inputs cannot be
            columns, or the encoder or the loss does not support `mini_batch_size` or
            `memory`.

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
        sentence-transformers has separate losses for mini-batches:
        CachedMultipleNegativesRankingLoss, CachedGISTEmbedLoss and others named Cached, and
        the mini-batched version of MegaBatchMarginLoss. Here, any loss of
        `tfembloss.losses` can be used with `mini_batch_size`.
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
        """Returns the memory, whose shape depends on the columns in training."""
        return [] if self.memory is None else [self.memory]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Computes the compiled loss of the embeddings, and in training of the memory."""
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
        loss = self._loss_of(y, y_pred, sample_weight, self.memory.contents())
        has_ids = not y.dtype.is_floating
        ids = check_ids(y, y_pred) if has_ids else tf.zeros(tf.shape(y_pred)[:1], tf.int64)
        self.memory.enqueue(y_pred, ids)
        return self._with_added_losses(loss)
