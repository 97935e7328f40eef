"""Losses for embeddings: `keras.losses.Loss` subclasses for `model.compile(loss=...)`.

| what you have | y | losses |
|---|---|---|
| pairs | none | `MultipleNegativesRankingLoss`, `MegaBatchMarginLoss` |
| pairs, and negatives of each | none | `MultipleNegativesRankingLoss`, `TripletLoss` |
| pairs, and a guide's embeddings | those, `[B, n, G]` | `GISTEmbedLoss` |
| pairs of two modalities | none | `CLIPLoss`, `SigLIPLoss` |
| pairs, and their likeness | `[B]` | `CoSENTLoss`, `CosineSimilarityLoss`, `AnglELoss` |
| pairs, and whether they match | 1, 0 `[B]` | `OnlineContrastiveLoss`, `ContrastiveLoss` |
| pairs, and their relation | label `[B]` from 0 | `SoftmaxLoss` |
| labeled rows | label `[B]` | on triplets: `TripletMarginLoss`, `BatchAllTripletLoss`, \
`BatchHardTripletLoss`, `BatchHardSoftMarginTripletLoss`, `BatchSemiHardTripletLoss`, \
`QuadrupletLoss`, `DynamicSoftMarginLoss` |
| | | on pairs: `SupConLoss`, `NTXentLoss`, `MultiSimilarityLoss`, `CircleLoss`, \
`MarginLoss`, `NPairsLoss`, `LiftedStructureLoss`, `GeneralizedLiftedStructureLoss`, \
`LabelContrastiveLoss`, `SignalToNoiseRatioContrastiveLoss`, `IntraPairVarianceLoss`, \
`ThresholdConsistentMarginLoss`, `NCALoss`, `TupletMarginLoss`, `RankedListLoss`, \
`DecoupledContrastiveLoss`, `AngularLoss`, `HistogramLoss` |
| | | on ranks: `SmoothAPLoss`, `PNPLoss`, `RecallAtKSurrogateLoss`, `FastAPLoss` |
| | label `[B]` from 0 | with a head: `ArcFaceLoss`, `CosFaceLoss`, \
`NormalizedSoftmaxLoss`, `ProxyAnchorLoss`, `ProxyNCALoss`, `SoftTripleLoss`, \
`CombinedMarginLoss`, `CurricularFaceLoss`, `ElasticFaceLoss`, `P2SGradLoss` |
| | | with a head, by the embeddings' lengths too: `AdaFaceLoss`, `MagFaceLoss`, \
`SphereFaceLoss`, `LargeMarginSoftmaxLoss` |
| a teacher's scores | `[B, n]` | `DistillKLDivLoss` |
| a teacher's margins | `[B]` or `[B, n]` | `MarginMSELoss` |
| a teacher's embeddings | `[B, D]` | `MSELoss`, `EmbedDistillLoss` |
| two views or more of unlabeled rows | none | `SelfSupervisedLoss` around a loss on \
labels, `VICRegLoss`, `BarlowTwinsLoss`, `AlignmentLoss`, `SimSiamLoss` |
| queries with lists of documents, for a `CrossEncoder` | label of each `[B, L]` | \
`LambdaLoss`, `ListNetLoss`, `RankNetLoss`, `ListMLELoss`, `PositionAwareListMLELoss`, \
`ADRMSELoss` |
| pairs, for a `CrossEncoder` | none | `CrossEncoderMultipleNegativesRankingLoss` |
| texts | none | `ContrastiveTensionLossInBatchNegatives`, `DenoisingAutoEncoderLoss` |
| | 1, 0 `[B]` | `ContrastiveTensionLoss` |

The first loss of a row is the first to try; `for_data` makes them by the kind of data.
`tfembloss.models` says which model goes with them, `tfembloss.miners` which pairs and
triplets of labeled rows count. Around a loss, `MatryoshkaLoss` trains embeddings that can
be cut short, `AdaptiveLayerLoss` encoders whose last layers can be left out,
`Matryoshka2dLoss` both; `WeightedSum` adds losses up, also regularizers, which are losses
of embeddings alone: `GlobalOrthogonalRegularizationLoss`, `FlopsLoss`,
`LpRegularizationLoss`, `ZeroMeanRegularizationLoss`, `UniformityLoss`. Bases for your own:
`EmbeddingLoss`, `InBatchLoss`, `LabelLoss`, `ListLoss`, `PairLoss`.
"""

