"""Exact nearest neighbours, in memory that does not grow with the corpus."""

import operator

import keras
import numpy as np
import tensorflow as tf

from tfembloss import distances

_QUERY_CHUNK = 1024
_BLOCK = 16  # columns whose smallest is compared first


def top_k(queries, corpus, k, distance="cosine", chunk_size=16384, verbose=0):
    """The k nearest rows of the corpus for each query, nearest first.

    Exact: every query is compared with every row, `[1024, chunk_size]` distances at a
    time. Of rows at equal distance the earlier comes first.

    Args:
        queries: embeddings `[Q, D]`.
        corpus: embeddings `[N, D]`; an array, also one that `np.load(..., mmap_mode="r")`
            leaves on disk.
        k: number of neighbours, 1 to N.
        distance: a distance of `tfembloss.distances`: its name, or a function. For
            cosine and dot the similarity is 1 - distance and -distance.
        chunk_size: rows of the corpus compared at a time, > 0. A function as distance
            needs D times the memory: make it smaller.
        verbose: 1 for a progress bar.

    Returns:
        Distances `[Q, k]` and row numbers `[Q, k]`, numpy arrays of float32 and int64.

    Raises:
        ValueError: shapes do not fit, `k` is not within 1 to N, the distance is unknown,
            or a distance is NaN, which has no place in an order.

    Example:

    >>> corpus = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], "float32")
    >>> nearest, rows = top_k(np.array([[0.0, 2.0]], "float32"), corpus, k=2)
    >>> rows.tolist(), nearest.round(3)
    ([[1, 2]], array([[0.   , 0.293]], dtype=float32))
    """
    k = operator.index(k)
    if chunk_size < 1:
        raise ValueError(f"Expected chunk_size > 0. Received: chunk_size={chunk_size}")
    pairwise = distances.get(distance).pairwise
    shapes = np.shape(queries), np.shape(corpus)
    if [len(s) for s in shapes] != [2, 2] or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            "Expected queries [Q, D] and a corpus [N, D] of the same D. "
            f"Received: {shapes[0]} and {shapes[1]}"
        )
    (num_queries, _), (num_rows, _) = shapes
    if not 1 <= k <= num_rows:
        raise ValueError(f"Expected 1 <= k <= {num_rows} rows. Received: k={k}")

    starts = range(0, num_queries, _QUERY_CHUNK)
    progress = keras.utils.Progbar(len(starts), verbose=verbose)
    found = []
    for start in starts:
        chunk = tf.cast(queries[start : start + _QUERY_CHUNK], "float32")
        found.append(_nearest(chunk, corpus, k, pairwise, chunk_size))
        progress.add(1)
    if not found:
        return np.zeros([0, k], "float32"), np.zeros([0, k], "int64")
    nearest, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return nearest, rows


def _nearest(queries, corpus, k, pairwise, chunk_size):
    """Distances and row numbers `[Q, k]` of one chunk of queries."""
    nearest = tf.zeros([len(queries), 0])
    rows = tf.zeros([len(queries), 0], "int64")
    for start in range(0, len(corpus), chunk_size):
        chunk = tf.cast(corpus[start : start + chunk_size], "float32")
        by_blocks = len(chunk) > 4 * _BLOCK * k  # else that is not faster
        chunk = pairwise(queries, chunk)
        start = tf.constant(start, "int64")
        nearest, rows = _merge(nearest, rows, chunk, start, k, by_blocks)
    if np.isnan(nearest).any():
        raise ValueError("Expected finite embeddings: a distance is NaN.")
    return nearest.numpy(), rows.numpy()


@tf.function(reduce_retracing=True, autograph=False)
def _merge(nearest, rows, chunk, start, k, by_blocks):
    """The k nearest of those found so far, which stand first, and of one more chunk."""
    has_nan = _has_nan(nearest) | _has_nan(chunk)
    new = start + tf.range(tf.shape(chunk, "int64")[1])
    new = tf.broadcast_to(new, tf.shape(chunk))
    if by_blocks:
        chunk, new = _blocks_of_smallest(chunk, new, k)
    both, rows = tf.concat([nearest, chunk], axis=1), tf.concat([rows, new], axis=1)
    nearest, places = tf.math.top_k(-both, k=tf.minimum(k, tf.shape(both)[1]))
    nearest = tf.where(has_nan, np.nan, -nearest)
    return nearest, tf.gather(rows, places, batch_dims=1)


def _has_nan(x):
    return tf.reduce_any(tf.math.is_nan(x), axis=1, keepdims=True)


def _blocks_of_smallest(x, rows, k):
    """Columns of x, and of rows, among which are the k smallest of each row of x.

    They are in the k blocks of columns whose minima are the smallest, also by order where
    they are equal, or among the last columns, which make no block.
    """
    num_queries, num_columns = tf.unstack(tf.shape(x))
    end = num_columns - num_columns % _BLOCK

    def blocks(of):
        return tf.reshape(of[:, :end], [num_queries, end // _BLOCK, _BLOCK])

    def chosen(of):
        inside = tf.gather(blocks(of), places, batch_dims=1)
        return tf.concat([tf.reshape(inside, [num_queries, k * _BLOCK]), of[:, end:]], 1)

    _, places = tf.math.top_k(-tf.reduce_min(blocks(x), axis=2), k=k)
    places = tf.sort(places, axis=1)
    return chosen(x), chosen(rows)
