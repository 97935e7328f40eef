"""Two copies of an encoder, trained to agree only on equal texts."""

import keras
import tensorflow as tf

from tfembloss.models.base import check_no_strings, one_tensor
from tfembloss.models.batches import map_inputs
from tfembloss.models.encoder_model import EncoderModel


def twin(encoder):
    """Returns a copy of an encoder, with its own weights, initially equal.

    Args:
        encoder: Keras model or layer, built.

    Returns:
        A Keras model or layer of the same class.

    Raises:
        ValueError: if the encoder is not built, or Keras cannot serialize it.

    Example:

    >>> import numpy as np
    >>> encoder = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
    >>> np.abs(twin(encoder)(np.ones([1, 3])) - encoder(np.ones([1, 3]))).max().item()
    0.0
    """
    if not encoder.built:
        raise ValueError(
            "Expected an encoder that is built, to copy its weights: begin it with "
            f"keras.Input, or call it on a batch first. Received: {encoder!r}"
        )
    try:
        copy = keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(encoder),
            custom_objects={type(encoder).__name__: type(encoder)},
            safe_mode=False,  # the encoder is the caller's own
        )
        copy.set_weights(encoder.get_weights())
    except (TypeError, ValueError) as error:
        raise ValueError(
            "Expected an encoder that Keras can copy: one with get_config, that creates "
            f"its weights in build, of layers registered with keras.saving. Received: "
            f"{encoder!r} ({error})"
        ) from error
    return copy


@keras.saving.register_keras_serializable("tfembloss")
class ContrastiveTensionModel(EncoderModel):
    """Trains an encoder on texts alone, against a copy of itself.

    Both start with the same weights, and learn similar embeddings for equal texts and
    different ones for different texts. `fit(texts)` embeds the texts with the copy and with
    the encoder, in columns `[B, 2, D]`, for `ContrastiveTensionLossInBatchNegatives`. In
    `fit((texts, others), labels)`, the copy embeds the first column and the encoder the
    second, for `ContrastiveTensionLoss`; `tfembloss.data.contrastive_tension_batches` makes
    such pairs.

    `predict` on one column, and `export_encoder`, use the encoder only.

    Args:
        encoder: Keras model or layer from the input of one column to embeddings
            `[rows, D]`, built. Load its weights and freeze layers before, because it is
            copied here. Dropout layers with a `seed` would have the same masks in both.
        preprocessor, mini_batch_size: see `EmbeddingModel`. Without a preprocessor, `fit`
            takes `(x, x)` instead of one column.
        name, dtype: as in `keras.Model`.

    Raises:
        ValueError: as for `EmbeddingModel` and `twin`, and for more than two columns.

    Example:

    >>> import tfembloss
    >>> texts = ["a red apple", "a green pear", "the blue sky", "the grey sea"]
    >>> vocabulary = tfembloss.text.learn_vocabulary(texts, size=100)
    >>> model = ContrastiveTensionModel(
    ...     tfembloss.text.TextEncoder(len(vocabulary), dim=8),
    ...     tfembloss.text.TextPreprocessor(vocabulary, sequence_length=16),
    ... )
    >>> loss = tfembloss.losses.ContrastiveTensionLossInBatchNegatives()
    >>> model.compile("adam", loss=loss)
    >>> history = model.fit(texts, epochs=2, verbose=0)
    >>> model.predict(texts, verbose=0).shape
    (4, 8)

    Reference:
        Carlsson et al., "Semantic Re-tuning with Contrastive Tension", 2021,
        https://openreview.net/forum?id=Ov_sMNau-PF

    Relations:
        In sentence-transformers, the loss owns the copy, which is not saved with the model.
    """

    def __init__(
        self, encoder, preprocessor=None, mini_batch_size=None, name=None, dtype=None
    ):
        super().__init__(encoder, preprocessor, mini_batch_size, name=name, dtype=dtype)
        self.twin = twin(encoder)

    def call(self, x, training=None):
        """Returns embeddings `[B, D]` of one column, `[B, 2, D]` of two, the copy first."""
        if not isinstance(x, (tuple, list)):
            return super().call(x, training=training)
        check_no_strings(x)
        if len(x) != 2:
            raise ValueError(
                "A ContrastiveTensionModel compares one text with one other: expected one "
                f"column or two. Received: {len(x)} columns"
            )
        columns = zip((self.twin, self.encoder), x, strict=True)
        embeddings = [encoder(column, training=training) for encoder, column in columns]
        return tf.stack([one_tensor(column, rank=2) for column in embeddings], axis=1)

    def step_batches(self, batches, training):
        """Duplicates a single column, one for each encoder."""
        return map_inputs(_two_columns, super().step_batches(batches, training))

    def step_batch(self, x, y=None, sample_weight=None, training=False):
        """Duplicates a single column, one for each encoder."""
        x, *targets = super().step_batch(x, y, sample_weight, training)
        return _two_columns(x), *targets


def _two_columns(x):
    return x if isinstance(x, tuple) else (x, x)
