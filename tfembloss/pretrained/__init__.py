"""Pretrained encoders: checkpoint folders in and out, and those of keras-hub in.

`tfembloss.EmbeddingModel.from_pretrained` is the way in; `load` gives its two parts.
`rerankers` does the same for `tfembloss.CrossEncoder`.
"""

from tfembloss.pretrained import rerankers
from tfembloss.pretrained.encoder import CheckpointEncoder
from tfembloss.pretrained.hub_tokenizer import HubTokenizer
from tfembloss.pretrained.images import ImagePreprocessor
from tfembloss.pretrained.loading import load
from tfembloss.pretrained.saving import save

__all__ = [
    "CheckpointEncoder",
    "HubTokenizer",
    "ImagePreprocessor",
    "load",
    "rerankers",
    "save",
]
