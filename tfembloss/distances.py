"""Distances between embeddings: a smaller distance means nearer.

| name | distance of a and b | range |
|---|---|---|
| `"cosine"` | 1 - a.b, of a and b at length 1 | 0 to 2 |
| `"dot"` | -a.b | any |
| `"squared_euclidean"` | sum of (a_d - b_d)^2 | 0 and up |
| `"euclidean"` | its root | 0 and up |
| `"normalized_euclidean"` | the same, of a and b at length 1 | 0 to 2 |
| `"manhattan"` | sum of abs(a_d - b_d) | 0 and up |
| `"angular"` | the angle between a and b, in radians | 0 to pi |
| `"snr"` | var(a - b) / var(a), of a and b at length 1: noise over signal | 0 and up |
| `"hamming"` | number of d where one of a_d and b_d is > 0 and the other is not | 0 to D |

Each is a `Distance` with two forms, row by row and all pairs. Wherever the package takes a
distance, it takes a name, `LpDistance(p)`, or a function `(a, b) -> distances` that reduces
the last axis and broadcasts over the others. `tfembloss.layers.Mahalanobis` learns one.

Gradients are finite everywhere: the direction of a zero vector, and the distance between
two equal points, have gradient 0; so have angles of 0 and pi. NaN stays NaN. `"hamming"`
is for search and evaluation, and raises an error where a gradient is needed.

`"snr"` changes if a and b change places. All pairs of the euclidean distances and of the
angles come from one matrix product. In float32, rows that are closer than about 0.001 of
their length, or in angle, count as equal. GPUs with TF32 round matrix products, and so
`"cosine"` and `"dot"`, to about 1e-3;
`tf.config.experimental.enable_tensor_float_32_execution(False)` makes them exact.

Example:

>>> import tensorflow as tf
>>> a, b = tf.constant([[3.0, 0.0]]), tf.constant([[0.0, 4.0], [6.0, 0.0]])
>>> euclidean.pairwise(a, b).numpy().tolist()
[[5.0, 3.0]]
>>> cosine.rowwise(a, b).numpy().tolist()
[1.0, 0.0]
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfembloss.checks import flag, number, positive
from tfembloss.config import Configurable
from tfembloss.kernels import compiled, differentiable
from tfembloss.norms import of_p, scaled_by

__all__ = ["Distance", "LpDistance", "get", "l2_normalize"]


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


def _angular(a, b):
    # Not the arccosine, which does not tell small angles apart.
    a, b = directions(a), directions(b)
    near, far = _euclidean(a, b), _euclidean(a, -b)
    both_zero = (near == 0) & (far == 0)  # at a right angle, as to all other rows
    near, far = (tf.where(both_zero, tf.ones_like(x), x) for x in (near, far))
    return 2 * tf.atan2(near, far)


def _arccosine(cosines):
    # As in `_squares`, anything nearer to 1 is noise.
    largest = 1 - 8 * float(np.finfo(cosines.dtype.as_numpy_dtype).eps)
    certain = tf.abs(cosines) >= largest
    return tf.acos(tf.where(certain, tf.sign(cosines), cosines))


def _slopes_of_arccosine(upstream, angles, cosines):
    none = (angles <= 0) | (angles >= float(np.float32(math.pi)))
    sines = tf.sin(tf.where(none, tf.ones_like(angles), angles))
    return tf.where(none, tf.zeros_like(angles), -upstream / sines)


_angles = differentiable(_arccosine, _slopes_of_arccosine)


def _angular_pairs(a, b):
    return _angles(-_dot_pairs(a, b))


_SHIFTS = [7, 6, 5, 4, 3, 2, 1, 0]  # the first bit of a byte is the highest


def check_codes(dtype):
    """Raises ValueError if binary codes of this dtype may be numbers or packed bits."""
    if tf.as_dtype(dtype) == tf.int8:
        raise ValueError(
            "Expected binary codes as numbers, of which those above 0 are ones, or as "
            "packed bits of dtype uint8. Received: dtype int8, which may be either. Give "
            "packed bits by codes.view('uint8'), numbers by codes.astype('float32')."
        )


def _codes(x):
    """Returns binary codes as numbers 1 and -1."""
    x = tf.convert_to_tensor(x)
    check_codes(x.dtype)
    if x.dtype == tf.uint8:  # as numpy.packbits makes them
        bits = tf.bitwise.right_shift(x[..., None], tf.constant(_SHIFTS, tf.uint8)) & 1
        x = tf.reshape(bits, tf.concat([tf.shape(x)[:-1], [8 * x.shape[-1]]], axis=0))
    x = x if x.dtype.is_floating else tf.cast(x, tf.float32)
    return tf.where(x > 0, tf.ones_like(x), -tf.ones_like(x)) + 0 * x  # NaN stays


@tf.custom_gradient
def _count_of_different(products, num_dimensions):
    def gradient(upstream):
        raise ValueError(
            "The distance 'hamming' has no gradient: it is for search and evaluation. "
            "Expected another distance of a loss, such as 'cosine'."
        )

    return (num_dimensions - products) / 2, gradient


def _hamming(a, b):
    products = sum_last(_codes(a) * _codes(b))
    return _count_of_different(products, tf.cast(tf.shape(_codes(a))[-1], products.dtype))


def _hamming_pairs(a, b):
    products = tf.matmul(a, b, transpose_b=True)
    return _count_of_different(products, tf.cast(tf.shape(a)[-1], products.dtype))


cosine = Distance(_cosine, _one_minus_dot_pairs, directions)
dot = Distance(_dot, _dot_pairs)
squared_euclidean = Distance(_squared_euclidean, _squared_euclidean_pairs)
euclidean = Distance(_euclidean, _euclidean_pairs)
normalized_euclidean = Distance(_normalized_euclidean, _euclidean_pairs, directions)
manhattan = Distance(*of_p(1))
angular = Distance(_angular, _angular_pairs, directions)
snr = Distance(_snr, _snr_pairs, _centered_directions)
hamming = Distance(_hamming, _hamming_pairs, _codes)

_BY_NAME = {
    "cosine": cosine,
    "dot": dot,
    "squared_euclidean": squared_euclidean,
    "euclidean": euclidean,
    "normalized_euclidean": normalized_euclidean,
    "manhattan": manhattan,
    "angular": angular,
    "snr": snr,
    "hamming": hamming,
}


@keras.saving.register_keras_serializable("tfembloss")
@dataclasses.dataclass(frozen=True)
class LpDistance(Configurable):
    r"""The distance by the p-norm, for any p from 1.

    $$d(a, b) = \Big(\sum_d |a_d - b_d|^p\Big)^{q / p}$$

    Of all pairs, it is computed row by row in memory for `[B, N]`; with p = 2 by one matrix
    product, as `"euclidean"` is.

    Args:
        p: >= 1, finite.
        power: q, > 0.
        normalize_embeddings: whether a and b are brought to a p-norm of 1 first.

    Raises:
        ValueError: if an argument is invalid.

    Example:

    >>> import tensorflow as tf
    >>> from tfembloss import losses
    >>> a, b = tf.constant([[3.0, 0.0]]), tf.constant([[0.0, 4.0]])
    >>> distance = LpDistance(p=3, normalize_embeddings=False)
    >>> round(float(distance(a, b)[0]), 4)   # the cube root of 91
    4.4979
    >>> loss = losses.TripletMarginLoss(distance=LpDistance(p=3))

    Relations:
        Equal to pytorch-metric-learning's class of the same name, which also normalizes by
        default, except that its euclidean distance adds a small number.
    """

    p: float = 2.0
    power: float = 1.0
    normalize_embeddings: bool = True

    def __post_init__(self):
        p = number("p", self.p, "a finite number >= 1", lambda p: p >= 1)
        object.__setattr__(self, "p", p)
        object.__setattr__(self, "power", positive("power", self.power))
        flag("normalize_embeddings", self.normalize_embeddings)

    def __call__(self, a, b):
        """Returns distances `[...]` of `a [..., D]` and `b [..., D]`, broadcasting."""
        return self.forms.rowwise(tf.convert_to_tensor(a), tf.convert_to_tensor(b))

    @property
    def forms(self):
        """This as a `Distance`."""
        norms = (_euclidean, _euclidean_pairs) if self.p == 2 else of_p(self.p)
        if self.p == self.power == 2:
            norms = _squared_euclidean, _squared_euclidean_pairs
        elif self.power != 1:
            norms = (_raised(norm, self.power) for norm in norms)
        rowwise, pairs = norms
        if not self.normalize_embeddings:
            return Distance(rowwise, pairs)
        scaled = directions if self.p == 2 else scaled_by(self.p)
        return Distance(lambda a, b: rowwise(scaled(a), scaled(b)), pairs, scaled)


def _raised(norms, power):
    def raised(a, b):
        x = norms(a, b)
        zero = x <= 0  # not of NaN
        return tf.where(zero, tf.zeros_like(x), tf.where(zero, tf.ones_like(x), x) ** power)

    return raised


def get(distance, argument="distance"):
    """Returns the `Distance` of this name or function.

    Args:
        distance: one of the names above, an `LpDistance`, or a function
            `(a, b) -> distances` that reduces the last axis and broadcasts; all pairs then
            take `[B, N, D]` memory.
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
    if isinstance(distance, LpDistance):
        return distance.forms
    if callable(distance):
        return Distance(distance, lambda a, b: distance(a[:, None, :], b[None, :, :]))
    raise ValueError(
        f"Unknown `{argument}`. Expected one of {sorted(_BY_NAME)}, LpDistance(p), or a "
        "function (a, b) -> distances that reduces the last axis and broadcasts over the "
        f"others. Received: {argument}={distance!r}"
    )
