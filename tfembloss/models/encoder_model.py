"""What the models with one encoder have in common."""

import keras
import tensorflow as tf

from tfembloss.models import inputs
from tfembloss.models.base import (
    ColumnModel,
    check_no_strings,
    column_shapes,
    one_tensor,
)
from tfembloss.models.vocabulary import check_vocabulary


class EncoderModel(ColumnModel):
    """Base of the models with one encoder for one or several columns of inputs.

    Args:
        encoder, preprocessor, mini_batch_size: see `EmbeddingModel`.
        name, dtype: as in `keras.Model`.
    """

    def __init__(
        self, encoder, preprocessor=None, mini_batch_size=None, name=None, dtype=None
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
        check_vocabulary(preprocessor, encoder)
        self.encoder = encoder
        self.preprocessor = preprocessor

    # Columns in, embeddings out.

    def build(self, input_shape):
        """Builds the encoder from the shapes of the columns."""
        if not self.encoder.built:
            self.encoder.build(column_shapes(input_shape)[0])
        self.built = True

    def call(self, x, training=None):
        """Returns embeddings `[B, D]` of one column, `[B, n, D]` of a tuple of n."""
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
        """Returns one column of the encoder's own inputs."""
        return known_inputs(self.encoder)

    def _known_outputs(self, x):
        """Returns symbolic embeddings of a built encoder with a known output shape."""
        dim = known_dim(self.encoder)
        if dim is None:
            return None
        columns = (len(x),) if isinstance(x, (tuple, list)) else ()
        return keras.KerasTensor((None, *columns, dim), self.encoder.compute_dtype)

    # Raw inputs, through the preprocessor.

    @property
    def takes_raw_inputs(self):
        """Whether the model has a preprocessor."""
        return self.preprocessor is not None

    def encoder_inputs(self, x, training=False):
        """Applies the preprocessor to each column."""
        if isinstance(x, tuple):
            return tuple(self.encoder_inputs(column, training) for column in x)
        inputs.check_columns_are_no_dict(x, self.preprocessor)
        return inputs.preprocess(self.preprocessor, x, training)


def known_dim(encoder):
    """Returns the dimension of a built encoder's embeddings; None if it is unknown."""
    shape = getattr(encoder, "output_shape", None) if encoder.built else None
    return shape[-1] if isinstance(shape, tuple) and len(shape) == 2 else None


def known_inputs(encoder):
    """Returns symbolic inputs of a built encoder; None if they are unknown."""
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
