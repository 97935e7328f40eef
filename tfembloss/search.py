"""Exact nearest-neighbor search, in memory that does not grow with the corpus.

`top_k` finds the nearest rows of a corpus for each query, `nearest_besides` the same
without the rows that a query excludes.
"""

import functools
import operator
import os
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import tensorflow as tf

from tfembloss import distances
from tfembloss.checks import integer

__all__ = ["nearest_besides", "top_k"]

_QUERY_CHUNK = 1024
_BLOCK = 16  # columns whose minimum is compared first
_MANY = 256  # neighbors from which on sorting integers is faster than TensorFlow's top_k
_ENTRIES = 2**22  # of a ranking [queries, k] computed at a time


def top_k(queries, corpus, k, distance="cosine", chunk_size=16384, verbose=0):
    """Finds the k nearest rows of the corpus for each query, nearest first.

    The search is exact: every query is compared with every row, `[1024, chunk_size]`
    distances at a time. Of rows at equal distance, the earlier comes first.

    Args:
        queries: embeddings `[Q, D]`.
        corpus: embeddings `[N, D]`; an array, which `np.load(..., mmap_mode="r")` may
            leave on disk.
        k: number of neighbors, 1 to N.
        distance: a distance of `tfembloss.distances`: its name, or a function. For
            `"cosine"` the similarity is 1 - distance, for `"dot"` it is -distance. For
            `"hamming"` both may be packed codes of dtype uint8, `[Q, D / 8]` and
            `[N, D / 8]`, as `numpy.packbits` makes them: 1/32 of the memory of float32.
        chunk_size: rows of the corpus compared at a time, > 0. If `distance` is a
            function, this needs D times the memory, so use a smaller size.
        verbose: 1 for a progress bar.

    Returns:
        Distances `[Q, k]` and row numbers `[Q, k]`, numpy arrays of float32 and int64.

    Raises:
        ValueError: if an argument is invalid, or a distance is NaN or infinite, because an
            embedding is, or is too large. A function as `distance` may return infinity.

    Example:

    >>> corpus = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], "float32")
    >>> nearest, rows = top_k(np.array([[0.0, 2.0]], "float32"), corpus, k=2)
    >>> rows.tolist(), nearest.round(3)
    ([[1, 2]], array([[0.   , 0.293]], dtype=float32))

    By the signs of the embeddings:

    >>> codes = np.packbits(corpus > 0, axis=1)
    >>> top_k(np.packbits([[False, True]], axis=1), codes, k=2, distance="hamming")[0]
    array([[0., 1.]], dtype=float32)
    """
    chunk_size = integer("chunk_size", chunk_size, 1)
    pairwise = distances.get(distance).pairwise
    queries = as_embeddings(queries, "queries")
    corpus = as_embeddings(corpus, "corpus")
    shapes = tuple(queries.shape), tuple(corpus.shape)
    if shapes[0][1] != shapes[1][1]:
        raise ValueError(
            "Expected queries [Q, D] and a corpus [N, D] of the same D. "
            f"Received: {shapes[0]} and {shapes[1]}"
        )
    (num_queries, _), (num_rows, _) = shapes
    if distance == "hamming":
        for x in (queries, corpus):
            distances.check_codes(x.dtype)
    packed = [distance == "hamming" and x.dtype == "uint8" for x in (queries, corpus)]
    if packed[0] != packed[1]:
        raise ValueError(
            "Expected queries and a corpus that are both packed codes of dtype uint8, or "
            f"neither. Received: {queries.dtype} and {corpus.dtype}. Give the codes of "
            "embeddings by numpy.packbits(embeddings > 0, axis=1)."
        )
    dtype = "uint8" if packed[0] else "float32"
    if not num_rows:
        raise ValueError("Expected a corpus of at least one row, received none.")
    try:
        k = operator.index(k)
    except TypeError:
        raise ValueError(f"Expected an integer k. Received: k={k!r}") from None
    if not 1 <= k <= num_rows:
        raise ValueError(f"Expected 1 <= k <= {num_rows} rows. Received: k={k}")

    starts = range(0, num_queries, _QUERY_CHUNK)
    progress = keras.utils.Progbar(len(starts), verbose=verbose)
    found = []
    for start in starts:
        chunk = tf.cast(queries[start : start + _QUERY_CHUNK], dtype)
        tiles = _tiles(chunk, corpus, pairwise, chunk_size)
        make = _nearest if k < _MANY else _nearest_of_many
        found.append(make(tiles, len(chunk), k, finite=isinstance(distance, str)))
        (wrong,) = np.nonzero(np.isnan(found[-1][0]).any(axis=1))
        if len(wrong):
            _refuse(queries, corpus, distance, start + wrong[0])
        progress.add(1)
    if not found:
        return np.zeros([0, k], "float32"), np.zeros([0, k], "int64")
    nearest, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return nearest, rows


