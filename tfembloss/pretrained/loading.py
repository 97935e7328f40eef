"""From a checkpoint to an encoder and its preprocessor."""

import json
import os
import pathlib

from tfembloss.checks import integer
from tfembloss.pretrained import hub
from tfembloss.pretrained.architectures import family
from tfembloss.pretrained.encoder import CheckpointEncoder
from tfembloss.pretrained.folder import read_checkpoint
from tfembloss.text.checkpoint_tokenizer import CheckpointTokenizer, checked_prompts


def load(
    source,
    *,
    sequence_length=None,
    dimensions=None,
    prompts=None,
    dropout=None,
    pooling=None,
    dtype=None,
    preprocessor=None,
    tower=None,
):
    """Loads the encoder and the preprocessor of a pretrained checkpoint.

    Args: see `tfembloss.EmbeddingModel.from_pretrained`.

    Returns the encoder and the preprocessor: of a checkpoint's folder a `CheckpointEncoder`
    and a `tfembloss.text.CheckpointTokenizer`; of keras-hub a `keras.Model`, and a
    `HubTokenizer` or `ImagePreprocessor`.
    """
    options = {
        "sequence_length": sequence_length,
        "dimensions": dimensions,
        "prompts": prompts,
        "dropout": dropout,
        "pooling": pooling,
        "dtype": dtype,
    }
    if hub.is_for_keras_hub(source):
        return hub.load(source, preprocessor=preprocessor, tower=tower, **options)
    for name, value in (("preprocessor", preprocessor), ("tower", tower)):
        if value is not None:
            raise ValueError(
                f"Expected {name}=None for the folder of a Hugging Face checkpoint; it is "
                f"for encoders of keras-hub. Received: {name}={value!r:.200}"
            )
    return _load_folder(pathlib.Path(os.fspath(source)), **options)


def _load_folder(folder, sequence_length, dimensions, prompts, dropout, pooling, dtype):
    checkpoint = read_checkpoint(folder)
    sequence_length = checked_length(checkpoint, sequence_length)
    encoder = CheckpointEncoder(
        json.dumps(checkpoint.config),
        pooling or checkpoint.pooling,
        [{k: v for k, v in dense.items() if k != "path"} for dense in checkpoint.dense],
        checkpoint.normalize,
        dimensions,
        dropout,
        name=checkpoint.config["model_type"].replace("-", "_"),
        dtype=dtype,
    )
    encoder.load_checkpoint(checkpoint)
    given = checked_prompts(checkpoint.prompts if prompts is None else prompts)
    default = checkpoint.default_prompt if prompts is None else None
    preprocessor = CheckpointTokenizer(
        checkpoint.tokenizer,
        sequence_length,
        given,
        default,
        padding_id=checkpoint.config.get("pad_token_id") or 0,
        tokenizer_config=json.dumps(checkpoint.tokenizer_config),
    )
    return encoder, preprocessor


def checked_length(checkpoint, sequence_length):
    """Returns the maximum number of tokens, the checkpoint's own for None."""
    most = family(checkpoint.config).longest(checkpoint.config)
    if sequence_length is None:
        trained = most or checkpoint.config["max_position_embeddings"]
        sequence_length = min(checkpoint.sequence_length or trained, most or 2**30)
    hint = ", as the checkpoint has no more position embeddings"
    return integer("sequence_length", sequence_length, 1, most, hint)
