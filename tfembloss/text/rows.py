"""Texts as users pass them: batches of strings, and rows of any container."""

import os
from collections.abc import Iterable, Mapping

import keras
import numpy as np
import tensorflow as tf

from tfembloss.losses.inputs import require


def single_texts(texts):
    """Yields texts, strings or bytes. Raises ValueError if an element is not a text."""
    advice = "a list, an iterable, a dataset, or a dict with them as its values"
    if isinstance(texts, str | bytes | os.PathLike) or not holds_rows(texts):
        raise ValueError(
            f"Expected texts: {advice}. Received one {type(texts).__name__}: {texts!r:.80}"
            ". Put a text into a list; read a file first."
        )
    if isinstance(texts, Mapping):
        texts = texts.values()
    elif isinstance(texts, tf.data.Dataset):
        texts = _texts_of_dataset(texts)
    elif not isinstance(texts, list | tuple) and hasattr(texts, "__array__"):
        texts = _rows_of_array(np.asarray(texts))
    for row, text in enumerate(texts):
        if not isinstance(text, str | bytes):
            raise ValueError(
                f"Expected texts as strings: {advice}. Received: {described(row, text)}"
            )
        yield text


def holds_rows(texts):
    """Returns whether this has rows: an iterable, or something numpy converts."""
    return isinstance(texts, Iterable) or hasattr(texts, "__array__")


def described(row, text):
    """Describes a row that is not a text, and what to do about it."""
    if text is None or text != text or type(text).__name__ in ("NAType", "NaTType"):
        return f'row {row} is missing, {text!r}: leave it out, or make it "".'
    if isinstance(text, list | tuple | dict | set | np.ndarray) or tf.is_tensor(text):
        return (
            f"row {row} of type {type(text).__name__}: put the texts of all columns into "
            "one list."
        )
    return f"row {row} of type {type(text).__name__}: {text!r:.80}"


def _rows_of_array(rows):
    if rows.ndim == 2 and rows.shape[1] == 1:
        rows = rows[:, 0]
    if rows.ndim != 1:
        raise ValueError(
            "Expected texts of shape [rows], of one column. Received: "
            f"shape={rows.shape}, dtype={rows.dtype}"
        )
    return rows


def _texts_of_dataset(dataset):
    spec = dataset.element_spec
    if not isinstance(spec, tf.TensorSpec) or spec.dtype != tf.string:
        raise ValueError(
            "Expected a dataset of texts, strings, batched or not. Received elements of "
            f"{spec}. Select one of several columns: dataset.map(lambda a, b: a)."
        )
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "Expected a finite dataset. Received one that repeats without end: pass it "
            "without repeat(), or take(n) of it."
        )
    for element in dataset.as_numpy_iterator():
        yield from [element] if isinstance(element, bytes) else _rows_of_array(element)


def batch_of_texts(texts):
    """Returns texts `[rows]`. Raises ValueError otherwise."""
    if isinstance(texts, list | tuple) and not texts:
        return tf.constant([], tf.string)
    try:
        texts = tf.convert_to_tensor(texts)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{_A_BATCH} Received: {_not_a_batch(texts)}") from error
    shape = texts.shape
    if shape.rank == 1 and texts.dtype == tf.string:
        return texts
    if texts.dtype != tf.string or not shape.is_compatible_with([None, 1]):
        shape = "unknown" if shape.rank is None else tuple(shape)
        raise ValueError(f"{_A_BATCH} Received: shape={shape}, dtype={texts.dtype.name}")
    if shape.rank is None or shape[1] is None:  # known only when the graph runs
        sizes = tf.shape(texts)
        is_column = (tf.size(sizes) == 1) | (
            (tf.size(sizes) == 2) & (tf.reduce_prod(sizes[1:]) == 1)
        )
        texts = require(is_column, texts, f"{_A_BATCH} Received another shape.")
    return tf.reshape(texts, [-1])


def two_batches_of_texts(first, second):
    """Returns both as texts `[rows]`. Raises ValueError if their numbers differ."""
    first, second = batch_of_texts(first), batch_of_texts(second)
    if not first.shape.is_compatible_with(second.shape):
        raise ValueError(
            "Expected equal numbers of first and second texts. Received: "
            f"{first.shape[0]} and {second.shape[0]}"
        )
    first = require(
        tf.size(first) == tf.size(second),
        first,
        "Expected equal numbers of first and second texts. Received different ones.",
    )
    return first, second


_A_BATCH = (
    "Expected a batch of texts, strings of shape [rows]: several columns go into a tuple, "
    "and a dataset of single texts needs .batch(...)."
)


def _not_a_batch(texts):
    """Describes what was received instead of a batch of texts."""
    rows = texts if isinstance(texts, list | tuple) else ()
    if (
        not rows
        and hasattr(texts, "__array__")
        and not isinstance(texts, keras.KerasTensor)
    ):
        rows = np.asarray(texts)
        rows = rows if rows.ndim == 1 else ()
    for row, text in enumerate(rows):
        if not isinstance(text, str | bytes):
            return described(row, text)
        if isinstance(text, str) and any("\ud800" <= x <= "\udfff" for x in text):
            return f"row {row} is not valid Unicode, half a character: {text!r:.80}"
    return f"{type(texts).__name__}, {texts!r:.80}"


def valid_utf8(texts):
    """Returns texts with U+FFFD in place of bytes that are not UTF-8."""
    return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
