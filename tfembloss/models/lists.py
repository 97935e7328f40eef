"""Lists of documents for each query: their padding, and the pairs that they consist of."""

import numpy as np
import tensorflow as tf

from tfembloss.data.column_datasets import short
from tfembloss.losses.inputs import as_weights, require

# Under this name the inputs of lists [B, L, ...] are told from those of pairs [B, ...].
LISTS = "lists"

_ONE_LENGTH = (
    "Expected lists of one length, since the loss compares the scores of all documents of "
    "a query with a teacher's. ListNetLoss takes lists of any lengths."
)
_SAME_LENGTHS = (
    "Expected a label for each document, as lists of the same lengths as those of the "
    "documents."
)


def are_lists(x):
    """Whether an encoder's input is of lists, `{"lists": inputs [B, L, ...]}`."""
    return isinstance(x, dict) and set(x) == {LISTS}


def are_documents_of_lists(documents):
    """Whether a batch's second column holds lists of texts, `[B, L]`, and not texts."""
    shape = getattr(documents, "shape", None)
    return shape is not None and len(shape) == 2 and shape[1] != 1


def as_column(documents):
    """Returns texts `[B]`, also of lists of one document each, `[B, 1]`."""
    return documents[:, 0] if len(getattr(documents, "shape", ())) == 2 else documents


def padded(x, y=None, any_length=True, margins=False):
    """Returns columns and labels as arrays `[B, L]` where the documents are lists.

    Shorter lists end in "", with NaN as labels. Anything else is returned unchanged.

    Args:
        x: any input; lists of texts are the second of two columns.
        y: labels, or None.
        any_length: whether lists may be shorter than others.
        margins: whether y may also be numbers of all documents but the first.
    """
    documents = _rows(x[1]) if isinstance(x, tuple) and len(x) == 2 else None
    if not _are_lists_of_texts(documents):
        return x, y
    lengths = [len(texts) for texts in documents]
    if not any_length and len(set(lengths)) > 1:
        raise ValueError(f"{_ONE_LENGTH} Received: {short(lengths)} documents.")
    if y is not None:
        y = _padded_labels(_rows(y), lengths, margins)
    return (x[0], _as_array(documents, "", object)), y


def _rows(column):
    """Returns ragged tensors, and arrays or series of lists, as a list of rows."""
    if isinstance(column, tf.RaggedTensor):
        return column.to_list()
    is_of_objects = getattr(getattr(column, "dtype", None), "kind", None) == "O"
    return list(column) if is_of_objects and len(column.shape) == 1 else column


def _are_lists_of_texts(documents):
    return (
        isinstance(documents, list)
        and bool(documents)
        and all(isinstance(texts, list | tuple | np.ndarray) for texts in documents)
    )


def _padded_labels(y, lengths, margins):
    if hasattr(y, "__array__"):  # also a data frame
        return _without_labels_beyond(lengths, y if hasattr(y, "dtype") else np.asarray(y))
    sizes = [np.size(labels) for labels in y]
    if margins and sizes == [length - 1 for length in lengths]:
        return np.asarray(y, "float32")
    if sizes != lengths:
        raise ValueError(
            f"{_SAME_LENGTHS} Received: {short(lengths)} documents, and y={short(y)}"
        )
    return _as_array(y, np.nan, "float32")


def _as_array(rows, padding, dtype):
    result = np.full([len(rows), max(map(len, rows))], padding, dtype)
    for i, row in enumerate(rows):
        result[i, : len(row)] = row
    return result


def _without_labels_beyond(lengths, y):
    """Returns labels `[B, L]`. Raises ValueError if there is one without a document."""
    if tf.TensorShape(y.shape).rank != 2 or not _is_numeric(y):
        return y  # which the loss refuses, or not
    lengths, labels = tf.cast(lengths, tf.int32), tf.convert_to_tensor(y)
    if not labels.shape[:1].is_compatible_with(lengths.shape):
        return y
    has_label = tf.ones_like(labels, tf.bool)
    if labels.dtype.is_floating:
        has_label = ~tf.math.is_nan(labels)
    ended = tf.range(tf.shape(labels)[1]) >= lengths[:, None]  # [B, L]
    message = (
        "Expected NaN as label where a list of documents has ended. Received: another "
        "number in such a place. Give y as lists of labels, of the lengths of the lists of "
        "documents, or put np.nan there."
    )
    return require(~tf.reduce_any(ended & has_label), y, message)


def _is_numeric(y):
    dtype = tf.as_dtype(y.dtype)
    return dtype.is_floating or dtype.is_integer or dtype.is_bool


def dense(documents, y=None):
    """Returns a batch's documents `[B, L]` and labels, padded if they are ragged."""
    lengths = documents.row_lengths() if isinstance(documents, tf.RaggedTensor) else None
    if isinstance(y, tf.RaggedTensor):
        of_labels = y.row_lengths()
        y = tf.cast(y, y.dtype if y.dtype.is_floating else tf.float32)
        y = y.to_tensor(float("nan"))
        if lengths is not None:
            y = require(tf.reduce_all(lengths == of_labels), y, _SAME_LENGTHS)
    elif lengths is not None and y is not None:
        y = _without_labels_beyond(lengths, y)
    return documents if lengths is None else documents.to_tensor(""), y


