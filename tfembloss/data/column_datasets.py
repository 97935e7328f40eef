"""Datasets of columns, from arrays, lists and datasets."""

import collections.abc
import numbers

import numpy as np
import tensorflow as tf

from tfembloss.data.objects import rows_of_objects


def columns(*columns, y=None, sample_weight=None):
    """A dataset whose x is a tuple of columns: anchors, positives, negatives, ...

    Keras reads a dataset's `(anchor, positive)` as `(x, y)`. This one yields
    `((anchor, positive),)`, or `((anchor, positive), y)`, or
    `((anchor, positive), y, sample_weight)`, which is what `EmbeddingModel.fit` takes.

    Args:
        *columns: arrays or lists with equal numbers of rows, one for each column; or one
            dict of them or data frame, `{"anchor": [...], "positive": [...]}`, whose order
            is that of the columns; or a dataset for each column; or one dataset whose
            elements are tuples of columns, all of them columns: ids and scores go into y.
            Datasets may be batched or not, and stay so.
        y: ids, scores or teacher values of the rows, for losses that need them: an array
            or list, or a dataset where the columns are datasets.
        sample_weight: weights of the rows, likewise; between datasets it needs a `y`.

    Returns:
        A `tf.data.Dataset`. From arrays and lists it yields single rows: go on with
        `.shuffle(...).batch(...)`.

    Raises:
        ValueError: there are no columns, their lengths differ, a value is missing or of
            another type or shape than the others, arrays and datasets are mixed, or the
            one dataset's elements are no tuples.

    Example:

    >>> pairs = columns(["a?", "b?"], ["a!", "b!"], y=[7, 8])
    >>> for (anchor, positive), label in pairs.batch(2):
    ...     print(anchor.numpy(), positive.numpy(), label.numpy())
    [b'a?' b'b?'] [b'a!' b'b!'] [7 8]
    """
    if len(columns) == 1:
        columns = _columns_in(columns[0])
    columns = tuple(map(_rows_in_a_tuple, columns))
    parts = [*columns, *(part for part in (y, sample_weight) if part is not None)]
    are_datasets = {isinstance(part, tf.data.Dataset) for part in parts}
    if not columns or len(are_datasets) != 1:
        raise ValueError(
            "Expected at least one column, and columns, y and sample_weight all as arrays "
            "and lists or all as datasets. Received: "
            f"{', '.join(type(part).__name__ for part in parts) or 'nothing'}"
        )
    if are_datasets == {False}:
        return from_arrays(columns, y, sample_weight)

    if sample_weight is not None and y is None:
        raise ValueError(
            "Keras takes a dataset's weights as the third part of an element, after y: "
            "expected a dataset y beside sample_weight, received y=None."
        )
    x = columns[0] if len(columns) == 1 else tf.data.Dataset.zip(tuple(columns))
    spec = x.element_spec
    if not isinstance(spec, tuple) or any(isinstance(part, tuple) for part in spec):
        raise ValueError(
            "Expected a dataset whose elements are tuples of columns, "
            "(anchor, positive, ...); .map(...) makes them of others, as "
            'lambda row: (row["anchor"], row["positive"]) of dicts. '
            f"Received elements of {spec}"
        )
    lengths = {int(part.cardinality()) for part in parts} - {-1, -2}  # infinite, unknown
    if len(lengths) > 1:
        raise ValueError(
            f"Expected datasets of equal length. Received: {sorted(lengths)} elements."
        )
    if y is None:
        return x.map(lambda *x: (x,))
    return tf.data.Dataset.zip((x, *parts[len(columns) :]))


def _columns_in(given):
    """The columns of one dict or data frame, or the one column."""
    if hasattr(given, "keys"):
        return tuple(as_columns(dict(given)).values())
    is_rows = isinstance(given, list) and given and isinstance(given[0], list | tuple)
    if is_rows and given[0] and isinstance(given[0][0], str | bytes):
        raise ValueError(
            "Expected an argument for each column. Received: a list of rows of texts, the "
            f"first one {given[0]!r}. Of rows columns(*zip(*rows)) makes columns."
        )
    return (given,)


