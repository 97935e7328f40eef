"""Checks of what a loss is given: predictions, targets and weights."""

import tensorflow as tf

from tfembloss import masks, replicas

# Floating-point numbers tell integers below this apart.
_EXACT = {tf.float32: 2**24, tf.float64: 2**53}


def as_tensor(x, name):
    """Returns a dense tensor. Raises ValueError otherwise."""
    of_tensors = isinstance(x, list | tuple) and any(
        hasattr(part, "shape") and len(part.shape) > 1 for part in x
    )
    reason = ""
    if not of_tensors and not isinstance(x, dict | tf.RaggedTensor | tf.SparseTensor):
        try:
            return tf.convert_to_tensor(x)
        except (TypeError, ValueError) as error:
            reason = f" ({error})"
    raise ValueError(
        f"Expected {name} as one dense tensor or array. Received: {type(x).__name__}"
        f"{reason}. Stack columns into one, tf.stack((anchors, positives), axis=1); "
        "convert ragged and sparse ones by to_tensor(), ids of labels by to_tensor(-1). "
        "Rows of several labels are taken by a loss with multi_label='ids', as "
        "tf.ragged.constant(y)."
    )


def as_predictions(y_pred, dtype):
    """Returns `y_pred` in the loss's dtype. Raises ValueError otherwise."""
    y_pred = as_tensor(y_pred, "y_pred")
    is_real = y_pred.dtype.is_floating or y_pred.dtype.is_integer
    if is_real and y_pred.shape.rank != 0:
        return tf.cast(y_pred, dtype)
    raise ValueError(
        "Expected rows of real numbers as y_pred, a model's output. Received: "
        f"{described(y_pred, 'y_pred')}."
    )


def as_weights(sample_weight, values):
    """Returns weights of rows, or None. Raises ValueError otherwise."""
    if sample_weight is None:
        return None
    weights = as_tensor(sample_weight, "sample_weight")
    shape, num_rows = weights.shape, values.shape[0]
    right = (
        shape.rank in (0, None)
        or shape.is_compatible_with([num_rows])
        or shape.is_compatible_with([num_rows, 1])
    )
    if right and (weights.dtype.is_floating or weights.dtype.is_integer):
        return weights
    if right and weights.dtype == tf.bool:
        return tf.cast(weights, values.dtype)
    raise ValueError(
        "Expected sample_weight of shape [B], a number for each row. Received: "
        f"{described(weights, 'sample_weight')}, for {num_rows or 'B'} rows."
    )


def no_targets(y_pred):
    """Returns what a model passes to its loss as `y_true` if there is no y: `[B, 0]`."""
    return tf.zeros([tf.shape(y_pred)[0], 0])


def are_missing(y_true):
    """Whether `y_true` is what `no_targets` returns."""
    return y_true.shape.rank == 2 and y_true.shape[1] == 0


def described(x, name):
    """Returns a tensor's shape, as a plain tuple, and dtype for an error message."""
    shape = "of unknown rank" if x.shape.rank is None else tuple(x.shape)
    return f"{name}.shape={shape} of {x.dtype.name}"


def described_both(y_true, y_pred):
    """Returns the same for targets, if there are any, and predictions."""
    y = "no y" if are_missing(y_true) else described(y_true, "y_true")
    return f"{y}, {described(y_pred, 'y_pred')}"


def require(holds, x, message):
    """Returns x if a condition on values holds, and raises an error otherwise.

    The error is a ValueError in eager code and TensorFlow's InvalidArgumentError in a
    graph. Code that XLA compiles does not check.
    """
    if not tf.executing_eagerly():
        with tf.control_dependencies([tf.debugging.Assert(holds, [message])]):
            return tf.identity(x)
    if not holds:
        raise ValueError(message)
    return x


