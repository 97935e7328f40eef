"""Functions that XLA compiles, and their gradients."""

import contextvars
import functools

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

# XLA compiles a kernel for each shape, which takes half a second, and megabytes that are
# not freed. So it gets common numbers of rows, and large ones, for which it saves memory.
_USUAL_ROWS = {
    *(factor * 2**n for factor in (2, 3, 5) for n in range(2, 10)),
    *(factor * 10**n for factor in (1, 2, 5) for n in range(1, 4)),
}
_MANY_ROWS, _MOST_ENTRIES = 2048, 2**22
# Whether XLA gets a number of rows, 0 or 1; a table, since graphs use it in every step.
_XLA_BY_ROWS = [int(rows in _USUAL_ROWS) for rows in range(_MANY_ROWS)] + [1]

_in_kernel = contextvars.ContextVar("in_kernel", default=False)


def compiled(function):
    """Turns a function into a kernel, for calls from eager code, a graph or XLA.

    XLA compiles it if the number of rows, the first axis of the first tensor, is common
    (at least 8, and 2, 3 or 5 times a power of two, or 1, 2 or 5 times a power of ten) or
    at least 2,048, or if a tensor has more than 2^22 entries. Other batches, such as the
    last of an epoch, run as a TensorFlow graph of the same function, which takes at most
    about twice as long and needs no compilation. Inside of a function that XLA compiles as
    a whole (`jit_compile=True`), the kernel is compiled with it, whatever the size.
    Collectives must stay outside of kernels.
    """

    def inner(*arguments, **options):
        token = _in_kernel.set(True)
        try:
            return function(*arguments, **options)
        finally:
            _in_kernel.reset(token)

    trace = functools.partial(tf.function, reduce_retracing=True, autograph=False)
    plain = trace(inner)
    by_xla = trace(plain, jit_compile=True)

    @functools.wraps(function)
    def kernel(*arguments, **options):
        if _in_kernel.get():  # which is compiled, or not, as a whole
            return function(*arguments, **options)
        use_xla = in_xla() or _use_xla(arguments)
        if not tf.is_tensor(use_xla):
            return (by_xla if use_xla else plain)(*arguments, **options)
        branches = (
            lambda: plain(*arguments, **options),
            lambda: by_xla(*arguments, **options),
        )
        return tf.switch_case(use_xla, branches)

    return kernel


def in_xla():
    """Returns whether this is traced for XLA as a part of a function that it compiles."""
    # TensorFlow has no public function for this. Under XLA, a choice of branches would cost
    # minutes of compilation: it traces each argument back to find out what is constant.
    graph = tf.compat.v1.get_default_graph()
    return control_flow_util.GraphOrParentsInXlaContext(graph)


def _use_xla(arguments):
    """Whether XLA gets these arguments, 0 or 1; a tensor if shapes are unknown."""
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
    """Returns a function of two kernels that keeps only its arguments for the gradient.

    TensorFlow's own gradient of a compiled function keeps every intermediate result, which
    for a loss are several matrices `[B, N]`, and does not support loops.

    Args:
        forward: `(x, *constants, **options) -> result`, a tensor or a tuple of tensors; x
            a tensor or any nest of tensors. The options are plain values.
        backward: `(upstream, result, x, *constants, **options) -> gradients`, nested as x:
            the gradients of `sum(upstream * result)`. By default `forward` is recomputed
            under a tape.

    Returns:
        Function like `forward`, with a gradient in x.
    """

    def replay(upstream, x, *constants, **options):
        with tf.GradientTape() as tape:
            tape.watch(x)
            result = forward(x, *constants, **options)
        return tape.gradient(result, x, upstream, unconnected_gradients="zero")

    forward_kernel = compiled(forward)
    backward_kernel = compiled(backward or replay)

    @functools.wraps(forward)
    def function(x, *constants, **options):
        @tf.custom_gradient
        def evaluate(*tensors):
            # The outer tape must not record operations in the kernel.
            inputs = tf.nest.pack_sequence_as(x, list(map(tf.stop_gradient, tensors)))
            result = forward_kernel(inputs, *constants, **options)

            def gradient(*upstream):
                upstream = tf.nest.pack_sequence_as(result, upstream)
                # What is not passed on need not be recomputed in a tile's gradient.
                known = (upstream, result) if backward else (upstream,)
                gradients = backward_kernel(*known, inputs, *constants, **options)
                return tf.nest.flatten(gradients)

            return result, gradient

        return evaluate(*tf.nest.flatten(x))

    return function


def random_bits(shape, seed):
    """Returns random 32-bit integers from a seed `[2]`, equal in XLA and TensorFlow."""
    seed = tf.cast(seed, tf.int64)
    # XLA uses only a part of larger or negative seeds.
    seed = (seed ^ tf.bitwise.right_shift(seed, tf.constant(32, tf.int64))) & (2**31 - 1)
    return tf.random.stateless_uniform(shape, seed, None, None, tf.uint32, "philox")


def uniform(shape, seed, dtype):
    """Returns random numbers in [0, 1) from a seed `[2]`, equal in XLA and TensorFlow."""
    bits = random_bits(shape, seed)  # which the two convert to different floats
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, bits.dtype)), dtype) / 2**24
