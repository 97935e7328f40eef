"""Lists of documents for each query: their padding, and the pairs that they consist of."""

import numpy as np
import tensorflow as tf

from tfembloss.data.column_datasets import short

# Under this name the inputs of lists [B, L, ...] are told from those of pairs [B, ...].
LISTS = "lists"


def are_lists(x):
    """Whether an encoder's input is of lists, `{"lists": inputs [B, L, ...]}`."""
    return isinstance(x, dict) and set(x) == {LISTS}


def are_documents_of_lists(documents):
    """Whether a batch's second column holds lists of texts, `[B, L]`, and not texts."""
    shape = getattr(documents, "shape", None)
    return shape is not None and len(shape) == 2 and shape[1] != 1


def padded(x, y=None):
    """Returns columns and labels as arrays `[B, L]` where the documents are lists.

    Shorter lists end in "", with NaN as labels. Anything else is returned unchanged.
    """
    if not isinstance(x, tuple) or len(x) != 2 or not _are_lists_of_texts(x[1]):
        return x, y
    queries, documents = x
    lengths = [len(texts) for texts in _as_lists(documents)]
    documents = _as_array(documents, "", object)
    if y is None or (hasattr(y, "dtype") and not isinstance(y, tf.RaggedTensor)):
        return (queries, documents), y
    if [np.size(labels) for labels in _as_lists(y)] != lengths:
        raise ValueError(
            "Expected a label for each document, as lists of the same lengths as those of "
            f"the documents. Received: {short(lengths)} documents, and y={short(y)}"
        )
    return (queries, documents), _as_array(y, np.nan, "float32")


def _are_lists_of_texts(documents):
    if isinstance(documents, tf.RaggedTensor):
        return True
    return (
        isinstance(documents, list)
        and bool(documents)
        and all(isinstance(texts, list | tuple | np.ndarray) for texts in documents)
    )


def _as_lists(rows):
    return rows.to_list() if isinstance(rows, tf.RaggedTensor) else rows


def _as_array(rows, padding, dtype):
    rows = _as_lists(rows)
    result = np.full([len(rows), max(map(len, rows))], padding, dtype)
    for i, row in enumerate(rows):
        result[i, : len(row)] = row
    return result


def dense(documents, y=None):
    """Returns a batch's documents `[B, L]` and labels, padded if they are ragged."""
    if isinstance(documents, tf.RaggedTensor):
        documents = documents.to_tensor("")
    if isinstance(y, tf.RaggedTensor):
        y = tf.cast(y, y.dtype if y.dtype.is_floating else tf.float32)
        y = y.to_tensor(float("nan"))
    return documents, y


def without_padding(documents, y):
    """Returns a batch without the last places in which no list has a document."""
    if not y.dtype.is_floating or y.shape.rank != 2:
        return documents, y
    last = tf.reduce_any(~tf.math.is_nan(y), axis=0)  # [L]
    length = tf.reduce_max(tf.where(last, tf.range(1, tf.size(last) + 1), 1))
    return documents[:, :length], y[:, :length]


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
    own = tf.stack(documents, axis=1)  # [B, m]
    num_rows, number = tf.unstack(tf.shape(own))
    is_own = tf.repeat(tf.eye(num_rows, dtype=tf.bool), number, axis=1)  # [B, B m]
    seed = tf.stack([tf.cast(seed, tf.int64), tf.constant(0, tf.int64)])
    chances = tf.random.stateless_uniform(tf.shape(is_own), seed)
    others = (num_rows - 1) * number
    drawn = others if num_negatives is None else tf.minimum(num_negatives, others)
    _, places = tf.math.top_k(tf.where(is_own, -1.0, chances), drawn)  # [B, n]
    return queries, tf.concat([own, tf.gather(tf.reshape(own, [-1]), places)], axis=1)
