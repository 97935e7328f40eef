"""Losses that wrap another loss."""

import keras
import numpy as np
import tensorflow as tf

from tfembloss.checks import integer, non_negative
from tfembloss.losses import drawing
from tfembloss.losses.base import EmbeddingLoss, nan_where_not_finite
from tfembloss.losses.inputs import as_predictions, as_tensor, described, no_targets


@keras.saving.register_keras_serializable("tfembloss")
class MatryoshkaLoss(EmbeddingLoss):
    r"""Applies a loss also to truncated embeddings, so that they can be shortened later.

    With $x_{:d}$ the first d dimensions, normalized to length 1:

    $$L_i = \sum_d w_d\, loss_i(x_{:d})$$

    `tfembloss.export_encoder(..., dimensions=d)` then exports an encoder to d dimensions.
    Losses on class scores cannot be wrapped, because their inputs cannot be truncated, and
    `SigLIPLoss` only in `tfembloss.EmbeddingModel(..., learn_scale=True)`.

    Call arguments: those of `loss`. Embeddings of a teacher (`MSELoss`) are truncated
    without normalization.

    Args:
        loss: a loss of this package on embeddings; its reduction is not used.
        dims: distinct numbers of dimensions, 1 to D, such as `[384, 128, 32]`.
        weights: $w_d$, one for each of `dims`, >= 0; by default 1 each.
        reduction, name: see `EmbeddingLoss`. The dtype is that of `loss`.
        num_dims_per_step: how many of `dims` are drawn in each step that a model of
            `tfembloss` trains, without replacement, >= 1; None for all. Evaluation, and a
            call of the loss by itself, compute all.
        seed: integer >= 0 that defines, with the number of the step, what is drawn.

    Raises:
        ValueError: if an argument is invalid or the embeddings have fewer dimensions than
            `dims`; for `SigLIPLoss` at the first call, without a learned scale.

    Example:

    >>> import tensorflow as tf
    >>> from tfembloss.losses import CosineSimilarityLoss
    >>> pairs = tf.constant([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.8, 0.6]]])
    >>> loss = MatryoshkaLoss(CosineSimilarityLoss(), dims=[2, 1], weights=[1, 0.5])
    >>> round(float(loss(tf.constant([0.6, 0.1]), pairs)), 4)
    0.1675

    Reference:
        Kusupati et al., "Matryoshka Representation Learning", 2022,
        https://arxiv.org/abs/2205.13147

    Relations:
        Equal to sentence-transformers' class of the same name, whose `n_dims_per_step` is
        -1 for all, and which also draws in evaluation. `CLIPLoss` keeps the learned scale
        of a `DualEncoder`, and with `tfembloss.EmbeddingModel(..., learn_scale=True)` every
        loss has that of all `dims`.
    """

    def __init__(
        self,
        loss,
        dims,
        weights=None,
        reduction="sum_over_batch_size",
        name=None,
        num_dims_per_step=None,
        seed=0,
    ):
        check_wrapped(loss)
        super().__init__(reduction=reduction, name=name, dtype=loss.dtype)
        self.loss = loss
        self.dims = [integer("dims", dim, 1) for dim in dims]
        if not self.dims or len(set(self.dims)) < len(self.dims):
            raise ValueError(
                "`dims` must be distinct numbers of dimensions, such as [384, 128, 32]. "
                f"Received: dims={dims!r}"
            )
        weights = [1.0] * len(self.dims) if weights is None else list(weights)
        if len(weights) != len(self.dims):
            raise ValueError(
                "`weights` must have one number for each of `dims`. Received: "
                f"weights={weights!r}, dims={self.dims!r}"
            )
        self.weights = [non_negative("weights", weight) for weight in weights]
        if num_dims_per_step is not None:
            hint = ", or None for all"
            num_dims_per_step = integer(
                "num_dims_per_step", num_dims_per_step, 1, len(self.dims), hint
            )
        self.num_dims_per_step = num_dims_per_step
        self.seed = integer("seed", seed, 0)

    @property
    def targets_are_ids(self):
        """Whether the wrapped loss compares ids."""
        return self.loss.targets_are_ids

    @property
    def multi_label(self):
        """The form of rows of several labels that the wrapped loss takes, or None."""
        return self.loss.multi_label

    @property
    def takes_memory(self):
        """Whether the wrapped loss takes a memory."""
        return self.loss.takes_memory

    def num_dimensions(self, y_pred):
        """Returns that of the wrapped loss."""
        return self.loss.num_dimensions(y_pred)

    def call(self, y_true, y_pred, memory=None):
        """Returns values `[B]`, the weighted sum of the wrapped loss's values."""
        if not y_pred.shape.rank or (self.num_dimensions(y_pred) or 0) < max(self.dims):
            raise ValueError(
                f"Expected embeddings of at least {max(self.dims)} dimensions, the largest "
                f"of `dims`. Received: {described(y_pred, 'y_pred')}"
            )
        total = nan_where_not_finite(y_pred)  # also in dimensions that are left out
        for dim, weight in self._terms():
            of_memory = ()
            if memory is not None:
                rows = self.loss.truncate(memory.embeddings, dim)
                of_memory = (memory._replace(embeddings=rows),)
            targets = y_true[..., :dim] if self.loss.targets_are_embeddings else y_true
            rows = self.loss.truncate(y_pred, dim)
            total += weight * self.loss.call(targets, rows, *of_memory)
        return total

    def _terms(self):
        """Returns pairs of a number of dimensions and its weight, as drawn for this step.

        A drawn number is a tensor: the shapes that XLA compiles, and the collectives of
        replicas, must be the same in each step, so that the other dimensions become 0. Only
        where a loss counts them, all of its terms are computed, and some have weight 0.
        """
        draw = drawing.drawn(self.num_dims_per_step, len(self.dims), self.seed)
        if draw is None:
            return zip(self.dims, self.weights, strict=True)
        weights = tf.constant(self.weights, self.dtype)
        if self.loss.counts_dimensions:
            is_drawn = tf.reduce_any(tf.range(len(self.dims)) == draw[:, None], axis=0)
            weights = tf.where(is_drawn, weights, tf.zeros_like(weights))
            return zip(self.dims, tf.unstack(weights), strict=True)
        dims = tf.gather(self.dims, draw)
        weights = tf.gather(weights, draw)
        return zip(tf.unstack(dims), tf.unstack(weights), strict=True)

    def first_batch_warning(self, y_true, shape):
        """Returns the warning of the wrapped loss."""
        return self.loss.first_batch_warning(y_true, shape)


