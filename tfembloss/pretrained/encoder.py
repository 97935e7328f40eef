"""The encoder of a checkpoint: token ids to embeddings."""

import functools
import json

import keras
import numpy as np
import tensorflow as tf
from keras.src.utils.io_utils import print_msg

from tfembloss.checks import integer, one_of, positive
from tfembloss.config import Configurable
from tfembloss.layers import attention
from tfembloss.layers.lora import Dense, merged_kernel
from tfembloss.layers.pooling import Pooling
from tfembloss.pretrained.architectures import family
from tfembloss.pretrained.folder import read_tensors

_TOKENS = 2**12  # of a part of a batch, so that what a layer returns stays in the cache


@keras.saving.register_keras_serializable("tfembloss")
class CheckpointEncoder(Configurable, keras.Model):
    """The encoder of a pretrained checkpoint, from token ids to embeddings.

    `tfembloss.EmbeddingModel.from_pretrained` makes it and reads its weights.

    Call arguments: a dict of `token_ids` and `padding_mask`, and if it has them
    `token_types`, each `[B, T]`, as `tfembloss.text.CheckpointTokenizer` and
    `CheckpointPairTokenizer` return it. Returns embeddings `[B, D]`.

    Args:
        config: text of the checkpoint's config.json.
        pooling: see `tfembloss.layers.Pooling`.
        dense: list of dicts with `units`, `use_bias` and `activation` of the layers after
            the pooling, and optionally `dropout`, the fraction of their output.
        normalize: whether embeddings are scaled to length 1.
        dimensions: k, to keep only the first k dimensions; None for all.
        dropout: fraction that is dropped everywhere in training, 0 to 1; None for the
            checkpoint's own.
        has_types: whether the inputs have token types, as those of pairs of texts do.
        name: as in `keras.Model`.
        dtype: as in `keras.Model`, such as `"mixed_bfloat16"`. Below float32, what comes
            after the blocks is computed in float32, and so are the embeddings.

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
        has_types=False,
        name=None,
        dtype=None,
    ):
        settings = json.loads(config)
        dtype = keras.dtype_policies.get(dtype)  # None is the global policy
        is_half = dtype.compute_dtype in ("float16", "bfloat16")
        full = "float32" if is_half else dtype
        names = ["token_ids", "padding_mask"] + ["token_types"] * has_types
        given = {x: keras.Input([None], dtype="int32", name=x) for x in names}
        mask = given["padding_mask"]
        x = family(settings).token_embeddings(
            settings, given["token_ids"], mask, given.get("token_types"), dropout, dtype
        )
        x = Pooling(pooling, name="pooling", dtype=full)(x, mask)
        for i, options in enumerate(dense):
            x = keras.layers.Dense(
                options["units"],
                options["activation"],
                use_bias=options["use_bias"],
                name=f"dense_{i}",
                dtype=full,
            )(x)
            if options.get("dropout"):
                x = keras.layers.Dropout(options["dropout"], name=f"dropout_{i}")(x)
        if dimensions is not None:
            dimensions = integer("dimensions", dimensions, 1, x.shape[-1])
            x = x[:, :dimensions]
        if normalize:
            x = keras.layers.UnitNormalization(name="normalize", dtype=full)(x)
        super().__init__(inputs=given, outputs=x, name=name)
        self.dtype_policy = dtype
        self.lora = None
        self.config = config
        self.pooling = pooling
        self.dense = list(dense)
        self.normalize = normalize
        self.dimensions = dimensions
        self.dropout = dropout
        self.has_types = has_types

    def call(self, inputs, training=None, mask=None):
        """Returns embeddings `[B, D]`."""
        whole = functools.partial(super().call, training=training)
        if training or not attention.by_parts() or not isinstance(inputs, dict):
            return whole(inputs, mask=mask)
        return _in_parts(whole, inputs, self.output)

    def load_checkpoint(self, checkpoint):
        """Reads the weights of a `Checkpoint`; returns its arrays by the encoder's names.

        Raises ValueError if some are missing, unknown or of another shape.
        """
        own = family(checkpoint.config)
        tensors = _renamed(read_tensors(checkpoint.folder), own.PREFIXES)
        assign(own.weights(self, checkpoint.config), tensors, checkpoint.folder, own.HEADS)
        for i, options in enumerate(checkpoint.dense):
            folder = checkpoint.folder / options["path"]
            assign(self.dense_weights(i), read_tensors(folder), folder)
        return tensors

    def dense_weights(self, i):
        """Returns dict of the names of a Dense module's weights to variables."""
        layer = self.get_layer(f"dense_{i}")
        found = {"linear.weight": (merged_kernel(layer), True)}
        return found | ({"linear.bias": (layer.bias, False)} if layer.use_bias else {})

    # What is trained.

    def freeze(self, num_blocks=0):
        """Freezes what comes before the blocks, and the lowest blocks; before `compile`.

        `for layer in encoder.layers: layer.trainable = True` undoes it.

        Args:
            num_blocks: number of blocks that are frozen, 0 to all of them. Blocks that
                share their weights, as in ALBERT, are one.

        Raises:
            ValueError: there are not as many blocks.
        """
        blocks = self._blocks()
        hint = ", as many as the encoder has"
        num_blocks = integer("num_blocks", num_blocks, 0, len(blocks), hint)
        lowest_trained = [*blocks, self.get_layer("pooling")][num_blocks]
        for layer in self.layers[: self.layers.index(lowest_trained)]:
            layer.trainable = False

    def enable_lora(self, rank, alpha=None, parts=("query", "value")):
        r"""Trains low-rank changes of some kernels, and nothing else; before `compile`.

        $$W \leftarrow W + \frac{\alpha}{r} A B$$

        Begins with the same embeddings, as B is 0. Prints how many weights are trained.
        `save_pretrained` writes the sums; `model.save` also A and B, so that training
        resumes.

        Args:
            rank: r, the number of columns of A and of rows of B, at least 1.
            alpha: the numerator of the scale, above 0; None for `rank`.
            parts: the dense layers of each block that are changed, such as `"query"`,
                `"key"`, `"value"`, `"output_dense"`, `"intermediate"` and `"feed_forward"`.

        Raises:
            ValueError: an argument is invalid, or LoRA is enabled already.

        Reference:
            Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021,
            https://arxiv.org/abs/2106.09685

        Relations:
            peft's LoraConfig has the same defaults for BERT, except that A begins with
            other random numbers.
        """
        count = self.count_params()
        self._add_lora(rank, alpha, parts)
        share = 100 * sum(v.numpy().size for v in self.trainable_variables) / count
        print_msg(f"LoRA of rank {rank}: trains {share:.2g} % of {count:,} weights")

    def _add_lora(self, rank, alpha, parts):
        rank = integer("rank", rank, 1)
        alpha = None if alpha is None else positive("alpha", alpha)
        parts = [parts] if isinstance(parts, str) else list(parts)
        blocks = self._blocks()
        known = [x for x, of in vars(blocks[0]).items() if isinstance(of, Dense)]
        for part in parts:
            one_of("parts", part, known)
        if self.lora is not None or not parts:
            raise ValueError(
                "Expected some `parts`, and an encoder without LoRA. Received: "
                f"parts={parts}, and one with lora={self.lora}. Load the checkpoint again "
                "to choose another rank or other parts."
            )
        for layer in self.layers:  # a model that has frozen layers ignores trainable=True
            layer.trainable = True
        for variable in self.trainable_variables:
            variable.trainable = False
        for block in blocks:
            for part in parts:
                getattr(block, part).enable_lora(rank, alpha)
        self.lora = {"rank": rank, "alpha": alpha, "parts": parts}

    @property
    def quantization(self):
        """The mode of `quantize`, None without."""
        return self._blocks()[0].query.quantization_mode

    def _blocks(self):
        return [layer for layer in self.layers if layer.name.startswith("block_")]

    def hidden_states(self):
        """Returns symbolic tensors `[B, T, D]`: before the blocks, and of each block."""
        blocks = self._blocks()
        calls = [
            call
            for depth in sorted(self._nodes_by_depth, reverse=True)
            for call in self._nodes_by_depth[depth]
            if call.operation in blocks  # once for each layer that shares its weights
        ]
        after = self.get_layer("pooling")._inbound_nodes[0]
        return [call.arguments.keras_tensors[0] for call in [*calls, after]]

    def get_config(self):
        """Returns the arguments, LoRA's, which layers are frozen, and `quantize`'s mode."""
        state = {
            "lora": self.lora,
            "frozen": [layer.name for layer in self.layers if not layer.trainable],
            "quantization": self.quantization,
        }
        return super().get_config() | state

    @classmethod
    def from_config(cls, config):
        """Creates an encoder from the result of `get_config`."""
        config = dict(config)
        lora, frozen = config.pop("lora", None), config.pop("frozen", [])
        quantization = config.pop("quantization", None)
        encoder = super().from_config(config)
        if lora is not None:
            encoder._add_lora(**lora)
        for name in frozen:
            encoder.get_layer(name).trainable = False
        if quantization is not None:
            encoder.quantize(quantization)
        return encoder


