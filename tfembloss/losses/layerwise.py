"""Losses of the outputs of all layers of an encoder, so that it can be cut after any."""

import math

import keras
import numpy as np
import tensorflow as tf

from tfembloss.checks import integer, non_negative, one_of
from tfembloss.losses import drawing
from tfembloss.losses.base import EmbeddingLoss, nan_where_not_finite
from tfembloss.losses.inputs import described
from tfembloss.losses.wrappers import MatryoshkaLoss, check_wrapped

_WEIGHTINGS = {
    "uniform": lambda i: 1.0,
    "log": lambda i: 1 / (1 + math.log(1 + i)),
    "linear": lambda i: 1 / (1 + i),
}
# Changes the seed, so that layers are drawn independently of dimensions with the same one.
_OF_LAYERS = 0x5DEECE66D


def of_columns(columns):
    """Returns one layer's columns `[B, n, D]`, of a single one `[B, D]`."""
    return tf.squeeze(columns, axis=1) if columns.shape[1] == 1 else columns


@keras.saving.register_keras_serializable("tfembloss")
class AdaptiveLayerLoss(EmbeddingLoss):
    r"""Applies a loss also to what earlier layers give, so that later ones can be left out.

    With the embeddings $x^{(l)}$ that the encoder gives without the layers after l, 0 for
    none, of k of the L layers before the last, and $q = softmax(x / T)$:

    $$L_i = w_L\, loss_i(x^{(L)}) + \sum_l \frac{w w_l}{k}\, loss_i(x^{(l)})
            + w_{KL}\, T\, KL\big(q^{(L)}_i \,\|\, q^{(l)}_i\big)$$

    The last layer is the teacher of the others: it gets no gradient from the divergence,
    which is the mean over the columns of a row. `tfembloss.EmbeddingModel` trains it, with
    an encoder from `from_pretrained` or a `TextEncoder` with `num_layers`, and
    `tfembloss.export_encoder(..., num_layers=l)` exports an encoder of l layers. In
    evaluation there is only the first term.

    Call arguments: `y_pred` embeddings of all layers `[B, n, L + 1, D]`, the last layer
    last; those of `loss`, the last layer's only, have the first term. `y_true` as for
    `loss`.

    Args:
        loss: a loss of this package on embeddings; its reduction is not used.
        num_layers_per_step: k, how many of the layers before the last are drawn in each
            step of training, without replacement, >= 1; None for all.
        last_layer_weight: $w_L$, >= 0.
        prior_layers_weight: w, >= 0.
        kl_div_weight: $w_{KL}$, >= 0.
        kl_temperature: T, >= 0; with 0 there is no divergence.
        layer_weighting: $w_l$: `"uniform"`, 1; `"log"`, $1 / (1 + \log(1 + l))$; or
            `"linear"`, $1 / (1 + l)$.
        seed: integer >= 0 that defines, with the number of the step, what is drawn.
        reduction, name: see `EmbeddingLoss`. The dtype is that of `loss`.

    Raises:
        ValueError: if an argument or the shape of `y_pred` is invalid.

    Example:

    >>> import tensorflow as tf
    >>> from tfembloss.losses import CosineSimilarityLoss
    >>> last = tf.constant([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.8, 0.6]]])
    >>> layers = tf.stack([last[::-1], last], axis=2)   # [B, n, 2 layers, D]
    >>> loss = AdaptiveLayerLoss(CosineSimilarityLoss(), None, kl_temperature=0)
    >>> round(float(loss(tf.constant([0.6, 0.6]), layers)), 4)   # once for each layer
    0.0
    >>> round(float(loss(tf.constant([0.6, 0.1]), layers)), 4)
    0.25

    Reference:
        Li et al., "2D Matryoshka Sentence Embeddings", 2024,
        https://arxiv.org/abs/2402.14776

    Relations:
        Equal to sentence-transformers' class of the same name, whose `n_layers_per_step` is
        -1 for all, and which also draws in evaluation. What comes after the layers, such as
        a last normalization, is here applied to each of them, as in the exported encoder.
        Unlike there, it goes with `mini_batch_size`.
    """

    takes_layers = True

    def __init__(
        self,
        loss,
        num_layers_per_step=1,
        last_layer_weight=1.0,
        prior_layers_weight=1.0,
        kl_div_weight=1.0,
        kl_temperature=0.3,
        layer_weighting="uniform",
        seed=0,
        reduction="sum_over_batch_size",
        name=None,
    ):
        check_wrapped(loss)
        super().__init__(reduction=reduction, name=name, dtype=loss.dtype)
        self.loss = loss
        hint = ", or None for all"
        if num_layers_per_step is not None:
            num_layers_per_step = integer(
                "num_layers_per_step", num_layers_per_step, 1, hint=hint
            )
        self.num_layers_per_step = num_layers_per_step
        self.last_layer_weight = non_negative("last_layer_weight", last_layer_weight)
        self.prior_layers_weight = non_negative("prior_layers_weight", prior_layers_weight)
        self.kl_div_weight = non_negative("kl_div_weight", kl_div_weight)
        self.kl_temperature = non_negative("kl_temperature", kl_temperature)
        self.layer_weighting = one_of("layer_weighting", layer_weighting, list(_WEIGHTINGS))
        self.seed = integer("seed", seed, 0)

    @property
    def of_layer(self):
        """The loss of one layer's embeddings."""
        return self.loss

    @property
    def targets_are_ids(self):
        """Whether the wrapped loss compares ids."""
        return self.loss.targets_are_ids

    @property
    def multi_label(self):
        """The form of rows of several labels that the wrapped loss takes, or None."""
        return self.loss.multi_label

    def call(self, y_true, y_pred):
        """Returns values `[B]` of layers `y_pred [B, n, L + 1, D]`, or of the last one."""
        if y_pred.shape.rank != 4:
            return self.last_layer_weight * self.of_layer.call(y_true, y_pred)
        num_layers = y_pred.shape[2]
        if num_layers is None:
            raise ValueError(
                "Expected the layers' embeddings [B, n, L + 1, D], their number known when "
                f"the loss is traced. Received: {described(y_pred, 'y_pred')}"
            )
        layers = range(num_layers - 1)
        weights = np.array([_WEIGHTINGS[self.layer_weighting](i) for i in layers])
        seed = self.seed ^ _OF_LAYERS
        draw = drawing.drawn(self.num_layers_per_step, num_layers - 1, seed)
        prior, last = tf.split(y_pred, [num_layers - 1, 1], axis=2)
        if draw is not None:
            prior = tf.gather(prior, draw, axis=2)
            weights = tf.gather(weights, draw)
        last = tf.squeeze(last, axis=2)  # [B, n, D]
        total = self.last_layer_weight * self._of_columns(y_true, last)
        prior = tf.unstack(prior, axis=2)
        for columns, weight in zip(prior, tf.unstack(weights), strict=True):
            weight = tf.cast(weight, self.dtype) * self.prior_layers_weight / len(prior)
            total += weight * self._of_columns(y_true, columns)
            if self.kl_temperature:
                total += self.kl_div_weight * self._divergence(last, columns)
        return total + nan_where_not_finite(y_pred)

    def _of_columns(self, y_true, columns):
        return self.of_layer.call(y_true, of_columns(columns))

    def _divergence(self, last, columns):
        """Returns the mean over columns `[B, n, D]` of KL from the last layer's, `[B]`."""
        log_p = tf.nn.log_softmax(tf.stop_gradient(last) / self.kl_temperature)
        log_q = tf.nn.log_softmax(columns / self.kl_temperature)
        divergence = tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=2)  # [B, n]
        return self.kl_temperature * tf.reduce_mean(divergence, axis=1)

    def first_batch_warning(self, y_true, shape):
        """Returns the warning of the wrapped loss."""
        if len(shape) == 4:
            shape = (shape[0], *shape[1:2], shape[3]) if shape[1] != 1 else shape[::3]
        return self.of_layer.first_batch_warning(y_true, shape)


