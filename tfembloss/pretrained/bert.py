"""BERT and its relatives: their settings, and their weights' names in both worlds."""

from typing import NamedTuple

import keras

from tfembloss.layers.transformer import (
    RelativePositions,
    TransformerBlock,
    TransformerEmbeddings,
)
from tfembloss.pretrained.family import ACTIVATIONS, Settings, named_weights


class Architecture(NamedTuple):
    """One architecture of Hugging Face's `transformers`.

    Args:
        block: name of block i, or of repetition j in group i, in the checkpoint.
        parts: names in a block of the layers `PARTS`.
        counts_positions: whether positions are counted after the padding's id.
        projection: name of the layer from token embeddings to the blocks, or None.
        keys: names of settings in config.json where they are not BERT's.
    """

    block: str
    parts: tuple
    counts_positions: bool = False
    projection: str | None = None
    keys: dict = {}  # noqa: RUF012


PARTS = (
    "query", "key", "value", "output_dense", "attention_norm", "intermediate",
    "feed_forward", "norm",
)  # fmt: skip
_BERT = (
    "attention.self.query", "attention.self.key", "attention.self.value",
    "attention.output.dense", "attention.output.LayerNorm", "intermediate.dense",
    "output.dense", "output.LayerNorm",
)  # fmt: skip
_ROBERTA = Architecture("encoder.layer.{}", _BERT, counts_positions=True)
ARCHITECTURES = {
    "bert": Architecture("encoder.layer.{}", _BERT),
    "electra": Architecture("encoder.layer.{}", _BERT, projection="embeddings_project"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "mpnet": Architecture(
        "encoder.layer.{}",
        (
            "attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o",
            "attention.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
        ),
        counts_positions=True,
    ),
    "albert": Architecture(
        "encoder.albert_layer_groups.{}.albert_layers.{}",
        (
            "attention.query", "attention.key", "attention.value", "attention.dense",
            "attention.LayerNorm", "ffn", "ffn_output", "full_layer_layer_norm",
        ),
        projection="encoder.embedding_hidden_mapping_in",
    ),
    "distilbert": Architecture(
        "transformer.layer.{}",
        (
            "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin",
            "sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm",
        ),
        keys={
            "hidden_size": "dim",
            "num_attention_heads": "n_heads",
            "num_hidden_layers": "n_layers",
            "intermediate_size": "hidden_dim",
            "hidden_dropout_prob": "dropout",
            "attention_probs_dropout_prob": "attention_dropout",
            "hidden_act": "activation",
        },
    ),
}  # fmt: skip
# Parts of checkpoints that do not change their token embeddings.
HEADS = ("pooler.", "cls.", "lm_head.", "classifier.", "discriminator_predictions.",
    "generator_", "vocab_", "predictions.", "sop_classifier.", "qa_outputs.",
    "embeddings.position_ids", "pre_classifier.")  # fmt: skip

KINDS = tuple(ARCHITECTURES)
PREFIXES = tuple(f"{kind.replace('-', '_')}." for kind in KINDS)
_SUPPORTED = {
    "hidden_act": list(ACTIVATIONS),
    "position_embedding_type": ["absolute"],
    "is_decoder": [False],
    "add_cross_attention": [False],
}


def _settings(config):
    settings = Settings(config, ARCHITECTURES[config["model_type"]].keys)
    settings.check(_SUPPORTED)
    return settings


def longest(config):
    """Returns the largest number of tokens with a position embedding."""
    settings = _settings(config)
    count = settings.get("max_position_embeddings")
    if ARCHITECTURES[settings.kind].counts_positions:
        count -= settings.get("pad_token_id", 1) + 1
    return count


def token_embeddings(config, tokens, mask, types=None, dropout=None, dtype=None):
    """Returns symbolic token embeddings `[B, T, D]` of token ids `[B, T]`."""
    settings = _settings(config)
    architecture = ARCHITECTURES[settings.kind]
    hidden = settings.get("hidden_dropout_prob", 0.1) if dropout is None else dropout
    attention = settings.get("attention_probs_dropout_prob", 0.1)
    attention = attention if dropout is None else dropout
    epsilon = settings.get("layer_norm_eps", 1e-12)
    dim, heads = settings.get("hidden_size"), settings.get("num_attention_heads")
    has_types = settings.kind not in ("distilbert", "mpnet")
    x = TransformerEmbeddings(
        settings.get("vocab_size"),
        settings.get("max_position_embeddings"),
        settings.get("embedding_size", dim) if architecture.projection else dim,
        settings.get("type_vocab_size", 2) if has_types else 0,
        epsilon,
        hidden,
        settings.get("pad_token_id", 1) if architecture.counts_positions else None,
        name="embeddings",
        dtype=dtype,
    )(tokens, types)
    if _is_projected(settings):
        x = keras.layers.Dense(dim, name="projection", dtype=dtype)(x)
    bias = None
    if settings.kind == "mpnet":
        buckets = settings.get("relative_attention_num_buckets", 32)
        bias = RelativePositions(heads, buckets, name="positions", dtype=dtype)(x)
    blocks = {}
    for place in _places(settings):
        if place not in blocks:
            blocks[place] = TransformerBlock(
                heads,
                settings.get("intermediate_size"),
                ACTIVATIONS[settings.get("hidden_act", "gelu")],
                hidden,
                attention,
                epsilon,
                name="_".join(["block", *map(str, place)]),
                dtype=dtype,
            )
        x = blocks[place](x, mask, bias)
    return x


def _is_projected(settings):
    dim = settings.get("hidden_size")
    always = settings.kind == "albert"
    projects = ARCHITECTURES[settings.kind].projection is not None
    return projects and (always or settings.get("embedding_size", dim) != dim)


def _places(settings):
    """Returns the numbers in each block's name, in the order that they run."""
    layers = settings.get("num_hidden_layers")
    if settings.kind != "albert":
        return [(i,) for i in range(layers)]
    groups = settings.get("num_hidden_groups", 1)
    inner = range(settings.get("inner_group_num", 1))
    return [(int(i / (layers / groups)), j) for i in range(layers) for j in inner]


def weights(encoder, config):
    """Returns dict of a checkpoint's name to a variable, and if it is transposed."""
    settings = _settings(config)
    architecture = ARCHITECTURES[settings.kind]
    found = {}

    def add(name, layer):
        found.update(named_weights(name, layer))

    embeddings = encoder.get_layer("embeddings")
    add("embeddings.word_embeddings", embeddings.token_embedding)
    add("embeddings.position_embeddings", embeddings.position_embedding)
    if embeddings.type_embedding is not None:
        add("embeddings.token_type_embeddings", embeddings.type_embedding)
    add("embeddings.LayerNorm", embeddings.norm)
    if _is_projected(settings):
        add(architecture.projection, encoder.get_layer("projection"))
    if settings.kind == "mpnet":
        table = encoder.get_layer("positions").table
        found["encoder.relative_attention_bias.weight"] = table, False
    for place in dict.fromkeys(_places(settings)):
        block = encoder.get_layer("_".join(["block", *map(str, place)]))
        for part, name in zip(PARTS, architecture.parts, strict=True):
            add(f"{architecture.block.format(*place)}.{name}", getattr(block, part))
    return found
