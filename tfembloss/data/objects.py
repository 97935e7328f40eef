"""Converts rows that are Python objects to tensors, and finds the row that is wrong."""

import numpy as np
import tensorflow as tf

from tfembloss.data.rows import is_unicode


def rows_of_objects(values, name):
    """Converts rows that TensorFlow cannot convert itself, or raises an error about one.

    Args:
        values: a collection of rows: an array of objects, a dict's values, a data frame's
            column, or a list with a row that does not fit.
        name: the name of the rows in errors.
    """
    rows = _as_list(values, name)
    try:
        return tf.convert_to_tensor(rows)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            "Expected a list or array of rows, all of one type and shape. Received: "
            f"{_what_is_wrong(rows, name) or f'{type(values).__name__} as {name}'} "
            f"({str(error)[:200]})"
        ) from error


def _as_list(values, name):
    if not isinstance(values, list | tuple) and hasattr(values, "__array__"):
        values = np.asarray(values)
    if isinstance(values, np.ndarray) and values.dtype.kind not in "OT":
        raise ValueError(
            "Expected numbers or texts. Received: an array of dtype "
            f"{values.dtype} as {name}. Convert it with .astype(...)."
        )
    if isinstance(values, np.ndarray):
        values = values.tolist()
    return [_plain(row) for row in values]


def _plain(row):
    is_objects = isinstance(row, np.ndarray) and row.dtype == object
    return row.tolist() if is_objects else row


def _what_is_wrong(rows, name):
    """Describes the first row that is missing or differs from the others, or None."""
    leaves = [_leaves(row) for row in rows]
    is_text = any(isinstance(v, str | bytes) for row in leaves for v in row)
    missing = [
        i for i, row in enumerate(leaves) if any(_is_missing(v, is_text) for v in row)
    ]
    if missing:
        value = next(v for v in leaves[missing[0]] if _is_missing(v, is_text))
        return (
            f"{value} in row {missing[0]} of {name}, and missing values in {len(missing)} "
            f"of {len(rows)} rows. Leave out those rows, or fill in the values."
        )
    for describe in (_shape, _kind):
        kinds = [describe(row) for row in rows]
        for i, kind in enumerate(kinds):
            if kind != kinds[0]:
                return f"row {i} of {name} is {kind}, and row 0 is {kinds[0]}."
    for i, row in enumerate(leaves):
        for value in row:
            if not isinstance(value, str | bytes | bool | int | float | np.generic):
                return (
                    f"{type(value).__name__} in row {i} of {name}. Make it text or numbers."
                )
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                return f"{value} in row {i} of {name}, which is not a 64-bit integer."
            if isinstance(value, str) and not is_unicode(value):
                return f"{value!r} in row {i} of {name}, which UTF-8 cannot encode."
    return None


def _leaves(row):
    if isinstance(row, list | tuple):
        return [value for part in row for value in _leaves(part)]
    return [] if hasattr(row, "shape") and np.ndim(row) else [row]


def _is_missing(value, is_text):
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    is_nan = isinstance(value, float | np.floating) and value != value
    return is_text and is_nan


def _shape(row):
    try:
        return f"of shape {np.shape(row)}"
    except ValueError:
        return "ragged"


def _kind(row):
    value = next(iter(_leaves(row)), row)
    if isinstance(value, str | bytes):
        return "text"
    if isinstance(value, bool | np.bool_):
        return "True or False"
    if isinstance(value, int | float | np.number):
        return "a number"
    return f"of type {type(value).__name__}"
