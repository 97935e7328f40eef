"""Fingerprints of batches, to detect whether the data are the same again."""

import tensorflow as tf

PRIME = 6364136223846793005  # the multiplier of Knuth's MMIX random number generator


def fingerprint(batch):
    """Computes a number from a batch's rows, whatever their distribution to replicas."""
    total = tf.constant(0, tf.int64)
    for i, leaf in enumerate(tf.nest.flatten(batch, expand_composites=True)):
        # A missing part is None within a step, but an empty tf.experimental.Optional else.
        if leaf is not None and leaf.dtype not in (tf.variant, tf.resource):
            total += (2 * i + 1) * _sum_of_rows(_as_integers(tf.convert_to_tensor(leaf)))
    return total


def _as_integers(x):
    """Returns the bits of numbers, or the hashes of texts, as int64."""
    if x.dtype == tf.string:
        return tf.strings.to_hash_bucket_fast(x, 2**62)
    if x.dtype.is_floating or x.dtype.is_complex:
        integers = {1: tf.int8, 2: tf.int16, 4: tf.int32}
        x = tf.bitcast(x, integers.get(x.dtype.size, tf.int64))
    return tf.cast(x, tf.int64)


def _sum_of_rows(x, num_samples=1024):
    """Sums hashes of the rows `[B, ...]`, each of about `num_samples` integers."""
    x = x if x.shape.rank != 0 else x[None]
    x = tf.reshape(x, [tf.shape(x)[0], tf.reduce_prod(tf.shape(x)[1:])])
    x = x[:, :: tf.shape(x)[1] // num_samples + 1]
    weights = (2 * tf.range(tf.shape(x, tf.int64)[1], dtype=tf.int64) + 1) * PRIME
    rows = _mix(tf.reduce_sum(x * weights, axis=1) + 1)
    return tf.reduce_sum(_mix(rows))


def _mix(x):
    return PRIME * tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, 31))