def _rows_in_a_tuple(column):
    """A column as a list where it is a tuple of single values, as `zip` makes them."""
    is_rows = isinstance(column, tuple) and all(
        isinstance(value, str | bytes | numbers.Number | np.generic) or value is None
        for value in column
    )
    return list(column) if is_rows else column


def from_arrays(x, y=None, sample_weight=None):
    """A dataset of single rows as Keras reads them: x, then y, then sample_weight.

    Args:
        x: array or list of rows, or a tuple or dict of columns.
        y: array or list, or None.
        sample_weight: array or list, or None.

    Returns:
        A `tf.data.Dataset` of `x`, `(x, y)` or `(x, y, sample_weight)`; a tuple x alone
        is yielded as `(x,)`.

    Raises:
        ValueError: x is no array or list of rows, or the numbers of rows differ.

    Example:

    >>> from_arrays((["a?", "b?"], ["a!", "b!"])).element_spec
    ((TensorSpec(shape=(), dtype=tf.string, name=None),
      TensorSpec(shape=(), dtype=tf.string, name=None)),)
    """
    x = as_columns(x)
    names = [name for name, part in _named(y, sample_weight) if part is not None]
    targets = [as_rows(p, name) for name, p in _named(y, sample_weight) if p is not None]
    lengths = [len(part) for part in tf.nest.flatten((x, targets))]
    if len(set(lengths)) != 1:
        raise ValueError(
            "Expected at least one column, and the same number of rows in every column, "
            f"y and sample_weight. Received: {lengths} rows"
            + (f", the last of {' and '.join(names)}." if names else ".")
        )
    if sample_weight is not None:
        _check_weights(targets[-1])
    if sample_weight is not None and y is None:
        targets.insert(0, tf.zeros([lengths[0], 0]))  # which the losses read as none
    return tf.data.Dataset.from_tensor_slices(as_element(x, *targets))


def _named(y, sample_weight):
    return ("y", y), ("sample_weight", sample_weight)


def _check_weights(weights):
    dtype = weights.dtype
    if not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
        raise ValueError(
            f"Expected numbers as sample_weight. Received: {dtype.name} of shape "
            f"{tuple(weights.shape)}."
        )


def as_element(x, *targets):
    """What Keras reads as x and the targets: a tuple x alone would be (x, y)."""
    return (x, *targets) if targets or isinstance(x, tuple) else x


def split_rows(parts, fraction):
    """Parts without their last rows, and the last rows: Keras's `validation_split`.

    Args:
        parts: x, y, sample_weight: arrays, lists, tuples or dicts of them, or None.
        fraction: the share of the rows that goes to the end, between 0 and 1.

    Raises:
        ValueError: a part is no array or list, their lengths differ, or one side would
            have no row.

    Example:

    >>> head, tail = split_rows((["a", "b", "c", "d"], None, None), 0.25)
    >>> head[0].numpy().tolist(), tail[0].numpy().tolist()
    ([b'a', b'b', b'c'], [b'd'])
    """
    names = ("x", "y", "sample_weight")
    parts = tuple(
        None if part is None else as_columns(part, names[i] if i < 3 else f"part {i}")
        for i, part in enumerate(parts)
    )
    lengths = [len(rows) for rows in tf.nest.flatten(parts) if rows is not None]
    if len(set(lengths)) != 1:
        raise ValueError(
            "Expected the same number of rows in every column, y and sample_weight. "
            f"Received: {lengths} rows."
        )
    is_number = isinstance(fraction, numbers.Real)
    cut = int(lengths[0] * (1 - fraction)) if is_number and 0 < fraction < 1 else 0
    if not 0 < cut < lengths[0]:
        raise ValueError(
            "Expected a fraction that leaves rows on both sides. "
            f"Received: validation_split={fraction!r} of {lengths[0]} rows."
        )

    def take(rows):
        return tf.nest.map_structure(lambda r: None if r is None else r[rows], parts)

    return take(slice(cut)), take(slice(cut, None))


