"""From an encoder and its preprocessor to a folder that sentence-transformers loads."""

import json
import os
import pathlib
import shutil
import tempfile

import keras
import numpy as np

from tfembloss.pretrained.architectures import family
from tfembloss.pretrained.card import card
from tfembloss.pretrained.encoder import CheckpointEncoder
from tfembloss.pretrained.folder import TORCH_ACTIVATIONS
from tfembloss.text.checkpoint_tokenizer import CheckpointTokenizer

MARK = "config_sentence_transformers.json"


def save(folder, encoder, preprocessor, **training):
    """Writes the encoder as a folder; see `tfembloss.EmbeddingModel.save_pretrained`.

    Args:
        folder: the folder to write.
        encoder: the encoder that `load` returned.
        preprocessor: the tokenizer that `load` returned.
        **training: for the model card, see `tfembloss.pretrained.card.card`.
    """
    check_can_be_saved(encoder, preprocessor)

    def write(new):
        config = json.loads(encoder.config)
        weights = family(config).weights(encoder, config)
        prompts = {
            "prompts": preprocessor.prompts,
            "default_prompt_name": preprocessor.default_prompt,
        }
        write_transformer(new, config, weights, preprocessor, prompts)
        _write_modules(new, encoder)
        text = card(encoder, preprocessor, **training)
        (new / "README.md").write_text(text, "utf-8")

    replace(folder, write)


def check_can_be_saved(encoder, preprocessor):
    """Raises ValueError if sentence-transformers could not load them."""
    if not isinstance(encoder, CheckpointEncoder) or not isinstance(
        preprocessor, CheckpointTokenizer
    ):
        raise ValueError(
            "Expected a model that from_pretrained created from a checkpoint's folder, as "
            "sentence-transformers has no others. Received: an encoder "
            f"{type(encoder).__name__} and a preprocessor {type(preprocessor).__name__}. "
            "Use model.save, or tfembloss.export_encoder."
        )
    if encoder.quantization is not None:
        raise ValueError(
            "Expected weights that are not quantized, as sentence-transformers reads no "
            f"others. Received: {encoder.quantization} weights. Call "
            "save_pretrained before quantize, or use model.save or export_encoder."
        )


def replace(folder, write):
    """Writes a folder by `write(new_folder)`, in the place of an earlier checkpoint.

    Raises ValueError if there is a file, or a folder that holds something else.
    """
    folder = pathlib.Path(os.fspath(folder)).absolute()
    is_ours = (folder / MARK).is_file()
    if folder.exists() and not is_ours and (folder.is_file() or any(folder.iterdir())):
        raise ValueError(
            "Expected a new or empty folder, or a checkpoint to replace. Received: "
            f"{folder}, which holds something else."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write(new)
        new.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        new.rename(folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def write_transformer(folder, config, weights, preprocessor, description):
    """Writes the files of a transformer and of its tokenizer.

    Args:
        folder: path of an empty folder.
        config: dict of config.json.
        weights: dict of a checkpoint's name to a variable, and if it is transposed.
        preprocessor: the tokenizer.
        description: dict of what sentence-transformers keeps beside these.
    """
    config = {name: x for name, x in config.items() if name != "torch_dtype"}
    _write_json(folder / "config.json", config | {"dtype": "float32"})
    _write_tensors(folder / "model.safetensors", weights)
    (folder / "tokenizer.json").write_text(preprocessor.tokenizer, "utf-8")
    length = {"model_max_length": preprocessor.sequence_length}
    _write_json(
        folder / "tokenizer_config.json", json.loads(preprocessor.tokenizer_config) | length
    )
    length = {"max_seq_length": preprocessor.sequence_length, "do_lower_case": False}
    _write_json(folder / "sentence_bert_config.json", length)
    _write_json(folder / MARK, description)


def _write_modules(folder, encoder):
    kinds = ["Transformer", "Pooling", *["Dense"] * len(encoder.dense)]
    kinds += ["Dense"] * (encoder.dimensions is not None) + [
        "Normalize"
    ] * encoder.normalize
    paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds[1:], 1))]
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": path,
            "type": f"sentence_transformers.models.{x}",
        }
        for i, (x, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    _write_json(folder / "modules.json", modules)
    for path in paths[1:]:
        (folder / path).mkdir()
    pooling = encoder.get_layer("pooling")
    _write_json(
        folder / paths[1] / "config.json",
        {
            "word_embedding_dimension": int(pooling.input[0].shape[-1]),
            "pooling_mode": pooling.modes,
        },
    )
    for i, options in enumerate(encoder.dense):
        weights = encoder.dense_weights(i)
        _write_dense(folder / paths[2 + i], weights, options["activation"])
    if encoder.dimensions is not None:  # sentence-transformers has no module for this
        dim = pooling.output.shape[-1] if not encoder.dense else encoder.dense[-1]["units"]
        first = np.eye(dim, encoder.dimensions, dtype="float32")
        path = folder / paths[2 + len(encoder.dense)]
        _write_dense(path, {"linear.weight": (first, True)}, "linear")


def _write_dense(folder, weights, activation):
    rows, units = weights["linear.weight"][0].shape
    _write_json(
        folder / "config.json",
        {
            "in_features": rows,
            "out_features": units,
            "bias": "linear.bias" in weights,
            "activation_function": TORCH_ACTIVATIONS[activation],
        },
    )
    _write_tensors(folder / "model.safetensors", weights)


def _write_tensors(path, weights):
    from safetensors.numpy import save_file

    tensors = {}
    for name, (variable, transposed) in weights.items():
        values = keras.ops.convert_to_numpy(variable).astype("float32")
        tensors[name] = np.ascontiguousarray(values.T if transposed else values)
    save_file(tensors, str(path), metadata={"format": "pt"})


def _write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
