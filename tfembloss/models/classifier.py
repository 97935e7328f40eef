"""An encoder and a head on its embeddings, trained together."""

import keras
import tensorflow as tf

from tfembloss import layers, replicas
from tfembloss.checks import integer
from tfembloss.kernels import compiled, uniform
from tfembloss.losses.base import EmbeddingLoss
from tfembloss.losses.classification.base import ClassLoss, check_labels
from tfembloss.losses.inputs import no_targets, require
from tfembloss.models.encoder_model import EncoderModel
from tfembloss.models.head_optimizer import HeadOptimizer, with_head, with_shards


@keras.saving.register_keras_serializable("tfembloss")
class EmbeddingClassifier(EncoderModel):
    """Trains an encoder together with a head on its embeddings.

    The head is `tfembloss.layers.CosineHead` for `ArcFaceLoss` and other losses on class
    centers, `PairHead` for `SoftmaxLoss`, `MarginHead` for a `MarginLoss` that learns its
    boundaries, or any layer on embeddings: a `keras.layers.Dense` projects them to a
    teacher's dimension for `MSELoss`.

    `model(x)` and `predict` return embeddings, while the loss and the metrics passed to
    `compile` get the head's scores. `export_encoder` leaves the head out. As in
    `EmbeddingModel`, one column x gives embeddings `[B, D]`, and a tuple of n columns
    `[B, n, D]`.

    Args:
        encoder: Keras model or layer from the input of one column to embeddings
            `[rows, D]`.
        head: layer from embeddings to scores.
        preprocessor, mini_batch_size: see `EmbeddingModel`.
        num_sampled: for a `CosineHead` with very many classes: the number S of classes that
            a training step scores. These are the classes of the batch on all replicas, and
            random others, resampled in each step. Memory is then `[B, S]` instead of
            `[B, C]`. It must be at least the number of classes in a batch, which its number
            of rows always is, and at most C. Evaluation and metrics score all classes.
        name, dtype: as in `keras.Model`.

    Raises:
        ValueError: if an argument is invalid, or a batch has more classes than
            `num_sampled`.

    Example:

    >>> import numpy as np, tfembloss
    >>> x, y = np.eye(6), np.array([0, 0, 1, 1, 2, 2])
    >>> model = EmbeddingClassifier(
    ...     keras.Sequential([keras.layers.Dense(4)]), tfembloss.layers.CosineHead(3)
    ... )
    >>> model.compile("adam", loss=tfembloss.losses.ArcFaceLoss())
    >>> history = model.fit(x, y, verbose=0)
    >>> model.predict(x, verbose=0).shape
    (6, 4)

    Reference:
        An et al., "Partial FC: Training 10 Million Identities on a Single Machine", 2020,
        https://arxiv.org/abs/2010.05222

    Relations:
        pytorch-metric-learning and sentence-transformers keep the head in the loss, which
        has to be passed to the optimizer, moved and saved in addition to the model. Partial
        FC splits the centers among the replicas, as `CosineHead(..., shard=True)` does, and
        samples among those of each replica; here, one or the other.
    """

    def __init__(
        self,
        encoder,
        head,
        preprocessor=None,
        mini_batch_size=None,
        num_sampled=None,
        name=None,
        dtype=None,
    ):
        super().__init__(encoder, preprocessor, mini_batch_size, name=name, dtype=dtype)
        if not isinstance(head, keras.layers.Layer):
            raise ValueError(
                "`head` maps embeddings to scores: expected a layer, such as "
                f"tfembloss.layers.CosineHead(num_classes). Received: head={head!r}"
            )
        if num_sampled is not None:
            _check_num_sampled(num_sampled, head)
        self.head = head
        self.num_sampled = num_sampled
        # Its state is saved, and is the same on all replicas. An optimizer's step count
        # would not change for a frozen encoder, or while gradients accumulate.
        self._sampling = None if num_sampled is None else keras.random.SeedGenerator(0)

    loss_sees_scores = True

    def compile(self, optimizer="rmsprop", loss=None, *, head_optimizer=None, **kwargs):
        """`keras.Model.compile`, optionally with a separate optimizer for the head.

        Args:
            optimizer: see `keras.Model.compile`.
            loss: see `keras.Model.compile`.
            **kwargs: see `keras.Model.compile`.
            head_optimizer: optimizer of the head's variables, with its own learning rate;
                by default `optimizer`, as for the encoder's variables.
        """
        if self._is_sharded():
            optimizer = with_shards(optimizer, head_optimizer)
        elif head_optimizer is not None:
            optimizer = with_head(optimizer, head_optimizer)
        super().compile(optimizer, loss, **kwargs)
        split = getattr(self.optimizer, "inner_optimizer", self.optimizer)  # or scaled
        if isinstance(split, HeadOptimizer):
            split.set_head(self.head)

    def _checked_loss(self, loss):
        loss = super()._checked_loss(loss)
        on_classes = isinstance(self.head, layers.CosineHead | layers.PairHead)
        on_embeddings = isinstance(loss, EmbeddingLoss) and not loss.takes_scores
        if on_classes and on_embeddings:
            raise ValueError(
                f"{type(self.head).__name__} returns class scores: expected a loss on "
                "them, such as ArcFaceLoss or SoftmaxLoss. Received: "
                f"{type(loss).__name__}, which takes embeddings: train with it in "
                "EmbeddingModel(encoder)."
            )
        return loss

    def call(self, x, training=None):
        """Returns embeddings `[B, D]` of one column, `[B, n, D]` of a tuple of n."""
        embeddings = super().call(x, training=training)
        self._build_parts(embeddings.shape)  # which only the loss and metrics use
        return embeddings

    def _known_inputs(self):
        """Returns as many columns as the head takes."""
        x = super()._known_inputs()
        return (x, x) if isinstance(self.head, layers.PairHead) and x is not None else x

    def _build_parts(self, shape):
        """Builds the head, for embeddings of this shape."""
        if isinstance(self.head, layers.PairHead) and len(shape) == 2:
            return  # `predict` of one column
        if not self.head.built:
            self.head.build(tuple(shape))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Computes the compiled loss of the head's scores of the embeddings `y_pred`."""
        if self._is_sharded() and getattr(self.loss, "takes_shards", False):
            return self._with_added_losses(self._loss_of_shards(y_pred, y, sample_weight))
        if self.num_sampled is not None and training:
            scores, y = self._sampled_scores(y_pred, y)
        else:
            scores = self._scores_for_loss(y_pred)
        return super().compute_loss(x, y, scores, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Computes the compiled metrics of the head's scores of the embeddings."""
        if self._compile_metrics is not None:
            y_pred = self.head(y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def set_weights(self, weights):
        """`keras.Model.set_weights`, of all centers of a head with shards."""
        if not self._is_sharded():
            super().set_weights(weights)
            return
        for variable, value in zip(self.weights, weights, strict=True):
            variable.assign(value)

    def _is_sharded(self):
        return isinstance(self.head, layers.CosineHead) and self.head.shard

    def _loss_of_shards(self, embeddings, y, sample_weight):
        """Computes the loss of all replicas' rows and this replica's classes."""
        y = no_targets(embeddings) if y is None else tf.convert_to_tensor(y)
        labels = check_labels(y, embeddings, self.head.num_classes)  # [B]
        rows = tf.cast(embeddings, self.loss.dtype)  # and so the sum of their gradients
        cosines, first_class = self.head.of_shard(replicas.gather(rows))  # [N, c]
        values = self.loss.values_of_shards(
            replicas.gather(labels),
            tf.cast(cosines, self.loss.dtype),
            first_class,
            self.head.num_classes,
        )  # [N]
        first = replicas.first_row(labels)
        values = values[first : first + tf.shape(labels)[0]]
        return self.loss.reduced(values, sample_weight)

    def _encoder_layers(self):
        """Returns the layers that `call` uses, without those of the head."""
        of_head = {id(layer) for layer in self.head._flatten_layers()}
        return [layer for layer in super()._encoder_layers() if id(layer) not in of_head]

    def _sampled_scores(self, embeddings, y):
        """Returns scores `[B, S]` of sampled classes, and the labels as their indices."""
        y = no_targets(embeddings) if y is None else tf.convert_to_tensor(y)
        labels = check_labels(y, embeddings, self.head.num_classes)  # [B]
        keys = replicas.gather(labels)  # [N], so that all replicas draw the same
        seed = tf.cast(self._sampling.next(), tf.int32)  # [2]
        classes, places = _sample_classes(
            keys, seed, self.head.num_classes, self.num_sampled
        )  # [S], [C]
        targets = tf.gather(places, labels)  # [B]
        targets = require(
            tf.reduce_all(targets >= 0),
            targets,
            "Expected `num_sampled` to be at least the number of classes in a batch on all "
            f"replicas. Received: num_sampled={self.num_sampled}, and a batch with more. "
            "As many as a batch has rows are always enough.",
        )
        return self._scores_for_loss(embeddings, classes=classes), targets

    def _scores_for_loss(self, embeddings, **options):
        """Returns the head's scores, with the lengths that the loss takes."""
        on_centers = isinstance(self.head, layers.CosineHead)
        if on_centers and isinstance(self.loss, ClassLoss) and self.loss.lengths:
            options["lengths"] = self.loss.lengths
        return self.head(embeddings, **options)


def _check_num_sampled(num_sampled, head):
    if getattr(head, "shard", False):
        raise ValueError(
            "Expected `num_sampled` or a head with shard=True. Received both: "
            f"num_sampled={num_sampled}."
        )
    if not isinstance(head, layers.CosineHead):
        raise ValueError(
            "`num_sampled` samples classes of a tfembloss.layers.CosineHead. Received: "
            f"head={head!r}"
        )
    hint = ", at least the classes of a batch and at most all"
    integer("num_sampled", num_sampled, 1, head.num_classes, hint)


@compiled
def _sample_classes(labels, seed, num_classes, num_sampled):
    """Returns classes `[S]`, those of the labels and random others, and places `[C]`.

    The place of a class is its index in these, or -1 if it was not drawn, which also
    happens to some of the labels' classes if there are more than S.
    """
    order = uniform([num_classes], seed, tf.float32)
    order = tf.tensor_scatter_nd_update(
        order, labels[:, None], tf.fill(tf.shape(labels), 2.0)
    )
    classes = tf.math.top_k(order, num_sampled).indices  # [S]
    places = tf.fill([num_classes], -1)
    return classes, tf.tensor_scatter_nd_update(
        places, classes[:, None], tf.range(num_sampled)
    )
