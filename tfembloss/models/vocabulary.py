"""Checks that an encoder has an embedding of each token of a preprocessor."""

import keras


def token_embedding(encoder):
    """Returns `token_embedding` of the encoder or of a layer in it, or None."""
    for layer in encoder._flatten_layers():
        shown = getattr(layer, "token_embedding", None)
        if isinstance(shown, keras.layers.Embedding):
            return shown
    return None


def check_vocabulary(preprocessor, encoder):
    """Checks that each token has an embedding: XLA would silently use another token's."""
    embedding = token_embedding(encoder)
    if embedding is None and isinstance(encoder, keras.Sequential) and encoder.layers:
        embedding = encoder.layers[0]
    size = len(getattr(preprocessor, "vocabulary", ()) or ())
    if isinstance(embedding, keras.layers.Embedding) and size > embedding.input_dim:
        raise ValueError(
            f"Expected an encoder with an embedding for each of the preprocessor's {size} "
            f"entries. Received: token embeddings of {embedding.input_dim}. Give the "
            "encoder vocabulary_size=len(vocabulary)."
        )
