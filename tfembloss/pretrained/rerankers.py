"""Cross-encoders: from a checkpoint to an encoder of pairs and a score, and back."""

import json
import os
import pathlib
from typing import NamedTuple

import numpy as np
from keras.src.utils.io_utils import print_msg

from tfembloss.pretrained.architectures import family
from tfembloss.pretrained.encoder import CheckpointEncoder, assign
from tfembloss.pretrained.folder import read_checkpoint
from tfembloss.pretrained.hub import is_for_keras_hub
from tfembloss.pretrained.loading import checked_length
from tfembloss.pretrained.saving import check_can_be_saved, replace, write_transformer
from tfembloss.text.checkpoint_pair_tokenizer import CheckpointPairTokenizer


class Head(NamedTuple):
    """What follows the first token's embedding in `transformers`' models of a score.

    Args:
        model: name of their class.
        prefix: what stands before the names of the encoder's weights.
        dense: name of the dense layer before the score.
        activation: of that layer.
        score: name of the layer of the score.
        has_types: whether `transformers` 5 gives it token types; ALBERT, which could have
            them, gets none.
    """

    model: str
    prefix: str
    dense: str
    activation: str
    score: str
    has_types: bool = False


def _like_roberta(model):
    return Head(model, "roberta.", "classifier.dense", "tanh", "classifier.out_proj")


HEADS = {
    "bert": Head(
        "BertForSequenceClassification", "bert.", "bert.pooler.dense", "tanh", "classifier",
        has_types=True,
    ),
    "albert": Head(
        "AlbertForSequenceClassification", "albert.", "albert.pooler", "tanh", "classifier"
    ),
    "roberta": _like_roberta("RobertaForSequenceClassification"),
    "xlm-roberta": _like_roberta("XLMRobertaForSequenceClassification"),
    "camembert": _like_roberta("CamembertForSequenceClassification"),
    "mpnet": Head(
        "MPNetForSequenceClassification", "mpnet.", "classifier.dense", "tanh",
        "classifier.out_proj",
    ),
    "electra": Head(
        "ElectraForSequenceClassification", "electra.", "classifier.dense", "gelu",
        "classifier.out_proj", has_types=True,
    ),
    "distilbert": Head(
        "DistilBertForSequenceClassification", "distilbert.", "pre_classifier", "relu",
        "classifier",
    ),
    "deberta-v2": Head(
        "DebertaV2ForSequenceClassification", "deberta.", "pooler.dense", "gelu",
        "classifier",
    ),
}  # fmt: skip


def load(source, *, sequence_length=None, num_labels=None, dropout=None, dtype=None):
    """Loads an encoder of pairs; see `tfembloss.CrossEncoder.from_pretrained`.

    Returns the encoder, its preprocessor, and the weights of the scores, None if new.
    """
    if is_for_keras_hub(source):
        raise ValueError(
            "Expected the folder of a Hugging Face checkpoint. Received: "
            f"source={source!r:.200}. For an encoder of keras-hub, write "
            "CrossEncoder(encoder, preprocessor) with a preprocessor of two texts."
        )
    checkpoint = read_checkpoint(pathlib.Path(os.fspath(source)), pairs=True)
    config = checkpoint.config
    head = _head(config)
    inputs = checkpoint.tokenizer_config.get("model_input_names", ["token_type_ids"])
    has_types = head.has_types and "token_type_ids" in inputs
    length = checked_length(checkpoint, sequence_length)
    rates = ("classifier_dropout", "seq_classif_dropout", "hidden_dropout_prob")
    own = next((config[x] for x in rates if config.get(x) is not None), 0.1)
    dense = {
        "units": _dim(config),
        "use_bias": True,
        "activation": head.activation,
        "dropout": own if dropout is None else dropout,
    }
    encoder = CheckpointEncoder(
        json.dumps(config),
        "cls",
        [dense],
        dropout=dropout,
        has_types=has_types,
        name=config["model_type"].replace("-", "_"),
        dtype=dtype,
    )
    tensors = encoder.load_checkpoint(checkpoint)
    score = _read_head(encoder, head, tensors, checkpoint, num_labels)
    preprocessor = CheckpointPairTokenizer(
        checkpoint.tokenizer,
        length,
        has_types,
        padding_id=config.get("pad_token_id") or 0,
        tokenizer_config=json.dumps(checkpoint.tokenizer_config),
    )
    return encoder, preprocessor, score


