"""Losses for embeddings: `keras.losses.Loss` subclasses for `model.compile(loss=...)`."""

from tfembloss.losses.base import EmbeddingLoss, LabelLoss
from tfembloss.losses.label_pairs import (
    CircleLoss,
    GeneralizedLiftedStructureLoss,
    LiftedStructureLoss,
    MarginLoss,
    MultiSimilarityLoss,
    NPairsLoss,
    NTXentLoss,
    SupConLoss,
)
from tfembloss.losses.ranking import (
    MultipleNegativeRankingLoss,
    MultipleNegativesRankingLoss,
)
from tfembloss.losses.triplets import (
    BatchAllTripletLoss,
    BatchHardSoftMarginTripletLoss,
    BatchHardTripletLoss,
    BatchSemiHardTripletLoss,
    TripletLoss,
    TripletMarginLoss,
)

__all__ = [
    "BatchAllTripletLoss",
    "BatchHardSoftMarginTripletLoss",
    "BatchHardTripletLoss",
    "BatchSemiHardTripletLoss",
    "CircleLoss",
    "EmbeddingLoss",
    "GeneralizedLiftedStructureLoss",
    "LabelLoss",
    "LiftedStructureLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "MultipleNegativeRankingLoss",
    "MultipleNegativesRankingLoss",
    "NPairsLoss",
    "NTXentLoss",
    "SupConLoss",
    "TripletLoss",
    "TripletMarginLoss",
]
