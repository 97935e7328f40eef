"""Reads the folder of a Hugging Face or sentence-transformers checkpoint."""

import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

_MEND = (
    " An older checkpoint gets current files when sentence-transformers loads it and saves "
    "it again."
)
_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class Checkpoint(NamedTuple):
    """What a folder says about an encoder.

    Args:
        folder: its path.
        config: dict of the architecture's settings, of config.json.
        pooling: modes of `tfembloss.layers.Pooling`.
        dense: list of dicts of the layers after the pooling: `units`, `use_bias`,
            `activation`, and `path` of its file.
        normalize: whether embeddings are scaled to length 1.
        sequence_length: the maximum number of tokens, or None if no file says so.
        prompts, default_prompt: see `tfembloss.text.CheckpointTokenizer`.
        tokenizer: text of tokenizer.json.
        tokenizer_config: dict of tokenizer_config.json.
    """

    folder: pathlib.Path
    config: dict[str, Any]
    pooling: Any
    dense: list
    normalize: bool
    sequence_length: int | None
    prompts: dict[str, str]
    default_prompt: str | None
    tokenizer: str
    tokenizer_config: dict[str, Any]


def read_checkpoint(folder, pairs=False):
    """Reads all but the weights. Raises ValueError if something is missing or unknown.

    Args:
        folder: its path.
        pairs: whether it is to score pairs, so that modules of embeddings are not read.
    """
    folder = pathlib.Path(folder)
    config = read_json(folder, "config.json")
    if "model_type" not in config:
        raise ValueError(
            "Expected the folder of a Hugging Face or sentence-transformers checkpoint, "
            "with a config.json that names its model_type. Received: "
            f"{folder}, with {_listed(folder)}."
        )
    pooling, dense, normalize = ("cls", [], False) if pairs else _modules(folder)
    settings = read_json(folder, "sentence_bert_config.json")
    tokenizer_settings = read_json(folder, "tokenizer_config.json")
    saved = read_json(folder, "config_sentence_transformers.json")
    text = _tokenizer(folder, tokenizer_settings)
    _check_lower_case(settings, text, folder)
    lengths = settings.get("max_seq_length"), tokenizer_settings.get("model_max_length")
    lengths = [n for n in lengths if isinstance(n, int) and n < 10**6]
    return Checkpoint(
        folder=folder,
        config=config,
        pooling=pooling,
        dense=dense,
        normalize=normalize,
        sequence_length=lengths[0] if lengths else None,
        prompts=saved.get("prompts") or {},
        default_prompt=saved.get("default_prompt_name"),
        tokenizer=text,
        tokenizer_config=tokenizer_settings,
    )


def read_json(folder, name):
    """Reads a JSON file of the folder; an empty dict if there is none."""
    path = pathlib.Path(folder, name)
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(
            f"Expected a JSON file. Received: {path}, which is none ({error})."
        ) from error


def read_tensors(folder):
    """Reads the weights: dict of a name to an array.

    Raises ValueError if there are none in the safetensors format, or they are damaged.
    """
    folder = pathlib.Path(folder)
    index = read_json(folder, "model.safetensors.index.json").get("weight_map", {})
    names = sorted(set(index.values())) or ["model.safetensors"]
    if not all(pathlib.Path(folder, name).is_file() for name in names):
        raise ValueError(
            f"Expected the weights in {' and '.join(names)}. Received: {folder}, with "
            f"{_listed(folder)}. Other formats, such as a pickle's pytorch_model.bin, run "
            "code when they are read, so they are not." + _MEND
        )
    tensors = {}
    for name in names:
        tensors |= _safetensors(pathlib.Path(folder, name))
    return tensors


