"""Converts what users pass to `fit`, `evaluate` and `predict` to arrays for a step."""

import inspect
import numbers

import keras
import numpy as np
import tensorflow as tf

from tfembloss import masks
from tfembloss.data.column_datasets import as_rows, short
from tfembloss.losses.inputs import are_missing
from tfembloss.text.rows import batch_of_texts


def preprocess(preprocessor, x, training, xla=False, columns=False):
    """Applies a preprocessor to x, in training or not, compiled by XLA or not.

    A preprocessor with an argument `training`, a Keras layer or a function, gets it. One
    without it runs inside of a layer's call, from which its random layers get it. The same
    with `xla`. With `columns`, x is a tuple of the preprocessor's arguments.
    """
    known = {"training": training, "xla": xla}
    arguments = {name: known[name] for name in known if _takes(preprocessor, name)}

    def function(x):
        return preprocessor(*(x if columns else (x,)), **arguments)

    return _Caller()(x, function=function, training=training)


def _takes(preprocessor, name):
    """Whether a preprocessor has an argument of this name."""
    preprocessor = getattr(preprocessor, "func", preprocessor)  # of one with a prompt
    is_layer = isinstance(preprocessor, keras.layers.Layer)
    try:
        signature = inspect.signature(preprocessor.call if is_layer else preprocessor)
    except (TypeError, ValueError):  # a function without a Python signature
        return False
    return name in signature.parameters


class _Caller(keras.layers.Layer):
    """Calls a function as a Keras layer, so that layers in it know of training."""

    def __init__(self):
        super().__init__(autocast=False, name="preprocess")
        self.built = True

    def call(self, x, function, training=None):
        return function(x)


def arrays(x, y, sample_weight, encoder=None):
    """Returns arrays for Keras: lists become arrays of rows, or columns."""
    _check_are_rows(x)
    y = targets_as_array(y)
    first = next(iter(y.values())) if isinstance(y, dict) else y
    num_rows = len(first) if hasattr(first, "__len__") else None
    x = _as_arrays(x, num_rows, input_rank(encoder))
    return x, y, weights_as_array(sample_weight)


def _check_are_rows(x):
    if x is None or isinstance(x, set | frozenset | str | bytes | numbers.Number):
        raise ValueError(
            "Expected an array or list of rows, a tuple of columns, or a dataset of "
            f"batches as x. Received: x={x!r}"
        )


def check_some_rows(x):
    """Raises ValueError if arrays have no rows."""
    if any(
        hasattr(part, "shape") and part.shape[:1] == (0,) for part in tf.nest.flatten(x)
    ):
        raise ValueError("Expected at least one row. Received: x of 0 rows.")


def input_rank(encoder):
    """Returns the rank of an encoder's input; None if it is unknown."""
    shape = getattr(encoder, "input_shape", None) if encoder is not None else None
    is_shape = isinstance(shape, tuple) and (not shape or not isinstance(shape[0], tuple))
    return len(shape) if is_shape else None


def _as_arrays(x, num_rows, rank):
    if isinstance(x, tuple):
        return tuple(_as_arrays(column, num_rows, rank) for column in x)
    if isinstance(x, dict):
        return {name: _as_arrays(column, num_rows, None) for name, column in x.items()}
    if isinstance(x, list) and _are_columns(x, num_rows, rank):
        return tuple(_as_arrays(column, num_rows, rank) for column in x)
    if isinstance(x, list):
        x = as_rows(x).numpy()
    if getattr(x, "dtype", None) is not None and not hasattr(x, "__next__"):
        _check_no_texts(x)
    return x


def _are_columns(x, num_rows, rank):
    """Whether a list holds columns, as Keras models with several inputs take them."""
    ranks = {len(part.shape) if hasattr(part, "shape") else None for part in x}
    if None in ranks or 0 in ranks or not x:
        return False
    if rank is not None:
        return ranks == {rank}
    return num_rows is None or len(x) != num_rows


def _check_no_texts(x):
    is_text = x.dtype == tf.string or getattr(x.dtype, "kind", None) in ("U", "S", "O")
    if is_text:
        raise ValueError(
            "Expected the encoder's inputs, numbers. Received: texts (or other objects), "
            f"of dtype {x.dtype}, and no preprocessor. Give the model one that makes the "
            "encoder's inputs of them, such as "
            "EmbeddingModel(encoder, tfembloss.text.TextPreprocessor(vocabulary, 128))."
        )


def targets_as_array(y):
    """Returns targets as an array, also from lists and objects of numbers or strings.

    Of a dict by the names of losses, each is one.
    """
    if y is None or tf.is_tensor(y) or isinstance(y, keras.KerasTensor):
        return y
    if isinstance(y, dict) and y and all(isinstance(name, str) for name in y):
        return {name: targets_as_array(of_name) for name, of_name in y.items()}
    if hasattr(y, "__array__"):  # also a data frame, whose items are its columns
        y = np.asarray(y)
    if isinstance(y, dict | set | frozenset | str | bytes) or not hasattr(y, "__len__"):
        raise ValueError(
            "Expected y as an array or a list, one value for each row. Received: "
            f"y={short(y)}"
        )
    if isinstance(y, tuple) and any(np.ndim(part) for part in y):
        return y  # of several tensors
    if isinstance(y, np.ndarray) and y.dtype != object:
        return y
    missing = [i for i, value in enumerate(y) if value is None or value is np.nan]
    if missing:
        raise ValueError(
            f"Expected one value of y for each row. Received: {y[missing[0]]} in row "
            f"{missing[0]}, and {len(missing)} such values. Leave those rows out."
        )
    try:
        return np.asarray(list(y))
    except ValueError as error:
        raise ValueError(
            "Expected y as an array or a list of numbers or strings, all of one shape. "
            f"Received: y of {len(y)} rows ({error})"
        ) from error


