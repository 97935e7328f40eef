"""Pretrained encoders: checkpoint folders in and out.

`tfembloss.EmbeddingModel.from_pretrained` is the way in; `load` gives its two parts.
"""

from tfembloss.pretrained.encoder import CheckpointEncoder
from tfembloss.pretrained.loading import load
from tfembloss.pretrained.saving import save

__all__ = ["CheckpointEncoder", "load", "save"]
