"""What every loss here has in common."""

import keras
import tensorflow as tf

from tfembloss import replicas


class EmbeddingLoss(keras.losses.Loss):
    """Base of the losses: one value per anchor, exact on any number of replicas.

    A subclass writes `call(y_true, y_pred)`: `y_pred` are this replica's embeddings in
    `dtype`, `[B, D]` or columns `[B, n, D]`; `y_true` is in the caller's own dtype, so
    that ids stay exact (Keras would cast them to float32). It returns the values `[B]`
    of this replica's anchors, computed against the gathered rows of all replicas.
    `sample_weight [B]` weighs anchors.

    Args:
        reduction: `"sum_over_batch_size"` or `"mean"` (the mean over the anchors of all
            replicas), `"mean_with_sample_weight"` (divided by the sum of the weights
            instead), `"sum"`, or `None` for the values themselves.
        name: the loss's name; by default the class's, in snake case.
        dtype: `"float32"` (default) or `"float64"`: the precision of the loss, whatever
            the precision of the embeddings.

    Raises:
        ValueError: another dtype.
    """

    def __init__(self, reduction="sum_over_batch_size", name=None, dtype=None):
        if dtype is None:
            dtype = "float64" if keras.config.floatx() == "float64" else "float32"
        if dtype not in ("float32", "float64"):
            raise ValueError(
                "A loss computes in 'float32' or 'float64', also on embeddings of lower "
                f"precision. Received: dtype={dtype!r}"
            )
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self._reduce = _Reduce(reduction=reduction, name=self.name, dtype=dtype)

    def __call__(self, y_true, y_pred, sample_weight=None):
        """The reduced loss."""
        with keras.name_scope(self.name):
            embeddings = tf.cast(tf.convert_to_tensor(y_pred), self.dtype)
            y_true = (
                no_targets(embeddings) if y_true is None else tf.convert_to_tensor(y_true)
            )
            values = self.call(y_true, embeddings)  # [B]
            values *= self._share_of_the_mean(values, sample_weight)
            return self._reduce(values, values, sample_weight)

    def _share_of_the_mean(self, values, sample_weight):
        """Turns Keras's mean of the replicas' means into the mean over all anchors.

        They differ where replicas hold different numbers of rows, as the last batch of
        an epoch does, or different sums of weights.
        """
        if replicas.count() == 1 or self.reduction in ("sum", "none", None):
            return 1
        if self.reduction == "mean_with_sample_weight" and sample_weight is not None:
            size = tf.reduce_sum(tf.cast(sample_weight, values.dtype))
        else:
            size = tf.cast(tf.size(values), values.dtype)
        return tf.math.divide_no_nan(size * replicas.count(), replicas.total(size))

    def get_config(self):
        """The arguments that make this loss again."""
        return {**super().get_config(), "dtype": self.dtype}

    @classmethod
    def from_config(cls, config):
        """The loss that `get_config` described; its parts are Keras-serialisable."""
        return cls(
            **{
                name: keras.saving.deserialize_keras_object(value)
                if isinstance(value, dict)
                else value
                for name, value in config.items()
            }
        )


class _Reduce(keras.losses.Loss):
    """Keras's weighting and reduction, applied to values that are computed already."""

    def call(self, y_true, y_pred):
        return y_pred


_HASH_KEY = (0x2545F4914F6CDD1D, 0x1E3779B97F4A7C15)  # any two: they define the hash


def check_columns(y_pred, at_least):
    """Columns `[B, n, D]` with n >= `at_least`, or a ValueError that says how."""
    shape = y_pred.shape
    if shape.rank == 3 and (shape[1] is None or shape[1] >= at_least):
        return y_pred
    raise ValueError(
        f"Expected embeddings in columns [B, n, D] with n >= {at_least}: an anchor, its "
        f"positive, then any negatives. Received: y_pred.shape={shape}. Give the model its "
        "columns as one tuple, x=(anchors, positives, ...), and validation_data as "
        "((anchors, positives),). A tf.data.Dataset whose elements are (anchor, positive) "
        "is read by Keras as (x, y): tfembloss.data.columns(dataset) makes the one that is "
        "meant here."
    )


def check_ids(y_true, y_pred):
    """Integer ids `[B]`, one for each row of `y_pred`, or a ValueError that says how.

    Strings become hashes of 63 bits: collectives carry no strings.
    """
    shape = y_true.shape
    if shape.rank == 2 and shape[1] == 1:
        return check_ids(tf.squeeze(y_true, axis=1), y_pred)
    if y_true.dtype.is_floating and shape.rank == 1:
        raise ValueError(
            "Expected ids as integers or strings: floating-point numbers do not tell large "
            f"ids apart. Received: y_true.dtype={y_true.dtype.name}"
        )
    if shape.rank is None or shape.is_compatible_with(y_pred.shape[:1]):
        if y_true.dtype == tf.string:
            return tf.strings.to_hash_bucket_strong(y_true, 2**63 - 1, _HASH_KEY)
        return y_true
    raise ValueError(
        "Expected ids y_true of shape [B], integers or strings, one for each row of "
        f"embeddings. Received: y_true.shape={tuple(shape)}, "
        f"y_pred.shape={tuple(y_pred.shape)}. "
        + (
            "This loss compares ids: give them as y."
            if shape.rank == 2 and shape[1] == 0
            else "Give one id for each row."
        )
    )


def no_targets(y_pred):
    """What a model hands to its loss as `y_true` when it was given no y: `[B, 0]`."""
    return tf.zeros([tf.shape(y_pred)[0], 0])
