"""Which pairs of rows count: masks and weights `[B, N]`, and sums over them."""

from typing import NamedTuple

import tensorflow as tf

_HASH_KEY = (0x2545F4914F6CDD1D, 0x1E3779B97F4A7C15)  # any two: they define the hash


def integer_ids(ids):
    """Returns ids as int64, which collectives support; equal ids stay equal.

    Strings become 63-bit hashes.
    """
    if ids.dtype == tf.string:
        return tf.strings.to_hash_bucket_strong(ids, 2**63 - 1, _HASH_KEY)
    return tf.bitcast(ids, tf.int64) if ids.dtype == tf.uint64 else tf.cast(ids, tf.int64)


def integer_labels(labels):
    """Returns the same of labels of rows; "" and -1 stand for none, and become -1."""
    ids = integer_ids(labels)
    if labels.dtype != tf.string:
        return ids
    return tf.where(labels == "", tf.constant(-1, tf.int64), ids)


def equal_ids(ids, key_ids):
    """Returns the pairs with equal ids, a mask `[B, N]`.

    Args:
        ids: ids of this replica's rows `[B]`, as `integer_ids` returns them.
        key_ids: ids of all rows `[N]`.
    """
    return ids[:, None] == key_ids[None, :]


def at_positions(positions, num_keys):
    """Returns the pairs of a row with the key at its position, a mask `[B, N]`.

    Args:
        positions: position of each row among the keys `[B]`.
        num_keys: number of keys N.
    """
    return positions[:, None] == tf.range(num_keys)[None, :]


class MemoryRows(NamedTuple):
    """Rows of earlier batches, which a loss compares with those of the current one.

    Args:
        embeddings: `[M, D]` or `[M, n, D]`, as in `y_pred`.
        ids: `[M]`, as `integer_ids` returns them.
        present: whether each row is filled, `[M]`.
    """

    embeddings: tf.Tensor
    ids: tf.Tensor
    present: tf.Tensor

    @property
    def layer(self):
        """What they are of, for error messages."""
        return "a tfembloss.layers.CrossBatchMemory"


class LabelPairs(NamedTuple):
    """Which pairs of this replica's rows with all rows belong to the same class.

    Args:
        ids: ids of this replica's rows `[B]`.
        key_ids: ids of the rows of all replicas, and of the memory, `[N]`.
        positions: position of each of this replica's rows among all rows `[B]`.
        present: whether each key is filled `[N]`, for a queue that is not yet full; None
            if all are.
    """

    ids: tf.Tensor
    key_ids: tf.Tensor
    positions: tf.Tensor
    present: tf.Tensor | None = None

    @property
    def positive(self):
        """Pairs of two different rows of the same class `[B, N]`."""
        own = at_positions(self.positions, tf.shape(self.key_ids)[0])
        return _of_present(equal_ids(self.ids, self.key_ids) & ~own, self.present)

    @property
    def negative(self):
        """Pairs of rows of different classes `[B, N]`."""
        return _of_present(~equal_ids(self.ids, self.key_ids), self.present)

    def of_each_row(self):
        """Returns the parts with one entry per row, tensors `[B]` or None by name."""
        return {"ids": self.ids, "positions": self.positions}

    def all_rows(self):
        """Returns the same for all rows instead of this replica's, `[N, N]`."""
        return type(self)(self.key_ids, self.key_ids, tf.range(tf.shape(self.key_ids)[0]))


