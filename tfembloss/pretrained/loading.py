"""From a checkpoint to an encoder and its preprocessor."""

import json
import os
import pathlib

from tfembloss.checks import integer
from tfembloss.pretrained.architectures import ARCHITECTURES, longest
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
    dtype=None,
):
    """Loads the encoder and the preprocessor of a pretrained checkpoint.

    Args: see `tfembloss.EmbeddingModel.from_pretrained`.

    Returns the encoder, a `CheckpointEncoder`, and a `tfembloss.text.CheckpointTokenizer`.
    """
    folder = pathlib.Path(os.fspath(source))
    checkpoint = read_checkpoint(folder)
    kind = checkpoint.config["model_type"]
    if kind not in ARCHITECTURES:
        raise ValueError(
            f"Expected a checkpoint of {', '.join(ARCHITECTURES)}. Received: {folder}, a "
            f"{kind}, which is not supported."
        )
    most = longest(checkpoint.config)
    if sequence_length is None:
        sequence_length = min(checkpoint.sequence_length or most, most)
    hint = ", as the checkpoint has no more position embeddings"
    sequence_length = integer("sequence_length", sequence_length, 1, most, hint)
    encoder = CheckpointEncoder(
        json.dumps(checkpoint.config),
        checkpoint.pooling,
        [{k: v for k, v in dense.items() if k != "path"} for dense in checkpoint.dense],
        checkpoint.normalize,
        dimensions,
        dropout,
        name=kind.replace("-", "_"),
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