def _in_parts(function, x, result):
    """Returns `function(x)` `[B, D]`, of about `_TOKENS` tokens at a time.

    Args:
        function: from x of some texts to a tensor `[n, D]`.
        x: dict of tensors `[B, T]`.
        result: a tensor, possibly symbolic, of the same D and dtype.
    """
    num_texts, length = tf.unstack(tf.shape(next(iter(x.values()))))
    size = tf.maximum(_TOKENS // tf.maximum(length, 1), 1)
    count = tf.maximum(-(-num_texts // size), 1)

    def one_more(i, found):
        part = {name: of[i * size : (i + 1) * size] for name, of in x.items()}
        return i + 1, found.write(i, function(part))

    shape = [None, result.shape[-1]]
    found = tf.TensorArray(result.dtype, count, infer_shape=False, element_shape=shape)
    go_on = lambda i, _: i < count  # noqa: E731
    _, found = tf.while_loop(go_on, one_more, (0, found), parallel_iterations=1)
    return found.concat()


def _renamed(tensors, prefixes):
    """Returns the weights by their names in the encoder itself."""
    found = {}
    for name, values in tensors.items():
        prefix = next((x for x in prefixes if name.startswith(x)), "")
        name = name.removeprefix(prefix)
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        found[name.replace("LayerNorm.beta", "LayerNorm.bias")] = values
    return found


def assign(expected, tensors, folder, left_out=()):
    """Sets variables by their names in a checkpoint. Raises ValueError if they differ.

    Args:
        expected: dict of a name to a variable, and if the checkpoint has it transposed.
        tensors: dict of a name to an array.
        folder: where they are from.
        left_out: how the names begin of arrays that need not be expected.
    """
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
