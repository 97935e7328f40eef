"""Losses for embeddings: `keras.losses.Loss` subclasses for `model.compile(loss=...)`."""

from tfembloss.losses.base import EmbeddingLoss, InBatchLoss
from tfembloss.losses.classification.proxies import ProxyAnchorLoss, ProxyNCALoss
from tfembloss.losses.classification.softmax import (
    ArcFaceLoss,
    CosFaceLoss,
    NormalizedSoftmaxLoss,
    SoftmaxLoss,
)
from tfembloss.losses.distillation import (
    DistillKLDivLoss,
    GISTEmbedLoss,
    MarginMSELoss,
    MSELoss,
)
from tfembloss.losses.in_batch import (
    CLIPLoss,
    ContrastiveTensionLossInBatchNegatives,
    MegaBatchMarginLoss,
    MultipleNegativeRankingLoss,
    MultipleNegativesRankingLoss,
    SigLIPLoss,
)
from tfembloss.losses.labeled.base import LabelLoss, PairLoss
from tfembloss.losses.labeled.pairs import (
    CircleLoss,
    GeneralizedLiftedStructureLoss,
    LiftedStructureLoss,
    MarginLoss,
    MultiSimilarityLoss,
)
from tfembloss.losses.labeled.softmax import NPairsLoss, NTXentLoss, SupConLoss
from tfembloss.losses.labeled.triplets import (
    BatchAllTripletLoss,
    BatchHardSoftMarginTripletLoss,
    BatchHardTripletLoss,
    BatchSemiHardTripletLoss,
    TripletLoss,
    TripletMarginLoss,
)
from tfembloss.losses.names import make_known
from tfembloss.losses.recommended import for_data
from tfembloss.losses.reconstruction import DenoisingAutoEncoderLoss
from tfembloss.losses.scored_pairs import (
    AnglELoss,
    ContrastiveLoss,
    ContrastiveTensionLoss,
    CoSENTLoss,
    CosineSimilarityLoss,
    OnlineContrastiveLoss,
)
from tfembloss.losses.wrappers import MatryoshkaLoss

__all__ = [
    "AnglELoss",
    "ArcFaceLoss",
    "BatchAllTripletLoss",
    "BatchHardSoftMarginTripletLoss",
    "BatchHardTripletLoss",
    "BatchSemiHardTripletLoss",
    "CLIPLoss",
    "CircleLoss",
    "CoSENTLoss",
    "ContrastiveLoss",
    "ContrastiveTensionLoss",
    "ContrastiveTensionLossInBatchNegatives",
    "CosFaceLoss",
    "CosineSimilarityLoss",
    "DenoisingAutoEncoderLoss",
    "DistillKLDivLoss",
    "EmbeddingLoss",
    "GISTEmbedLoss",
    "GeneralizedLiftedStructureLoss",
    "InBatchLoss",
    "LabelLoss",
    "LiftedStructureLoss",
    "MSELoss",
    "MarginLoss",
    "MarginMSELoss",
    "MatryoshkaLoss",
    "MegaBatchMarginLoss",
    "MultiSimilarityLoss",
    "MultipleNegativeRankingLoss",
    "MultipleNegativesRankingLoss",
    "NPairsLoss",
    "NTXentLoss",
    "NormalizedSoftmaxLoss",
    "OnlineContrastiveLoss",
    "PairLoss",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "SigLIPLoss",
    "SoftmaxLoss",
    "SupConLoss",
    "TripletLoss",
    "TripletMarginLoss",
    "for_data",
]

make_known(
    {
        name: value
        for name, value in globals().items()
        if isinstance(value, type)
        and value not in (EmbeddingLoss, InBatchLoss, LabelLoss, PairLoss)
    }
)