def _head(config):
    family(config)  # raises ValueError for what is unknown altogether
    kind = config["model_type"]
    if kind not in HEADS:
        raise ValueError(
            f"Expected an encoder of pairs, of {', '.join(HEADS)}. Received: a {kind}, "
            "which is not supported as a cross-encoder."
        )
    return HEADS[kind]


def _dim(config):
    return config["dim"] if config["model_type"] == "distilbert" else config["hidden_size"]


def _read_head(encoder, head, tensors, checkpoint, num_labels):
    """Reads the dense layer; returns the scores' kernel and bias, None if they are new."""
    weights = {
        f"{head.dense.removeprefix(head.prefix)}.{name.removeprefix('linear.')}": variable
        for name, variable in encoder.dense_weights(0).items()
    }
    kernel, bias = (tensors.get(f"{head.score}.{x}") for x in ("weight", "bias"))
    if kernel is None or bias is None or num_labels not in (None, len(bias)):
        if all(name in tensors for name in weights):
            assign(weights, {name: tensors[name] for name in weights}, checkpoint.folder)
        has = "none" if bias is None else f"one of {len(bias)} labels"
        print_msg(f"New: {head.score}, as {checkpoint.folder} has {has}; to be trained")
        return None
    found = {name: tensors[name] for name in weights if name in tensors}
    assign(weights, found, checkpoint.folder)
    return [np.asarray(kernel.T, "float32"), np.asarray(bias, "float32")]


def save(folder, encoder, preprocessor, score):
    """Writes the folder of a cross-encoder; see `CrossEncoder.save_pretrained`.

    Args:
        folder: the folder to write.
        encoder: the encoder that `load` returned.
        preprocessor: the tokenizer that `load` returned.
        score: the layer of the score.
    """
    check_can_be_saved(encoder, preprocessor)
    if not isinstance(preprocessor, CheckpointPairTokenizer) or len(encoder.dense) != 1:
        raise ValueError(
            "Expected a model that CrossEncoder.from_pretrained created. Received: one of "
            "an encoder of embeddings. Use model.save, or tfembloss.export_encoder."
        )
    config = json.loads(encoder.config)
    head = HEADS[config["model_type"]]
    weights = {
        f"{head.prefix}{name}": variable
        for name, variable in family(config).weights(encoder, config).items()
    }
    weights |= {
        f"{head.dense}.{name.removeprefix('linear.')}": variable
        for name, variable in encoder.dense_weights(0).items()
    }
    weights |= {
        f"{head.score}.weight": (score.kernel, True),
        f"{head.score}.bias": (score.bias, False),
    }
    labels = {str(i): f"LABEL_{i}" for i in range(score.units)}
    config |= {
        "architectures": [head.model],
        "id2label": labels,
        "label2id": {label: int(i) for i, label in labels.items()},
        "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},
    }
    config.pop("num_labels", None)

    def write(new):
        write_transformer(
            new, config, weights, preprocessor, {"model_type": "CrossEncoder"}
        )
        (new / "README.md").write_text(_CARD.format(kind=config["model_type"]), "utf-8")

    replace(folder, write)


_CARD = """---
library_name: sentence-transformers
pipeline_tag: text-ranking
tags:
- sentence-transformers
- cross-encoder
- tfembloss
---

# Scores of pairs of texts

A cross-encoder, {kind}, that gives a pair of texts a score without bounds. In PyTorch and
in Keras:

```python
from sentence_transformers import CrossEncoder

scores = CrossEncoder("this/folder").predict([("a query", "a text")])
```

```python
import tfembloss

scores = tfembloss.CrossEncoder.from_pretrained("this/folder").predict(
    (["a query"], ["a text"])
)
```
"""