def as_columns(x, name="x"):
    """Rows as tensors: of the one column, or of each in a tuple or dict."""
    if isinstance(x, tuple):
        return tuple(as_columns(part, f"column {i}") for i, part in enumerate(x))
    if isinstance(x, collections.abc.Mapping):
        if len({type(key) for key in x}) > 1:
            raise ValueError(
                "Expected a dict of columns, {name: rows}, with names of one type, which "
                f"tf.data sorts. Received: {list(x)!r}"
            )
        texts = [value for value in x.values() if isinstance(value, str | bytes)]
        if texts:
            raise ValueError(
                "Expected a dict of columns, {name: rows}, with an array or list of rows "
                f"each. Received: one string, {short(texts[0])}, under "
                f"{len(texts)} of {len(x)} names. Of a dict id -> text give the list of "
                "its values, list(texts.values())."
            )
        return {key: as_columns(part, f"column {key!r}") for key, part in x.items()}
    return as_rows(x, name)


def as_rows(values, name="rows"):
    """Rows as a tensor `[rows, ...]`; errors call them by the name."""
    _check_are_rows(values, name)
    if isinstance(values, np.ma.MaskedArray):  # whose mask TensorFlow does not read
        values = values.astype(object).tolist()
    try:
        rows = tf.convert_to_tensor(values)
    except (ValueError, TypeError, OverflowError):
        rows = rows_of_objects(values, name)
    if rows.shape.rank == 0:
        raise ValueError(
            "Expected a list or array of rows. Received: a single value as "
            f"{name}, {short(values)}. Put rows into a list."
        )
    if rows.shape.rank is not None and rows.shape[0] == 0:
        raise ValueError(f"Expected at least one row. Received: {short(values)} as {name}.")
    return rows


def _check_are_rows(values, name):
    """That these are neither one text nor what has no order or no rows yet."""
    kind = type(values).__name__
    if isinstance(values, str | bytes | bytearray):
        raise ValueError(
            "Expected a list or array of rows, received one string: "
            f"{short(values)} as {name}. Put rows into a list; a tuple holds columns."
        )
    if isinstance(values, set | frozenset):
        raise ValueError(
            f"Expected a list or array of rows. Received: a {kind} as {name}, which has no "
            "order: a list of it, as sorted(...) makes one, has."
        )
    if isinstance(values, collections.abc.Mapping):
        raise ValueError(
            f"Expected a list or array of rows. Received: a {kind} as {name}. Give one of "
            "its values, or the list of them, list(rows.values())."
        )
    if isinstance(values, tf.RaggedTensor | tf.SparseTensor):
        to_dense = "tf.sparse.to_dense(...)" if kind == "SparseTensor" else ".to_tensor()"
        raise ValueError(
            f"Expected rows of one shape. Received: a {kind} as {name}. {to_dense} makes "
            "a dense one of it."
        )
    if isinstance(values, tf.data.Dataset):
        raise ValueError(
            f"Expected a list or array of rows. Received: a tf.data.Dataset as {name}. "
            "Columns, y and sample_weight are either all arrays and lists, or parts of the "
            "elements of one dataset, which tf.data.Dataset.zip makes of several."
        )
    is_single = isinstance(values, numbers.Number) or (
        hasattr(values, "dtype") and np.ndim(values) == 0
    )
    if not is_single and (hasattr(values, "__next__") or not hasattr(values, "__len__")):
        raise ValueError(
            "Expected a list or array of rows, all of one type and shape. Received: "
            f"{kind} as {name}. A generator goes into tf.data.Dataset.from_generator."
        )


def short(value):
    """A value as it is written, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
