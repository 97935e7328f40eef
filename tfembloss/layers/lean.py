"""Operations of transformers that keep less for the gradient than those of Keras.

What is kept of every token in every block decides how large a batch fits into memory.
"""

import math

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tfembloss")
@tf.custom_gradient
def gelu(x):
    r"""Returns $x \Phi(x)$, with $\Phi$ the normal distribution's; keeps x alone.

    It is computed in float32, as half precision has too few digits for the error function.
    """

    def gradient(upstream):
        z = tf.cast(x, tf.float32)
        probability = 0.5 * (1 + tf.math.erf(z * math.sqrt(0.5)))
        density = tf.exp(-0.5 * tf.square(z)) * (1 / math.sqrt(2 * math.pi))
        return upstream * tf.cast(probability + z * density, x.dtype)

    z = tf.cast(x, tf.float32)
    # As a product of these two factors it is one operation in LiteRT.
    y = (0.5 * z) * (1 + tf.math.erf(z * math.sqrt(0.5)))
    return tf.cast(y, x.dtype), gradient


@keras.saving.register_keras_serializable("tfembloss")
class LayerNormalization(keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` of the last axis; keeps one tensor like x.

    Args: as there.

    Example:

    >>> layer = LayerNormalization()
    >>> layer(tf.constant([[1.0, 3.0]])).numpy().round(2).tolist()
    [[-1.0, 1.0]]
    """

    def call(self, inputs):
        """Returns the normalized inputs, in the dtype of the layer's computations."""
        normalized = _normalized(tf.cast(inputs, tf.float32), self.epsilon)
        gamma, beta = (tf.cast(x, tf.float32) for x in (self.gamma, self.beta))
        return tf.cast(normalized * gamma + beta, self.compute_dtype)


def _normalized(x, epsilon):
    """Returns x of mean 0 and variance 1 along the last axis."""

    @tf.custom_gradient
    def normalize(x):
        centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        scale = tf.math.rsqrt(variance + epsilon)
        y = centred * scale

        def gradient(upstream):
            mean = tf.reduce_mean(upstream, axis=-1, keepdims=True)
            along = tf.reduce_mean(upstream * y, axis=-1, keepdims=True)
            return scale * (upstream - mean - y * along)

        return y, gradient

    return normalize(x)
