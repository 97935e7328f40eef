"""Encoders of all layers, and of the first ones only, that share an encoder's weights.

An encoder shows its layers by a method `hidden_states`, which returns symbolic tensors
`[B, T, D]`: what comes before its blocks, and what each block gives. What comes after the
last block, such as the pooling, is applied to each of them.
"""

import keras
import tensorflow as tf

from tfembloss.checks import integer


def embeddings_of_layers(encoder):
    """Returns a model from the encoder's inputs to embeddings `[B, L + 1, D]`.

    The embeddings of an encoder without any of its L blocks come first.

    Raises:
        ValueError: the encoder does not show its layers.
    """
    states = hidden_states(encoder)
    head = _after_blocks(encoder, states)
    earlier = [head([state, *encoder.inputs]) for state in states[:-1]]
    stacked = keras.ops.stack([*earlier, encoder.outputs[0]], axis=1)
    return keras.Model(encoder.input, stacked, name=f"{encoder.name}_layers")


def embed(layers, encoder, rows, training=None):
    """Returns what `embeddings_of_layers(encoder)` gives, with the encoder's checks."""
    if not hasattr(encoder, "checked_tokens"):
        return layers(rows, training=training)
    tokens, unknown = encoder.checked_tokens(rows)
    embeddings = layers(tokens, training=training)  # [B, L + 1, D]
    unknown = tf.reduce_any(unknown, axis=1)[:, None, None]
    return tf.where(unknown, tf.cast(float("nan"), embeddings.dtype), embeddings)


def first_layers(encoder, num_layers):
    """Returns an encoder of the first blocks, with what comes after the last one.

    Args:
        encoder: one that shows its layers.
        num_layers: number of blocks, 0 to all of them.

    Raises:
        ValueError: the encoder does not show its layers, or does not have as many.
    """
    states = hidden_states(encoder)
    hint = ", as many as the encoder has"
    num_layers = integer("num_layers", num_layers, 0, len(states) - 1, hint)
    embeddings = _after_blocks(encoder, states)([states[num_layers], *encoder.inputs])
    return keras.Model(encoder.input, embeddings, name=encoder.name)


def hidden_states(encoder):
    """Returns the encoder's hidden states. Raises ValueError if it does not show them."""
    states = encoder.hidden_states() if hasattr(encoder, "hidden_states") else []
    if len(states) > 1:
        return states
    raise ValueError(
        "Expected an encoder with blocks that shows what each of them gives: one from "
        "EmbeddingModel.from_pretrained, a TextEncoder(num_layers=...) or another with a "
        f"method hidden_states. Received: {type(encoder).__name__}"
    )


def _after_blocks(encoder, states):
    """Returns the model from the last hidden state and the inputs to embeddings."""
    return keras.Model([states[-1], *encoder.inputs], encoder.outputs[0])
