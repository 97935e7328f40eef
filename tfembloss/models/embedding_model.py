"""A model with one encoder for one or several columns of inputs."""

import math

import keras
import tensorflow as tf

from tfembloss.checks import flag, number
from tfembloss.data.column_datasets import as_columns
from tfembloss.layers import CrossBatchMemory, TripletHistogram
from tfembloss.losses.base import EmbeddingLoss
from tfembloss.losses.inputs import no_targets
from tfembloss.losses.wrappers import single_losses, takes_layers
from tfembloss.models import inputs, layerwise
from tfembloss.models.batches import with_ids_of_texts
from tfembloss.models.encoder_model import EncoderModel
from tfembloss.models.scale import (
    add_log_scale,
    add_number,
    check_has_scale,
    check_scale,
    exclude_from_weight_decay,
    has_bias,
    own_scale,
    with_learned_scale,
)


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
            direction; `CrossBatchMemory` lists those that cannot use it. Or a
            `tfembloss.layers.TripletHistogram` for `DynamicSoftMarginLoss`.
        learn_scale: whether the scale of the loss, the inverse of its temperature, is
            learned. It stays between 1 and 100, weight decay leaves it alone, and the logs
            have it as `scale`. For losses with a `scale` or a `temperature` of cosines:
            `MultipleNegativesRankingLoss`, `NTXentLoss`, `SupConLoss`, `GISTEmbedLoss`,
            `CoSENTLoss`, `CLIPLoss` and `SigLIPLoss`, also in `MatryoshkaLoss`. In a
            `WeightedSum` one scale is learned for all parts that have one.
        initial_scale: the scale to begin with, 1 to 100; None for that of the loss.
        initial_bias: for `SigLIPLoss` with `learn_scale`: the bias to begin with, such as
            -10, which is then learned, too, and logged as `bias`; None for that of the
            loss, which stays as it is.
        exclude_equal_texts: whether texts that occur several times in a batch, on all
            replicas, are never negatives of themselves, nor of each other's answers. `fit`
            and `evaluate` then make y, a hash of each column's raw text, and take none.
            For a loss with `exclude_equal_ids=True`, which says what is left out, on raw
            texts, and not with `memory`. Texts are compared exactly.
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
        learn_scale=False,
        initial_scale=None,
        initial_bias=None,
        exclude_equal_texts=False,
        name=None,
        dtype=None,
    ):
        super().__init__(encoder, preprocessor, mini_batch_size, name, dtype)
        if not isinstance(memory, CrossBatchMemory | TripletHistogram | None):
            raise ValueError(
                "`memory` holds the rows of earlier batches: expected a "
                "tfembloss.layers.CrossBatchMemory(size) or None. Received: "
                f"memory={memory!r}"
            )
        self.memory = memory
        self.learn_scale = flag("learn_scale", learn_scale)
        self.initial_scale = None if initial_scale is None else check_scale(initial_scale)
        self.initial_bias = self.learned_bias = None
        if initial_bias is not None:
            self.initial_bias = number("initial_bias", initial_bias)
        if self.learn_scale:
            # Not a number until `compile` knows the loss's own, or weights are loaded.
            self.log_scale = add_log_scale(self, self.initial_scale or math.nan)
            self.scale_metric = keras.metrics.Mean(name="scale")
        elif (initial_scale, initial_bias) != (None, None):
            raise ValueError(
                "`initial_scale` and `initial_bias` are where learned ones begin: expected "
                "learn_scale=True too, or a loss with that scale and bias. Received: "
                f"initial_scale={initial_scale}, initial_bias={initial_bias}, "
                "learn_scale=False."
            )
        if self.initial_bias is not None:
            self.learned_bias = add_number(self, self.initial_bias, "bias")
            self.bias_metric = keras.metrics.Mean(name="bias")
        self.exclude_equal_texts = flag("exclude_equal_texts", exclude_equal_texts)
        if self.exclude_equal_texts and (self.preprocessor is None or memory is not None):
            raise ValueError(
                "With `exclude_equal_texts`, expected a preprocessor, which takes the "
                "texts, and no memory, which keeps one id of each row. Received: "
                f"preprocessor={self.preprocessor!r}, memory={memory!r}. Give ids as y to "
                "a model without exclude_equal_texts."
            )

    @property
    def learned_scale(self):
        """The scale of the cosines, a tensor."""
        if not self.learn_scale:
            raise AttributeError("A scale is learned only with learn_scale=True.")
        return tf.exp(self.log_scale)

    def compile(self, optimizer="rmsprop", loss=None, *args, **kwargs):
        """`keras.Model.compile`, with one loss; learned numbers have no weight decay."""
        super().compile(optimizer, loss, *args, **kwargs)
        if not self.learn_scale:
            return
        self._scaled_loss = with_learned_scale(self.loss, self.log_scale, self.learned_bias)
        numbers = [self.log_scale]
        if self.learned_bias is not None:
            numbers.append(self.learned_bias)
        exclude_from_weight_decay(self.optimizer, numbers)
        if math.isnan(self.log_scale.numpy()):
            self.log_scale.assign(math.log(own_scale(self.loss)))

    def _checked_loss(self, loss):
        loss = super()._checked_loss(loss)
        if takes_layers(loss):
            layerwise.hidden_states(self.encoder)
        if self.learn_scale:
            check_has_scale(loss)
        if self.learned_bias is not None and not any(map(has_bias, single_losses(loss))):
            raise ValueError(
                "With `initial_bias`, expected a loss with a bias, SigLIPLoss. Received: "
                f"{type(loss).__name__}."
            )
        excludes = (getattr(x, "exclude_equal_ids", False) for x in single_losses(loss))
        if self.exclude_equal_texts and not any(excludes):
            raise ValueError(
                "With `exclude_equal_texts`, expected a loss that leaves out equal ids, "
                "such as MultipleNegativesRankingLoss(exclude_equal_ids=True). Received: "
                f"{type(loss).__name__} without exclude_equal_ids=True."
            )
        return loss

    # Raw texts, with their hashes as ids.

    def step_batches(self, batches, training):
        """Returns what steps of `fit` and `evaluate` take from a dataset of raw batches."""
        if self.exclude_equal_texts:
            batches = with_ids_of_texts(batches)
        return super().step_batches(batches, training)

    def step_batch(self, x, y=None, sample_weight=None, training=False):
        """Returns what a step takes from one batch."""
        if self.exclude_equal_texts:
            x = as_columns(x)
            y = inputs.ids_of_texts(x, y)
        return super().step_batch(x, y, sample_weight, training)

    # Loss from embeddings.

    shows_layers = True

    def _layers_of_steps(self):
        """Returns the memory, whose shape depends on the columns in training."""
        return [] if self.memory is None else [self.memory]

    def _build_of_step(self, layer, y, y_pred):
        """Builds the memory for these embeddings, and for y of one or several labels."""
        several = getattr(self.loss, "multi_label", None) is not None
        if several and not hasattr(y, "shape"):
            return  # ragged, a dict or none, which `compute_loss` refuses
        if several:
            self._check_width(y)
        layer.build(tuple(y_pred.shape), tuple(y.shape[1:]) if several else ())

    def _check_width(self, y):
        """Raises ValueError if a memory cannot be built for labels of unknown width."""
        if not tf.TensorShape(y.shape)[1:].is_fully_defined():
            raise ValueError(
                f"With multi_label={self.loss.multi_label!r} and a memory, L must be "
                "known: expected y padded to one width, as y.to_tensor(-1, shape=[None, "
                f"8]) does. Received: y.shape={y.shape}"
            )

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Computes the compiled loss of the embeddings, and in training of the memory."""
        if self.memory is None or not training:
            if not self.learn_scale:
                return super().compute_loss(x, y, y_pred, sample_weight, training)
            return self._with_added_losses(self._loss_of(y, y_pred, sample_weight))
        if not isinstance(self.loss, EmbeddingLoss):
            raise ValueError(
                "With `memory`, expected one loss of tfembloss.losses in `compile`. "
                f"Received: loss={self.loss!r}"
            )
        if isinstance(y, dict):
            raise ValueError(
                "With `memory`, which keeps the ids of rows, expected y as one array of "
                f"them. Received: a dict of {list(y)}."
            )
        if y is None:
            y = no_targets(y_pred)
        else:
            if not self.memory.built and self.loss.multi_label is not None:
                self._check_width(y)
            y = tf.convert_to_tensor(self.loss.dense_targets(y))
        ids = self.loss.memory_ids(y, y_pred)
        if not self.memory.built:
            self.memory.build(tuple(y_pred.shape), tuple(ids.shape[1:]))
        loss = self._loss_of(y, y_pred, sample_weight, self.memory.contents())
        self.memory.enqueue(y_pred, ids)
        return self._with_added_losses(loss)

    @property
    def _loss_in_steps(self):
        return self._scaled_loss if self.learn_scale else self.loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Computes the compiled metrics of the embeddings, and the learned numbers."""
        if self.learn_scale:
            self.scale_metric.update_state(self.learned_scale)
        if self.learned_bias is not None:
            self.bias_metric.update_state(self.learned_bias)
        return super().compute_metrics(x, y, y_pred, sample_weight)
