"""What the families of architectures have in common: settings, and names of weights."""

import keras

from tfembloss.layers.lean import gelu
from tfembloss.layers.lora import merged_kernel
from tfembloss.layers.transformer import gelu_tanh

ACTIVATIONS = {
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
SIZES = (
    "vocab_size", "hidden_size", "num_attention_heads", "num_hidden_layers",
    "intermediate_size", "max_position_embeddings",
)  # fmt: skip


class Settings:
    """The settings of a config.json by common names, whatever the architecture's own.

    Args:
        config: dict of config.json.
        keys: dict of common names to the architecture's own, where they differ.
    """

    def __init__(self, config, keys=None):
        self.config = config
        self.kind = config["model_type"]
        self.keys = keys or {}

    def get(self, name, default=None):
        """Returns a setting."""
        value = self.config.get(self.keys.get(name, name))
        return default if value is None else value

    def check(self, supported, needed=SIZES):
        """Raises ValueError if the encoder cannot be computed as it was trained.

        Args:
            supported: dict of a name to the list of values that it may have, first the one
                that a config.json without it means.
            needed: names without which there is no encoder.
        """
        for name, values in supported.items():
            value = self.get(name, values[0])
            if value not in values:
                own = self.keys.get(name, name)
                raise ValueError(
                    f"Expected {own} to be {' or '.join(map(str, values))}: nothing "
                    f"else is supported. Received: {own}={value!r} in config.json."
                )
        missing = [x for x in needed if self.get(x) is None]
        if missing:
            raise ValueError(
                f"Expected a config.json of a {self.kind}, with all of its "
                f"settings. Received: one without {missing}."
            )


def named_weights(name, layer):
    """Returns dict of the names of a layer's weights to a variable, and if transposed.

    Args:
        name: the layer's name in the checkpoint.
        layer: an embedding, a normalization or a dense layer.
    """
    if isinstance(layer, keras.layers.Embedding):
        return {f"{name}.weight": (layer.embeddings, False)}
    if hasattr(layer, "gamma"):
        found = {f"{name}.weight": (layer.gamma, False)}
        beta = getattr(layer, "beta", None)
        return found | ({} if beta is None else {f"{name}.bias": (beta, False)})
    found = {f"{name}.weight": (merged_kernel(layer), True)}
    return found | ({f"{name}.bias": (layer.bias, False)} if layer.use_bias else {})