def check_one_length(documents, y):
    """Returns a batch's labels. Raises ValueError if a list is shorter than others."""
    if isinstance(documents, tf.RaggedTensor):
        lengths = documents.row_lengths()
        y = require(tf.reduce_all(lengths == tf.reduce_max(lengths)), y, _ONE_LENGTH)
    if isinstance(y, tf.Tensor) and y.dtype.is_floating:
        y = require(~tf.reduce_any(tf.math.is_nan(y)), y, _ONE_LENGTH)
    return y


def without_padding(documents, y):
    """Returns a batch without the last places in which no list has a document."""
    if y.shape.rank != 2:
        return documents, y  # which the loss refuses
    message = (
        "Expected a label for each document, y of the shape [B, L] of the documents. "
        f"Received: documents of shape {tuple(documents.shape)}, y of {tuple(y.shape)}."
    )
    if not documents.shape[1:].is_compatible_with(y.shape[1:]):
        raise ValueError(message)
    y = require(tf.shape(y)[1] == tf.shape(documents)[1], y, message)
    if not y.dtype.is_floating:
        return documents, y
    last = tf.reduce_any(~tf.math.is_nan(y), axis=0)  # [L]
    length = tf.reduce_max(tf.where(last, tf.range(1, tf.size(last) + 1), 1))
    return documents[:, :length], y[:, :length]


def of_documents(y, y_pred, sample_weight):
    """Returns labels, scores, whether there is a document, and weights, `[B L, 1]` each.

    Where there is none, the label is 0 and so is the weight.
    """
    y = tf.reshape(tf.cast(y, y_pred.dtype), tf.shape(y_pred))
    valid = ~tf.math.is_nan(y)  # [B, L]
    weights = present = tf.cast(valid, y_pred.dtype)
    if sample_weight is not None:
        of_lists = tf.cast(as_weights(sample_weight, y_pred), y_pred.dtype)
        weights = present * tf.reshape(of_lists, [-1, 1])
    parts = (tf.where(valid, y, 0), y_pred, present, weights)
    return [tf.reshape(part, [-1, 1]) for part in parts]


def update_metrics(metrics, y, y_pred, sample_weight):
    """Updates what Keras compiled as metrics with each document of lists."""
    *rows, present, weights = of_documents(y, y_pred, sample_weight)
    if not metrics.built:
        metrics.build(*rows)
    # Keras gives `metrics` no weights, which leave out the padding here.
    for found in filter(None, metrics._flat_metrics):
        found.update_state(*rows, present)
    for found in filter(None, metrics._flat_weighted_metrics):
        found.update_state(*rows, weights)


def of_pairs(function, queries, documents):
    """Returns `{"lists": inputs [B, L, ...]}` of a function of two columns of texts."""
    num_lists, length = tf.unstack(tf.shape(documents))
    found = function((tf.repeat(queries, length), tf.reshape(documents, [-1])))

    def in_lists(x):
        x_shape = tf.concat([[num_lists, length], tf.shape(x)[1:]], axis=0)
        return tf.ensure_shape(
            tf.reshape(x, x_shape), [None, documents.shape[1], *x.shape[1:]]
        )

    return {LISTS: tf.nest.map_structure(in_lists, found)}


def without_length(shape):
    """Returns shapes of pairs (B, ...), nested, of those of lists (B, L, ...)."""
    if are_lists(shape):
        return without_length(shape[LISTS])
    if isinstance(shape, dict):
        return {name: without_length(part) for name, part in shape.items()}
    if any(isinstance(part, tuple | list | dict) for part in shape):
        return type(shape)(without_length(part) for part in shape)
    return (None, *shape[2:])


def as_pairs(x):
    """Returns inputs `[B L, ...]` of `{"lists": inputs [B, L, ...]}`, and its shape."""

    def flat(x):
        rows = tf.reshape(x, tf.concat([[-1], tf.shape(x)[2:]], axis=0))
        return tf.ensure_shape(rows, [None, *x.shape[2:]])

    first = tf.nest.flatten(x[LISTS])[0]
    shape = tf.shape(first)[:2], first.shape[:2]
    return tf.nest.map_structure(flat, x[LISTS]), shape


def with_drawn_documents(columns, num_negatives, seed):
    """Returns queries, and for each the documents to score `[B, n]`, its positive first.

    Args:
        columns: tuple of texts `[B]`: queries, positives, any hard negatives.
        num_negatives: how many documents of other rows are drawn for each query, fewer if
            there are not as many; None for all.
        seed: integer tensor.
    """
    queries, *documents = columns
    if any(column.shape.rank not in (1, None) for column in documents):
        raise ValueError(
            "Expected columns of one text for each row, x=(queries, positives, ...), of "
            "which CrossEncoderMultipleNegativesRankingLoss draws negatives. Received: "
            f"texts of shapes {[tuple(column.shape) for column in documents]}. Give hard "
            "negatives as further columns; ListNetLoss takes labeled lists."
        )
    own = tf.stack(documents, axis=1)  # [B, m]
    num_rows, number = tf.unstack(tf.shape(own))
    is_own = tf.repeat(tf.eye(num_rows, dtype=tf.bool), number, axis=1)  # [B, B m]
    seed = tf.stack([tf.cast(seed, tf.int64), tf.constant(0, tf.int64)])
    chances = tf.random.stateless_uniform(tf.shape(is_own), seed)
    others = (num_rows - 1) * number
    drawn = others if num_negatives is None else tf.minimum(num_negatives, others)
    _, places = tf.math.top_k(tf.where(is_own, -1.0, chances), drawn)  # [B, n]
    return queries, tf.concat([own, tf.gather(tf.reshape(own, [-1]), places)], axis=1)
