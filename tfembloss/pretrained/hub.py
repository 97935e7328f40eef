"""Encoders of keras-hub: its presets, backbones and text embedders."""

import contextlib
import os
import pathlib
import sys

import keras

from tfembloss.checks import fraction, integer, one_of
from tfembloss.layers.pooling import Pooling
from tfembloss.pretrained.folder import read_json
from tfembloss.pretrained.hub_tokenizer import HubTokenizer
from tfembloss.pretrained.images import (
    check_is_pooled,
    image_outputs,
    image_preprocessor,
)

_TEXT_INPUTS = {"token_ids", "padding_mask", "segment_ids"}
# The kinds of preprocessors that a backbone may have for its texts, the first one is taken.
_TEXT_PREPROCESSORS = (
    "TextClassifierPreprocessor",
    "TextEmbedderPreprocessor",
    "CausalLMPreprocessor",
)


def is_for_keras_hub(source):
    """Whether a source is keras-hub's: no path of a folder, except that of a preset."""
    if not isinstance(source, str | os.PathLike):
        return True
    if not pathlib.Path(source).is_dir():
        return isinstance(source, str)
    config = read_json(source, "config.json")
    return "model_type" not in config and not config.keys().isdisjoint(
        ("registered_name", "architecture")
    )


def is_embedder(model):
    """Whether a model is a keras-hub `TextEmbedder`."""
    return _is(model, "TextEmbedder")


def parts(embedder):
    """Returns the encoder of a keras-hub `TextEmbedder`, and its preprocessor or None."""
    encoder = keras.Model(embedder.input, embedder.output, name=embedder.name)
    return encoder, _text_preprocessor(embedder.backbone, embedder.preprocessor)


def load(
    source,
    *,
    preprocessor=None,
    tower=None,
    pooling=None,
    sequence_length=None,
    dimensions=None,
    prompts=None,
    dropout=None,
    dtype=None,
):
    """Loads an encoder and its preprocessor; see `EmbeddingModel.from_pretrained`."""
    if isinstance(source, str | os.PathLike):
        model = _preset(source, dtype, preprocessor)
        model = model if dropout is None else _with_dropout(model, dropout)
    else:
        model = _checked(source, dropout, dtype)
    backbone = getattr(model, "backbone", model)
    kind = _kind(backbone, tower)
    if preprocessor is None and model is not backbone:
        preprocessor = model.preprocessor
    elif preprocessor is None and model is not source:
        preprocessor = _preset_preprocessor(source, backbone, kind)
    _check_preprocessor(kind, preprocessor)
    if kind == "image":
        _check_no_texts(backbone, sequence_length, prompts)
        inputs, x = image_outputs(backbone, pooling)
        preprocessor = image_preprocessor(preprocessor, inputs)
    else:
        embedder = model if is_embedder(model) else None
        inputs, x = _text_outputs(backbone, pooling, preprocessor, embedder)
        preprocessor = _text_preprocessor(
            backbone, preprocessor, list(inputs), sequence_length, prompts
        )
    x = _first(x, dimensions, getattr(model, "normalize", False) and is_embedder(model))
    return keras.Model(inputs, x, name=backbone.name), preprocessor


# Presets and objects.


def _keras_hub(source):
    """Imports keras-hub. Raises ValueError if it is not installed."""
    try:
        import keras_hub

        return keras_hub
    except ImportError as error:
        raise ValueError(
            f"Expected the folder of a Hugging Face checkpoint, or keras-hub for its "
            f'presets: pip install "tfembloss[hub]". Received: {str(source)!r}, which is '
            f"no such folder ({error})."
        ) from error