@keras.saving.register_keras_serializable("tfembloss")
class WeightedSum(EmbeddingLoss):
    r"""Adds several losses of the same embeddings, each with a weight.

    $$L_i = \sum_k w_k\, loss_{k,i}$$

    A model of `tfembloss` also logs each part, without its weight, as `{name}_loss`.

    Call arguments: those of the losses: the same `y_pred`, and `y_true` that all of them
    take; or a dict of `y_true` by the names of the losses, in which those that take none
    are left out.

    Args:
        losses: dict of name to a loss of this package; their reductions are not used.
        weights: $w_k$, a dict of name to a number >= 0, 1 for those that are left out, or
            a list in the order of the losses; by default 1 each. A part of weight 0 is
            neither computed nor logged.
        reduction, name, dtype: see `EmbeddingLoss`. The dtype is that of the losses if it
            is None.

    Raises:
        ValueError: if an argument is invalid, or `y_true` is a dict of other names.

    Example:

    >>> import tensorflow as tf
    >>> from tfembloss.losses import LpRegularizationLoss, SupConLoss
    >>> loss = WeightedSum(
    ...     {"labels": SupConLoss(), "length": LpRegularizationLoss()}, {"length": 0.1}
    ... )
    >>> rows = tf.constant([[1.0, 0.0], [2.0, 0.0]])
    >>> round(float(loss(tf.constant([1, 1]), rows)), 4)  # 0 + 0.1 * 1.5
    0.15

    Relations:
        pytorch-metric-learning's MultipleLosses; sentence-transformers' losses that return
        a dict of parts.
    """

    def __init__(
        self,
        losses,
        weights=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        if not isinstance(losses, dict) or not losses:
            raise ValueError(
                '`losses` must be a dict of name to loss, such as {"rank": '
                "MultipleNegativesRankingLoss()}. Received: "
                f"losses={losses!r}"
            )
        for name_of_loss, loss in losses.items():
            if not isinstance(loss, EmbeddingLoss):
                raise ValueError(
                    "`losses` must be instances of losses of tfembloss.losses. Received: "
                    f"{name_of_loss!r}: {loss!r}"
                )
            if loss.takes_scores or loss.takes_layers:
                what = "scores" if loss.takes_scores else "all layers' embeddings"
                raise ValueError(
                    f"{type(loss).__name__} takes {what}, others embeddings: expected "
                    "losses of embeddings."
                )
        dtypes = {loss.dtype for loss in losses.values()}
        super().__init__(reduction=reduction, name=name, dtype=dtype or max(dtypes))
        self.losses = losses
        self.weights = _by_name(weights, losses)

    takes_named_targets = True

    @property
    def targets_are_ids(self):
        """Whether all losses compare ids, or take no targets."""
        return all(self.losses[name].targets_are_ids for name in self.counted)

    @property
    def multi_label(self):
        """The form of rows of several labels that a part of the sum takes, or None."""
        forms = (self.losses[name].multi_label for name in self.losses)
        return next(filter(None, forms), None)

    @property
    def takes_memory(self):
        """Whether all losses take a memory."""
        return all(self.losses[name].takes_memory for name in self.counted)

    @property
    def counted(self):
        """The names of the losses whose weights are above 0."""
        return [name for name, weight in self.weights.items() if weight]

    def call(self, y_true, y_pred, memory=None):
        """Returns values `[B]`, the weighted sum of the losses' values."""
        return self.total(self.parts(y_true, y_pred, memory))

    def parts(self, y_true, y_pred, memory=None):
        """Returns values `[B]` of each loss by its name, without its weight."""
        values, targets = {}, self._by_loss(y_true, y_pred)
        for name in self.counted:
            loss, of_memory = self.losses[name], ()
            if memory is not None:
                rows = tf.cast(memory.embeddings, loss.dtype)
                of_memory = (memory._replace(embeddings=rows),)
            rows = tf.cast(y_pred, loss.dtype)
            values[name] = tf.cast(loss.call(targets[name], rows, *of_memory), self.dtype)
        return values

    def reduced_parts(self, y_true, y_pred, sample_weight=None, memory=None):
        """Returns each loss's reduced value by name; `total` of these is the loss."""
        if memory is not None:
            memory = self._check_memory(memory)
        y_pred = as_predictions(y_pred, self.dtype)
        y_true = no_targets(y_pred) if y_true is None else y_true
        parts = self.parts(y_true, y_pred, memory)
        return {name: self.reduced(part, sample_weight) for name, part in parts.items()}

    def total(self, parts):
        """Returns the weighted sum of parts by name."""
        return sum(self.weights[name] * part for name, part in parts.items())

    def _by_loss(self, y_true, y_pred):
        """Returns the targets of each loss by its name."""
        if not isinstance(y_true, dict):
            dense = as_tensor(self.dense_targets(y_true), "y_true")
            return dict.fromkeys(self.losses, dense)
        unknown = sorted(set(y_true) - set(self.losses))
        if unknown:
            raise ValueError(
                f"Expected y_true as one tensor, or a dict by the names {list(self.losses)}"
                f". Received: {unknown[0]!r}."
            )
        dense = {name: self.losses[name].dense_targets(y) for name, y in y_true.items()}
        targets = {name: as_tensor(y, f"y_true[{name!r}]") for name, y in dense.items()}
        return {name: targets.get(name, no_targets(y_pred)) for name in self.losses}

    def first_batch_warning(self, y_true, shape):
        """Returns the first warning of a loss that counts."""
        for name in self.counted:
            y = y_true
            if isinstance(y_true, dict):
                y = y_true.get(name, np.zeros([shape[0] or 0, 0]))
            if warning := self.losses[name].first_batch_warning(y, shape):
                return f"{name!r}: {warning}"
        return None


def check_wrapped(loss):
    """Raises ValueError if this is not a loss of embeddings that others can wrap."""
    if not isinstance(loss, EmbeddingLoss) or loss.takes_layers:
        raise ValueError(
            "`loss` must be an instance of a loss of tfembloss.losses, such as "
            f"MultipleNegativesRankingLoss(). Received: loss={loss!r}"
        )
    if isinstance(loss, WeightedSum):
        raise ValueError(
            "Expected one loss, as each truncates in its own way. Received: a "
            "WeightedSum: wrap its parts, each in a MatryoshkaLoss."
        )
    if loss.takes_scores:
        raise ValueError(
            f"{type(loss).__name__} takes scores, which cannot be truncated: "
            "expected another loss, on embeddings."
        )


def is_wrapper(loss):
    """Whether a loss applies another one, its attribute `loss`."""
    return isinstance(loss, MatryoshkaLoss) or takes_layers(loss)


def takes_layers(loss):
    """Whether a loss, which may be one of Keras, takes the embeddings of all layers."""
    return isinstance(loss, EmbeddingLoss) and loss.takes_layers


def single_losses(loss):
    """Returns the losses that a loss wraps or adds up, or the loss itself."""
    if is_wrapper(loss):
        return single_losses(loss.loss)
    if isinstance(loss, WeightedSum):
        parts = (loss.losses[name] for name in loss.counted)
        return [single for part in parts for single in single_losses(part)]
    return [loss]


def _by_name(weights, losses):
    """Returns a weight for each of the losses, by name."""
    if weights is None:
        weights = {}
    if isinstance(weights, list | tuple) and len(weights) == len(losses):
        weights = dict(zip(losses, weights, strict=True))
    if not isinstance(weights, dict) or set(weights) - set(losses):
        raise ValueError(
            f"`weights` must be a dict by the names {list(losses)}, or a list of as many "
            f"numbers. Received: weights={weights!r}"
        )
    found = {name: non_negative("weights", weights.get(name, 1)) for name in losses}
    if not any(found.values()):
        raise ValueError(
            f"Expected at least one weight above 0. Received: weights={weights!r}"
        )
    return found
