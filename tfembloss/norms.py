"""Norms of the differences of rows, for any p."""

import tensorflow as tf

from tfembloss.kernels import compiled


def of_p(p):
    """Returns the p-norm of differences in two forms, see `tfembloss.distances.Distance`.

    Args:
        p: >= 1.

    Returns:
        `(a [..., D], b [..., D]) -> [...]`, broadcasting, and `(a [B, D], b [N, D]) ->
        [B, N]`, which takes no memory but for that; both with gradient.
    """

    @tf.custom_gradient
    def pairs(a, b):
        # Row by row, [N, D] at a time, instead of [B, N, D] at once. The gradient is
        # explicit because a compiled loop cannot be differentiated from outside.
        a, b = tf.stop_gradient(a), tf.stop_gradient(b)

        def gradient(upstream):
            of_a = _sums_of_slopes(a, b, upstream, p=p)
            return of_a, _sums_of_slopes(b, a, tf.transpose(upstream), p=p)

        return _norms_by_row(a, b, p=p), gradient

    return lambda a, b: _norm_of_p(p)(a - b), pairs


def scaled_by(p):
    """Returns a function that scales rows to a p-norm of 1; a zero row stays zero."""

    def scaled(x):
        norms = _norm_of_p(p)(x)[..., None]
        zero = norms == 0
        return tf.where(zero, tf.zeros_like(x), x / tf.where(zero, tf.ones_like(x), norms))

    return scaled


def _norm_of_p(p):
    """Returns a function of the p-norm over the last axis."""

    @tf.custom_gradient
    def norms(x):
        x = tf.stop_gradient(x)
        return _norms(x, p), lambda up: up[..., None] * _slopes_of_norms(x, p)

    return norms


def _norms(x, p):
    """Returns p-norms over the last axis, without overflow."""
    if p == 1:
        return tf.reduce_sum(tf.abs(x), axis=-1)
    largest = tf.reduce_max(tf.abs(x), axis=-1)
    largest = tf.where(largest == 0, tf.ones_like(largest), largest)
    return largest * tf.reduce_sum(tf.abs(x / largest[..., None]) ** p, axis=-1) ** (1 / p)


def _slopes_of_norms(x, p):
    if p == 1:
        return tf.sign(x)
    norms = _norms(x, p)[..., None]
    norms = tf.where(norms == 0, tf.ones_like(norms), norms)
    return tf.sign(x) * tf.abs(x / norms) ** (p - 1)


@compiled
def _norms_by_row(a, b, p):
    return _of_each_row(lambda row: _norms(row[0] - b, p), (a,))  # [B, N]


@compiled
def _sums_of_slopes(a, b, weights, p):
    def row_gradient(row_and_weights):
        row, row_weights = row_and_weights  # [D], [N]
        slopes = _slopes_of_norms(row - b, p)  # [N, D]
        return tf.linalg.matvec(slopes, row_weights, transpose_a=True)

    return _of_each_row(row_gradient, (a, weights))  # [B, D]


def _of_each_row(function, rows):
    """Applies `function` to each row of these tensors, one at a time."""
    num_rows = tf.shape(rows[0])[0]
    # tf.map_fn cannot infer the result's shape without rows, so it gets a row of zeros.
    padding = [[0, tf.cast(num_rows == 0, num_rows.dtype)], [0, 0]]
    rows = tuple(tf.pad(x, padding) for x in rows)
    return tf.map_fn(function, rows, fn_output_signature=rows[0].dtype)[:num_rows]
