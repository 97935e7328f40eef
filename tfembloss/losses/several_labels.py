"""Rows of several labels: the forms in which `y_true` has them, and their checks."""

import numpy as np
import tensorflow as tf

from tfembloss import masks, replicas
from tfembloss.kernels import compiled
from tfembloss.losses.inputs import (
    check_integers,
    described_both,
    of_shape,
    require,
)

FORMS = (None, "multi_hot", "ids")


def padded(y_true):
    """Returns the ids of a `tf.RaggedTensor`, `[B, L]`, padded with -1 or ""."""
    return y_true.to_tensor("" if y_true.dtype == tf.string else -1)


def check_labels(form, y_true, rows):
    """Returns labels `[B, L]` as `masks.MultiHotPairs` or `masks.LabelSetPairs` take them.

    Raises ValueError if they are of another form.
    """
    check = _check_multi_hot if form == "multi_hot" else _check_label_ids
    return check(y_true, rows)


def pairs_of(form, ids, key_ids, positions, present):
    """Returns the pairs of rows with labels of this form."""
    kind = masks.MultiHotPairs if form == "multi_hot" else masks.LabelSetPairs
    return kind(ids, key_ids, positions, present)


@compiled
def weighted(pairs, x):
    """Returns `masks.Pairs` of weights, in the dtype of distances x."""
    return pairs.weighted(x.dtype)


def aligned(form, labels, memory):
    """Returns labels `[B, L]` of the same L on all replicas, and a memory of their dtype.

    Raises ValueError if the memory, which may be None, holds another L.
    """
    if memory is not None:
        expected = memory.ids.shape[1:]
        if expected.rank == 1 and expected.is_compatible_with(labels.shape[1:]):
            labels = tf.ensure_shape(labels, [None, expected[0]])
            return labels, memory._replace(ids=tf.cast(memory.ids, labels.dtype))
        raise ValueError(
            "With a memory, expected labels of as many numbers as it keeps of a row: shape "
            f"[B, {', '.join(map(str, expected))}]. Received: {tuple(labels.shape)}. Pad "
            "ids to one width, as y.to_tensor(-1, shape=[None, 8]) does, and make a new "
            "memory for labels of another kind."
        )
    if form == "ids" and replicas.count() > 1:
        width = tf.reduce_max(replicas.gather(tf.shape(labels)[1:]))
        padding = [[0, 0], [0, width - tf.shape(labels)[1]]]
        labels = tf.pad(labels, padding, constant_values=-1)
        labels = tf.ensure_shape(labels, [None, None])
    return labels, memory


def _check_multi_hot(y_true, rows):
    message = (
        'With multi_label="multi_hot", expected y_true of shape [B, C], 1 for each label '
        f"that a row has and 0 elsewhere. Received: {described_both(y_true, rows)}. For "
        'ids of labels, use multi_label="ids"; for one id of each row, multi_label=None.'
    )
    if y_true.dtype == tf.bool:
        y_true = tf.cast(y_true, rows.dtype)
    labels = of_shape(y_true, [rows.shape[0], None], rows, message)
    if not replicas.is_building():  # where Keras gives the mean over the replicas
        right = tf.reduce_all((labels == 0) | (labels == 1))
        labels = require(right, labels, f"{message} There are other numbers in it.")
    return tf.cast(labels, rows.dtype)


def _check_label_ids(y_true, rows):
    message = (
        'With multi_label="ids", expected y_true of shape [B, L], the ids of each row\'s '
        f"labels, integers padded with -1 or strings padded with ''. Received: "
        f"{described_both(y_true, rows)}. A tf.RaggedTensor is taken as it is; for 0 and 1 "
        'of each label, use multi_label="multi_hot"; for one id of each row, None.'
    )
    if y_true.dtype == tf.string:
        y_true = masks.integer_labels(y_true)
    ids = of_shape(check_integers(y_true, message), [rows.shape[0], None], rows, message)
    # A label counts once, however often it is given.
    places = tf.range(tf.shape(ids)[1])
    earlier = (ids[:, :, None] == ids[:, None, :]) & (places[:, None] > places)
    return tf.where(tf.reduce_any(earlier, axis=2), tf.constant(-1, tf.int64), ids)


def as_multi_hot(form, y_true):
    """Returns an array of labels, of either form, as booleans `[B, C]`."""
    if form == "multi_hot":
        return y_true > 0
    names, places = np.unique(y_true, return_inverse=True)
    labels = np.zeros([len(y_true), len(names)], bool)
    np.put_along_axis(labels, places.reshape(y_true.shape), True, axis=1)
    return labels[:, names != (b"" if y_true.dtype.kind in "OS" else -1)]


def form_warning(form, y_true):
    """Returns a warning of labels that seem to be of another form, or None."""
    # Three ids of 0 and 1 are never distinct.
    are_ids = form == "ids" and y_true.dtype.kind in "iu" and y_true.shape[1] > 2
    if not are_ids or not y_true.size or not np.isin(y_true, (0, 1)).all():
        return None
    return (
        "expected ids of labels, -1 for none. Received: only 0 and 1, in "
        f"{y_true.shape[1]} columns. If these are 0 and 1 of each label, use "
        'multi_label="multi_hot".'
    )
