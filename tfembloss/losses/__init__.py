"""Losses for embeddings: `keras.losses.Loss` subclasses for `model.compile(loss=...)`."""

from tfembloss.losses.base import EmbeddingLoss, LabelLoss
from tfembloss.losses.choice import for_data
from tfembloss.losses.classification import (
    ArcFaceLoss,
    CosFaceLoss,
    NormalizedSoftmaxLoss,
    ProxyAnchorLoss,
    ProxyNCALoss,
    SoftmaxLoss,
)
from tfembloss.losses.contrastive_tension import (
    ContrastiveTensionLoss,
    ContrastiveTensionLossInBatchNegatives,
)
from tfembloss.losses.distillation import (
    DistillKLDivLoss,
    GISTEmbedLoss,
    MarginMSELoss,
    MSELoss,
)
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
from tfembloss.losses.names import make_known
from tfembloss.losses.pairs import (
    AnglELoss,
    ContrastiveLoss,
    CoSENTLoss,
    CosineSimilarityLoss,
    OnlineContrastiveLoss,
)
from tfembloss.losses.ranking import (
    MegaBatchMarginLoss,
    MultipleNegativeRankingLoss,
    MultipleNegativesRankingLoss,
)
from tfembloss.losses.reconstruction import DenoisingAutoEncoderLoss
from tfembloss.losses.triplets import (
    BatchAllTripletLoss,
    BatchHardSoftMarginTripletLoss,
    BatchHardTripletLoss,
    BatchSemiHardTripletLoss,
    TripletLoss,
    TripletMarginLoss,
)
from tfembloss.losses.two_towers import CLIPLoss, SigLIPLoss
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
        if isinstance(value, type) and value not in (EmbeddingLoss, LabelLoss)
    }
)
