"""Pretrained encoders: checkpoint folders in.

`tfembloss.EmbeddingModel.from_pretrained` is the way in; `load` gives its two parts.
"""

from tfembloss.pretrained.encoder import CheckpointEncoder
from tfembloss.pretrained.loading import load

__all__ = ["CheckpointEncoder", "load"]