@keras.saving.register_keras_serializable("tfembloss")
class Matryoshka2dLoss(AdaptiveLayerLoss):
    r"""`AdaptiveLayerLoss` of a `MatryoshkaLoss`: layers and dimensions can be left out.

    The divergence to the last layer is that of all dimensions.

    Call arguments: those of `AdaptiveLayerLoss`.

    Args:
        loss, dims, weights, num_dims_per_step: see `MatryoshkaLoss`.
        num_layers_per_step, last_layer_weight, prior_layers_weight, kl_div_weight,
            kl_temperature, layer_weighting, seed: see `AdaptiveLayerLoss`.
        reduction, name: see `EmbeddingLoss`. The dtype is that of `loss`.

    Raises:
        ValueError: as for `MatryoshkaLoss` and `AdaptiveLayerLoss`.

    Example:

    >>> import tensorflow as tf
    >>> from tfembloss.losses import CosineSimilarityLoss
    >>> last = tf.constant([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.8, 0.6]]])
    >>> loss = Matryoshka2dLoss(CosineSimilarityLoss(), dims=[2, 1])
    >>> round(float(loss(tf.constant([0.6, 0.1]), last)), 4)   # of a last layer only
    0.21

    Reference:
        Li et al., "2D Matryoshka Sentence Embeddings", 2024,
        https://arxiv.org/abs/2402.14776

    Relations:
        Equal to sentence-transformers' class of the same name. There, each layer draws its
        own dimensions.
    """

    def __init__(
        self,
        loss,
        dims,
        weights=None,
        num_layers_per_step=1,
        num_dims_per_step=1,
        last_layer_weight=1.0,
        prior_layers_weight=1.0,
        kl_div_weight=1.0,
        kl_temperature=0.3,
        layer_weighting="uniform",
        seed=0,
        reduction="sum_over_batch_size",
        name=None,
    ):
        super().__init__(
            loss,
            num_layers_per_step,
            last_layer_weight,
            prior_layers_weight,
            kl_div_weight,
            kl_temperature,
            layer_weighting,
            seed,
            reduction,
            name,
        )
        self._of_dims = MatryoshkaLoss(
            loss, dims, weights, num_dims_per_step=num_dims_per_step, seed=seed
        )
        self.dims, self.weights = self._of_dims.dims, self._of_dims.weights
        self.num_dims_per_step = self._of_dims.num_dims_per_step

    @property
    def of_layer(self):
        """The loss of one layer's embeddings, of their first dimensions."""
        return self._of_dims
