"""A number for a batch of data, to tell whether it is the same again."""

import tensorflow as tf

PRIME = 6364136223846793005  # of Knuth's random numbers


def fingerprint(batch):
    """A number that follows from a batch's rows, however the replicas share them out."""
    total = tf.constant(0, tf.int64)
    for i, leaf in enumerate(tf.nest.flatten(batch, expand_composites=True)):
        # A missing part is None in a step, and an empty tf.experimental.Optional before.
        if leaf is not None and leaf.dtype not in (tf.variant, tf.resource):
            total += (2 * i + 1) * _sum_of_rows(_as_integers(tf.convert_to_tensor(leaf)))
    return total


def _as_integers(x):
    """The numbers' bits, or the texts' hashes, as int64."""
    if x.dtype == tf.string:
        return tf.strings.to_hash_bucket_fast(x, 2**62)
    if x.dtype.is_floating or x.dtype.is_complex:
        integers = {1: tf.int8, 2: tf.int16, 4: tf.int32}
        x = tf.bitcast(x, integers.get(x.dtype.size, tf.int64))
    return tf.cast(x, tf.int64)


def _sum_of_rows(x, num_samples=1024):
    """A sum over the rows of integers `[B, ...]`, of about so many of a row's numbers."""
    x = x if x.shape.rank != 0 else x[None]
    x = tf.reshape(x, [tf.shape(x)[0], tf.reduce_prod(tf.shape(x)[1:])])
    x = x[:, :: tf.shape(x)[1] // num_samples + 1]
    weights = (2 * tf.range(tf.shape(x, tf.int64)[1], dtype=tf.int64) + 1) * PRIME
    rows = _mix(tf.reduce_sum(x * weights, axis=1) + 1)
    return tf.reduce_sum(_mix(rows))


def _mix(x):
    return PRIME * tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, 31))
