"""One encoder over one or several columns of inputs."""

import keras
import tensorflow as tf

from tfembloss.layers import CrossBatchMemory
from tfembloss.losses.base import EmbeddingLoss
from tfembloss.losses.inputs import check_ids, no_targets
from tfembloss.models import inputs
from tfembloss.models.base import (
    ColumnModel,
    check_no_strings,
    column_shapes,
    one_tensor,
)
from tfembloss.models.vocabulary import check_vocabulary


@keras.saving.register_keras_serializable("tfembloss")
class EmbeddingModel(ColumnModel):
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
            of past batches, too, in training. For losses on ids and on columns in one
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
        super().__init__(mini_batch_size, name=name, dtype=dtype)
        if not isinstance(encoder, keras.layers.Layer):
            raise ValueError(
                "`encoder` maps one column's input to embeddings [rows, D]: expected a "
                f"Keras model or layer. Received: encoder={encoder!r}"
            )
        if preprocessor is not None and not callable(preprocessor):
            raise ValueError(
                "`preprocessor` maps a batch of raw inputs to the encoder's input: "
                f"expected a function or None. Received: preprocessor={preprocessor!r}"
            )
        if memory is not None and not isinstance(memory, CrossBatchMemory):
            raise ValueError(
                "`memory` holds the rows of past batches: expected a "
                "tfembloss.layers.CrossBatchMemory(size) or None. Received: "
                f"memory={memory!r}"
            )
        check_vocabulary(preprocessor, encoder)
        self.encoder = encoder
        self.preprocessor = preprocessor
        self.memory = memory

    # Columns in, embeddings out.

    def build(self, input_shape):
        """Builds the encoder from the shapes of the columns."""
        if not self.encoder.built:
            self.encoder.build(column_shapes(input_shape)[0])
        self.built = True

    def call(self, x, training=None):
        """Embeddings `[B, D]` of one column, `[B, n, D]` of a tuple of n columns."""
        check_no_strings(x)

        def embed(rows):
            return one_tensor(self.encoder(rows, training=training), rank=2)

        if not isinstance(x, (tuple, list)):
            return embed(x)
        if _alike(x):  # one call of the encoder for all columns
            rows = tf.nest.map_structure(lambda *column: tf.concat(column, axis=0), *x)
            return tf.stack(tf.split(embed(rows), len(x)), axis=1)  # of [n * B, D]
        return tf.stack([embed(column) for column in x], axis=1)

    def _known_inputs(self):
        """One column of the encoder's own inputs."""
        return known_inputs(self.encoder)

    def _known_outputs(self, x):
        """Embeddings of a built encoder, whose output's shape is known."""
        dim = known_dim(self.encoder)
        if dim is None:
            return None
        columns = (len(x),) if isinstance(x, (tuple, list)) else ()
        return keras.KerasTensor((None, *columns, dim), self.encoder.compute_dtype)

    def _layers_of_steps(self):
        """The memory, whose shape follows from the columns that the model trains on."""
        return [] if self.memory is None else [self.memory]

    # Loss from embeddings, and from those of past batches.

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
        loss = self.loss(y, y_pred, sample_weight, past=self.memory.past())
        has_ids = not y.dtype.is_floating
        ids = check_ids(y, y_pred) if has_ids else tf.zeros(tf.shape(y_pred)[:1], tf.int64)
        self.memory.enqueue(y_pred, ids)
        return sum(map(self._aggregate_additional_loss, self.losses), loss)

    # Raw inputs, through the preprocessor.

    @property
    def takes_raw_inputs(self):
        """Whether there is a preprocessor."""
        return self.preprocessor is not None

    def encoder_inputs(self, x, training=False):
        """Each column through the preprocessor."""
        if isinstance(x, tuple):
            return tuple(self.encoder_inputs(column, training) for column in x)
        inputs.check_columns_are_no_dict(x, self.preprocessor)
        return inputs.preprocess(self.preprocessor, x, training)

    # Saving.

    def get_config(self):
        """The arguments that make this model again."""
        return {
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "preprocessor": keras.saving.serialize_keras_object(self.preprocessor),
            "mini_batch_size": self.mini_batch_size,
            "memory": keras.saving.serialize_keras_object(self.memory),
            "name": self.name,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
        }


def known_dim(encoder):
    """Dimension of a built encoder's embeddings; None where it is not known yet."""
    shape = getattr(encoder, "output_shape", None) if encoder.built else None
    return shape[-1] if isinstance(shape, tuple) and len(shape) == 2 else None


def known_inputs(encoder):
    """Symbolic inputs of a built encoder; None where they are not known."""
    if not encoder.built or getattr(encoder, "inputs", None) is None:
        return None
    if isinstance(encoder, keras.Sequential):
        return keras.KerasTensor(encoder.inputs[0].shape, encoder.inputs[0].dtype)
    structure = encoder.input
    return tf.nest.map_structure(lambda x: keras.KerasTensor(x.shape, x.dtype), structure)


def _alike(columns):
    """Whether columns have the same structure, types and (known) shapes of rows."""
    first, *others = (
        tf.nest.map_structure(lambda x: (x.dtype, tuple(x.shape[1:])), column)
        for column in columns
    )
    known = all(tf.nest.map_structure(lambda x: x is not None, tf.nest.flatten(first)))
    return known and all(other == first for other in others)