def nearest_besides(
    queries, corpus, counts, excluded, distance="cosine", chunk_size=16384, verbose=0
):
    """Finds the nearest rows of the corpus for each query, except excluded rows.

    A query that excludes many rows does not increase memory and time of the others.

    Args:
        queries: as in `top_k`.
        corpus: as in `top_k`.
        counts: number of rows for each query, `[Q]`; fewer are returned if there are fewer.
        excluded: for each query, row numbers that are not returned.
        distance: as in `top_k`.
        chunk_size: as in `top_k`.
        verbose: as in `top_k`.

    Returns:
        Two lists of arrays: for each query its distances, and its row numbers, nearest
        first.

    Example:

    >>> corpus = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], "float32")
    >>> _, rows = nearest_besides(corpus[:2], corpus, [2, 1], [[0], [1]])
    >>> [of_query.tolist() for of_query in rows]
    [[2, 1], [2]]
    """
    depths = np.minimum(np.add(counts, list(map(len, excluded))), len(corpus))
    nearest, rows = [None] * len(depths), [None] * len(depths)
    progress = keras.utils.Progbar(len(depths), verbose=verbose)
    for part in parts_of_like_depth(depths):
        found = top_k(queries[part], corpus, depths[part[-1]], distance, chunk_size)
        for query, *of_query in zip(part, *found, strict=True):
            (places,) = np.nonzero(~np.isin(of_query[1], excluded[query]))
            places = places[: counts[query]]
            nearest[query], rows[query] = (values[places] for values in of_query)
        progress.add(len(part))
    return nearest, rows


def parts_of_like_depth(depths):
    """Splits queries into parts of similar depth, to bound the ranking [part, depth].

    Args:
        depths: `[Q]`, how many rows are ranked for each query.

    Returns:
        Arrays of query numbers, each with the deepest last. They have few distinct sizes,
        because kernels are compiled for each size.

    Example:

    >>> [part.tolist() for part in parts_of_like_depth([5, 1, 3])]
    [[1, 2, 0]]
    """
    depths = np.asarray(depths)
    order = np.argsort(depths, kind="stable")
    start, parts = 0, []
    while start < len(order):
        size = _QUERY_CHUNK
        while size > 1 and size * depths[order[start : start + size][-1]] > _ENTRIES:
            size //= 2
        parts.append(order[start : start + size])
        start += size
    return parts


def as_embeddings(x, name):
    """Returns an array or tensor [N, D] of numbers. Raises ValueError otherwise."""
    expected = f"Expected {name} as an array [n, D] of numbers. Received: "
    if hasattr(x, "toarray"):
        raise ValueError(f"{expected}{type(x).__name__}: give {name}.toarray().")
    try:
        dtype = tf.as_dtype(x.dtype)
    except (AttributeError, TypeError):  # a list, a table, another library's array
        try:
            x = np.asarray(x)
            dtype = tf.as_dtype(x.dtype)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{expected}{type(x).__name__} ({error})") from error
    shape = tuple(x.shape) if hasattr(x, "__getitem__") else ()
    if len(shape) != 2 or None in shape or not shape[1]:
        raise ValueError(f"{expected}shape {shape}")
    if not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
        raise ValueError(f"{expected}dtype {dtype.name}")
    return x


def check_finite(x, name):
    """Raises ValueError if a row is not finite in float32, and names it."""
    for start in range(0, len(x), _QUERY_CHUNK):
        rows = tf.cast(x[start : start + _QUERY_CHUNK], "float32")
        finite = tf.reduce_all(tf.math.is_finite(rows), axis=1).numpy()
        if not finite.all():
            raise ValueError(
                "Expected finite embeddings. Received: NaN or infinity (in float32) in row "
                f"{start + finite.argmin()} of the {name}."
            )


def _refuse(queries, corpus, distance, query):
    """Raises ValueError with the embedding that made a distance NaN or infinite."""
    check_finite(queries, "queries")
    check_finite(corpus, "corpus")
    raise ValueError(
        f"Expected finite distances. Received: of query {query} one by {distance!r} is NaN "
        "or infinite, though the embeddings are finite. Are they too large for it?"
    )


