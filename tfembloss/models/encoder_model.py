"""What the models with one encoder have in common."""

import functools

import keras
import numpy as np
import tensorflow as tf

from tfembloss import pretrained
from tfembloss.losses.layerwise import of_columns
from tfembloss.losses.wrappers import takes_layers
from tfembloss.models import inputs, layerwise
from tfembloss.models.base import (
    ColumnModel,
    check_no_strings,
    column_shapes,
    one_tensor,
)
from tfembloss.models.vocabulary import check_vocabulary
from tfembloss.pretrained import hub
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
        if hub.is_embedder(encoder):
            encoder, own = hub.parts(encoder)
            preprocessor = own if preprocessor is None else preprocessor
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
        self._trained_columns = None  # how many, once it is trained

    @classmethod
    def from_pretrained(
        cls,
        source,
        *,
        sequence_length=None,
        dimensions=None,
        prompts=None,
        dropout=None,
        pooling=None,
        dtype=None,
        preprocessor=None,
        tower=None,
        **arguments,
    ):
        """Creates a model with the encoder and the preprocessor of a pretrained checkpoint.

        The embeddings are those that sentence-transformers computes of the same folder, or
        keras-hub of the same preset. Nothing in a folder is executed, and nothing is
        downloaded, except by keras-hub a preset that is named.

        Args:
            source: the folder of a Hugging Face or sentence-transformers checkpoint; or,
                with keras-hub, an encoder of texts or images: the folder or the name of a
                preset (`"bert_tiny_en_uncased"`, `"hf://..."`, `"kaggle://..."`), a
                `keras_hub.models.Backbone`, or a task with one, such as a `TextEmbedder`.
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
            pooling: a mode of `tfembloss.layers.Pooling`; None for the checkpoint's own. If
                it has none, this is the mean over tokens, and for images the class token,
                or the mean over places.
            dtype: dtype or policy of the encoder and the model, as in `keras.Model`: with
                `"mixed_bfloat16"` or `"mixed_float16"`, the blocks compute in half
                precision; weights and embeddings are float32. None for the global one.
            preprocessor: only with keras-hub, and needed for a backbone: its tokenizer, its
                image converter, a preprocessor, or a function to its inputs. None for that
                of the preset or task.
            tower: only with keras-hub, `"image"` or `"text"` of a preset with both, such as
                CLIP's; None for images.
            **arguments: the other arguments of this class.

        Raises:
            ValueError: the folder is not a complete checkpoint or preset, or the encoder
                cannot be computed as it was trained; says what is missing.

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
            pooling=pooling,
            dtype=dtype,
            preprocessor=preprocessor,
            tower=tower,
        )
        return cls(encoder=encoder, preprocessor=preprocessor, dtype=dtype, **arguments)

    def save_pretrained(self, folder, metrics=None):
        """Writes the encoder as a folder that sentence-transformers loads.

        An earlier one there is replaced. Its README.md, the model card, says how to load it
        and how it was trained.

        Args:
            folder: the folder to write.
            metrics: dict of a name to a number for the model card; None for those of the
                last epoch's validation, if there was one.

        Raises:
            ValueError: the encoder was not created by `from_pretrained`, or the folder
                holds other files.
        """
        if metrics is None:
            logs = getattr(getattr(self, "history", None), "history", {})
            metrics = {x: of[-1] for x, of in logs.items() if x.startswith("val_")}
        pretrained.save(
            folder,
            self.encoder,
            self.preprocessor,
            loss=self.loss if self.compiled else None,
            num_columns=self._trained_columns,
            metrics=metrics,
        )

    # Columns in, embeddings out.

    def build(self, input_shape):
        """Builds the encoder from the shapes of the columns."""
        if not self.encoder.built:
            self.encoder.build(column_shapes(input_shape)[0])
        self.built = True

    def call(self, x, training=None):
        """Returns embeddings `[B, D]` of one column, `[B, n, D]` of a tuple of n.

        In training with a loss that takes layers, those of all layers `[B, n, L + 1, D]`.
        """
        check_no_strings(x)
        if training:
            self._trained_columns = len(x) if isinstance(x, (tuple, list)) else 1
        layers = self._of_layers() if training else None
        if layers is None:
            return embed_columns(self.encoder, x, training)
        embed = functools.partial(layerwise.embed, layers, self.encoder)
        embeddings = embed_columns(embed, x, training, rank=3)
        return embeddings if isinstance(x, (tuple, list)) else embeddings[:, None]

    def _of_layers(self):
        """Returns the encoder of all layers, if the loss takes them, or None."""
        if not (self.compiled and takes_layers(self.loss)):
            return None
        if getattr(self._parts, "of_layers", None) is None:
            self._parts.of_layers = layerwise.embeddings_of_layers(self.encoder)
        return self._parts.of_layers

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Computes the compiled metrics, of the last layer."""
        if y_pred.shape.rank == 4:
            y_pred = of_columns(y_pred[:, :, -1])
        return super().compute_metrics(x, y, y_pred, sample_weight)

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

    def encoder_inputs(self, x, training=False, prompt=None, xla=None):
        """Applies the preprocessor to each column, with the prompts of columns."""
        xla = self.jit_compile if xla is None else xla
        if isinstance(x, tuple):
            names = (
                self._prompts_of_columns(len(x)) if prompt is None else [prompt] * len(x)
            )
            return tuple(
                self.encoder_inputs(column, training, name, xla)
                for column, name in zip(x, names, strict=True)
            )
        inputs.check_columns_are_no_dict(x, self.preprocessor)
        function = self.preprocessor
        if prompt is not None:
            function = functools.partial(function, prompt=prompt)
        return inputs.preprocess(function, x, training, xla)

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


def embed_columns(encoder, x, training=None, rank=2):
    """Returns an encoder's embeddings `[B, D]` of a column, `[B, n, D]` of a tuple of n."""

    def embed(rows):
        return one_tensor(encoder(rows, training=training), rank)

    if not isinstance(x, (tuple, list)):
        return embed(x)
    if _alike(x):  # one call of the encoder for all columns
        rows = tf.nest.map_structure(lambda *column: tf.concat(column, axis=0), *x)
        return tf.stack(tf.split(embed(rows), len(x)), axis=1)  # of [n * B, D]
    return tf.stack([embed(column) for column in x], axis=1)


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
