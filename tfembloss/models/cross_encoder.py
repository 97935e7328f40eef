"""A model that scores pairs of texts."""

import random

import keras
import numpy as np
import tensorflow as tf

from tfembloss import replicas
from tfembloss.checks import integer
from tfembloss.data.column_datasets import as_columns
from tfembloss.losses.base import EmbeddingLoss
from tfembloss.losses.distillation import MarginMSELoss
from tfembloss.losses.inputs import are_missing
from tfembloss.losses.listwise import CrossEncoderMultipleNegativesRankingLoss
from tfembloss.losses.wrappers import WeightedSum
from tfembloss.models import inputs, lists, pair_losses
from tfembloss.models.base import ColumnModel, check_no_strings, one_tensor
from tfembloss.models.encoder_model import known_inputs
from tfembloss.models.vocabulary import check_vocabulary
from tfembloss.pretrained import rerankers
from tfembloss.text import (
    CheckpointPairTokenizer,
    CheckpointTokenizer,
    TextPreprocessor,
)
from tfembloss.text.rows import single_texts


@keras.saving.register_keras_serializable("tfembloss")
class CrossEncoder(ColumnModel):
    """Trains an encoder to score pairs of texts, which it encodes together.

    It is more accurate than the similarity of two embeddings, because each word of one text
    can attend to each word of the other; and slower, because every pair has to be encoded.
    So it is used to re-rank the first hits of a search, or as the teacher of an
    `EmbeddingModel`: see `tfembloss.synthesis`.

    `fit` takes a tuple of two columns x=(queries, texts), with

    - a label or score for each pair, y `[B]`, and any Keras loss on one logit:
      `keras.losses.BinaryCrossentropy(from_logits=True)` for labels 0 and 1, `"mse"` for
      scores of a teacher. `class_weight={1: w}` weights the matches, as a `pos_weight`.
    - with `num_labels` above 1, a class from 0 for each pair, and
      `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`.
    - lists of texts for each query, and lists of labels y, of any lengths, or padded with
      "" and NaN to `[B, L]`: with the losses on lists, such as
      `tfembloss.losses.LambdaLoss`; with those on pairs, which then see each document, as
      metrics always do; or, of lists of one length, with `MarginMSELoss` or
      `DistillKLDivLoss` and a teacher's scores as y.
    - no y, and any columns of hard negatives:
      `tfembloss.losses.CrossEncoderMultipleNegativesRankingLoss`.

    `predict((queries, texts))` returns scores `[rows]`, of classes `[rows, num_labels]`, of
    lists `[rows, L]`; all are unbounded logits. `rank` sorts a query's documents.

    Args:
        encoder: Keras model or layer from the joined token ids of a pair to embeddings
            `[rows, D]`, or `[rows, T, D]`, of which the first token's is used, like BERT's
            `[CLS]`.
        preprocessor: function from two batches of texts to the encoder's input, such as
            `tfembloss.text.TextPairPreprocessor` or `CheckpointPairTokenizer`. Without one,
            `fit` takes the encoder's input as x, and of lists
            `{"lists": inputs [B, L, ...]}`.
        mini_batch_size: see `EmbeddingModel`; of lists, it is a number of lists.
        num_labels: number of scores of each pair, >= 1; several are logits of classes.
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
        This is sentence-transformers' CrossEncoder. Its BinaryCrossEntropyLoss,
        CrossEntropyLoss and MSELoss are Keras's losses above. There, `predict` returns the
        sigmoid of a model trained with cross-entropy; here, it always returns the logit,
        whose differences `MarginMSELoss` can learn. `rank` returns the same dicts as there,
        with logits as scores.
    """

    loss_sees_scores = True

    def __init__(
        self,
        encoder,
        preprocessor=None,
        mini_batch_size=None,
        num_labels=1,
        name=None,
        dtype=None,
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
        self.num_labels = integer("num_labels", num_labels, 1)
        self.score = keras.layers.Dense(self.num_labels, dtype="float32")

    @classmethod
    def from_pretrained(
        cls,
        source,
        *,
        sequence_length=None,
        num_labels=None,
        dropout=None,
        dtype=None,
        **arguments,
    ):
        """Creates a model of a pretrained checkpoint, which reads a pair as one input.

        A cross-encoder's scores are those that sentence-transformers computes of the same
        folder, before the activation. Of another encoder, the layer of the score is new and
        has to be trained. Nothing in a folder is executed, and nothing is downloaded.

        Args:
            source: the folder of a Hugging Face or sentence-transformers checkpoint.
            sequence_length: the maximum number of tokens of both texts together; None for
                the checkpoint's own.
            num_labels: number of scores of each pair; None for the checkpoint's own, or 1
                if it has none. Another number makes the layer of the scores new.
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
            source,
            sequence_length=sequence_length,
            num_labels=num_labels,
            dropout=dropout,
            dtype=dtype,
        )
        if num_labels is None:
            num_labels = 1 if score is None else len(score[1])
        model = cls(
            encoder=encoder,
            preprocessor=preprocessor,
            num_labels=num_labels,
            dtype=dtype,
            **arguments,
        )
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
        """Returns scores of the encoder's input `[B, num_labels]`, or of lists `[B, L]`."""
        check_no_strings(x)
        if lists.are_lists(x):
            pairs, (shape, known) = lists.as_pairs(x)
            self._check_one_label()
            scores = tf.reshape(self.call(pairs, training=training), shape)
            return tf.ensure_shape(scores, known)
        embeddings = self.encoder(x, training=training)
        if tf.is_tensor(embeddings) and embeddings.shape.rank == 3:
            embeddings = embeddings[:, 0]  # [B, D]
        return self.score(one_tensor(embeddings, rank=2))

    def _check_one_label(self):
        if self.num_labels > 1:
            raise ValueError(
                "Expected one label for each text of a list. Received: lists, and a model "
                f"with num_labels={self.num_labels}. Give pairs, x=(queries, texts)."
            )

    def build(self, input_shape):
        """Builds the encoder and the scoring layer."""
        if not self.encoder.built:
            if lists.are_lists(input_shape):
                input_shape = lists.without_length(input_shape)
            self.encoder.build(input_shape)
        dim = getattr(self.encoder, "output_shape", (None,))[-1]
        if dim is not None and not self.score.built:
            self.score.build((None, dim))
        self.built = True

    def _known_inputs(self):
        """Returns the encoder's own inputs."""
        return known_inputs(self.encoder)

    # Losses of pairs and of lists.

    def _checked_loss(self, loss):
        loss = super()._checked_loss(loss)
        for part in loss.losses.values() if isinstance(loss, WeightedSum) else [loss]:
            pair_losses.check_loss(part, self.num_labels)
        return loss

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Computes the compiled loss of the scores; y are numbers `[B]` or `[B, L]`."""
        if isinstance(self.loss, CrossEncoderMultipleNegativesRankingLoss):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        of_lists = lists.are_lists(x)
        if y is not None and y.shape.rank is None:
            y = tf.reshape(y, tf.shape(y_pred) if of_lists else [tf.shape(y_pred)[0]])
        pair_losses.check_targets(self.loss, y, y_pred, self.num_labels, of_lists)
        if of_lists and not isinstance(self.loss, EmbeddingLoss):
            return self._loss_of_each_document(y, y_pred, sample_weight)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def _loss_of_each_document(self, y, y_pred, sample_weight):
        # A loss of Keras, as the mean over the documents of all replicas.
        *rows, present, weights = lists.of_documents(y, y_pred, sample_weight)
        count = tf.reduce_sum(present)
        loss = self._compile_loss(*rows, weights)
        if getattr(self.loss, "reduction", "mean") == "mean_with_sample_weight":
            loss *= replicas.share(tf.reduce_sum(weights))
        elif getattr(self.loss, "reduction", "mean") != "sum":
            # Keras has divided by the number of places, with and without a document.
            places = tf.cast(tf.size(y), loss.dtype) * replicas.count()
            loss *= tf.math.divide_no_nan(places, replicas.total(count))
        return self._with_added_losses(replicas.alike(loss))

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Computes the compiled metrics, of lists on each of their documents."""
        metrics = self._compile_metrics
        has_labels = y is not None and not are_missing(y)
        of_labels = has_labels and y_pred.shape.is_compatible_with(y.shape)
        if metrics is None or not lists.are_lists(x) or not of_labels:
            return super().compute_metrics(x, y, y_pred, sample_weight)
        lists.update_metrics(metrics, y, y_pred, sample_weight)
        return self.get_metrics_result()

    # Raw inputs, through the preprocessor.

    @property
    def takes_raw_inputs(self):
        """Whether the model has a preprocessor."""
        return self.preprocessor is not None

    def encoder_inputs(self, x, training=False):
        """Applies the preprocessor to both columns together, of lists to all pairs."""

        def of_pairs(columns):
            xla = self.jit_compile
            return inputs.preprocess(self.preprocessor, columns, training, xla, True)

        if isinstance(x, tuple) and len(x) == 2:
            queries, documents = x[0], lists.dense(x[1])[0]
            if lists.are_documents_of_lists(documents):
                return lists.of_pairs(of_pairs, queries, documents)
            return of_pairs((queries, lists.as_column(documents)))
        received = f"{len(x)} columns" if isinstance(x, tuple) else f"one column, {x}"
        raise ValueError(
            "A CrossEncoder scores pairs: expected a tuple of two columns, "
            f"x=(queries, texts). Received: {received}. A list of pairs is tuple(zip("
            "*pairs)); a dataset of (query, text) is made one by tfembloss.data.columns."
        )

    def fit(self, x=None, y=None, *args, **kwargs):
        """`keras.Model.fit`, also on raw inputs, pairs or lists, and without `y`."""
        return super().fit(*self._padded(x, y), *args, **kwargs)

    def _batches(self, x, y=None, *args, **kwargs):
        return super()._batches(*self._padded(x, y), *args, **kwargs)

    def _padded(self, x, y):
        margins = isinstance(self._compiled_loss(), MarginMSELoss)
        return lists.padded(x, y, self._takes_any_length(), margins)

    def _compiled_loss(self):
        return self.loss if self.compiled else None

    def _takes_any_length(self):
        return pair_losses.takes_any_length(self._compiled_loss())

    def step_batches(self, batches, training):
        """Returns what steps of `fit` and `evaluate` take from a dataset of raw batches."""
        if training and self._draws_documents():
            seed = self.loss.seed
            seed = random.getrandbits(63) if seed is None else seed
            seeds = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
        else:
            seeds = tf.data.Dataset.from_tensors(tf.constant(0, tf.int64)).repeat()

        def step_batch(seed, element):
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
            x, y = self._prepared(x, y, seed, training)
            return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)

        return tf.data.Dataset.zip((seeds, batches)).map(step_batch, tf.data.AUTOTUNE)

    def step_batch(self, x, y=None, sample_weight=None, training=False):
        """Returns what a step takes from one batch."""
        x, y = self._padded(x, y)
        if not self.takes_raw_inputs:
            return super().step_batch(x, y, sample_weight, training)
        seed = random.getrandbits(63) if training else 0
        y = inputs.targets_as_array(y)
        y = y if y is None else tf.convert_to_tensor(y)
        x, y = self._prepared(as_columns(x), y, seed, training)
        return x, y, inputs.weights_as_array(sample_weight)

    def _draws_documents(self):
        return isinstance(self._compiled_loss(), CrossEncoderMultipleNegativesRankingLoss)

    def _prepared(self, x, y, seed, training):
        # The encoder's inputs, and the labels, of a batch of texts.
        if self._draws_documents() and isinstance(x, tuple) and len(x) > 1:
            x = lists.with_drawn_documents(x, self.loss.num_negatives, seed)
        elif isinstance(x, tuple) and len(x) == 2 and y is not None:
            documents, y = lists.dense(x[1], y)
            if lists.are_documents_of_lists(documents) and self._takes_any_length():
                documents, y = lists.without_padding(documents, y)
            elif lists.are_documents_of_lists(documents):
                y = lists.check_one_length(x[1], y)
            x = (x[0], documents)
        return self.encoder_inputs(x, training), y

    # Scores and ranks.

    def predict(self, x, batch_size=None, **kwargs):
        """`keras.Model.predict`, also on raw inputs: scores as a numpy array.

        They are `[rows]` of pairs, `[rows, num_labels]` if there are several, and
        `[rows, L]` of lists: of ragged lists, NaN where a list has ended.
        """
        given, _ = lists.padded(x)
        if given is x:
            scores = super().predict(x, batch_size, **kwargs)
            return np.squeeze(scores, axis=1) if scores.shape[1] == 1 else scores
        self._check_one_label()
        scores = super().predict(given, batch_size, **kwargs)
        ended = np.arange(scores.shape[1]) >= np.array([[len(row)] for row in x[1]])
        scores[ended] = np.nan
        return scores

    def rank(self, query, documents, top_k=None, return_documents=False, batch_size=None):
        """Sorts documents by their scores for a query, the best first.

        Args:
            query: a text.
            documents: list of texts.
            top_k: how many of them to return; None for all.
            return_documents: whether to return the texts, too.
            batch_size: number of pairs that are scored at once; None for 32.

        Returns:
            List of dicts with `corpus_id`, the document's place in the list, `score`, and
            `text` if the documents are returned. Equal scores keep the list's order.

        Raises:
            ValueError: an argument is invalid.
        """
        if not isinstance(query, str | bytes):
            raise ValueError(f"Expected one text as query. Received: query={query!r:.80}")
        self._check_one_label()
        documents = list(single_texts(documents))
        top_k = len(documents) if top_k is None else integer("top_k", top_k, 1)
        if not documents:
            return []
        pairs = ([query] * len(documents), documents)
        scores = self.predict(pairs, batch_size, verbose=0)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [
            {"corpus_id": int(i), "score": float(scores[i])}
            | ({"text": documents[i]} if return_documents else {})
            for i in order
        ]
