"""Functions that XLA compiles, and how they get their gradients."""

import functools

import tensorflow as tf

# One kernel where it is called from eager code, a graph, or a function that XLA
# compiles. Collectives stay outside of it.
compiled = functools.partial(
    tf.function, jit_compile=True, reduce_retracing=True, autograph=False
)


def differentiable(forward, backward=None):
    """Makes a function of two kernels, of which nothing but the arguments is kept.

    TensorFlow's own gradient of a compiled function keeps every intermediate result,
    which for a loss are several `[B, N]`, and cannot pass a loop.

    Args:
        forward: `(x, *constants) -> values [B]`, or `(values [B], counts [B])`; x a tuple
            of tensors.
        backward: `(upstream [B], values [B], x, *constants) -> gradients`, a tuple as long
            as x: the gradients of `sum(upstream * values)`. By default `forward` is
            computed again, under a tape.

    Returns:
        Function like `forward`, with a gradient in x; counts have none.
    """

    def replay(upstream, _, x, *constants):
        with tf.GradientTape() as tape:
            tape.watch(x)
            values = _values(forward(x, *constants))
        return tape.gradient(values, x, upstream, unconnected_gradients="zero")

    forward_kernel = compiled(forward)
    backward_kernel = compiled(backward or replay)

    @functools.wraps(forward)
    def function(x, *constants):
        @tf.custom_gradient
        def evaluate(*x):
            # The outer tape must not look into the kernel.
            x = tuple(map(tf.stop_gradient, x))
            result = forward_kernel(x, *constants)

            def gradient(upstream, *_):
                return backward_kernel(upstream, _values(result), x, *constants)

            return result, gradient

        return evaluate(*x)

    return function


def _values(result):
    return result[0] if isinstance(result, tuple) else result
