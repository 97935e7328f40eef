"""Rows kept in memory, from arrays and lists, or from a dataset that is read once."""

import tensorflow as tf

from tfembloss.data.column_datasets import as_columns, as_rows


def labeled_rows(x, y):
    """Returns tensors x and labels y `[N]`, of arrays or of a dataset of (x, y)."""
    if isinstance(x, tf.data.Dataset):
        spec = x.element_spec
        if not isinstance(spec, tuple) or len(spec) != 2 or not _are_dense(spec):
            raise ValueError(
                "Expected a dataset whose elements are (x, y), dense tensors; convert "
                f"others with .map(...). Received: elements of {spec}"
            )
    x, y = _as_tensors(x, y, lambda spec: spec[1])
    return x, _labels(y)


def rows_with_texts(x, y=None):
    """Returns tensors x, and y or None, of arrays or a dataset of x, (x,) or (x, y)."""
    if isinstance(x, tf.data.Dataset):
        spec = x.element_spec
        of_x, *of_y = spec if isinstance(spec, tuple) else (spec,)
        if len(of_y) > 1 or not _are_dense(spec) or not (of_y or _first_text(of_x)):
            raise ValueError(
                "Expected a dataset whose elements are x, (x,) or (x, y), dense tensors, "
                "with a text in x, or else with a y, to distinguish rows from batches. "
                f"Received: elements of {spec}"
            )
    return _as_tensors(x, y, _text_or_y)


def _are_dense(spec):
    parts = tf.nest.flatten(spec)
    return bool(parts) and all(isinstance(part, tf.TensorSpec) for part in parts)


def _first_text(x):
    return next((part for part in tf.nest.flatten(x) if part.dtype == tf.string), None)


def _text_or_y(spec):
    x, *y = spec if isinstance(spec, tuple) else (spec,)
    text = _first_text(x)
    return y[0] if text is None else text


def _as_tensors(x, y, telling):
    """Returns x and y, or those of a dataset, as tensors with equal numbers of rows."""
    with tf.device("CPU"):  # where tf.data gathers them
        if isinstance(x, tf.data.Dataset):
            x, y = _read(x, y, telling)
        else:
            x, y = as_columns(x), None if y is None else as_rows(y, "y")
    lengths = [len(part) for part in tf.nest.flatten(x)]
    if len({*lengths, *([] if y is None else [len(y)])}) != 1 or not lengths:
        raise ValueError(
            "Expected at least one column, and the same number of rows in every column "
            f"and y. Received: {lengths} rows"
            + ("." if y is None else f", {len(y)} labels or scores in y.")
        )
    return x, y


def _read(dataset, y, telling):
    """Reads all elements of a dataset as tensors of rows: x, and y or None."""
    if y is not None:
        raise ValueError(
            "Expected a dataset whose elements are (x, y), and no y beside it. Received: "
            f"a dataset and y of type {type(y).__name__}"
        )
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "Expected a finite dataset. Received an infinite one: add .take(...)."
        )
    is_batched = _is_batched(dataset, telling)
    try:
        batches = list(dataset if is_batched else dataset.batch(1024))
        batches = [batch for batch in batches if len(tf.nest.flatten(batch)[0])]
        if batches:
            rows = tf.nest.map_structure(lambda *parts: tf.concat(parts, 0), *batches)
            x, y = (*rows, None)[:2] if isinstance(rows, tuple) else (rows, None)
            return x, y
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            "Expected rows of one shape, to keep them in memory: pad them. "
            f"Received: {error.message}"
        ) from error
    raise ValueError("Expected a dataset with at least one element, received none.")


def _is_batched(dataset, telling):
    """Returns whether a dataset's elements are batches of rows instead of single rows.

    Rows may have a leading dimension too: labels [1], as in keras.datasets, and images.
    `telling(spec)` is the part that is at most a vector in a single row.
    """
    spec = dataset.element_spec
    if any(part.shape.rank is None for part in tf.nest.flatten(spec)):
        for element in dataset.take(1):
            spec = tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), element)
    shapes = [part.shape for part in tf.nest.flatten(spec)]
    if any(not shape.rank for shape in shapes):
        return False
    sizes = {shape[0] for shape in shapes}
    known = sizes - {None}
    if len(known) > 1 or (known == {1} and None in sizes):
        return False
    if telling(spec).shape.rank > 1 or None in sizes:
        return True
    # All begin with the same size n: batches of n rows, or rows of n values.
    batched = _made_by_batch(dataset)
    return sizes != {1} if batched is None else batched


def _made_by_batch(dataset):
    """Returns whether `.batch` made a dataset's elements; None if that is unknown."""
    while True:
        kind = type(dataset).__name__
        if "Unbatch" in kind or "TensorSlice" in kind:
            return False
        if "Batch" in kind:
            return True
        inputs = getattr(dataset, "_inputs", list)()
        if not inputs or "FlatMap" in kind or "Interleave" in kind:
            return None
        dataset = inputs[0]


def _labels(y):
    """Returns y, a tensor of class labels, as `[N]`."""
    if y is not None and y.shape.rank == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y is not None and y.dtype == tf.bool:
        y = tf.cast(y, tf.int32)
    is_label = y is not None and (y.dtype.is_integer or y.dtype == tf.string)
    if is_label and y.shape.rank == 1:
        return y
    if y is None:
        received, advice = "None", "pass y, or a dataset of (x, y)"
    elif y.shape.rank == 1:
        received, advice = y.dtype.name, 'convert floats with .astype("int64")'
        nans = tf.where(tf.math.is_nan(y))[:, 0].numpy() if y.dtype.is_floating else []
        if len(nans):
            received += f", NaN in row {nans[0]} and in {len(nans)} rows in all"
            advice = "leave out rows without a label"
    else:
        received = f"{y.dtype.name} of {tuple(y.shape)}"
        advice = "convert one-hot rows with .argmax(axis=1)"
    raise ValueError(
        f"Expected class labels y of shape [N] or [N, 1], integers or strings; {advice}. "
        f"Received: {received}"
    )
