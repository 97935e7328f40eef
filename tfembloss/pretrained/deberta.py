"""DeBERTa-v3: its settings, and its weights' names in both worlds."""

from tfembloss.layers.disentangled import DisentangledBlock, RelativeEmbeddings
from tfembloss.layers.transformer import TransformerEmbeddings
from tfembloss.pretrained.family import ACTIVATIONS, SIZES, Settings, named_weights

KINDS = ("deberta-v2",)  # which also is the model_type of version 3
PREFIXES = ("deberta.",)
HEADS = ("pooler.", "cls.", "lm_predictions.", "mask_predictions.", "classifier.",
    "qa_outputs.", "embeddings.position_ids", "embeddings.position_embeddings."
)  # fmt: skip
_PARTS = {
    "query": "attention.self.query_proj",
    "key": "attention.self.key_proj",
    "value": "attention.self.value_proj",
    "output_dense": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "feed_forward": "output.dense",
    "norm": "output.LayerNorm",
}
_SUPPORTED = {
    "hidden_act": list(ACTIVATIONS),
    "relative_attention": [True],
    "share_att_key": [True],
    "norm_rel_ebd": ["layer_norm"],
    "conv_kernel_size": [0],
}
# Without the last three, a config.json means another attention.
_NEEDED = (*SIZES, "relative_attention", "share_att_key", "norm_rel_ebd")


def _settings(config):
    settings = Settings(config)
    dim, heads = settings.get("hidden_size", 0), settings.get("num_attention_heads", 1)
    dims = {"embedding_size": [dim], "attention_head_size": [dim // heads]}
    settings.check(_SUPPORTED | dims, _NEEDED)
    kinds = config.get("pos_att_type") or []
    if isinstance(kinds, str):
        kinds = [kind.strip() for kind in kinds.lower().split("|")]
    if sorted(kinds) != ["c2p", "p2c"]:
        raise ValueError(
            "Expected pos_att_type to be c2p and p2c: nothing else is supported. Received: "
            f"pos_att_type={config.get('pos_att_type')!r} in config.json."
        )
    return settings


def longest(config):
    """Returns the largest number of tokens, None if there are no absolute positions."""
    settings = _settings(config)
    biased = settings.get("position_biased_input", True)
    return settings.get("max_position_embeddings") if biased else None


def token_embeddings(config, tokens, mask, types=None, dropout=None, dtype=None):
    """Returns symbolic token embeddings `[B, T, D]` of token ids `[B, T]`."""
    settings = _settings(config)
    hidden, attention = (
        settings.get(name, 0.1) if dropout is None else dropout
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob")
    )
    epsilon = settings.get("layer_norm_eps", 1e-7)
    x = TransformerEmbeddings(
        settings.get("vocab_size"),
        longest(config) or 0,
        settings.get("hidden_size"),
        settings.get("type_vocab_size", 0),
        epsilon,
        hidden,
        name="embeddings",
        dtype=dtype,
    )(tokens, types)
    farthest = settings.get("max_relative_positions", -1)
    if farthest < 1:
        farthest = settings.get("max_position_embeddings")
    buckets = settings.get("position_buckets", -1)
    count = 2 * (buckets if buckets > 0 else farthest)
    relative = RelativeEmbeddings(count, epsilon, name="relative", dtype=dtype)(x)
    for i in range(settings.get("num_hidden_layers")):
        x = DisentangledBlock(
            settings.get("num_attention_heads"),
            settings.get("intermediate_size"),
            max(buckets, 0),
            farthest,
            ACTIVATIONS[settings.get("hidden_act", "gelu")],
            hidden,
            attention,
            epsilon,
            name=f"block_{i}",
            dtype=dtype,
        )(x, mask, relative)
    return x


def weights(encoder, config):
    """Returns dict of a checkpoint's name to a variable, and if it is transposed."""
    embeddings, relative = (encoder.get_layer(x) for x in ("embeddings", "relative"))
    layers = {
        "embeddings.word_embeddings": embeddings.token_embedding,
        "embeddings.position_embeddings": embeddings.position_embedding,
        "embeddings.token_type_embeddings": embeddings.type_embedding,
        "embeddings.LayerNorm": embeddings.norm,
        "encoder.LayerNorm": relative.norm,
    }
    for i in range(config["num_hidden_layers"]):
        block = encoder.get_layer(f"block_{i}")
        layers |= {
            f"encoder.layer.{i}.{name}": getattr(block, part)
            for part, name in _PARTS.items()
        }
    found = {"encoder.rel_embeddings.weight": (relative.table, False)}
    for name, layer in layers.items():
        if layer is not None:
            found |= named_weights(name, layer)
    return found
