"""What every loss here has in common."""

import math
import numbers
from typing import NamedTuple

import keras
import tensorflow as tf

from tfembloss import distances, masks, mining, replicas
from tfembloss.losses.first_batch import check_first_batch, ids_warning
from tfembloss.losses.inputs import (
    as_predictions,
    as_tensor,
    as_weights,
    check_ids,
    check_rows,
    no_targets,
)


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

    targets_are_embeddings = False  # of the same dimensions as y_pred
    targets_are_ids = False  # or there are none
    takes_scores = False  # of classes, [B, C]: y_pred are those of a head, no embeddings
    takes_past = False  # whether `call` has a further argument `past`

    def __init__(self, reduction="sum_over_batch_size", name=None, dtype=None):
        if dtype is None:
            dtype = "float64" if keras.config.floatx() == "float64" else "float32"
        if dtype not in ("float32", "float64"):
            raise ValueError(
                "A loss computes in 'float32' or 'float64', also on embeddings of lower "
                f"precision. Received: dtype={dtype!r}"
            )
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self._first_batch_was_checked = False
        self._reduce = _Reduce(reduction=reduction, name=self.name, dtype=dtype)

    def __call__(self, y_true, y_pred, sample_weight=None, past=None):
        """The reduced loss; `past` is what a `tfembloss.layers.CrossBatchMemory` holds."""
        if past is not None:
            past = self._check_past(past)
        with keras.name_scope(self.name):
            embeddings = as_predictions(y_pred, self.dtype)
            y_true = (
                no_targets(embeddings) if y_true is None else as_tensor(y_true, "y_true")
            )
            of_past = () if past is None else (past,)
            values = self.call(y_true, embeddings, *of_past)  # [B]
            if tf.executing_eagerly() and replicas.count() == 1 and past is None:
                check_first_batch(self, y_true, embeddings.shape)
            weights = as_weights(sample_weight, values)
            values *= self._share_of_the_mean(values, weights)
            return self._reduced(values, weights)

    def _reduced(self, values, weights):
        if self.reduction in ("none", None):
            return self._reduce(values, values, weights)
        if values.shape[0] == 0:  # of which Keras makes no scalar
            return replicas.alike(tf.reduce_sum(values))
        # Keras logs the replicas' losses by their numbers of rows.
        return replicas.alike(self._reduce(values, values, weights))

    def first_batch_warning(self, y_true, shape):
        """Why a batch of such targets would teach the model little, or None.

        Args:
            y_true: numpy array, as `call` takes it; `[B, 0]` where there is none.
            shape: tuple, that of `y_pred`; with None for what is not known.
        """
        return None

    def _check_past(self, past):
        if self.takes_past:
            return past._replace(embeddings=tf.cast(past.embeddings, self.dtype))
        raise ValueError(
            f"{type(self).__name__} takes no memory of past batches. Expected a loss that "
            "compares each row with all others, on ids or on columns in one direction, as "
            "SupConLoss, TripletMarginLoss or MultipleNegativesRankingLoss, and no miner "
            "that needs the distances between all keys."
        )

    def truncate(self, y_pred, dim):
        """The first `dim` dimensions of embeddings, as vectors of length 1."""
        return distances.l2_normalize(y_pred[..., :dim])

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
        return replicas.share(size)

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


