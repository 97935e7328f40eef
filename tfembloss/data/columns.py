"""Datasets of columns, from arrays, lists and datasets."""

import tensorflow as tf


def columns(*columns, y=None, sample_weight=None):
    """A dataset whose x is a tuple of columns: anchors, positives, negatives, ...

    Keras reads a dataset's `(anchor, positive)` as `(x, y)`. This one yields
    `((anchor, positive),)`, or `((anchor, positive), y)`, or
    `((anchor, positive), y, sample_weight)`, which is what `EmbeddingModel.fit` takes.

    Args:
        *columns: arrays or lists with equal numbers of rows, one for each column; or a
            dataset for each column; or one dataset whose elements are tuples of columns,
            all of them columns: ids and scores go into y.
            Datasets may be batched or not, and stay so.
        y: ids, scores or teacher values of the rows, for losses that need them: an array
            or list, or a dataset where the columns are datasets.
        sample_weight: weights of the rows, likewise; between datasets it needs a `y`.

    Returns:
        A `tf.data.Dataset`. From arrays and lists it yields single rows: go on with
        `.shuffle(...).batch(...)`.

    Raises:
        ValueError: there are no columns, their lengths differ, arrays and datasets are
            mixed, or the one dataset's elements are no tuples.

    Example:

    >>> pairs = columns(["a?", "b?"], ["a!", "b!"], y=[7, 8])
    >>> for (anchor, positive), label in pairs.batch(2):
    ...     print(anchor.numpy(), positive.numpy(), label.numpy())
    [b'a?' b'b?'] [b'a!' b'b!'] [7 8]
    """
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
            f"(anchor, positive, ...). Received elements of {spec}"
        )
    lengths = {int(part.cardinality()) for part in parts} - {-1, -2}  # infinite, unknown
    if len(lengths) > 1:
        raise ValueError(
            f"Expected datasets of equal length. Received: {sorted(lengths)} elements."
        )
    if y is None:
        return x.map(lambda *x: (x,))
    return tf.data.Dataset.zip((x, *parts[len(columns) :]))


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
    targets = [as_rows(part) for part in (y, sample_weight) if part is not None]
    lengths = [len(part) for part in tf.nest.flatten((x, targets))]
    if len(set(lengths)) != 1:
        raise ValueError(
            "Expected the same number of rows in every column, y and sample_weight. "
            f"Received: {lengths}"
        )
    if sample_weight is not None and y is None:
        targets.insert(0, tf.zeros([lengths[0], 0]))  # which the losses read as none
    return tf.data.Dataset.from_tensor_slices(as_element(x, *targets))


def as_element(x, *targets):
    """What Keras reads as x and the targets: a tuple x alone would be (x, y)."""
    return (x, *targets) if targets or isinstance(x, tuple) else x


def split_rows(parts, fraction):
    """Parts without their last rows, and the last rows: Keras's `validation_split`.

    Args:
        parts: x, y, sample_weight: arrays, lists, tuples of them, or None.
        fraction: the share of the rows that goes to the end, between 0 and 1.

    Raises:
        ValueError: a part is no array or list, or one side would have no row.

    Example:

    >>> head, tail = split_rows((["a", "b", "c", "d"], None, None), 0.25)
    >>> head[0].numpy().tolist(), tail[0].numpy().tolist()
    ([b'a', b'b', b'c'], [b'd'])
    """

    def take(part, head):
        if part is None:
            return None
        if isinstance(part, tuple):
            return tuple(take(column, head) for column in part)
        rows = as_rows(part)
        cut = int(len(rows) * (1 - fraction))
        if not 0 < cut < len(rows):
            raise ValueError(
                "Expected a fraction that leaves rows on both sides. "
                f"Received: validation_split={fraction} of {len(rows)} rows."
            )
        return rows[:cut] if head else rows[cut:]

    return tuple(tuple(take(part, head) for part in parts) for head in (True, False))


def as_columns(x):
    """Rows as tensors: of the one column, or of each in a tuple or dict."""
    if isinstance(x, tuple):
        return tuple(map(as_columns, x))
    if isinstance(x, dict):
        return {name: as_columns(column) for name, column in x.items()}
    return as_rows(x)


def as_rows(values):
    """Rows as a tensor `[rows, ...]`."""
    if isinstance(values, str | bytes):
        raise ValueError(
            f"Expected a list or array of rows, received one string: {values!r}. "
            "Put rows into a list; a tuple holds columns."
        )
    try:
        rows = tf.convert_to_tensor(values)
    except (ValueError, TypeError) as error:
        raise ValueError(
            "Expected a list or array of rows, all of one type and shape; several "
            "columns go into a tuple. A generator goes into "
            f"tf.data.Dataset.from_generator. Received: {type(values).__name__} ({error})"
        ) from error
    if rows.shape.rank == 0 or len(rows) == 0:
        raise ValueError(f"Expected at least one row. Received: {values!r}")
    return rows
