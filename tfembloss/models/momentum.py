"""An encoder trained on two views, whose targets a moving average of it makes."""

import keras
import tensorflow as tf

from tfembloss import checks, replicas
from tfembloss.models.base import check_no_strings
from tfembloss.models.contrastive_tension import twin
from tfembloss.models.embedding_model import EmbeddingModel
from tfembloss.models.encoder_model import embed_columns


@keras.saving.register_keras_serializable("tfembloss")
class MomentumModel(EmbeddingModel):
    r"""Trains an encoder on two views, against targets of a moving average of it.

    The queries are embeddings of one view, passed through the predictor if there is one.
    The keys are embeddings of the other view by the target encoder. It begins as a copy of
    the encoder, gets no gradient, and follows it after each training step:

    $$\bar\theta \leftarrow m\, \bar\theta + (1 - m)\, \theta$$

    | method | predictor | momentum | memory | loss |
    |---|---|---|---|---|
    | MoCo | none | 0.999 | `CrossBatchMemory` | `MultipleNegativesRankingLoss` |
    | MoCo v3 | a layer | 0.99 | none | `MultipleNegativesRankingLoss` |
    | BYOL | a layer | 0.996 | none | `SimSiamLoss` |
    | SimSiam | a layer | 0 | none | `SimSiamLoss` |

    The loss gets pairs of a query and its key, in columns `[B, 2, D]`: any loss on pairs
    without targets will do. Without a memory, each view is the query once, and the loss is
    the mean over both directions. With a memory, the first view is the query; the memory
    keeps the keys of earlier batches, which are further negatives.

    `fit((views, views))` takes two columns, which a preprocessor with random augmentation
    makes different; or texts and their answers. `predict` on one column, and
    `export_encoder`, use the encoder only. `model((a, b))` returns what the loss compares:
    a query and its key, `[B, 2, D]`, or without a memory the pairs of both directions,
    `[B, 4, D]`.

    In training, both encoders and the predictor run as in training: dropout is drawn for
    each. Only weights are averaged, of frozen layers too. Statistics, such as those of
    `BatchNormalization`, are the target encoder's own, of the rows that it gets. They are
    of one replica's rows, unless the layer has `synchronized=True`.

    Args:
        encoder: Keras model or layer from the input of one column to embeddings
            `[rows, D]`; with a momentum above 0, built. Load its weights before, because it
            is copied here. If a method has a projector, it is part of the encoder.
        preprocessor: see `EmbeddingModel`.
        predictor: layer from embeddings `[rows, D]` to predictions `[rows, D]`; None for
            none. It is needed for `SimSiamLoss`, which has no negatives.
        momentum: m, at least 0 and below 1. With 0 there is no copy: the keys are the
            encoder's own embeddings, as constants. The target encoder also moves in steps
            in which an optimizer with `gradient_accumulation_steps=k` only accumulates, so
            that its momentum is $m^k$ for each update of the weights.
        memory: `tfembloss.layers.CrossBatchMemory`, or None.
        mini_batch_size: see `EmbeddingModel`.
        name, dtype: as in `keras.Model`.

    Raises:
        ValueError: as for `EmbeddingModel`; if the encoder is not built, or cannot be
            copied; for other than two columns in training.

    Example:

    >>> import numpy as np, tfembloss
    >>> images = np.random.rand(8, 4, 4).astype("float32")
    >>> layers = [keras.Input([4, 4]), keras.layers.Flatten(), keras.layers.Dense(6)]
    >>> head = [keras.layers.Dense(3), keras.layers.ReLU(), keras.layers.Dense(6)]
    >>> model = MomentumModel(
    ...     keras.Sequential(layers),
    ...     keras.layers.GaussianNoise(0.1),
    ...     predictor=keras.Sequential(head),
    ...     momentum=0.996,
    ... )
    >>> model.compile("adam", loss=tfembloss.losses.SimSiamLoss())
    >>> history = model.fit((images, images), verbose=0)
    >>> model.predict(images, verbose=0).shape
    (8, 6)

    Reference:
        He et al., "Momentum Contrast for Unsupervised Visual Representation Learning",
        2019, https://arxiv.org/abs/1911.05722; Grill et al., "Bootstrap Your Own Latent: A
        New Approach to Self-Supervised Learning", 2020, https://arxiv.org/abs/2006.07733

    Relations:
        MoCo's negatives are those of the queue alone; here, the keys of the other rows are
        negatives, too, as in MoCo v3. MoCo updates the target encoder before a step and
        BYOL after it, which is the same. BYOL's momentum increases to 1 by the end of its
        training; here it is constant. No rows are shuffled among replicas.
    """

    def __init__(
        self,
        encoder,
        preprocessor=None,
        predictor=None,
        momentum=0.999,
        memory=None,
        mini_batch_size=None,
        name=None,
        dtype=None,
    ):
        super().__init__(
            encoder, preprocessor, mini_batch_size, memory, name=name, dtype=dtype
        )
        if predictor is not None and not isinstance(predictor, keras.layers.Layer):
            raise ValueError(
                "`predictor` maps embeddings [rows, D] to predictions [rows, D]: expected "
                f"a Keras layer or None. Received: predictor={predictor!r}"
            )
        self.predictor = predictor
        self.momentum = checks.number(
            "momentum", momentum, "a number from 0 to below 1", lambda m: 0 <= m < 1
        )
        self.target_encoder = twin(self.encoder) if self.momentum else None
        self._exclude_target_from_training()

    def compile(self, optimizer="rmsprop", loss=None, *args, **kwargs):
        """`keras.Model.compile`, with one loss on pairs."""
        super().compile(optimizer, loss, *args, **kwargs)
        self._exclude_target_from_training()  # which Keras ends where layers are unfrozen

    def _exclude_target_from_training(self):
        # Of the weights alone: BatchNormalization that is frozen as a layer would take its
        # moving statistics.
        for weight in _averaged(self.target_encoder):
            weight.trainable = False

    # Views in, queries and keys out.

    def _known_inputs(self):
        """Returns two columns of the encoder's own inputs."""
        x = super()._known_inputs()
        return None if x is None else (x, x)

    def _build_parts(self, shape):
        """Builds the predictor, for embeddings of this shape."""
        if self.predictor is not None and not self.predictor.built:
            self.predictor.build((None, shape[-1]))

    def call(self, x, training=None):
        """Returns embeddings `[B, D]` of one column; of two, queries and keys.

        These are `[B, 2, D]` with a memory, or else `[B, 4, D]`: a query of the first view
        and its key, and a query of the second view and its key.
        """
        if not isinstance(x, (tuple, list)):
            embeddings = super().call(x, training=training)
            self._build_parts(embeddings.shape)
            return embeddings
        check_no_strings(x)
        if len(x) != 2:
            raise ValueError(
                "A MomentumModel compares two views: expected one column or two. Received: "
                f"{len(x)} columns"
            )
        if training:
            self._trained_columns = 2
        if self.memory is not None:
            query = self._queries(embed_columns(self.encoder, x[0], training), training)
            key = embed_columns(self.target_encoder or self.encoder, x[1], training)
            return _joined([query], [key])
        embeddings = keys = embed_columns(self.encoder, x, training)  # [B, 2, D]
        if self.target_encoder is not None:
            keys = embed_columns(self.target_encoder, x, training)
        queries = self._queries(embeddings, training)
        return _joined(tf.unstack(queries, axis=1), tf.unstack(keys, axis=1)[::-1])

    def _queries(self, embeddings, training):
        """Returns the predictions of embeddings `[..., D]`."""
        if self.predictor is None:
            return embeddings
        self._build_parts(embeddings.shape)
        dim = embeddings.shape[-1]
        rows = self.predictor(tf.reshape(embeddings, [-1, dim]), training=training)
        if rows.shape.rank != 2 or rows.shape[1] != dim:
            raise ValueError(
                "Expected a predictor that returns predictions of the dimension of the "
                f"embeddings, [rows, {dim}]. Received: a tensor of shape "
                f"{tuple(rows.shape)}. End it with keras.layers.Dense({dim})."
            )
        return tf.reshape(rows, tf.shape(embeddings))

    # Steps.

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Computes the mean over the directions of the compiled loss of their pairs."""
        loss_of = super().compute_loss
        if y_pred.shape.rank != 3 or y_pred.shape[1] != 4:
            return loss_of(x, y, y_pred, sample_weight, training)
        first, second = tf.split(y_pred, 2, axis=1)  # [B, 2, D]
        exchanged = y if y is None else tf.nest.map_structure(_exchanged, y)
        return (
            loss_of(x, y, first, sample_weight, training)
            + loss_of(x, exchanged, second, sample_weight, training)
        ) / 2

    def train_step(self, data):
        """Runs a training step, after which the target encoder follows the encoder."""
        logs = super().train_step(data)
        if self.target_encoder is not None:
            replicas.update(
                _averaged(self.target_encoder),
                _averaged(self.encoder),
                lambda mean, new: self.momentum * mean + (1 - self.momentum) * new,
            )
        return logs


def _exchanged(y):
    """Returns targets of each column, such as ids `[B, 2]`, in the other order."""
    columns = y.shape[1:2] if y.shape.rank else []
    return tf.reverse(y, [1]) if columns == [2] else y


def _joined(queries, keys):
    """Returns columns of queries, each with its key, which gets no gradient."""
    columns = []
    for query, key in zip(queries, keys, strict=True):
        columns += [query, tf.stop_gradient(tf.cast(key, query.dtype))]
    return tf.stack(columns, axis=1)


def _averaged(encoder):
    """Returns an encoder's weights, frozen ones too, without states such as statistics."""
    layers = [] if encoder is None else encoder._flatten_layers()
    weights = [weight for layer in layers for weight in layer._trainable_variables]
    return list({id(weight): weight for weight in weights}.values())
