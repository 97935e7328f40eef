"""The encoder of a checkpoint: token ids to embeddings."""

import json

import keras
import numpy as np

from tfembloss.checks import integer
from tfembloss.config import Configurable
from tfembloss.layers.pooling import Pooling
from tfembloss.pretrained.architectures import family
from tfembloss.pretrained.folder import read_tensors


@keras.saving.register_keras_serializable("tfembloss")
class CheckpointEncoder(Configurable, keras.Model):
    """The encoder of a pretrained checkpoint, from token ids to embeddings.

    `tfembloss.EmbeddingModel.from_pretrained` makes it and reads its weights.

    Call arguments: a dict of `token_ids` `[B, T]` and `padding_mask` `[B, T]`, as
    `tfembloss.text.CheckpointTokenizer` returns it. Returns embeddings `[B, D]`.

    Args:
        config: text of the checkpoint's config.json.
        pooling: see `tfembloss.layers.Pooling`.
        dense: list of dicts with `units`, `use_bias` and `activation` of the layers after
            the pooling.
        normalize: whether embeddings are scaled to length 1.
        dimensions: k, to keep only the first k dimensions; None for all.
        dropout: fraction that is dropped everywhere in training, 0 to 1; None for the
            checkpoint's own.
        name, dtype: as in `keras.Model`.

    Raises:
        ValueError: the encoder cannot be computed as it was trained; says what is missing.
    """

    def __init__(
        self,
        config,
        pooling="mean",
        dense=(),
        normalize=False,
        dimensions=None,
        dropout=None,
        name=None,
        dtype=None,
    ):
        settings = json.loads(config)
        tokens, mask = (
            keras.Input([None], dtype="int32", name=x)
            for x in ("token_ids", "padding_mask")
        )
        x = family(settings).token_embeddings(settings, tokens, mask, dropout, dtype)
        x = Pooling(pooling, name="pooling", dtype=dtype)(x, mask)
        for i, options in enumerate(dense):
            x = keras.layers.Dense(
                options["units"],
                options["activation"],
                use_bias=options["use_bias"],
                name=f"dense_{i}",
                dtype=dtype,
            )(x)
        if dimensions is not None:
            dimensions = integer("dimensions", dimensions, 1, x.shape[-1])
            x = x[:, :dimensions]
        if normalize:
            x = keras.layers.UnitNormalization(name="normalize", dtype=dtype)(x)
        super().__init__(
            inputs={"token_ids": tokens, "padding_mask": mask}, outputs=x, name=name
        )
        self.config = config
        self.pooling = pooling
        self.dense = list(dense)
        self.normalize = normalize
        self.dimensions = dimensions
        self.dropout = dropout

    def load_checkpoint(self, checkpoint):
        """Reads the weights of a `Checkpoint`.

        Raises ValueError if some are missing, unknown or of another shape.
        """
        own = family(checkpoint.config)
        tensors = _renamed(read_tensors(checkpoint.folder), own.PREFIXES)
        _assign(own.weights(self, checkpoint.config), tensors, checkpoint.folder, own.HEADS)
        for i, options in enumerate(checkpoint.dense):
            folder = checkpoint.folder / options["path"]
            _assign(self.dense_weights(i), read_tensors(folder), folder)

    def dense_weights(self, i):
        """Returns dict of the names of a Dense module's weights to variables."""
        layer = self.get_layer(f"dense_{i}")
        found = {"linear.weight": (layer.kernel, True)}
        return found | ({"linear.bias": (layer.bias, False)} if layer.use_bias else {})


def _renamed(tensors, prefixes):
    """Returns the weights by their names in the encoder itself."""
    found = {}
    for name, values in tensors.items():
        prefix = next((x for x in prefixes if name.startswith(x)), "")
        name = name.removeprefix(prefix)
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        found[name.replace("LayerNorm.beta", "LayerNorm.bias")] = values
    return found


def _assign(expected, tensors, folder, left_out=()):
    missing = [name for name in expected if name not in tensors]
    others = [
        x for x in tensors if x not in expected and not x.startswith(left_out or "\0")
    ]
    if missing or others:
        raise ValueError(
            "Expected the weights that config.json describes, no fewer and no others. "
            f"Received: {folder}, without {missing[:5]}, {len(missing)} in all, and with "
            f"{others[:5]}, {len(others)} in all, that are unknown."
        )
    for name, (variable, transposed) in expected.items():
        values = tensors[name].T if transposed else tensors[name]
        if tuple(values.shape) != tuple(variable.shape):
            raise ValueError(
                f"Expected {name} of shape {tuple(variable.shape)}, as config.json says. "
                f"Received: shape {values.shape} in {folder}."
            )
        variable.assign(np.asarray(values, "float32"))
