"""Language models' decoders: their settings, and their weights' names in both worlds."""

from typing import Any, NamedTuple

import keras

from tfembloss.layers.rotary import RMSNorm, RotaryBlock
from tfembloss.pretrained.family import ACTIVATIONS, SIZES, Settings, named_weights

_PARTS = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output_dense": "self_attn.o_proj",
    "query_norm": "self_attn.q_norm",
    "key_norm": "self_attn.k_norm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "feed_forward_norm": "post_attention_layernorm",
}
_SIZES = (*SIZES, "head_dim", "num_key_value_heads")
_FULL, _SLIDING = "full_attention", "sliding_attention"


class Architecture(NamedTuple):
    """One architecture of Hugging Face's `transformers`.

    Args:
        parts: dict of a block's layers to their names in a block of the checkpoint.
        supported: dict of settings to what they may be, first what is meant without them.
        needed: settings that have to be there.
        bases: dict of the kinds of attention to the setting of the base of their rotary
            positions, and the base without it.
        block: arguments of all `RotaryBlock`s.
        keys: names of settings in config.json where they are not common.
    """

    parts: dict
    supported: dict
    needed: tuple
    bases: dict
    block: dict[str, Any] = {}  # noqa: RUF012
    keys: dict = {}  # noqa: RUF012


def _activations(default):
    return [default, *(name for name in ACTIVATIONS if name != default)]


_COMMON = {
    "attention_bias": [False],
    "is_causal": [True],
    "partial_rotary_factor": [1.0],
}
ARCHITECTURES = {
    "qwen3": Architecture(
        _PARTS,
        {
            **_COMMON,
            "hidden_act": _activations("silu"),
            "use_sliding_window": [False],
        },
        _SIZES,
        {_FULL: ("rope_theta", 1e4)},
    ),
    "gemma3_text": Architecture(
        _PARTS
        | {
            "attention_norm_after": "post_attention_layernorm",
            "feed_forward_norm": "pre_feedforward_layernorm",
            "feed_forward_norm_after": "post_feedforward_layernorm",
        },
        {
            **_COMMON,
            "hidden_act": _activations("gelu_pytorch_tanh"),
            "attn_logit_softcapping": [None],
        },
        (*_SIZES, "query_pre_attn_scalar", "sliding_window"),
        {_FULL: ("rope_theta", 1e6), _SLIDING: ("rope_local_base_freq", 1e4)},
        {"norms_after": True, "norm_offset": 1.0},
        {"hidden_act": "hidden_activation"},
    ),
}
KINDS = tuple(ARCHITECTURES)
PREFIXES = ("model.",)
HEADS = ("lm_head.", "score.", "rotary_emb.")


def _settings(config):
    architecture = ARCHITECTURES[config["model_type"]]
    settings = Settings(config, architecture.keys)
    settings.check(architecture.supported, architecture.needed)
    return settings


def longest(config):
    """Returns None: rotary positions have no end."""
    _settings(config)


def token_embeddings(config, tokens, mask, types=None, dropout=None, dtype=None):
    """Returns symbolic token embeddings `[B, T, D]` of token ids `[B, T]`; no types."""
    settings = _settings(config)
    dim, epsilon = settings.get("hidden_size"), settings.get("rms_norm_eps", 1e-6)
    architecture = ARCHITECTURES[settings.kind]
    activation = settings.get("hidden_act", architecture.supported["hidden_act"][0])
    attention_dropout = settings.get("attention_dropout", 0)
    x = keras.layers.Embedding(
        settings.get("vocab_size"), dim, name="embeddings", dtype=dtype
    )(tokens)
    if settings.kind == "gemma3_text":
        x = keras.layers.Rescaling(dim**0.5, name="scaled_embeddings", dtype=dtype)(x)
    x = keras.layers.Dropout(dropout or 0, name="dropout", dtype=dtype)(x)
    for i, attention in enumerate(_attention(settings)):
        x = RotaryBlock(
            settings.get("num_attention_heads"),
            settings.get("num_key_value_heads"),
            settings.get("head_dim"),
            settings.get("intermediate_size"),
            ACTIVATIONS[activation],
            **attention,
            **architecture.block,
            epsilon=epsilon,
            dropout=dropout or 0,
            attention_dropout=attention_dropout if dropout is None else dropout,
            name=f"block_{i}",
            dtype=dtype,
        )(x, mask)
    offset = architecture.block.get("norm_offset", 0.0)
    return RMSNorm(epsilon, offset, name="norm", dtype=dtype)(x)


def _attention(settings):
    """Returns the arguments of each block that are of its attention."""
    kinds = _kinds_of_attention(settings)
    bases = _rotary_bases(settings)
    if settings.kind == "qwen3":
        return [{"rotary_base": bases[kind]} for kind in kinds]
    causal = not settings.get("use_bidirectional_attention", False)
    window = settings.get("sliding_window")
    if not causal:  # then it is the width of both sides together
        window = window // 2 + 1
    return [
        {
            "rotary_base": bases[kind],
            "scale": settings.get("query_pre_attn_scalar") ** -0.5,
            "causal": causal,
            "window": window if kind == _SLIDING else None,
        }
        for kind in kinds
    ]


def _kinds_of_attention(settings):
    """Returns the kind of attention of each block. Raises ValueError if one is unknown."""
    count = settings.get("num_hidden_layers")
    known = list(ARCHITECTURES[settings.kind].bases)
    kinds = settings.get("layer_types")
    if kinds is None:
        period = settings.get("sliding_window_pattern", 6) if _SLIDING in known else 1
        kinds = [_SLIDING if (i + 1) % period else _FULL for i in range(count)]
    if len(kinds) != count or any(kind not in known for kind in kinds):
        raise ValueError(
            f"Expected layer_types to be {count} of {' and '.join(known)}: nothing else is "
            f"supported. Received: layer_types={kinds!r} in config.json."
        )
    return kinds


def _rotary_bases(settings):
    """Returns dict of kinds of attention to their base. Raises ValueError if scaled."""
    known = ARCHITECTURES[settings.kind].bases
    by_kind = settings.get("rope_parameters", {})
    if len(known) == 1:
        by_kind = dict.fromkeys(known, by_kind)
    options = {"rope_type", "type", "rope_theta"}
    scaling = settings.get("rope_scaling", {})
    found = {}
    for kind, (name, default) in known.items():
        given = by_kind.get(kind) or {}
        used = {**scaling, **given}
        is_plain = used.get("rope_type", used.get("type", "default")) == "default"
        if not is_plain or set(used) - options or set(by_kind) - set(known):
            raise ValueError(
                "Expected rotary positions that are not scaled, rope_scaling=null: nothing "
                f"else is supported. Received: rope_scaling={scaling or None}, "
                f"rope_parameters={settings.get('rope_parameters')} in config.json."
            )
        found[kind] = float(used.get("rope_theta", settings.get(name, default)))
    return found


def weights(encoder, config):
    """Returns dict of a checkpoint's name to a variable, and if it is transposed."""
    parts = ARCHITECTURES[config["model_type"]].parts
    found = named_weights("embed_tokens", encoder.get_layer("embeddings"))
    for i in range(config["num_hidden_layers"]):
        block = encoder.get_layer(f"block_{i}")
        for part, name in parts.items():
            found |= named_weights(f"layers.{i}.{name}", getattr(block, part))
    return found | named_weights("norm", encoder.get_layer("norm"))
