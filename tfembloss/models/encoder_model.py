"""What the models with one encoder have in common."""

import functools

import keras
import numpy as np
import tensorflow as tf

from tfembloss import pretrained
from tfembloss.models import inputs
from tfembloss.models.base import (
    ColumnModel,
    check_no_strings,
    column_shapes,
    one_tensor,
)
from tfembloss.models.vocabulary import check_vocabulary
from tfembloss.text.checkpoint_tokenizer import check_prompt


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

    @classmethod
    def from_pretrained(
        cls,
        source,
        *,
        sequence_length=None,
        dimensions=None,
        prompts=None,
        dropout=None,
        dtype=None,
        **arguments,
    ):
        """Creates a model with the encoder and the tokenizer of a pretrained checkpoint.

        The embeddings are those that sentence-transformers computes of the same folder.
        Nothing is downloaded, and nothing in the folder is executed.

        Args:
            source: the folder of a Hugging Face or sentence-transformers checkpoint.
            sequence_length: the maximum number of tokens of a text; None for the
                checkpoint's own.
            dimensions: k, to keep only the first k dimensions of the embeddings; for
                encoders trained for it (Matryoshka).
            prompts: dict of a name to a text that is put before each text; None for those
                of the checkpoint. In `fit` on columns, the prompt `"query"` is put before
                the first column and `"document"` before the others, and other names are
                for the columns in their order; `predict` takes a name.
            dropout: fraction that is dropped everywhere in training; None for the
                checkpoint's own.
            dtype: policy of encoder and model, as in `keras.Model`: with
                `"mixed_bfloat16"` or `"mixed_float16"`, the blocks compute in half
                precision; weights and embeddings are float32. None for the global one.
            **arguments: the other arguments of this class.

        Raises:
            ValueError: the folder is not a complete checkpoint, or the encoder cannot be
                computed as it was trained; says what is missing.

        Example:

        ```python
        model = tfembloss.EmbeddingModel.from_pretrained("all-MiniLM-L6-v2")
        ```
        """
        encoder, preprocessor = pretrained.load(
            source,
            sequence_length=sequence_length,
            dimensions=dimensions,
            prompts=prompts,
            dropout=dropout,
            dtype=dtype,
        )
        return cls(encoder=encoder, preprocessor=preprocessor, dtype=dtype, **arguments)

    def save_pretrained(self, folder):
        """Writes the encoder as a folder that sentence-transformers loads.

        An earlier one there is replaced.

        Args:
            folder: the folder to write.

        Raises:
            ValueError: the encoder was not created by `from_pretrained`, or the folder
                holds other files.
        """
        pretrained.save(folder, self.encoder, self.preprocessor)

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

    def encoder_inputs(self, x, training=False, prompt=None):
        """Applies the preprocessor to each column, with the prompts of columns."""
        if isinstance(x, tuple):
            names = (
                self._prompts_of_columns(len(x)) if prompt is None else [prompt] * len(x)
            )
            return tuple(
                self.encoder_inputs(column, training, name)
                for column, name in zip(x, names, strict=True)
            )
        inputs.check_columns_are_no_dict(x, self.preprocessor)
        function = self.preprocessor
        if prompt is not None:
            function = functools.partial(function, prompt=prompt)
        return inputs.preprocess(function, x, training)

    @property
    def prompts(self):
        """Dict of the preprocessor's prompts by name, empty if it has none."""
        return getattr(self.preprocessor, "prompts", {})

    def _prompts_of_columns(self, count):
        """Returns names of prompts for n columns; None for the default one."""
        names = list(self.prompts)
        if "query" in names or "document" in names:
            by_role = ["query", *["document"] * (count - 1)]
            return [name if name in names else None for name in by_role]
        return names if len(names) == count else [None] * count

    def predict(self, x, batch_size=None, *, prompt=None, **kwargs):
        """`keras.Model.predict`, also on raw inputs: embeddings as a numpy array.

        Texts are encoded in the order of their lengths, so that a batch has little padding,
        and embeddings returned in the order of the texts.

        Args:
            x: texts or other inputs of one column, or a tuple of columns.
            batch_size: number of rows of a batch.
            prompt: name of one of `prompts`, which is put before each text; None for the
                default.
            **kwargs: as in `keras.Model.predict`.
        """
        if prompt is not None:
            check_prompt(prompt, self.prompts)
        order = None if kwargs.get("steps") else self._order_by_length(x)
        if order is None:
            return super().predict(x, batch_size, prompt=prompt, **kwargs)
        # A list stays one, as in an array each text has the room of the longest.
        texts = [x[row] for row in order] if isinstance(x, list) else x[order]
        embeddings = super().predict(texts, batch_size, prompt=prompt, **kwargs)
        result = np.empty_like(embeddings)
        result[order] = embeddings
        return result

    def _order_by_length(self, x):
        """Returns rows of texts, the longest first; None where the order saves nothing."""
        pads = getattr(self.preprocessor, "padding", "max_length") != "max_length"
        are_rows = isinstance(x, list) or (isinstance(x, np.ndarray) and x.ndim == 1)
        if not (pads and are_rows and len(x)):
            return None
        if not all(isinstance(text, str | bytes) for text in x):
            return None
        return np.argsort([-len(text) for text in x], kind="stable")


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