class LabelLoss(EmbeddingLoss):
    """Base of the losses on embeddings `[B, D]` of rows that have a class each.

    `y_true` are the classes' ids `[B]`, integers or strings. Rows with equal ids are each
    other's positives, all others are negatives, on all replicas. A subclass writes
    `formula(batch)`: sums `[B]` and counts `[B]` of what each anchor contributes; the
    loss is the quotient of their totals over all replicas, and each anchor's value its
    share of that, so that the mean of the values is the loss. What is not finite in any
    embedding makes it NaN.

    Args:
        distance: see `tfembloss.distances`.
        miner: a miner of `tfembloss.miners` for the subclasses that take one.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: an argument, the ids or the embeddings are not of the kind.
    """

    def __init__(
        self,
        distance,
        miner=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.distance = distance
        self.miner = None if miner is None else mining.known(miner)
        distances.get(distance)
        if not isinstance(miner, mining.PairMiner | mining.TripletMiner | None):
            raise ValueError(
                "`miner` must be None or an instance of a miner of tfembloss.miners, as in "
                f"miner=BatchHardMiner(). Received: miner={miner!r}"
            )

    targets_are_ids = True

    @property
    def takes_past(self):
        """Unless a miner looks at the distances between all keys."""
        return not self.mines_all_pairs

    @property
    def mines_all_pairs(self):
        """Whether there is a miner that needs the distances between all keys."""
        return self.miner is not None and self.miner.needs_key_distances

    def call(self, y_true, y_pred, past=None):
        """Values `[B]` of the embeddings `y_pred [B, D]` with ids `y_true [B]`."""
        embeddings = check_rows(y_pred)  # [B, D]
        ids = check_ids(y_true, embeddings)  # [B]
        rows = replicas.gather(embeddings)
        num_rows = tf.cast(tf.shape(rows)[0], rows.dtype)
        keys, labels = rows_and_past(rows, embeddings, ids, past)  # [N, D]
        sums, counts = self.formula(Batch(embeddings, keys, labels))  # [B], [B]
        share = num_rows / tf.maximum(replicas.total(tf.reduce_sum(counts)), 1)
        values = sums * share + nan_where_not_finite(keys)  # a mask would hide it
        return values + self._nan_where_miner_overflows(keys)

    def _nan_where_miner_overflows(self, keys):
        """0, or NaN where a miner's own distances may overflow, which only select."""
        if self.miner is None or not isinstance(self.miner.distance, str):
            return 0
        # Of all keys' distances that of the longest and its opposite is the largest.
        of_opposites = distances.get(self.miner.distance).rowwise(keys, -keys)
        return nan_where_not_finite(of_opposites)

    def first_batch_warning(self, y_true, shape):
        """Of a batch without positives, or without negatives."""
        return ids_warning(y_true, positives=True)

    def candidates(self, batch, key_distances=False):
        """The batch's `mining.Candidates` in the loss's distance."""
        if self.miner is not None and self.miner.distance == self.distance:
            key_distances = key_distances or self.miner.needs_key_distances
        return mining.candidates(self.distance, *batch, key_distances)

    def miner_candidates(self, batch, candidates):
        """The batch's `mining.Candidates` in the miner's distance."""
        if self.miner is None or self.miner.distance == self.distance:
            return candidates
        return mining.candidates(
            self.miner.distance, *batch, self.miner.needs_key_distances
        )

    def get_config(self):
        """The arguments that make this loss again."""
        config = {**super().get_config(), "distance": self.distance}
        if self.miner is not None:
            config["miner"] = keras.saving.serialize_keras_object(self.miner)
        return config


class Batch(NamedTuple):
    """The rows of a label loss.

    Args:
        embeddings: of this replica `[B, D]`.
        keys: of all replicas, and of past batches if there are any, `[N, D]`.
        labels: `masks.Labels` of their pairs.
    """

    embeddings: tf.Tensor
    keys: tf.Tensor
    labels: masks.Labels


class _Reduce(keras.losses.Loss):
    """Keras's weighting and reduction, applied to values that are computed already."""

    def call(self, y_true, y_pred):
        return y_pred


def check_number(name, value, expected, right=lambda value: True):
    """A finite number as a float, or a ValueError that says what it should be."""
    # Of numpy's numbers as well, which the kernels would take for tensors.
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and right(value):
        return float(value)
    raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")


class Past(NamedTuple):
    """Rows of past batches, which a loss compares with those of this one.

    Args:
        embeddings: `[M, D]` or `[M, n, D]`, as in `y_pred`.
        ids: `[M]`, as of `masks.integer_ids`.
        present: whether there is such a row, `[M]`.
    """

    embeddings: tf.Tensor
    ids: tf.Tensor
    present: tf.Tensor


def rows_and_past(keys, rows, ids=None, past=None):
    """Keys `[N, ...]` of this batch with those of the past, and the `masks.Labels` of all.

    Args:
        keys: of all replicas' rows, gathered.
        rows: tensor `[B, ...]` of this replica's rows.
        ids: of this replica's rows `[B]`, as `check_ids` returns them, or None.
        past: `Past`, its embeddings such as the keys are; or None.
    """
    positions = replicas.first_row(rows) + tf.range(tf.shape(rows)[0])  # [B]
    key_ids = None if ids is None else replicas.gather(ids)
    if past is None:
        return keys, masks.Labels(ids, key_ids, positions)
    now = tf.fill(tf.shape(keys)[:1], True)
    present = tf.concat([now, past.present], axis=0)
    keys = tf.concat([keys, tf.stop_gradient(past.embeddings)], axis=0)
    if ids is not None:
        key_ids = tf.concat([key_ids, past.ids], axis=0)
    return keys, masks.Labels(ids, key_ids, positions, present)


def check_tile_size(tile_size):
    """A whole number of rows, or None."""
    if tile_size is None:
        return None
    whole = lambda size: size >= 1 and size == int(size)  # noqa: E731
    expected = "a whole number of rows >= 1, or None"
    return int(check_number("tile_size", tile_size, expected, whole))


def nan_where_not_finite(x, dtype=None):
    """0, or NaN if any entry of x is not finite: what is not to be hidden by a mask."""
    x = tf.cast(tf.stop_gradient(x), dtype or x.dtype)
    return 0 * tf.reduce_sum(0 * x)


def share_of_log_sum(log_terms, log_sum):
    """Each term's share of log(1 + sum of terms), which add up to it.

    So do their gradients: to weigh a share is to weigh what its term adds to the gradient.

    Args:
        log_terms: logarithms of terms, -inf for none; of any shape.
        log_sum: logarithm of the sum of all terms, these and others, that broadcasts.
    """
    none = log_terms == float("-inf")
    log_terms = tf.where(none, tf.zeros_like(log_terms), log_terms)
    constant, log_sum = tf.stop_gradient(log_terms), tf.stop_gradient(log_sum)
    share = tf.where(none, tf.zeros_like(constant), tf.exp(constant - log_sum))
    # Of log(1 + sum) by the logarithm of a term.
    slope = share * tf.sigmoid(log_sum)
    return share * tf.nn.softplus(log_sum) + slope * (log_terms - constant)
