"""Datasets of columns, made from arrays, lists and datasets."""

import collections.abc
import numbers

import numpy as np
import tensorflow as tf

from tfembloss.data.objects import rows_of_objects


def columns(*columns, y=None, sample_weight=None):
    """Returns a dataset whose x is a tuple of columns: anchors, positives, negatives, ...

    Keras reads the element `(anchor, positive)` of a dataset as `(x, y)`. This dataset
    yields `((anchor, positive),)`, or `((anchor, positive), y)`, or
    `((anchor, positive), y, sample_weight)`, which is what `EmbeddingModel.fit` expects.

    Args:
        *columns: arrays or lists with equal numbers of rows, one for each column; or one
            dict or data frame of them, `{"anchor": [...], "positive": [...]}`, in the
            order of the columns; or a dataset for each column; or one dataset whose
            elements are tuples of columns only: ids and scores go into y. Datasets may be
            batched or not, and stay so.
        y: ids, scores or teacher values of the rows, for losses that need them: an array
            or list, or a dataset if the columns are datasets.
        sample_weight: weights of the rows, likewise; as a dataset it requires a `y`.

    Returns:
        A `tf.data.Dataset`. From arrays and lists it yields single rows: continue with
        `.shuffle(...).batch(...)`.

    Raises:
        ValueError: the columns differ in length, a value is missing or differs from the
            others in type or shape, arrays and datasets are mixed, or the elements of a
            single dataset are not tuples.

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
            "(anchor, positive, ...). Received elements of "
            f"{spec}. Convert others with .map(...): dicts with "
            'lambda row: (row["anchor"], row["positive"]).'
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
    """Returns the columns of one dict or data frame, or the one column."""
    if hasattr(given, "keys"):
        return tuple(as_columns(dict(given)).values())
    is_rows = isinstance(given, list) and given and isinstance(given[0], list | tuple)
    if is_rows and given[0] and isinstance(given[0][0], str | bytes):
        raise ValueError(
            "Expected an argument for each column. Received: a list of rows of texts, the "
            f"first one {given[0]!r}. Convert rows with columns(*zip(*rows))."
        )
    return (given,)


def _rows_in_a_tuple(column):
    """Returns a column as a list if it is a tuple of single values, as `zip` yields it."""
    is_rows = isinstance(column, tuple) and all(
        isinstance(value, str | bytes | numbers.Number | np.generic) or value is None
        for value in column
    )
    return list(column) if is_rows else column


def from_arrays(x, y=None, sample_weight=None):
    """Returns a dataset of single rows in Keras's form: x, then y, then sample_weight.

    Args:
        x: array or list of rows, or a tuple or dict of columns.
        y: array or list, or None.
        sample_weight: array or list, or None.

    Returns:
        A `tf.data.Dataset` of `x`, `(x, y)` or `(x, y, sample_weight)`; a tuple x alone
        is yielded as `(x,)`.

    Raises:
        ValueError: x is not an array or list of rows, or the numbers of rows differ.

    Example:

    >>> from_arrays((["a?", "b?"], ["a!", "b!"])).element_spec
    ((TensorSpec(shape=(), dtype=tf.string, name=None),
      TensorSpec(shape=(), dtype=tf.string, name=None)),)
    """
    x = as_columns(x)
    names = [name for name, part in _named(y, sample_weight) if part is not None]
    targets = [
        # By the names of losses: see `tfembloss.losses.WeightedSum`.
        {key: as_rows(of, f"{name}[{key!r}]") for key, of in part.items()}
        if isinstance(part, dict)
        else as_rows(part, name)
        for name, part in _named(y, sample_weight)
        if part is not None
    ]
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
    """Returns what Keras reads as x and the targets: a tuple x alone would be (x, y)."""
    return (x, *targets) if targets or isinstance(x, tuple) else x


def split_rows(parts, fraction):
    """Splits off the last rows of arrays, as Keras does for `validation_split`.

    Args:
        parts: x, y, sample_weight: arrays, lists, tuples or dicts of them, or None.
        fraction: the fraction of the rows in the second part, between 0 and 1.

    Returns:
        The parts without their last rows, and the parts' last rows.

    Raises:
        ValueError: a part is not an array or list, their lengths differ, or one side would
            be empty.

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
    """Returns rows as tensors: of one column, or of each in a tuple or dict."""
    if isinstance(x, tuple):
        return tuple(as_columns(part, f"column {i}") for i, part in enumerate(x))
    if isinstance(x, collections.abc.Mapping):
        if len({type(key) for key in x}) > 1:
            raise ValueError(
                "Expected a dict of columns, {name: rows}, with names of one type, as "
                f"tf.data sorts them. Received: {list(x)!r}"
            )
        texts = [value for value in x.values() if isinstance(value, str | bytes)]
        if texts:
            raise ValueError(
                "Expected a dict of columns, {name: rows}, with an array or list of rows "
                f"each. Received: one string, {short(texts[0])}, under "
                f"{len(texts)} of {len(x)} names. For a dict of id to text pass "
                "list(texts.values())."
            )
        return {key: as_columns(part, f"column {key!r}") for key, part in x.items()}
    return as_rows(x, name)


def as_rows(values, name="rows"):
    """Returns rows as a tensor `[rows, ...]`; errors call them by the name."""
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
    """Checks that these are rows, and not one text, a set, a mapping or a generator."""
    kind = type(values).__name__
    if isinstance(values, str | bytes | bytearray):
        raise ValueError(
            "Expected a list or array of rows, received one string: "
            f"{short(values)} as {name}. Put rows into a list; a tuple holds columns."
        )
    if isinstance(values, set | frozenset):
        raise ValueError(
            f"Expected a list or array of rows. Received: a {kind} as {name}, which has no "
            "order. Pass sorted(...)."
        )
    if isinstance(values, collections.abc.Mapping):
        raise ValueError(
            f"Expected a list or array of rows. Received: a {kind} as {name}. Pass one of "
            "its values, or the list of them, list(rows.values())."
        )
    if isinstance(values, tf.RaggedTensor | tf.SparseTensor):
        to_dense = "tf.sparse.to_dense(...)" if kind == "SparseTensor" else ".to_tensor()"
        raise ValueError(
            f"Expected rows of one shape. Received: a {kind} as {name}. Make it dense "
            f"with {to_dense}."
        )
    if isinstance(values, tf.data.Dataset):
        raise ValueError(
            f"Expected a list or array of rows. Received: a tf.data.Dataset as {name}. "
            "Columns, y and sample_weight are either all arrays and lists, or parts of the "
            "elements of one dataset, which tf.data.Dataset.zip combines from several."
        )
    is_single = isinstance(values, numbers.Number) or (
        hasattr(values, "dtype") and np.ndim(values) == 0
    )
    if not is_single and (hasattr(values, "__next__") or not hasattr(values, "__len__")):
        raise ValueError(
            "Expected a list or array of rows, all of one type and shape. Received: "
            f"{kind} as {name}. Wrap a generator in tf.data.Dataset.from_generator."
        )


def short(value):
    """Returns the repr of a value, truncated if it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