@contextlib.contextmanager
def _explained(source):
    """Adds what was expected to the errors of keras-hub."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        folder = pathlib.Path(source).is_dir()
        found = "of which" if folder else "which is no folder, and of which"
        mend = ""
        if isinstance(error, FileNotFoundError) and folder:
            mend = (
                " A tokenizer or an image converter is saved beside a backbone by its own "
                "save_to_preset, or given as preprocessor=..."
            )
        raise ValueError(
            "Expected the folder of a Hugging Face checkpoint, or a keras-hub preset, its "
            f"folder or name. Received: {str(source)!r}, {found} keras-hub says: {error}"
            f"{mend}"
        ) from error


def _preset(source, dtype, preprocessor):
    """Returns the text embedder of a preset, or its backbone."""
    models = _keras_hub(source).models
    preset = _address(source)
    with _explained(source):
        if not _is_of_embedder(preset):
            return models.Backbone.from_preset(preset, dtype=dtype)
        options = {} if preprocessor is None else {"preprocessor": None}
        return models.TextEmbedder.from_preset(preset, dtype=dtype, **options)


def _address(source):
    """Returns a preset as keras-hub takes it; a folder might be named as a preset is."""
    folder = pathlib.Path(source)
    return str(folder.resolve()) if folder.is_dir() else str(source)


def _is_of_embedder(preset):
    """Whether a preset is of a text embedder, keras-hub's or sentence-transformers'."""
    # keras-hub has no other way to ask which task a preset was saved from.
    from keras_hub.src.utils.preset_utils import check_file_exists, load_json

    if check_file_exists(preset, "task.json"):
        return load_json(preset, "task.json")["class_name"].endswith("TextEmbedder")
    return check_file_exists(preset, "modules.json")


def _preset_preprocessor(source, backbone, kind):
    if kind == "image":
        reader = _keras_hub(source).layers.ImageConverter
    else:
        reader = _text_preprocessor_class(backbone)
    with _explained(source):
        return reader.from_preset(_address(source))


def _with_dropout(model, dropout):
    """Returns a copy of a backbone, or of a task with it, with another dropout."""
    dropout = fraction("dropout", dropout)
    backbone = getattr(model, "backbone", model)
    config = backbone.get_config()
    names = [x for x in config if "dropout" in x and isinstance(config[x], int | float)]
    if not names:
        raise ValueError(
            f"Expected dropout=None, as a {type(backbone).__name__} has no dropout to set. "
            f"Received: dropout={dropout}"
        )
    copy = type(backbone).from_config({**config, **dict.fromkeys(names, dropout)})
    copy.set_weights(backbone.get_weights())
    if model is backbone:
        return copy
    config = {**model.get_config(), "backbone": copy, "preprocessor": model.preprocessor}
    return type(model).from_config(config)


def _checked(source, dropout, dtype):
    """Returns an object of keras-hub. Raises ValueError if it is none."""
    if not _is(source, "Backbone", "Task"):
        raise ValueError(
            "Expected the folder of a Hugging Face checkpoint, a keras-hub preset, or a "
            f"backbone or task of keras-hub. Received: {source!r:.200}"
        )
    for name, value in (("dropout", dropout), ("dtype", dtype)):
        if value is not None:
            raise ValueError(
                f"Expected {name}=None for a {type(source).__name__}, which has its own "
                f"already. Received: {name}={value!r}"
            )
    return source


def _is(thing, *names):
    """Whether it is an object of one of these classes of keras-hub's models."""
    models = getattr(sys.modules.get("keras_hub"), "models", None)
    classes = tuple(getattr(models, name, ()) for name in names)
    return isinstance(thing, classes)


# Encoders.


def _kind(backbone, tower):
    """Returns `"text"` or `"image"`. Raises ValueError if it is neither."""
    given = backbone.input
    names = set(given) if isinstance(given, dict) else set()
    if hasattr(backbone, "get_vision_embeddings"):  # CLIP, SigLIP and others
        return one_of("tower", tower or "image", ["image", "text"])
    if tower is not None:
        raise ValueError(
            f"Expected tower=None, as a {type(backbone).__name__} has one encoder. "
            f"Received: tower={tower!r}"
        )
    if "token_ids" in names and names <= _TEXT_INPUTS:
        return "text"
    given = given["images"] if names == {"images"} else given
    if isinstance(given, keras.KerasTensor) and len(given.shape) == 4:
        return "image"
    raise ValueError(
        "Expected a backbone of texts, with token_ids, or of images. Received: a "
        f"{type(backbone).__name__} with the inputs {sorted(names) or given}."
    )


def _text_outputs(backbone, pooling, preprocessor, embedder):
    """Returns a dict of symbolic inputs `[B, T]`, and embeddings `[B, D]`."""
    if embedder is not None:
        check_is_pooled(embedder, pooling)
        return embedder.input, embedder.output
    if hasattr(backbone, "get_text_embeddings"):
        check_is_pooled(backbone, pooling)
        tokens = {"token_ids": backbone.input["token_ids"]}
        return tokens, backbone.get_text_embeddings(**tokens)
    inputs = backbone.input
    x = backbone(inputs)
    x = x["sequence_output"] if isinstance(x, dict) else x
    if len(x.shape) == 2:
        check_is_pooled(backbone, pooling)
        return inputs, x
    mask = inputs.get("padding_mask")
    if mask is None:
        tokenizer = getattr(preprocessor, "tokenizer", preprocessor)
        padding_id = getattr(tokenizer, "pad_token_id", None) or 0
        mask = keras.ops.not_equal(inputs["token_ids"], padding_id)
    return inputs, Pooling(pooling or "mean", name="pooling")(x, mask)


