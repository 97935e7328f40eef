"""Numbers drawn anew in each step of training, alike on all replicas."""

import contextlib
import contextvars

import tensorflow as tf

from tfembloss.kernels import uniform

_step = contextvars.ContextVar("step", default=None)


@contextlib.contextmanager
def at_step(step):
    """Tells losses that are called within it the number of the step; None for no step."""
    token = _step.set(step)
    try:
        yield
    finally:
        _step.reset(token)


def drawn(count, total, seed):
    """Returns `count` of the numbers below `total`, without replacement, int32 `[count]`.

    None if all count: for `count` None, and where there is no step, as in evaluation. The
    draw depends on the step and the seed only: there is no state, and all replicas draw the
    same.
    """
    step = _step.get()
    if count is None or count >= total or step is None:
        return None
    seeds = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    return tf.math.top_k(uniform([total], seeds, tf.float32), count).indices
