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
