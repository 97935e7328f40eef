"""A model that scores pairs of texts."""

import keras
import numpy as np
import tensorflow as tf

from tfembloss.models import inputs
from tfembloss.models.base import ColumnModel, check_no_strings, one_tensor
from tfembloss.models.encoder_model import known_inputs
from tfembloss.models.vocabulary import check_vocabulary
from tfembloss.pretrained import rerankers
from tfembloss.text import (
    CheckpointPairTokenizer,
    CheckpointTokenizer,
    TextPreprocessor,
)


@keras.saving.register_keras_serializable("tfembloss")
class CrossEncoder(ColumnModel):
    """Trains an encoder to score pairs of texts, which it encodes together.

    It is more accurate than the similarity of two embeddings, because each word of one text
    can attend to each word of the other; and slower, because every pair has to be encoded.
    So it is used to re-rank the first hits of a search, or as the teacher of an
    `EmbeddingModel`: see `tfembloss.synthesis`.

    `fit` takes a tuple of two columns and labels or scores y, with any Keras loss on one
    logit: `keras.losses.BinaryCrossentropy(from_logits=True)` for labels 0 and 1,
    `"mse"` for scores of a teacher. `model(x)` returns scores `[B, 1]`, and
    `predict((queries, texts))` returns scores `[rows]`; both are unbounded logits.

    Args:
        encoder: Keras model or layer from the joined token ids of a pair to embeddings
            `[rows, D]`, or `[rows, T, D]`, of which the first token's is used, like BERT's
            `[CLS]`.
        preprocessor: function from two batches of texts to the encoder's input, such as
            `tfembloss.text.TextPairPreprocessor` or `CheckpointPairTokenizer`. Without one,
            `fit` takes the encoder's input as x.
        mini_batch_size: see `EmbeddingModel`.
        name, dtype: as in `keras.Model`.

    Raises:
        ValueError: if an argument is invalid, or x is not a tuple of two columns.

    Example:

    >>> import tfembloss
    >>> queries, texts = ["a fruit", "a fruit"], ["a red apple", "the blue sky"]
    >>> vocabulary = tfembloss.text.learn_vocabulary(queries + texts, size=100)
    >>> encoder = tfembloss.text.TextEncoder(
    ...     len(vocabulary), dim=8, num_layers=1, num_heads=2
    ... )
    >>> preprocessor = tfembloss.text.TextPairPreprocessor(vocabulary, 8, 16)
    >>> model = CrossEncoder(encoder, preprocessor)
    >>> loss = keras.losses.BinaryCrossentropy(from_logits=True)
    >>> model.compile("adam", loss)
    >>> history = model.fit((queries, texts), [1, 0], verbose=0)
    >>> model.predict((queries, texts), verbose=0).shape
    (2,)

    Reference:
        Nogueira and Cho, "Passage Re-ranking with BERT", 2019,
        https://arxiv.org/abs/1901.04085

    Relations:
        This is sentence-transformers' CrossEncoder with one label, with its
        BinaryCrossEntropyLoss or MSELoss. There, `predict` returns the sigmoid of a model
        trained with cross-entropy; here, it always returns the logit, whose differences
        `MarginMSELoss` can learn.
    """

    def __init__(
        self, encoder, preprocessor=None, mini_batch_size=None, name=None, dtype=None
    ):
        super().__init__(mini_batch_size, name=name, dtype=dtype)
        if not isinstance(encoder, keras.layers.Layer):
            raise ValueError(
                "`encoder` maps the tokens of a pair to embeddings [rows, D]: expected a "
                f"Keras model or layer. Received: encoder={encoder!r}"
            )
        if preprocessor is not None and not callable(preprocessor):
            raise ValueError(
                "`preprocessor` maps two batches of texts to the encoder's input: expected "
                f"a function or None. Received: preprocessor={preprocessor!r}"
            )
        of_one = isinstance(preprocessor, TextPreprocessor | CheckpointTokenizer)
        if of_one and not isinstance(preprocessor, CheckpointPairTokenizer):
            raise ValueError(
                "`preprocessor` maps two batches of texts to the encoder's input: expected "
                "tfembloss.text.TextPairPreprocessor(vocabulary, first_length, "
                "second_length), or what CrossEncoder.from_pretrained takes. Received a "
                f"{type(preprocessor).__name__}, of one text."
            )
        check_vocabulary(preprocessor, encoder)
        self.encoder = encoder
        self.preprocessor = preprocessor
        self.score = keras.layers.Dense(1, dtype="float32")

    @classmethod
    def from_pretrained(
        cls, source, *, sequence_length=None, dropout=None, dtype=None, **arguments
    ):
        """Creates a model of a pretrained checkpoint, which reads a pair as one input.

        A cross-encoder's scores are those that sentence-transformers computes of the same
        folder, before the activation. Of another encoder, the layer of the score is new and
        has to be trained. Nothing in a folder is executed, and nothing is downloaded.

        Args:
            source: the folder of a Hugging Face or sentence-transformers checkpoint.
            sequence_length: the maximum number of tokens of both texts together; None for
                the checkpoint's own.
            dropout: fraction that is dropped everywhere in training; None for the
                checkpoint's own.
            dtype: see `EmbeddingModel.from_pretrained`.
            **arguments: the other arguments of this class.

        Raises:
            ValueError: the folder is not a complete checkpoint, or cannot be computed as it
                was trained; says what is missing.

        Example:

        ```python
        model = tfembloss.CrossEncoder.from_pretrained("ms-marco-MiniLM-L6-v2")
        scores = model.predict((queries, texts))
        ```
        """
        encoder, preprocessor, score = rerankers.load(
            source, sequence_length=sequence_length, dropout=dropout, dtype=dtype
        )
        model = cls(encoder=encoder, preprocessor=preprocessor, dtype=dtype, **arguments)
        model.score.build(encoder.output_shape)
        if score is not None:
            model.score.set_weights(score)
        return model

    def save_pretrained(self, folder):
        """Writes a folder that sentence-transformers loads as a CrossEncoder.

        An earlier one there is replaced. Scores are the same there, without an activation.

        Args:
            folder: the folder to write.

        Raises:
            ValueError: the model was not created by `from_pretrained`, or the folder holds
                other files.
        """
        rerankers.save(folder, self.encoder, self.preprocessor, self.score)

    def call(self, x, training=None):
        """Returns scores `[B, 1]` of the encoder's input."""
        check_no_strings(x)
        embeddings = self.encoder(x, training=training)
        if tf.is_tensor(embeddings) and embeddings.shape.rank == 3:
            embeddings = embeddings[:, 0]  # [B, D]
        return self.score(one_tensor(embeddings, rank=2))

    def build(self, input_shape):
        """Builds the encoder and the scoring layer."""
        if not self.encoder.built:
            self.encoder.build(input_shape)
        dim = getattr(self.encoder, "output_shape", (None,))[-1]
        if dim is not None and not self.score.built:
            self.score.build((None, dim))
        self.built = True

    def _known_inputs(self):
        """Returns the encoder's own inputs."""
        return known_inputs(self.encoder)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Computes the compiled loss of the scores; y are numbers `[B]` or `[B, 1]`."""
        shape = None
        if y is not None:
            if y.shape.rank is None:
                y = tf.reshape(y, [tf.shape(y_pred)[0]])
            shape = tuple(y.shape)
        if y is None or y.dtype == tf.string or shape[1:] not in ((), (1,)):
            raise ValueError(
                "Expected one label or score for each pair as y, numbers of shape [rows]. "
                f"Received: {'none' if y is None else f'{y.dtype} of shape {shape}'}"
            )
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def predict(self, x, batch_size=None, **kwargs):
        """`keras.Model.predict`, also on raw inputs: scores `[rows]` as a numpy array."""
        return np.squeeze(super().predict(x, batch_size, **kwargs), axis=1)

    # Raw inputs, through the preprocessor.

    @property
    def takes_raw_inputs(self):
        """Whether the model has a preprocessor."""
        return self.preprocessor is not None

    def encoder_inputs(self, x, training=False):
        """Applies the preprocessor to both columns together."""
        if isinstance(x, tuple) and len(x) == 2:
            xla = self.jit_compile
            return inputs.preprocess(self.preprocessor, x, training, xla, columns=True)
        received = f"{len(x)} columns" if isinstance(x, tuple) else f"one column, {x}"
        raise ValueError(
            "A CrossEncoder scores pairs: expected a tuple of two columns, "
            f"x=(queries, texts). Received: {received}. A list of pairs is tuple(zip("
            "*pairs)); a dataset of (query, text) is made one by tfembloss.data.columns."
        )
