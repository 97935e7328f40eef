"""Pretrained encoders: checkpoint folders in and out, and those of keras-hub in.

`tfembloss.EmbeddingModel.from_pretrained` is the way in; `load` gives its two parts.
`tfembloss.CrossEncoder.from_pretrained` reads pairs.
"""

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
    "save",
]