def _tiles(queries, corpus, pairwise, chunk_size):
    """Yields the first row of each chunk of the corpus, and distances `[Q, chunk]`."""
    for start in range(0, len(corpus), chunk_size):
        chunk = tf.cast(corpus[start : start + chunk_size], queries.dtype)
        tile = tf.cast(pairwise(queries, chunk), "float32")
        if tile.shape != (len(queries), len(chunk)):
            raise ValueError(
                "Expected a function of distance that reduces the last axis and "
                f"broadcasts over the others: here to {(len(queries), len(chunk))}. "
                f"Received: a result of shape {tuple(tile.shape)}"
            )
        yield start, tile


def _nearest(tiles, num_queries, k, finite):
    """Returns distances and row numbers `[Q, k]`; NaN for queries with bad distances."""
    nearest = tf.zeros([num_queries, 0])
    rows = tf.zeros([num_queries, 0], "int64")
    for start, tile in tiles:
        by_blocks = tile.shape[1] > 4 * _BLOCK * k  # otherwise blocks are not faster
        options = {"by_blocks": by_blocks, "finite": finite}
        start, limit = tf.constant(start, "int64"), tf.constant(k)
        nearest, rows = _merge(nearest, rows, tile, start, limit, **options)
    return nearest.numpy(), rows.numpy()


@tf.function(reduce_retracing=True, autograph=False)
def _merge(nearest, rows, tile, start, k, by_blocks, finite):
    """Returns the k nearest of those found so far, which come first, and a new tile."""
    wrong = tf.math.logical_not(tf.math.is_finite(tile)) if finite else tf.math.is_nan(tile)
    wrong = tf.reduce_any(wrong, axis=1, keepdims=True)
    wrong |= tf.reduce_any(tf.math.is_nan(nearest), axis=1, keepdims=True)
    new = start + tf.range(tf.shape(tile, "int64")[1])
    new = tf.broadcast_to(new, tf.shape(tile))
    if by_blocks:
        tile, new = _blocks_of_smallest(tile, new, k)
    both, rows = tf.concat([nearest, tile], axis=1), tf.concat([rows, new], axis=1)
    nearest, places = tf.math.top_k(-both, k=tf.minimum(k, tf.shape(both)[1]))
    nearest = tf.where(wrong, np.nan, -nearest)
    return nearest, tf.gather(rows, places, batch_dims=1)


def _blocks_of_smallest(x, rows, k):
    """Returns columns of x, and of rows, that include the k smallest of each row of x.

    These are in the k blocks of columns with the smallest minima, the earlier block if
    minima are equal, or among the last columns, which do not fill a block.
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


def _nearest_of_many(tiles, num_queries, k, finite):
    """Like `_nearest`, for a large k: sorts a distance and its row as one integer."""
    parts = range(0, num_queries, 64)
    found = [np.empty([0, 0], "int64")] * len(parts)
    wrong = np.zeros(num_queries, bool)
    num_threads = min(os.cpu_count() or 1, 8)
    smallest_first = functools.partial(np.ndarray.partition, kth=k - 1, axis=1)
    # numpy uses one core for an array. Threads sort in place, because memory that they
    # allocate would not be returned.
    with ThreadPoolExecutor(num_threads) as pool:
        for start, tile in tiles:
            tile = tile.numpy()
            wrong |= (~np.isfinite(tile) if finite else np.isnan(tile)).any(axis=1)
            for first in range(0, len(parts), num_threads):
                some = slice(first, first + num_threads)
                keys = [_keys(tile[part : part + 64], start) for part in parts[some]]
                if start:
                    both = zip(found[some], keys, strict=True)
                    keys = [np.concatenate(pair, axis=1) for pair in both]
                if keys[0].shape[1] > k:
                    list(pool.map(smallest_first, keys))
                    keys = [of_part[:, :k].copy() for of_part in keys]
                found[some] = keys
        list(pool.map(functools.partial(np.ndarray.sort, axis=1), found))
    keys = np.concatenate(found)
    nearest = _flipped((keys >> 32).astype("int32")).view("float32")
    nearest[wrong] = np.nan
    return nearest, keys & 0xFFFFFFFF


def _keys(x, first_row):
    """Returns integers `[Q, n]` in the order of the distances x, and of rows if equal."""
    bits = _flipped((x + np.float32(0)).view("int32"))  # -0.0 is 0.0
    keys = bits.astype("int64")
    keys <<= 32
    keys |= np.arange(first_row, first_row + x.shape[1])
    return keys


def _flipped(bits):
    """Maps the bits of floats to integers of the same order, and back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