def _safetensors(path):
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "np") as file:
            return {name: _float32(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"Expected a complete safetensors file. Received: {path} ({error})."
        ) from error


def _float32(values):
    return np.asarray(values, "float32") if values.dtype.kind not in "iub" else values


def _modules(folder):
    """Returns the pooling's modes, the dense layers, and whether there is a Normalize."""
    modules = read_json(folder, "modules.json") or [
        {"type": "Transformer", "path": ""},
        {"type": "Pooling", "path": "1_Pooling"},
    ]
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    count = kinds.count("Dense")
    normalize = kinds[-1] == "Normalize"
    if kinds == ["Transformer"]:
        raise ValueError(
            "Expected a checkpoint of embeddings. Received: "
            f"{folder}/modules.json, which has no Pooling, as of a cross-encoder: load "
            "that with tfembloss.CrossEncoder.from_pretrained."
        )
    if kinds != ["Transformer", "Pooling", *["Dense"] * count, *["Normalize"] * normalize]:
        raise ValueError(
            "Expected the modules Transformer, Pooling, any number of Dense, and Normalize "
            f"or none, in this order. Received: {kinds} in {folder}/modules.json."
        )
    if modules[0].get("path"):
        raise ValueError(
            "Expected the transformer's files in the folder itself. Received: a path "
            f"{modules[0]['path']!r} in {folder}/modules.json. Save it again with a "
            "current sentence-transformers."
        )
    pooling = read_json(folder, f"{modules[1]['path']}/config.json")
    if pooling.get("include_prompt") is False:
        raise ValueError(
            "Expected a pooling over all tokens. Received: include_prompt=False in "
            f"{folder}, a pooling without the prompt's, which is not supported."
        )
    old = [mode for key, mode in _OLD_MODES.items() if pooling.get(key)]
    modes = pooling.get("pooling_mode") or old or ["mean"]
    dense = [_dense(folder, module["path"]) for module in modules[2 : 2 + count]]
    return modes, dense, normalize


def _dense(folder, path):
    config = read_json(folder, f"{path}/config.json")
    kind = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    activation = _ACTIVATIONS.get(kind.rpartition(".")[2])
    if activation is None:
        raise ValueError(
            f"Expected a Dense module with an activation of {', '.join(_ACTIVATIONS)}. "
            f"Received: {kind} in {folder}/{path}."
        )
    for name in ("module_input_name", "module_output_name"):
        if config.get(name, "sentence_embedding") != "sentence_embedding":
            raise ValueError(
                "Expected a Dense module on sentence embeddings. Received: "
                f"{name}={config[name]!r} in {folder}/{path}, which is not supported."
            )
    return {
        "units": config["out_features"],
        "use_bias": config.get("bias", True),
        "activation": activation,
        "path": path,
    }


_ACTIVATIONS = {
    "Tanh": "tanh",
    "Identity": "linear",
    "ReLU": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
}
TORCH_ACTIVATIONS = {
    ours: f"torch.nn.modules.activation.{x}" for x, ours in _ACTIVATIONS.items()
}
TORCH_ACTIVATIONS["linear"] = "torch.nn.modules.linear.Identity"


def _tokenizer(folder, settings):
    """Returns the text of tokenizer.json, or one made of a BERT's vocab.txt."""
    path = folder / "tokenizer.json"
    if path.is_file():
        return path.read_text("utf-8")
    vocabulary = folder / "vocab.txt"
    kind = settings.get("tokenizer_class", "BertTokenizer")
    if not vocabulary.is_file() or not kind.startswith(("Bert", "DistilBert", "Electra")):
        raise ValueError(
            "Expected a tokenizer.json, or the vocab.txt of a BERT. Received: "
            f"{folder}, with {_listed(folder)}, and a {kind}." + _MEND
        )
    entries = vocabulary.read_text("utf-8").removesuffix("\n").split("\n")
    ids = {entry: id for id, entry in enumerate(entries)}
    special = {name: ids.get(f"[{name}]") for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    if any(special[name] is None for name in ("UNK", "CLS", "SEP")):
        raise ValueError(
            "Expected a BERT vocabulary, with [UNK], [CLS] and [SEP]. Received: "
            f"{vocabulary} of {len(entries)} entries, the first of them {entries[:3]}."
        )
    lower = settings.get("do_lower_case", True)
    flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {"id": id, "content": f"[{name}]", **flags, "special": True}
                for name, id in special.items()
                if id is not None
            ],
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
                "strip_accents": settings.get("strip_accents"),
                "lowercase": lower,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {
                "type": "BertProcessing",
                "cls": ["[CLS]", special["CLS"]],
                "sep": ["[SEP]", special["SEP"]],
            },
            "decoder": None,
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": ids,
            },
        }
    )


def _check_lower_case(settings, tokenizer, folder):
    if settings.get("do_lower_case") and '"lowercase": true' not in tokenizer.lower():
        raise ValueError(
            "Expected texts that the tokenizer itself lower-cases, or none. Received: "
            f"do_lower_case=true in {folder}/sentence_bert_config.json beside a tokenizer "
            "that keeps upper case, which is not supported."
        )


def _listed(folder):
    if not folder.is_dir():
        return "no such folder"
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:12]) or "no files"