from tfembloss.losses.base import EmbeddingLoss, InBatchLoss
from tfembloss.losses.classification.lengths import (
    AdaFaceLoss,
    LargeMarginSoftmaxLoss,
    MagFaceLoss,
    SphereFaceLoss,
)
from tfembloss.losses.classification.margins import (
    CombinedMarginLoss,
    CurricularFaceLoss,
    ElasticFaceLoss,
)
from tfembloss.losses.classification.proxies import (
    P2SGradLoss,
    ProxyAnchorLoss,
    ProxyNCALoss,
)
from tfembloss.losses.classification.softmax import (
    ArcFaceLoss,
    CosFaceLoss,
    NormalizedSoftmaxLoss,
    SoftmaxLoss,
    SoftTripleLoss,
)
from tfembloss.losses.distillation import (
    DistillKLDivLoss,
    EmbedDistillLoss,
    MarginMSELoss,
    MSELoss,
)
from tfembloss.losses.in_batch import (
    MegaBatchMarginLoss,
    MultipleNegativeRankingLoss,
    MultipleNegativesRankingLoss,
)
from tfembloss.losses.in_batch_guided import GISTEmbedLoss
from tfembloss.losses.labeled.angular import AngularLoss
from tfembloss.losses.labeled.base import LabelLoss, PairLoss
from tfembloss.losses.labeled.contrastive import (
    IntraPairVarianceLoss,
    LabelContrastiveLoss,
    SignalToNoiseRatioContrastiveLoss,
    ThresholdConsistentMarginLoss,
)
from tfembloss.losses.labeled.histograms import DynamicSoftMarginLoss, HistogramLoss
from tfembloss.losses.labeled.pairs import (
    CircleLoss,
    GeneralizedLiftedStructureLoss,
    LiftedStructureLoss,
    MarginLoss,
    MultiSimilarityLoss,
)
from tfembloss.losses.labeled.precision import (
    FastAPLoss,
    PNPLoss,
    RecallAtKSurrogateLoss,
    SmoothAPLoss,
)
from tfembloss.losses.labeled.quadruplets import QuadrupletLoss
from tfembloss.losses.labeled.softmax import (
    DecoupledContrastiveLoss,
    NPairsLoss,
    NTXentLoss,
    SupConLoss,
)
from tfembloss.losses.labeled.triplets import (
    BatchAllTripletLoss,
    BatchHardSoftMarginTripletLoss,
    BatchHardTripletLoss,
    BatchSemiHardTripletLoss,
    TripletLoss,
    TripletMarginLoss,
)
from tfembloss.losses.labeled.tuplets import NCALoss, RankedListLoss, TupletMarginLoss
from tfembloss.losses.layerwise import AdaptiveLayerLoss, Matryoshka2dLoss
from tfembloss.losses.listwise import (
    CrossEncoderMultipleNegativesRankingLoss,
    ListLoss,
    ListMLELoss,
    ListNetLoss,
    PListMLELoss,
    PositionAwareListMLELoss,
)
from tfembloss.losses.listwise_pairs import ADRMSELoss, LambdaLoss, RankNetLoss
from tfembloss.losses.names import make_known
from tfembloss.losses.ranked_pairs import AnglELoss, CoSENTLoss
from tfembloss.losses.recommended import for_data
from tfembloss.losses.reconstruction import DenoisingAutoEncoderLoss
from tfembloss.losses.regularizers import (
    FlopsLoss,
    GlobalOrthogonalRegularizationLoss,
    LpRegularizationLoss,
    ZeroMeanRegularizationLoss,
)
from tfembloss.losses.scored_pairs import (
    ContrastiveLoss,
    ContrastiveTensionLoss,
    CosineSimilarityLoss,
    OnlineContrastiveLoss,
)
from tfembloss.losses.self_supervised import (
    AlignmentLoss,
    BarlowTwinsLoss,
    SelfSupervisedLoss,
    SimSiamLoss,
    UniformityLoss,
    VICRegLoss,
)
from tfembloss.losses.two_encoders import (
    CLIPLoss,
    ContrastiveTensionLossInBatchNegatives,
    SigLIPLoss,
)
from tfembloss.losses.wrappers import MatryoshkaLoss, WeightedSum

