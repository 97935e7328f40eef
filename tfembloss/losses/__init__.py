"""Losses for embeddings: `keras.losses.Loss` subclasses for `model.compile(loss=...)`."""

from tfembloss.losses.base import EmbeddingLoss
from tfembloss.losses.ranking import (
    MultipleNegativeRankingLoss,
    MultipleNegativesRankingLoss,
)

__all__ = [
    "EmbeddingLoss",
    "MultipleNegativeRankingLoss",
    "MultipleNegativesRankingLoss",
]