def check_columns(y_pred, at_least, at_most=None):
    """Returns columns `[B, n, D]` with n in bounds. Raises ValueError otherwise."""
    shape = y_pred.shape
    number = f"n = {at_most}" if at_most == at_least else f"n >= {at_least}"
    columns = ["an anchor", "its positive (or the other of a pair)", "any negatives"]
    expected = (
        f"Expected embeddings in columns [B, n, D] with {number}: "
        f"{', '.join(columns[:at_most])}. "
    )
    if shape.rank == 3 and shape[1] is None:
        n = tf.shape(y_pred)[1]
        right = (n >= at_least) & (n <= (at_most or n))
        y_pred = require(right, y_pred, f"{expected}Received another number of columns.")
        known = at_most if at_most == at_least else None
        return tf.ensure_shape(y_pred, [None, known, None])
    if shape.rank == 3 and at_least <= shape[1] <= (at_most or shape[1]):
        return y_pred
    raise ValueError(
        f"{expected}Received: {described(y_pred, 'y_pred')}. "
        "Give the model its columns as one tuple, x=(anchors, positives, ...), and "
        "validation_data as ((anchors, positives),). A tf.data.Dataset whose elements are "
        "(anchor, positive) is read by Keras as (x, y): tfembloss.data.columns(dataset) "
        "makes the one that is meant here."
    )


def check_known_columns(y_pred, at_least):
    """Returns the same, for a loss that must know n when it is traced."""
    columns = check_columns(y_pred, at_least)
    if columns.shape[1] is not None:
        return columns
    raise ValueError(
        "Expected columns [B, n, D], their number n known when the loss is traced. "
        f"Received: {described(y_pred, 'y_pred')}. Give the model's output a shape, as "
        "keras.ops.reshape(y_pred, [-1, n, D]) does."
    )


def check_rows(y_pred):
    """Returns embeddings `[B, D]`. Raises ValueError otherwise."""
    if y_pred.shape.rank == 2:
        return y_pred
    raise ValueError(
        "Expected embeddings [B, D], one row for each id. Received: "
        f"{described(y_pred, 'y_pred')}. Give the model one column of inputs; for pairs or "
        "triplets in columns [B, n, D] there are MultipleNegativesRankingLoss and "
        "TripletLoss."
    )


def of_rows(y_true, y_pred, expected, advice, right_type):
    """Returns targets `[B]`, one for each row of `y_pred`. Raises ValueError otherwise.

    The targets may be `[B]` or `[B, 1]`. If their rank is unknown when this is traced, the
    sizes are compared at run time.

    Args:
        y_true: the targets.
        y_pred: rows `[B, ...]`.
        expected: what is expected, for the error.
        advice: what to do, for the error.
        right_type: whether the dtype is as expected.
    """
    given, shape, num_rows = y_true, y_true.shape, tf.shape(y_pred)[0]
    same = tf.reduce_all(tf.shape(y_true)[:1] == num_rows)  # of [B], not of [B / 2, 2]
    if right_type and (shape.rank is None or (shape.rank == 2 and shape[1] in (1, None))):
        y_true = tf.reshape(y_true, [-1])
        same &= tf.size(y_true) == num_rows
    if not right_type or not y_true.shape.is_compatible_with(y_pred.shape[:1]):
        raise ValueError(
            f"Expected {expected}. Received: {described_both(given, y_pred)}. {advice}"
        )
    if None in (y_true.shape[0], y_pred.shape[0]):
        message = f"Expected {expected}. Received y_true of another shape. {advice}"
        y_true = require(same, y_true, message)
    return y_true


def of_shape(y_true, expected, y_pred, message):
    """Returns numbers of the expected shape. Raises ValueError with the message otherwise.

    Dimensions that are unknown when this is traced are compared at run time.
    """
    shape = y_true.shape
    are_numbers = y_true.dtype.is_floating or y_true.dtype.is_integer
    if not are_numbers or not shape.is_compatible_with(expected):
        raise ValueError(message)
    if shape.is_fully_defined() and y_pred.shape[0] is not None:
        return y_true
    any_size = -1
    sizes = [any_size if size is None else size for size in expected[1:]]
    sizes = tf.stack([tf.shape(y_pred)[0], *sizes])
    rank = len(expected)
    y_sizes = tf.concat([tf.shape(y_true), tf.fill([rank], any_size)], axis=0)[:rank]
    right = tf.reduce_all((sizes == any_size) | (sizes == y_sizes))
    right &= tf.rank(y_true) == rank
    return tf.ensure_shape(require(right, y_true, message), expected)