__all__ = [
    "ADRMSELoss",
    "AdaFaceLoss",
    "AdaptiveLayerLoss",
    "AlignmentLoss",
    "AnglELoss",
    "AngularLoss",
    "ArcFaceLoss",
    "BarlowTwinsLoss",
    "BatchAllTripletLoss",
    "BatchHardSoftMarginTripletLoss",
    "BatchHardTripletLoss",
    "BatchSemiHardTripletLoss",
    "CLIPLoss",
    "CircleLoss",
    "CoSENTLoss",
    "CombinedMarginLoss",
    "ContrastiveLoss",
    "ContrastiveTensionLoss",
    "ContrastiveTensionLossInBatchNegatives",
    "CosFaceLoss",
    "CosineSimilarityLoss",
    "CrossEncoderMultipleNegativesRankingLoss",
    "CurricularFaceLoss",
    "DecoupledContrastiveLoss",
    "DenoisingAutoEncoderLoss",
    "DistillKLDivLoss",
    "DynamicSoftMarginLoss",
    "ElasticFaceLoss",
    "EmbedDistillLoss",
    "EmbeddingLoss",
    "FastAPLoss",
    "FlopsLoss",
    "GISTEmbedLoss",
    "GeneralizedLiftedStructureLoss",
    "GlobalOrthogonalRegularizationLoss",
    "HistogramLoss",
    "InBatchLoss",
    "IntraPairVarianceLoss",
    "LabelContrastiveLoss",
    "LabelLoss",
    "LambdaLoss",
    "LargeMarginSoftmaxLoss",
    "LiftedStructureLoss",
    "ListLoss",
    "ListMLELoss",
    "ListNetLoss",
    "LpRegularizationLoss",
    "MSELoss",
    "MagFaceLoss",
    "MarginLoss",
    "MarginMSELoss",
    "Matryoshka2dLoss",
    "MatryoshkaLoss",
    "MegaBatchMarginLoss",
    "MultiSimilarityLoss",
    "MultipleNegativeRankingLoss",
    "MultipleNegativesRankingLoss",
    "NCALoss",
    "NPairsLoss",
    "NTXentLoss",
    "NormalizedSoftmaxLoss",
    "OnlineContrastiveLoss",
    "P2SGradLoss",
    "PListMLELoss",
    "PNPLoss",
    "PairLoss",
    "PositionAwareListMLELoss",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "QuadrupletLoss",
    "RankNetLoss",
    "RankedListLoss",
    "RecallAtKSurrogateLoss",
    "SelfSupervisedLoss",
    "SigLIPLoss",
    "SignalToNoiseRatioContrastiveLoss",
    "SimSiamLoss",
    "SmoothAPLoss",
    "SoftTripleLoss",
    "SoftmaxLoss",
    "SphereFaceLoss",
    "SupConLoss",
    "ThresholdConsistentMarginLoss",
    "TripletLoss",
    "TripletMarginLoss",
    "TupletMarginLoss",
    "UniformityLoss",
    "VICRegLoss",
    "WeightedSum",
    "ZeroMeanRegularizationLoss",
    "for_data",
]

make_known(
    {
        name: value
        for name, value in globals().items()
        if isinstance(value, type)
        and value not in (EmbeddingLoss, InBatchLoss, LabelLoss, ListLoss, PairLoss)
    }
)
