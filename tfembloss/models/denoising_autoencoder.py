"""An encoder trained on texts alone, by reconstructing them from noisy ones."""

import functools
import random

import keras
import tensorflow as tf

from tfembloss.checks import is_function_of
from tfembloss.data.columns import as_columns
from tfembloss.layers.decoder import SentenceDecoder
from tfembloss.losses.base import EmbeddingLoss
from tfembloss.losses.reconstruction import DenoisingAutoEncoderLoss
from tfembloss.models.encoder_model import EncoderModel, known_dim
from tfembloss.models.vocabulary import token_embedding
from tfembloss.text import DeleteWords


@keras.saving.register_keras_serializable("tfembloss")
class DenoisingAutoEncoder(EncoderModel):
    r"""Trains an encoder on texts alone, as a denoising auto-encoder (TSDAE).

    The encoder embeds a text from which most words are deleted, and a decoder has to
    reconstruct the whole text from that embedding. So the embedding has to represent what
    the text is about.

    `fit` takes one column of texts, without y. The noise is resampled in each epoch, and
    depends on `keras.utils.set_random_seed`. For batches that repeat without end it is
    resampled in each batch, for `repeat(3)` once for all three repetitions. `evaluate`
    always uses the same noise. `model(x)` and `predict` return embeddings of texts without
    noise, and `export_encoder` leaves the decoder out.

    The token embeddings, of the decoder's input and of its logits, are those of the encoder
    if it, or a layer in it, has an attribute `token_embedding`, as
    `tfembloss.text.TextEncoder` and keras-hub's backbones do; otherwise, the decoder has
    its own. No other weights of the encoder are tied to it, and the weights of a pretrained
    decoder cannot be used.

    Args:
        encoder: Keras model or layer from token ids to embeddings `[rows, D]`.
        preprocessor: function from texts `[rows]` to the encoder's input, token ids
            `[rows, T]` or a dict with `"token_ids"`, such as
            `tfembloss.text.TextPreprocessor`.
        decoder: layer from embedded tokens and embeddings to states, built by
            `build(tokens_shape, embeddings_shape)`; by default
            `SentenceDecoder(sequence_length=preprocessor.sequence_length)`.
        noise: function from texts `[rows]` and a seed to texts `[rows]`, run in tf.data; by
            default `tfembloss.text.DeleteWords()`. The seed is an integer, which differs in
            each epoch.
        mini_batch_size: see `EmbeddingModel`. It bounds the memory of the encoder, but not
            of the decoder, which takes the whole batch, nor of its logits `[B, T, V]`.
        name, dtype: as in `keras.Model`.

    Raises:
        ValueError: if an argument is invalid, or if texts have several columns or y.

    Example:

    >>> import tfembloss
    >>> texts = ["a red apple on a tree", "the blue sky over the grey sea"]
    >>> vocabulary = tfembloss.text.learn_vocabulary(texts, size=100)
    >>> model = DenoisingAutoEncoder(
    ...     tfembloss.text.TextEncoder(len(vocabulary), dim=8),
    ...     tfembloss.text.TextPreprocessor(vocabulary, sequence_length=16),
    ... )
    >>> model.compile("adam", loss=tfembloss.losses.DenoisingAutoEncoderLoss())
    >>> history = model.fit(texts, epochs=2, verbose=0)
    >>> model.predict(["a grey apple"], verbose=0).shape
    (1, 8)

    Reference:
        Wang et al., "TSDAE: Using Transformer-based Sequential Denoising Auto-Encoder for
        Unsupervised Sentence Embedding Learning", 2021, https://arxiv.org/abs/2104.06979

    Relations:
        In sentence-transformers, the loss owns the decoder, a copy of the encoder with
        cross-attention, and all weights that both have can be tied; here, only the token
        embeddings are.
    """

    def __init__(
        self,
        encoder,
        preprocessor,
        decoder=None,
        noise=None,
        mini_batch_size=None,
        name=None,
        dtype=None,
    ):
        super().__init__(encoder, preprocessor, mini_batch_size, name=name, dtype=dtype)
        if preprocessor is None:
            raise ValueError(
                "Expected a preprocessor from texts to token ids: noise deletes words of "
                "texts. Received: preprocessor=None"
            )
        if noise is not None and not is_function_of(noise, 2):
            raise ValueError(
                "`noise` maps texts [rows] and a seed to texts: expected a function of two "
                f"arguments, or None. Received: noise={noise!r}"
            )
        if decoder is None:
            length = getattr(preprocessor, "sequence_length", 256)
            decoder = SentenceDecoder(sequence_length=length, dtype=self.dtype_policy)
        if not isinstance(decoder, keras.layers.Layer):
            raise ValueError(
                "`decoder` maps embedded tokens and embeddings to states: expected a Keras "
                f"layer, such as SentenceDecoder(), or None. Received: decoder={decoder!r}"
            )
        self.decoder = decoder
        self.noise = DeleteWords() if noise is None else noise
        self.token_embedding = _token_embedding(encoder, preprocessor)
        if (dim := known_dim(encoder)) is not None:  # so that weights can be loaded
            self._build_parts((None, dim))

    def _build_parts(self, shape):
        """Builds the decoder, for embeddings of this shape."""
        if not self.decoder.built:
            tokens = (None, None, self.token_embedding.output_dim)
            self.decoder.build(tokens, tuple(shape))

    def call(self, x, training=None):
        """Returns embeddings `[B, D]` of token ids."""
        embeddings = super().call(x, training=training)
        self._build_parts(embeddings.shape)  # which are called only by the loss
        return embeddings

    def step_batches(self, batches, training):
        """Returns batches `(damaged, whole)` of token ids; in training with new noise."""
        _check_texts(batches.element_spec)
        if training:
            seed = random.getrandbits(63)
            seeds = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
        else:
            seeds = tf.data.Dataset.from_tensors(tf.constant(0, tf.int64)).repeat()

        def damaged_and_whole(seed, *element):
            texts, _, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
            pair = self._damaged_and_whole(texts, seed, training)
            return keras.utils.pack_x_y_sample_weight(*pair, sample_weight)

        size = batches.cardinality()
        if size == tf.data.INFINITE_CARDINALITY:  # without epochs
            return tf.data.Dataset.zip((seeds, batches)).map(damaged_and_whole)

        def epoch(seed):
            make = functools.partial(damaged_and_whole, seed)
            return batches.map(make, tf.data.AUTOTUNE)

        epochs = seeds.take(1).flat_map(epoch)
        if size == tf.data.UNKNOWN_CARDINALITY:
            return epochs
        return epochs.apply(tf.data.experimental.assert_cardinality(size))

    def step_batch(self, x, y=None, sample_weight=None, training=False):
        """Returns a batch of texts as `(damaged, whole)`; in training with new noise."""
        texts = as_columns(x)
        given = (texts,) if y is None else (texts, y)
        _check_texts(tf.nest.map_structure(tf.TensorSpec.from_tensor, given))
        seed = random.getrandbits(63) if training else 0
        return *self._damaged_and_whole(texts, seed, training), sample_weight

    def _damaged_and_whole(self, texts, seed, training):
        """Returns the encoder's input from noisy texts, and whole texts' token ids."""
        damaged = tf.convert_to_tensor(self.noise(texts, seed))
        tf.debugging.assert_equal(
            tf.size(damaged) if damaged.shape.rank == 1 else -1,
            tf.size(texts),
            "Expected a damaged text of each text from `noise`, strings of shape [rows]. "
            "Received: other shapes",
        )
        return (
            self.encoder_inputs(damaged, training),
            _token_ids(self.encoder_inputs(texts)),
        )

    def logits(self, tokens, embeddings, training=None):
        """Returns logits `[B, T, V]` of tokens, given those before and the embedding."""
        embedded = self.token_embedding(tokens)  # [B, T, D]
        states = self.decoder(embedded, embeddings, training=training)
        table = tf.cast(self.token_embedding.embeddings, states.dtype)  # [V, D]
        return tf.matmul(states, table, transpose_b=True)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Computes the compiled loss of the logits of tokens y, given the embeddings."""
        on_embeddings = isinstance(self.loss, EmbeddingLoss)
        if on_embeddings and not isinstance(self.loss, DenoisingAutoEncoderLoss):
            raise ValueError(
                "A DenoisingAutoEncoder gives its loss logits of tokens: expected "
                f"tfembloss.losses.DenoisingAutoEncoderLoss(). Received: {self.loss!r}"
            )
        logits = self.logits(y, y_pred, training)
        return super().compute_loss(x, y, logits, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Computes the compiled metrics, if there are any, of the same logits."""
        if self._compile_metrics is not None:
            y_pred = self.logits(y, y_pred, training=False)
        return super().compute_metrics(x, y, y_pred, sample_weight)