def check_scores(y_true, y_pred):
    """Returns numbers `[B]`, one for each row of `y_pred`. Raises ValueError otherwise.

    They stay exact: integers become int64, floating-point numbers float32 or float64.
    """
    dtype = y_true.dtype
    scores = of_rows(
        y_true,
        y_pred,
        "scores or labels y_true of shape [B], one number for each pair",
        "Give one number for each row as y.",
        dtype.is_floating or dtype.is_integer or dtype == tf.bool,
    )
    if dtype.is_floating:
        return scores if dtype == tf.float64 else tf.cast(scores, tf.float32)
    return tf.cast(scores, tf.int64)


def check_ids(y_true, y_pred, advice="Give one id for each row."):
    """Returns integer ids `[B]`, one for each row of `y_pred`. Raises ValueError otherwise.

    See `masks.integer_ids`. The advice is for ids of another shape.
    """
    missing = are_missing(y_true)
    # The error of another shape is more telling than that of its numbers.
    if y_true.shape.rank in (0, 1, None) or y_true.shape[1:].is_compatible_with([1]):
        y_true = _exact_ids(y_true)
    ids = of_rows(
        y_true,
        y_pred,
        "ids y_true of shape [B], integers or strings, one for each row of embeddings",
        "This loss compares ids: give them as y." if missing else advice,
        not missing and not y_true.dtype.is_complex,
    )
    return masks.integer_ids(ids)


def check_ids_or_columns(y_true, columns):
    """Returns integer ids `[B]` of rows, or `[B, n]` of each column of `[B, n, D]`.

    Raises ValueError otherwise.
    """
    shape = y_true.shape
    if shape.rank != 2 or shape[1] in (0, 1, None):
        return check_ids(y_true, columns)
    columns = check_known_columns(columns, at_least=2)
    message = (
        "Expected ids y_true of shape [B], one for each row, or [B, n], one for each of "
        f"its columns. Received: {described_both(y_true, columns)}. Give one id for each "
        "row, or for each column of a row."
    )
    ids = masks.integer_ids(_exact_ids(y_true))
    return of_shape(ids, [*columns.shape[:2]], columns, message)


def _exact_ids(y_true):
    """Returns ids that are no floating-point numbers. Raises ValueError otherwise."""
    if not y_true.dtype.is_floating:
        return y_true
    return _averaged_integers(
        y_true,
        "Expected ids as integers or strings: floating-point numbers do not tell large "
        f"ids apart. Received: {described(y_true, 'y_true')}. Give y as integers, as "
        "y.astype('int64') makes them.",
    )


def check_integers(y_true, message):
    """Returns integers of any shape as int64. Raises ValueError otherwise."""
    if y_true.dtype.is_floating:
        return _averaged_integers(y_true, message)
    if y_true.dtype.is_integer:
        return tf.cast(y_true, tf.int64)
    raise ValueError(message)


def _averaged_integers(y_true, message):
    """Returns int64 where Keras turned integers into floats. Raises ValueError otherwise.

    While Keras (3.15) builds a stock model under a strategy, it calls the loss once, to
    infer its shape, with the average of the replicas' inputs. No step runs there; if other
    code does, only numbers that are exact integers are accepted.
    """
    if not replicas.is_building():
        raise ValueError(message)
    integers = tf.cast(y_true, tf.int64)
    exact = tf.abs(y_true) < _EXACT.get(y_true.dtype, 2**8)
    same = exact & (tf.cast(integers, y_true.dtype) == y_true)
    return require(tf.reduce_all(same), integers, message)
