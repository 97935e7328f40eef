"""Functions that XLA compiles, and how they get their gradients."""

import contextvars
import functools

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

# XLA compiles a kernel again for each shape: half a second, and megabytes that stay. So it
# gets numbers of rows that are usual, and those for which it bounds memory.
_USUAL_ROWS = {
    *(factor * 2**n for factor in (2, 3, 5) for n in range(2, 10)),
    *(factor * 10**n for factor in (1, 2, 5) for n in range(1, 4)),
}
_MANY_ROWS, _MOST_ENTRIES = 2048, 2**22
# Whether it gets a number of rows, 0 or 1: a table, as graphs look it up in every step.
_XLA_BY_ROWS = [int(rows in _USUAL_ROWS) for rows in range(_MANY_ROWS)] + [1]

_in_kernel = contextvars.ContextVar("in_kernel", default=False)


def compiled(function):
    """Makes a function a kernel, one where eager code, a graph or XLA's function calls it.

    XLA compiles it where the number of rows, the first axis of the first tensor, is usual
    (from 8 on 2, 3 or 5 times a power of two, or 1, 2 or 5 times a power of ten) or at
    least 2,048, and where a tensor has more than 2^22 entries. Other batches, as the last
    of an epoch, go through TensorFlow's own graph of the same function. In a function that
    XLA compiles as a whole it is compiled with that, whatever the size. Collectives stay
    outside of it.
    """

    def inner(*arguments):
        token = _in_kernel.set(True)
        try:
            return function(*arguments)
        finally:
            _in_kernel.reset(token)

    options = {"reduce_retracing": True, "autograph": False}
    plain = tf.function(inner, **options)
    by_xla = tf.function(plain, jit_compile=True, **options)

    @functools.wraps(function)
    def kernel(*arguments):
        if _in_kernel.get():  # which is compiled, or not, as one
            return function(*arguments)
        use_xla = _in_xla() or _use_xla(arguments)
        if not tf.is_tensor(use_xla):
            return by_xla(*arguments) if use_xla else plain(*arguments)
        branches = lambda: plain(*arguments), lambda: by_xla(*arguments)
        return tf.switch_case(use_xla, branches)

    return kernel


def _in_xla():
    # TensorFlow shows it nowhere else. Where XLA compiles all, a choice of branches costs
    # it minutes: it follows each argument back to find out what is constant.
    graph = tf.compat.v1.get_default_graph()
    return control_flow_util.GraphOrParentsInXlaContext(graph)


def _use_xla(arguments):
    """Whether XLA gets these arguments, 0 or 1; a tensor where shapes are not known."""
    tensors = [x for x in tf.nest.flatten(arguments) if tf.is_tensor(x) and x.shape.rank]
    if not tensors:
        return 1
    rows, large = tensors[0], [x for x in tensors if x.shape.rank > 1]
    if all(x.shape.is_fully_defined() for x in (rows, *large)):
        is_large = any(x.shape.num_elements() > _MOST_ENTRIES for x in large)
        return max(_XLA_BY_ROWS[min(rows.shape[0], _MANY_ROWS)], int(is_large))
    use_xla = tf.gather(_XLA_BY_ROWS, tf.minimum(tf.shape(rows)[0], _MANY_ROWS))
    for x in large:
        is_large = tf.size(x, tf.int64) > _MOST_ENTRIES
        use_xla = tf.maximum(use_xla, tf.cast(is_large, tf.int32))
    return use_xla


def differentiable(forward, backward=None):
    """Makes a function of two kernels, of which nothing but the arguments is kept.

    TensorFlow's own gradient of a compiled function keeps every intermediate result,
    which for a loss are several `[B, N]`, and cannot pass a loop.

    Args:
        forward: `(x, *constants) -> result`, a tensor or a tuple of tensors; x a tuple of
            tensors.
        backward: `(upstream, result, x, *constants) -> gradients`, a tuple as long as x:
            the gradients of `sum(upstream * result)`. By default `forward` is computed
            again, under a tape.

    Returns:
        Function like `forward`, with a gradient in x.
    """

    def replay(upstream, x, *constants):
        with tf.GradientTape() as tape:
            tape.watch(x)
            result = forward(x, *constants)
        return tape.gradient(result, x, upstream, unconnected_gradients="zero")

    forward_kernel = compiled(forward)
    backward_kernel = compiled(backward or replay)

    @functools.wraps(forward)
    def function(x, *constants):
        @tf.custom_gradient
        def evaluate(*x):
            # The outer tape must not look into the kernel.
            x = tuple(map(tf.stop_gradient, x))
            result = forward_kernel(x, *constants)

            def gradient(*upstream):
                upstream = tf.nest.pack_sequence_as(result, upstream)
                # What is not passed on need not be computed again in a tile's gradient.
                known = (upstream, result) if backward else (upstream,)
                return backward_kernel(*known, x, *constants)

            return result, gradient

        return evaluate(*x)

    return function


def random_bits(shape, seed):
    """Random integers of 32 bits from a seed `[2]`, the same of XLA and TensorFlow."""
    seed = tf.cast(seed, tf.int64)
    # Of larger seeds and negative ones XLA takes a part.
    seed = (seed ^ tf.bitwise.right_shift(seed, tf.constant(32, tf.int64))) & (2**31 - 1)
    return tf.random.stateless_uniform(shape, seed, None, None, tf.uint32, "philox")


def uniform(shape, seed, dtype):
    """Random numbers in [0, 1) from a seed `[2]`, the same of XLA and TensorFlow."""
    bits = random_bits(shape, seed)  # which they turn into different floats
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, bits.dtype)), dtype) / 2**24
