"""Attention of many texts, a few at a time, so that their weights stay in the cache."""

import contextlib
import contextvars

import tensorflow as tf
from keras import ops

from tfembloss import tiling
from tfembloss.kernels import in_xla, random_bits

# Weights of a tile, 8 MB in float32.
ENTRIES = 2**21
_whole = contextvars.ContextVar("whole", default=False)


@contextlib.contextmanager
def whole():
    """Within it, attention has no loop: for formats that have none."""
    token = _whole.set(True)
    try:
        yield
    finally:
        _whole.reset(token)


def by_parts():
    """Whether parts are faster: on CPUs, whose memory is slow, and without XLA."""
    others = [x for x in tf.config.list_physical_devices() if x.device_type != "CPU"]
    return not (others or _whole.get() or in_xla())


def attention(query, key, value, mask, logits, shared=None, dropping=None):
    r"""Returns $\operatorname{softmax}(\mathrm{logits})\, \mathrm{value}$ of each head.

    Where `by_parts`, it computes a few texts at a time, and their weights again for the
    gradient: `[B, H, T, T]` is not kept, and does not pass through memory.

    Args:
        query: `[B, H, T, d]`.
        key: `[B, H, T, d]`.
        value: `[B, H, T, d]`.
        mask: `[B, T]`, 0 at keys that get no weight.
        logits: `(query, key, shared) -> logits` of some texts, `[n, H, T, T]`, float32.
        shared: a tensor that the logits of all texts depend on, or None.
        dropping: a `keras.layers.Dropout` of the weights, or None.
    """
    hidden = tf.cast(1 - tf.cast(mask, tf.int32), tf.float32) * -1e9  # [B, T]
    rows = tf.range(tf.shape(query)[0], dtype=tf.int64)
    drops = dropping is not None and dropping.rate > 0
    seed = tf.cast(dropping.seed_generator.next(), tf.int64) if drops else None

    def of_some(query, key, value, shared, hidden, rows):
        x = logits(query, key, shared) + ops.expand_dims(hidden, (1, 2))
        weights = tf.cast(tf.nn.softmax(x), value.dtype)  # [n, H, T, T]
        if drops:
            weights = _dropped(weights, dropping.rate, seed + rows[0])
        return tf.matmul(weights, value)

    if not by_parts():
        return of_some(query, key, value, shared, hidden, rows)
    is_shared = shared is not None

    def of_tile(stacked, shared, hidden, rows):
        shared = shared if is_shared else None
        return of_some(*tf.unstack(stacked, axis=1), shared, hidden, rows)

    heads, length = query.shape[1], query.shape[2] or tf.shape(query)[2]
    least = max if isinstance(length, int) else tf.maximum
    tile_size = least(ENTRIES // (heads * length * length), 1)
    stacked = tf.stack([query, key, value], axis=1)  # [B, 3, H, T, d]
    shared = shared if is_shared else tf.zeros([0], query.dtype)
    y = tiling.by_tiles(of_tile, stacked, shared, (hidden, rows), tile_size)
    return tf.reshape(y, tf.shape(query))


def _dropped(x, rate, seed):
    """Returns x with a fraction of its entries 0, and the others as much larger."""
    size, numbers = tf.size(x), 2**16  # of 16 bits, two in each random number of 32
    bits = tf.bitcast(random_bits([-(-size // 2)], seed), tf.uint16)
    bits = tf.reshape(tf.reshape(bits, [-1])[:size], tf.shape(x))
    least = min(round(rate * numbers), numbers - 1)
    kept = bits >= tf.constant(least, tf.uint16)
    return tf.where(kept, x / (1 - least / numbers), tf.zeros([], x.dtype))