def _first(x, dimensions, normalize):
    """Returns the first k dimensions of embeddings; None for all."""
    if dimensions is None:
        return x
    x = x[:, : integer("dimensions", dimensions, 1, x.shape[-1])]
    return keras.layers.UnitNormalization(name="normalize")(x) if normalize else x


# Preprocessors.


def _check_preprocessor(kind, preprocessor):
    """Raises ValueError for a part of keras-hub that prepares another kind of inputs."""
    if not type(preprocessor).__module__.startswith("keras_hub."):
        return
    is_whole = _is(preprocessor, "Preprocessor")
    found = {
        "text": preprocessor.tokenizer if is_whole else _is(preprocessor, "Tokenizer"),
        "image": preprocessor.image_converter
        if is_whole
        else hasattr(preprocessor, "image_size"),
    }
    if not found[kind]:
        part = {"text": "a tokenizer", "image": "an image converter"}[kind]
        raise ValueError(
            f"Expected a preprocessor with {part}, as the backbone takes {kind}s. "
            f"Received: preprocessor={preprocessor!r:.200}"
        )


def _check_no_texts(backbone, sequence_length, prompts):
    for name, value in (("sequence_length", sequence_length), ("prompts", prompts)):
        if value is not None:
            raise ValueError(
                f"Expected {name}=None, as a {type(backbone).__name__} takes images. "
                f"Received: {name}={value!r}"
            )


def _text_preprocessor(
    backbone, preprocessor, inputs=None, sequence_length=None, prompts=None
):
    """Returns the preprocessor of texts; of a function that is not keras-hub's, itself."""
    if _is(preprocessor, "Tokenizer"):
        preprocessor = _text_preprocessor_class(backbone)(preprocessor)
    elif _is(preprocessor, "Preprocessor") and not _is(preprocessor, *_TEXT_PREPROCESSORS):
        # Of another task; one of masked language models would mask tokens here, too.
        preprocessor = _text_preprocessor_class(backbone)(
            preprocessor.tokenizer, preprocessor.sequence_length
        )
    if not _is(preprocessor, "Preprocessor") or preprocessor.tokenizer is None:
        for name, value in (("sequence_length", sequence_length), ("prompts", prompts)):
            if value is not None:
                raise ValueError(
                    f"Expected {name}=None without a tokenizer or a preprocessor of "
                    f"keras-hub. Received: {name}={value!r}, and "
                    f"preprocessor={preprocessor!r}"
                )
        return preprocessor
    most = getattr(backbone, "max_sequence_length", None)
    if sequence_length is None:
        own = preprocessor.sequence_length
        sequence_length = min(own, most or own)
    hint = ", for start and end tokens and one of the text"
    hint += ", and as many as the backbone has positions" if most else ""
    integer("sequence_length", sequence_length, 3, most, hint)
    inputs = list(backbone.input) if inputs is None else inputs
    return HubTokenizer(
        _copy(preprocessor, sequence_length=sequence_length),
        inputs,
        prompts,
        # Without the mask, an encoder takes padding for tokens, as it was trained with.
        "auto" if "padding_mask" in inputs else "max_length",
    )


def _text_preprocessor_class(backbone):
    """Returns keras-hub's class of preprocessors for the texts of a backbone."""
    from keras_hub import models

    for name in _TEXT_PREPROCESSORS:
        for kind in _subclasses(getattr(models, name, None)):
            if kind.backbone_cls is type(backbone):
                return kind
    raise ValueError(
        "Expected a backbone that keras-hub has a preprocessor of texts for. Received: "
        f"{type(backbone).__name__}. Give preprocessor=..., a function from texts to the "
        f"inputs {sorted(backbone.input)}."
    )


def _subclasses(kind):
    for subclass in kind.__subclasses__() if kind is not None else ():
        yield subclass
        yield from _subclasses(subclass)


def _copy(preprocessor, **changes):
    """Returns a preprocessor of texts with other settings and the same tokenizer."""
    config = {**preprocessor.get_config(), **changes, "tokenizer": preprocessor.tokenizer}
    if "image_converter" in config:
        config["image_converter"] = None
    return type(preprocessor).from_config(config)
