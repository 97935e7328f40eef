"""Which pairs of rows count: masks and weights `[B, N]`, and sums over them."""

from typing import NamedTuple

import tensorflow as tf

_HASH_KEY = (0x2545F4914F6CDD1D, 0x1E3779B97F4A7C15)  # any two: they define the hash


def integer_ids(ids):
    """Ids as int64, which collectives carry, equal where the ids are.

    Strings become hashes of 63 bits.
    """
    if ids.dtype == tf.string:
        return tf.strings.to_hash_bucket_strong(ids, 2**63 - 1, _HASH_KEY)
    return tf.bitcast(ids, tf.int64) if ids.dtype == tf.uint64 else tf.cast(ids, tf.int64)


def equal_ids(ids, key_ids):
    """Pairs with equal ids `[B, N]`.

    Args:
        ids: ids of this replica's rows `[B]`, as `integer_ids` returns them.
        key_ids: ids of all rows `[N]`.
    """
    return ids[:, None] == key_ids[None, :]


def own_rows(rows, num_keys):
    """Pairs of a row with itself among all rows, `[B, N]`.

    Args:
        rows: position of each row among the keys `[B]`.
        num_keys: number of keys N.
    """
    return rows[:, None] == tf.range(num_keys)[None, :]


class Labels(NamedTuple):
    """Which pairs of this replica's rows and all rows are of one class.

    Args:
        ids: ids of this replica's rows `[B]`; None where every row is its own class.
        key_ids: ids of the rows of all replicas `[N]`; or None.
        rows: position of each of this replica's rows among all rows `[B]`.
        present: whether there is such a row `[N]`, as in a queue that is not yet full; None
            where there are all.
    """

    ids: tf.Tensor | None
    key_ids: tf.Tensor | None
    rows: tf.Tensor
    present: tf.Tensor | None = None

    @property
    def positive(self):
        """Pairs of two different rows of one class `[B, N]`."""
        num_keys = tf.shape(self.key_ids)[0]
        same = equal_ids(self.ids, self.key_ids)
        return self._present(same & ~own_rows(self.rows, num_keys))

    @property
    def negative(self):
        """Pairs of two classes `[B, N]`."""
        return self._present(~equal_ids(self.ids, self.key_ids))

    def _present(self, mask):
        return mask if self.present is None else mask & self.present[None, :]

    def rivals(self, num_keys):
        """Pairs of two rows `[B, N]`, but not of one class where there are classes."""
        if self.ids is not None:
            return self.negative
        return self._present(~own_rows(self.rows, num_keys))

    def all_rows(self):
        """The same of all rows instead of this replica's, `[N, N]`."""
        return Labels(self.key_ids, self.key_ids, tf.range(tf.shape(self.key_ids)[0]))


class Pairs(NamedTuple):
    """Selected pairs: a mask, or how often each counts.

    Args:
        positive: of the pairs of one class `[B, N]`.
        negative: of the pairs of two classes `[B, N]`.
    """

    positive: tf.Tensor
    negative: tf.Tensor


def row_max(x, mask):
    """Largest of each row's entries under the mask `[B]`; -inf where there is none."""
    return tf.reduce_max(tf.where(mask, x, float("-inf")), axis=1)


def row_min(x, mask):
    """Smallest of each row's entries under the mask `[B]`; inf where there is none."""
    return tf.reduce_min(tf.where(mask, x, float("inf")), axis=1)


def row_any(mask):
    """Rows with an entry under the mask `[B]`."""
    return tf.reduce_any(mask, axis=1)


def row_logsumexp(x, weights):
    """Log of each row's weighted sum of exponentials `[B]`; -inf where there is none."""
    return _logsumexp(x, weights, axis=1)


def column_logsumexp(x, weights):
    """The same of each column, `[N]`."""
    return _logsumexp(x, weights, axis=0)


def _logsumexp(x, weights, axis):
    selected = tf.where(weights > 0, x, float("-inf"))
    largest = tf.stop_gradient(tf.reduce_max(selected, axis, keepdims=True))
    largest = tf.where(tf.math.is_finite(largest), largest, tf.zeros_like(largest))
    # -inf and not 0 after the exponential, whose gradient would be infinite there.
    shifted = tf.where(weights > 0, x - largest, float("-inf"))
    total = tf.reduce_sum(weights * tf.exp(shifted), axis)
    empty = total <= 0
    log_total = tf.math.log(tf.where(empty, tf.ones_like(total), total))
    return tf.where(~empty, log_total + tf.squeeze(largest, axis), float("-inf"))


def row_mean(x, weights):
    """Weighted mean of each row `[B]`; 0 where nothing has weight."""
    total = tf.reduce_sum(tf.where(weights > 0, weights * x, tf.zeros_like(x)), axis=1)
    return tf.math.divide_no_nan(total, tf.reduce_sum(weights, axis=1))
