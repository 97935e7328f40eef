"""Distances between embeddings: a smaller distance means nearer.

| name | distance of a and b | range |
|---|---|---|
| `"cosine"` | 1 - a.b, of a and b at length 1 | 0 to 2 |
| `"dot"` | -a.b | any |
| `"squared_euclidean"` | sum of (a_d - b_d)^2 | 0 and up |
| `"euclidean"` | its root | 0 and up |
| `"normalized_euclidean"` | the same, of a and b at length 1 | 0 to 2 |
| `"manhattan"` | sum of abs(a_d - b_d) | 0 and up |
| `"snr"` | var(a - b) / var(a), of a and b at length 1: noise over signal | 0 and up |

Each is a `Distance` with two forms, row by row and all pairs. Wherever the package takes a
distance, it takes a name, or a function `(a, b) -> distances` that reduces the last axis
and broadcasts over the others.

Gradients are finite everywhere: the direction of a zero vector, and the distance between
two equal points, have gradient 0. NaN stays NaN.

The last one changes if a and b change places. All pairs of the euclidean distances come
from one matrix product. In float32, rows that are closer than about 0.001 of their length
count as equal. GPUs with TF32 round matrix products, and so `"cosine"` and `"dot"`, to
about 1e-3; `tf.config.experimental.enable_tensor_float_32_execution(False)` makes them
exact.

Example:

>>> import tensorflow as tf
>>> a, b = tf.constant([[3.0, 0.0]]), tf.constant([[0.0, 4.0], [6.0, 0.0]])
>>> euclidean.pairwise(a, b).numpy().tolist()
[[5.0, 3.0]]
>>> cosine.rowwise(a, b).numpy().tolist()
[1.0, 0.0]
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfembloss.kernels import compiled, differentiable

__all__ = ["Distance", "get", "l2_normalize"]


class Distance(NamedTuple):
    """One distance in its two forms.

    Args:
        rowwise: `(a [..., D], b [..., D]) -> [...]`, broadcasting.
        of_prepared: `(a [B, D], b [N, D]) -> [B, N]`, of prepared rows.
        prepare: `[..., D] -> [..., D]`: what is computed once for each row, instead of
            once for each pair of rows.
    """

    rowwise: Callable
    of_prepared: Callable
    prepare: Callable = lambda x: x

    def pairwise(self, a, b):
        """Returns distances `[B, N]` of all pairs of rows `a [B, D]` and `b [N, D]`."""
        return self.of_prepared(self.prepare(a), self.prepare(b))


def sum_last(x):
    """Sums over the last axis, as a product with ones.

    XLA keeps the order of the terms in a reduction, which takes three times as long on CPU.
    """
    return tf.tensordot(x, tf.ones(tf.shape(x)[-1:], x.dtype), 1)


def l2_normalize(x):
    """Normalizes rows to length 1; a zero row stays zero, with gradient 0."""
    # The largest entry is divided out first, so that no square over- or underflows. The
    # direction does not depend on it, so that it may be a constant for the gradient.
    largest = tf.reduce_max(tf.abs(tf.stop_gradient(x)), axis=-1, keepdims=True)
    zero = largest == 0
    x = x / tf.where(zero, tf.ones_like(largest), largest)
    squares = sum_last(x * x)[..., None]
    length = tf.sqrt(tf.where(zero, tf.ones_like(squares), squares))
    return tf.where(zero, tf.zeros_like(x), x / length)


def directions(x):
    """`l2_normalize` as a kernel, which keeps only x for the backward pass."""
    rows = tf.reshape(x, [-1, tf.shape(x)[-1]])  # of one rank, so that it is traced once
    return tf.ensure_shape(tf.reshape(_directions(rows), tf.shape(x)), x.shape)


@differentiable
def _directions(x):
    return l2_normalize(x)


def root(squares):
    """Returns square roots: of 0 with gradient 0, and of small negative numbers 0."""
    # `<= 0` and not `> 0`: NaN must take the branch that keeps it.
    zero = squares <= 0
    root = tf.sqrt(tf.where(zero, tf.ones_like(squares), squares))
    return tf.where(zero, tf.zeros_like(squares), root)


def _dot(a, b):
    return -sum_last(a * b)


@tf.custom_gradient
def _dot_pairs(a, b):
    # Matrix products, here and below, are outside of kernels: on CPU, XLA's take up to 1.5
    # times as long.
    a, b = tf.stop_gradient(a), tf.stop_gradient(b)

    def gradient(upstream):
        return -tf.matmul(upstream, b), tf.matmul(upstream, -a, transpose_a=True)

    return tf.matmul(-a, b, transpose_b=True), gradient


def _cosine(a, b):
    return 1 - sum_last(l2_normalize(a) * l2_normalize(b))


def _one_minus_dot_pairs(a, b):
    return 1 + _dot_pairs(a, b)


def _squared_euclidean(a, b):
    return sum_last(tf.math.squared_difference(a, b))


@tf.custom_gradient
def _squared_euclidean_pairs(a, b):
    return _with_written_gradient(_squares, _slopes_of_squares, a, b)


def _with_written_gradient(pairs, slopes, a, b):
    # From the distances themselves: TensorFlow's own gradient would keep ten arrays [B, N].
    a, b = tf.stop_gradient(a), tf.stop_gradient(b)
    x = pairs(a, b, tf.matmul(a, b, transpose_b=True))
    return x, lambda upstream: _sums_of_differences(a, b, slopes(x, upstream))


@compiled
def _squares(a, b, products):
    # |a|^2 + |b|^2 - 2 a.b needs one matrix product, while a - b would need [B, N, D].
    # Its rounding error is a few units in the last place of |a|^2 + |b|^2: anything below
    # that is noise, and so would be its gradient. Equal rows get exactly 0.
    lengths = sum_last(a * a)[:, None] + sum_last(b * b)[None, :]
    squares = lengths - 2 * products  # [B, N]
    noise = 8 * float(np.finfo(a.dtype.as_numpy_dtype).eps) * lengths
    return tf.where(squares < noise, tf.zeros_like(squares), squares)


@compiled
def _slopes_of_squares(x, upstream):
    return tf.where(x == 0, tf.zeros_like(x), 2 * upstream)


def _sums_of_differences(a, b, weights):
    """Returns sums of weight * (a - b) for each a, and of weight * (b - a) for each b."""
    of_a = sum_last(weights)[:, None] * a - tf.matmul(weights, b)
    of_b = tf.reduce_sum(weights, axis=0)[:, None] * b
    return of_a, of_b - tf.matmul(weights, a, transpose_a=True)


def _euclidean(a, b):
    return root(_squared_euclidean(a, b))


@tf.custom_gradient
def _euclidean_pairs(a, b):
    return _with_written_gradient(_roots, _slopes_of_roots, a, b)


@compiled
def _roots(a, b, products):
    return root(_squares(a, b, products))


@compiled
def _slopes_of_roots(x, upstream):
    zero = x <= 0  # not of NaN
    slope = upstream / tf.where(zero, tf.ones_like(x), x)
    return tf.where(zero, tf.zeros_like(x), slope)


def _normalized_euclidean(a, b):
    return _euclidean(l2_normalize(a), l2_normalize(b))


def _manhattan(a, b):
    return tf.reduce_sum(tf.abs(a - b), axis=-1)


@tf.custom_gradient
def _manhattan_pairs(a, b):
    # Row by row, [N, D] at a time, instead of [B, N, D] at once. The gradient is explicit
    # because a compiled loop cannot be differentiated from outside.
    a, b = tf.stop_gradient(a), tf.stop_gradient(b)

    def gradient(upstream):
        return _sum_of_signs(a, b, upstream), _sum_of_signs(b, a, tf.transpose(upstream))

    return _manhattan_by_row(a, b), gradient


@compiled
def _manhattan_by_row(a, b):
    return _of_each_row(lambda row: _manhattan(*row, b), (a,))  # [B, N]


@compiled
def _sum_of_signs(a, b, weights):
    def row_gradient(row_and_weights):
        row, row_weights = row_and_weights  # [D], [N]
        return tf.linalg.matvec(tf.sign(row - b), row_weights, transpose_a=True)

    return _of_each_row(row_gradient, (a, weights))  # [B, D]


def _of_each_row(function, rows):
    """Applies `function` to each row of these tensors, one at a time."""
    num_rows = tf.shape(rows[0])[0]
    # tf.map_fn cannot infer the result's shape without rows, so it gets a row of zeros.
    padding = [[0, tf.cast(num_rows == 0, num_rows.dtype)], [0, 0]]
    rows = tuple(tf.pad(x, padding) for x in rows)
    return tf.map_fn(function, rows, fn_output_signature=rows[0].dtype)[:num_rows]


def _centered_directions(x):
    x = directions(x)
    return x - tf.reduce_mean(x, axis=-1, keepdims=True)


def _snr_of_centered(squares, a):
    signal = sum_last(a * a)  # D times the variance
    none = signal == 0
    ratio = squares / tf.where(none, tf.ones_like(signal), signal)
    return tf.where(none, tf.zeros_like(ratio), ratio)


def _snr(a, b):
    a, b = _centered_directions(a), _centered_directions(b)
    return _snr_of_centered(_squared_euclidean(a, b), a)


def _snr_pairs(a, b):
    return _snr_of_centered(_squared_euclidean_pairs(a, b), a[:, None, :])


cosine = Distance(_cosine, _one_minus_dot_pairs, directions)
dot = Distance(_dot, _dot_pairs)
squared_euclidean = Distance(_squared_euclidean, _squared_euclidean_pairs)
euclidean = Distance(_euclidean, _euclidean_pairs)
normalized_euclidean = Distance(_normalized_euclidean, _euclidean_pairs, directions)
manhattan = Distance(_manhattan, _manhattan_pairs)
snr = Distance(_snr, _snr_pairs, _centered_directions)

_BY_NAME = {
    "cosine": cosine,
    "dot": dot,
    "squared_euclidean": squared_euclidean,
    "euclidean": euclidean,
    "normalized_euclidean": normalized_euclidean,
    "manhattan": manhattan,
    "snr": snr,
}


def get(distance, argument="distance"):
    """Returns the `Distance` of this name or function.

    Args:
        distance: one of the names above, or a function `(a, b) -> distances` that
            reduces the last axis and broadcasts; all pairs then take `[B, N, D]` memory.
        argument: the caller's name for it, for the error message.

    Raises:
        ValueError: if it is neither.

    Example:

    >>> get("cosine") is cosine
    True
    >>> import tensorflow as tf
    >>> chebyshev = get(lambda a, b: tf.reduce_max(tf.abs(a - b), axis=-1))
    >>> chebyshev.pairwise(tf.zeros([1, 2]), tf.constant([[1.0, -3.0]])).numpy()
    array([[3.]], dtype=float32)
    """
    if isinstance(distance, str) and distance in _BY_NAME:
        return _BY_NAME[distance]
    if callable(distance):
        return Distance(distance, lambda a, b: distance(a[:, None, :], b[None, :, :]))
    raise ValueError(
        f"Unknown `{argument}`. Expected one of {sorted(_BY_NAME)}, or a function "
        "(a, b) -> distances that reduces the last axis and broadcasts over the "
        f"others. Received: {argument}={distance!r}"
    )