def weights_as_array(sample_weight):
    """Returns weights of rows as an array of numbers; a tensor is returned unchanged."""
    if sample_weight is None or tf.is_tensor(sample_weight):
        return sample_weight
    is_float = getattr(getattr(sample_weight, "dtype", None), "kind", None) == "f"
    try:
        weights = np.asarray(sample_weight, None if is_float else "float32")
    except (TypeError, ValueError):
        weights = np.array(np.nan)
    if weights.ndim == 0 or np.isnan(weights).any():
        raise ValueError(
            "Expected sample_weight as an array or a list of numbers, one for each row. "
            f"Received: sample_weight={short(sample_weight)}"
        )
    return weights


def hashed_targets(y, loss):
    """Returns string ids as integers, and other targets unchanged.

    XLA does not support strings, and Keras compiles steps by default on a GPU.
    """
    if isinstance(y, dict):
        if not getattr(loss, "takes_named_targets", False):
            raise ValueError(
                "Expected y as an array or a list, one value for each row. Received: a "
                f"dict of {list(y)}, which only the loss WeightedSum takes."
            )
        return {name: hashed_targets(of, loss.losses.get(name)) for name, of in y.items()}
    if y is None or isinstance(y, tuple | dict | list) or not hasattr(y, "dtype"):
        return y
    if not (y.dtype == tf.string or getattr(y.dtype, "kind", "") in ("U", "S")):
        return y
    if not getattr(loss, "targets_are_ids", False):
        return tf.convert_to_tensor(y)  # whose dtype the loss's error names
    if isinstance(y, tf.RaggedTensor):
        return tf.ragged.map_flat_values(masks.integer_labels, y)
    several = getattr(loss, "multi_label", None) is not None
    hashed = masks.integer_labels if several else masks.integer_ids
    ids = hashed(tf.convert_to_tensor(y))
    return ids.numpy() if isinstance(y, np.ndarray) else ids


def ids_of_texts(x, y):
    """Returns hashes of a batch's texts as targets, `[B, n]` for columns.

    Args:
        x: texts `[B]`, or a tuple of such columns.
        y: None, or what stands for it where there are weights.
    """
    if y is not None and not (tf.is_tensor(y) and are_missing(y)):
        raise ValueError(
            "With `exclude_equal_texts`, the ids of texts are y: expected no other. "
            f"Received: y of {type(y).__name__}. Leave y out; or exclude_equal_texts, if "
            "y are ids."
        )
    columns = x if isinstance(x, tuple) else (x,)
    if not all(getattr(column, "dtype", None) == tf.string for column in columns):
        raise ValueError(
            "With `exclude_equal_texts`, expected columns of texts. Received: columns of "
            f"{[getattr(c, 'dtype', type(c).__name__) for c in columns]}. Give ids as y to "
            "a model without exclude_equal_texts."
        )
    return tf.stack([masks.integer_ids(batch_of_texts(c)) for c in columns], axis=1)


def weights_of_classes(class_weight, y, sample_weight):
    """Returns weights of rows `[rows]` from those of their classes."""
    if sample_weight is not None:
        raise ValueError(
            "Expected `class_weight` or `sample_weight`, received both: multiply them "
            "into one `sample_weight`."
        )
    if y is None:
        raise ValueError(
            "`class_weight` weighs rows by their labels: expected y, the labels. Received: "
            "y=None. For columns without labels there is `sample_weight`."
        )
    if not isinstance(class_weight, dict):
        raise ValueError(
            "Expected `class_weight` as a dict from a label to its weight, {0: 1.0, 1: "
            f"2.0}}. Received: class_weight={class_weight!r}"
        )
    y = np.asarray(targets_as_array(y))
    labels = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if labels.ndim != 1:
        raise ValueError(
            "`class_weight` weighs rows by their labels: expected y of shape [rows]. "
            f"Received: y.shape={y.shape}. Give `sample_weight` instead."
        )
    return np.array([class_weight.get(v, 1.0) for v in labels.tolist()], "float32")


def are_tokens(x, preprocessor):
    """Whether x are already token ids, as a preprocessor of texts returns them."""
    parts = tf.nest.flatten(x)
    are_numbers = bool(parts) and all(
        hasattr(part, "dtype") and getattr(part.dtype, "kind", "i") not in "USO"
        and part.dtype != tf.string for part in parts
    )  # fmt: skip
    return hasattr(preprocessor, "vocabulary") and are_numbers


def check_columns_are_no_dict(x, preprocessor):
    """Raises ValueError for a dict of columns, since tf.data sorts its names."""
    if isinstance(x, dict) and hasattr(preprocessor, "vocabulary"):
        raise ValueError(
            "Expected columns of texts as one tuple, x=(anchors, positives, ...). "
            f"Received: a dict of {sorted(x)}. A dict has no order of columns: give "
            f"x=({', '.join(f'data[{name!r}]' for name in x)})."
        )