def _token_embedding(encoder, preprocessor):
    """Returns the encoder's token embedding, or a new one for the vocabulary."""
    if (shown := token_embedding(encoder)) is not None:
        return shown
    vocabulary, dim = getattr(preprocessor, "vocabulary", None), known_dim(encoder)
    if vocabulary is None or dim is None:
        raise ValueError(
            "Expected an encoder with an attribute `token_embedding`, a "
            "keras.layers.Embedding, in itself or in a layer of it, like keras-hub's "
            "backbones, to share with the decoder. Otherwise the decoder needs its own: "
            "expected an encoder that is built, so that its output shape is known, and a "
            f"preprocessor with `vocabulary`. Received: {encoder!r} and {preprocessor!r}."
        )
    layer = keras.layers.Embedding(len(vocabulary), dim)
    layer.build()
    return layer


def _token_ids(inputs):
    """Returns the token ids `[rows, T]` of an encoder's input."""
    if isinstance(inputs, dict) and "token_ids" in inputs:
        return inputs["token_ids"]
    if tf.is_tensor(inputs) and inputs.dtype.is_integer and inputs.shape.rank == 2:
        return inputs
    raise ValueError(
        "Expected a preprocessor that gives token ids [rows, T], or a dict with them as "
        f"'token_ids'. Received: {inputs!r}"
    )


def _check_texts(spec):
    """Raises ValueError unless this is a column of texts without y, in batches."""
    texts, y, _ = keras.utils.unpack_x_y_sample_weight(spec)
    # from_arrays puts an empty y between x and sample_weight.
    has_y = y is not None and not (isinstance(y, tf.TensorSpec) and y.shape[1:] == [0])
    is_text = isinstance(texts, tf.TensorSpec) and texts.dtype == tf.string
    if is_text and texts.shape.rank == 1 and not has_y:
        return
    if has_y:
        advice = "Leave out y."
    elif is_text and texts.shape.rank == 0:
        advice = "Give batches of them: dataset.batch(32)."
    elif isinstance(texts, tuple):
        advice = "Put all columns' texts into one list."
    else:
        advice = "Give the texts themselves: the preprocessor makes tokens of them."
    raise ValueError(
        "A DenoisingAutoEncoder learns from texts alone: expected one column of them, "
        f"strings of shape [rows], and no y. Received elements of {spec}. {advice}"
    )
