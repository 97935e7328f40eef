"""Losses that wrap another loss."""

import keras

from tfembloss.checks import integer, non_negative
from tfembloss.losses.base import EmbeddingLoss
from tfembloss.losses.inputs import described


@keras.saving.register_keras_serializable("tfembloss")
class MatryoshkaLoss(EmbeddingLoss):
    r"""Applies a loss also to truncated embeddings, so that they can be shortened later.

    With $x_{:d}$ the first d dimensions, normalized to length 1:

    $$L_i = \sum_d w_d\, loss_i(x_{:d})$$

    `tfembloss.export_encoder(..., dimensions=d)` then exports an encoder to d dimensions.
    Losses on class scores and `SigLIPLoss` cannot be wrapped, because their inputs cannot
    be truncated.

    Call arguments: those of `loss`. Embeddings of a teacher (`MSELoss`) are truncated
    without normalization.

    Args:
        loss: a loss of this package on embeddings; its reduction is not used.
        dims: distinct numbers of dimensions, 1 to D, such as `[384, 128, 32]`.
        weights: $w_d$, one for each of `dims`, >= 0; by default 1 each.
        reduction, name: see `EmbeddingLoss`. The dtype is that of `loss`.

    Raises:
        ValueError: if an argument is invalid or the embeddings have fewer dimensions than
            `dims`; for `SigLIPLoss` at the first call.

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
        Equal to sentence-transformers' class of the same name when that uses all
        dimensions in every step. `CLIPLoss` keeps its learned scale.
    """

    def __init__(
        self, loss, dims, weights=None, reduction="sum_over_batch_size", name=None
    ):
        if not isinstance(loss, EmbeddingLoss):
            raise ValueError(
                "`loss` must be an instance of a loss of tfembloss.losses, such as "
                f"MultipleNegativesRankingLoss(). Received: loss={loss!r}"
            )
        if loss.takes_scores:
            raise ValueError(
                f"{type(loss).__name__} takes class scores, which cannot be truncated: "
                "expected another loss, on embeddings."
            )
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

    @property
    def targets_are_ids(self):
        """Whether the wrapped loss compares ids."""
        return self.loss.targets_are_ids

    @property
    def takes_memory(self):
        """Whether the wrapped loss takes a memory."""
        return self.loss.takes_memory

    def call(self, y_true, y_pred, memory=None):
        """Returns values `[B]`, the weighted sum of the wrapped loss's values."""
        if not y_pred.shape.rank or (y_pred.shape[-1] or 0) < max(self.dims):
            raise ValueError(
                f"Expected embeddings of at least {max(self.dims)} dimensions, the largest "
                f"of `dims`. Received: {described(y_pred, 'y_pred')}"
            )
        total = 0
        for dim, weight in zip(self.dims, self.weights, strict=True):
            targets = y_true[..., :dim] if self.loss.targets_are_embeddings else y_true
            of_memory = ()
            if memory is not None:
                rows = self.loss.truncate(memory.embeddings, dim)
                of_memory = (memory._replace(embeddings=rows),)
            rows = self.loss.truncate(y_pred, dim)
            total += weight * self.loss.call(targets, rows, *of_memory)
        return total

    def first_batch_warning(self, y_true, shape):
        """Returns the warning of the wrapped loss."""
        return self.loss.first_batch_warning(y_true, shape)
