"""Checks of the first batch of a training, before a compiled step takes it."""

import keras
import numpy as np
import tensorflow as tf

from tfembloss.losses.base import EmbeddingLoss
from tfembloss.losses.first_batch import check_first_batch, is_awaited
from tfembloss.models.batches import is_batches, mapped_batches


def check(model, x, y):
    """Warns of a batch of arrays that teaches little, once per loss."""
    if _is_awaited(model) and (y is None or _is_array(y)):
        check_first_batch(model.loss, y, _shape(x))


def watched(model, given, shuffle):
    """Returns the arguments of Keras's `fit`, with a check of the first batch.

    From arrays, which Keras shuffles and splits itself, a similar batch is checked.
    """
    x = given["x"]
    if not _is_awaited(model):
        return given
    if isinstance(x, tf.data.Dataset):
        return {**given, "x": _watched_dataset(model, x)}
    if is_batches(x):
        return {**given, "x": _watched_batches(model, x)}
    _check_some(model, **given, shuffle=shuffle)
    return given


def _is_awaited(model):
    """Whether the loss may still warn of its first batch.

    Not with a memory, which has rows of earlier batches to compare with.
    """
    loss = model.loss if model.compiled else None
    if not isinstance(loss, EmbeddingLoss) or getattr(model, "memory", None) is not None:
        return False
    has_warning = type(loss).first_batch_warning is not EmbeddingLoss.first_batch_warning
    return has_warning and is_awaited(loss)


def _check_some(model, x, y=None, sample_weight=None, batch_size=None, shuffle=True):
    """Checks a batch of rows, sampled in the way of Keras."""
    num_rows, *rest = _shape(x)
    if num_rows is None:
        return
    order = np.random.default_rng(0).permutation if shuffle else np.arange
    rows = order(num_rows)[: batch_size or 32]
    if y is None or (_is_array(y) and len(y) == num_rows):
        y = None if y is None else np.asarray(y)[rows]
        check_first_batch(model.loss, y, (len(rows), *rest))


def _watched_dataset(model, batches):
    if model.distribute_strategy.num_replicas_in_sync > 1:
        return batches  # tf.distribute may split them before this check

    def look(num_rows, num_columns, y):
        columns = () if num_columns == 0 else (int(num_columns),)
        check_first_batch(model.loss, y.numpy(), (int(num_rows), *columns, None))

    def looked_at(i, element):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(element)
        num_rows = tf.shape(tf.nest.flatten(x)[0])[0]
        y = tf.zeros([num_rows, 0]) if y is None else y
        num_columns = len(x) if isinstance(x, tuple) else 0
        if isinstance(y, tf.Tensor):
            tf.cond(
                i == 0,
                lambda: tf.py_function(look, [num_rows, num_columns, y], []),
                tf.no_op,
            )
        return element

    return batches.enumerate().map(looked_at, tf.data.AUTOTUNE)


def _watched_batches(model, batches):
    def look(x, y=None, sample_weight=None):
        check(model, x, y)
        return x, y, sample_weight

    if isinstance(batches, tf.distribute.DistributedDataset):
        return batches
    return mapped_batches(batches, look)


def _is_array(y):
    return hasattr(y, "dtype") and not isinstance(y, tf.RaggedTensor)


def _shape(x):
    """Returns the known part of the predictions' shape: rows and columns."""
    columns = (len(x),) if isinstance(x, tuple) else ()
    first = tf.nest.flatten(x)[0]
    num_rows = first.shape[0] if getattr(first, "shape", ()) else None
    return (num_rows, *columns, None)