class _SharedLabels(LabelPairs):
    """The same for rows of several labels, which `ids [B, L]` and `key_ids [N, L]` are.

    A pair that shares a label is a positive one, any other pair of two rows a negative one.
    """

    @property
    def positive(self):
        """Pairs of two different rows that share a label `[B, N]`."""
        return _of_present((self.num_shared() > 0) & ~self._own, self.present)

    @property
    def negative(self):
        """Pairs of two different rows that share no label `[B, N]`."""
        return _of_present((self.num_shared() == 0) & ~self._own, self.present)

    def weighted(self, dtype):
        """Returns `Pairs`: positive ones by the labels that they share of all they have."""
        shared = tf.cast(self.num_shared(), dtype)  # [B, N]
        sizes, of_keys = (tf.cast(self.sizes(x), dtype) for x in (self.ids, self.key_ids))
        both = sizes[:, None] + of_keys[None, :] - shared
        counts = _of_present(~self._own, self.present)
        overlap = tf.where(counts, tf.math.divide_no_nan(shared, both), 0)
        return Pairs(overlap, tf.cast(counts & (shared == 0), dtype))

    @property
    def _own(self):
        return at_positions(self.positions, tf.shape(self.key_ids)[0])


class MultiHotPairs(_SharedLabels):
    """Pairs of rows with labels `[B, C]`, 1.0 where a row has one and 0.0 elsewhere."""

    def num_shared(self):
        """Returns how many labels each pair shares `[B, N]`."""
        return tf.matmul(self.ids, self.key_ids, transpose_b=True)

    @staticmethod
    def sizes(labels):
        """Returns how many labels each row has `[B]`."""
        return tf.reduce_sum(labels, axis=1)


class LabelSetPairs(_SharedLabels):
    """Pairs of rows whose labels are different ids, int64 `[B, L]`, padded with -1."""

    def num_shared(self):
        """Returns how many labels each pair shares `[B, N]`."""
        ids, key_ids = self.ids[:, None, :], self.key_ids[None, :, :]

        def add(i, count):  # one label of each key at a time
            one = key_ids[:, :, i, None]
            shares = tf.reduce_any((ids == one) & (one != -1), axis=2)  # [B, N]
            return i + 1, count + tf.cast(shares, tf.int32)

        shape = tf.shape(self.ids)[0], tf.shape(self.key_ids)[0]
        num_labels = tf.shape(self.key_ids)[1]
        return tf.while_loop(
            lambda i, _: i < num_labels, add, (0, tf.zeros(shape, tf.int32))
        )[1]

    @staticmethod
    def sizes(labels):
        """Returns how many labels each row has `[B]`."""
        return tf.reduce_sum(tf.cast(labels != -1, tf.int32), axis=1)


class ColumnPairs(NamedTuple):
    """Which documents of all rows are positives or negatives of which anchors.

    A row has an anchor and m documents, the positive first. The N * m documents are those
    of the first row, those of the second, and so on.

    Args:
        ids: ids of this replica's rows `[B]`; None if every row has its own id.
        key_ids: ids of the rows of all replicas, and of the memory, `[N]`; or None.
        positions: position of each of this replica's rows among all rows `[B]`.
        present: as in `LabelPairs`.
        num_documents: m, a number or a tensor.
        num_keys: N, a number or a tensor.
        is_row: False for padding of a tile `[B]`; None if there is no padding.
    """

    ids: tf.Tensor | None
    key_ids: tf.Tensor | None
    positions: tf.Tensor
    present: tf.Tensor | None
    num_documents: int | tf.Tensor
    num_keys: int | tf.Tensor
    is_row: tf.Tensor | None = None

    @property
    def positive(self):
        """Each anchor with its own first document `[B, N * m]`."""
        m = self.num_documents
        return self._of_rows(at_positions(self.positions * m, self.num_keys * m))

    @property
    def negative(self):
        """All other documents, except those with equal ids, `[B, N * m]`."""
        mask = ~self.positive
        if self.present is not None:
            mask &= tf.repeat(self.present[None, :], self.num_documents, axis=1)
        if self.ids is not None:
            mask &= ~self._of_equal_ids()
        return self._of_rows(mask)

    @property
    def own_row(self):
        """Each anchor with all documents of its row `[B, N * m]`."""
        rows = tf.range(self.num_keys * self.num_documents) // self.num_documents
        return self.positions[:, None] == rows[None, :]

    def _of_equal_ids(self):
        """Documents of other rows with the same id `[B, N * m]`."""
        equal = equal_ids(self.ids, self.key_ids)  # [B, N]
        return tf.repeat(equal, self.num_documents, axis=1) & ~self.own_row

    def _of_rows(self, mask):
        return mask if self.is_row is None else mask & self.is_row[:, None]

    def of_each_row(self):
        """Returns the parts with one entry per row, tensors `[B]` or None by name."""
        return {"ids": self.ids, "positions": self.positions, "is_row": self.is_row}


# A class of its own, since a kernel traced for ids of both ranks would know neither.
class ColumnPairsByColumn(ColumnPairs):
    """The same with an id of each column: `ids [B, 1 + m]` and `key_ids [N, 1 + m]`."""

    def _of_equal_ids(self):
        """Documents that equal an anchor or its positive, or answer it, `[B, N * m]`."""
        m, anchors, positives = self.num_documents, self.ids[:, 0], self.ids[:, 1]
        documents = tf.reshape(self.key_ids[:, 1:], [-1])  # [N * m]
        # The positive of an equal anchor is one of this anchor, too.
        same_anchor = tf.repeat(equal_ids(anchors, self.key_ids[:, 0]), m, axis=1)
        is_positive = tf.range(self.num_keys * m) % m == 0
        equal = equal_ids(anchors, documents) | equal_ids(positives, documents)
        return equal | (same_anchor & is_positive)


def _of_present(mask, present):
    return mask if present is None else mask & present[None, :]


class Pairs(NamedTuple):
    """Selected pairs: masks, or how often each pair counts.

    Args:
        positive: of the pairs of the same class `[B, N]`.
        negative: of the pairs of different classes `[B, N]`.
    """

    positive: tf.Tensor
    negative: tf.Tensor


def row_max(x, mask):
    """Returns the maximum of each row under the mask `[B]`; -inf if there is none."""
    return tf.reduce_max(tf.where(mask, x, float("-inf")), axis=1)


def row_min(x, mask):
    """Returns the minimum of each row under the mask `[B]`; inf if there is none."""
    return tf.reduce_min(tf.where(mask, x, float("inf")), axis=1)


def row_any(mask):
    """Returns whether each row has an entry under the mask `[B]`."""
    return tf.reduce_any(mask, axis=1)


def row_sum(x, weights):
    """Returns the weighted sum of each row `[B]`; NaN is ignored where the weight is 0."""
    weighted = x if weights.dtype == tf.bool else weights * x
    return tf.reduce_sum(tf.where(_counts(weights), weighted, tf.zeros_like(x)), axis=1)


def row_mean(x, weights):
    """Returns the weighted mean of each row `[B]`; 0 if all weights are 0."""
    return tf.math.divide_no_nan(row_sum(x, weights), tf.reduce_sum(weights, axis=1))


def row_logsumexp(x, weights):
    """Returns the log of each row's weighted sum of exponentials `[B]`, or -inf.

    Args:
        x: `[B, N]`.
        weights: `[B, N]`, numbers >= 0 or booleans.
    """
    return _logsumexp(x, weights, axis=1)


def column_logsumexp(x, weights):
    """Returns the same for each column, `[N]`."""
    return _logsumexp(x, weights, axis=0)


def _counts(weights):
    return weights if weights.dtype == tf.bool else weights > 0


def _logsumexp(x, weights, axis):
    selected = tf.where(_counts(weights), x, float("-inf"))
    largest = tf.stop_gradient(tf.reduce_max(selected, axis, keepdims=True))
    largest = tf.where(tf.math.is_finite(largest), largest, tf.zeros_like(largest))
    terms = tf.exp(selected - largest)
    total = tf.reduce_sum(terms if weights.dtype == tf.bool else weights * terms, axis)
    empty = total <= 0
    log_total = tf.math.log(tf.where(empty, tf.ones_like(total), total))
    return tf.where(~empty, log_total + tf.squeeze(largest, axis), float("-inf"))
