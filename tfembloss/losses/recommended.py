"""Which loss for which data."""

from tfembloss.losses.classification.softmax import ArcFaceLoss, CosFaceLoss, SoftmaxLoss
from tfembloss.losses.distillation import DistillKLDivLoss, MarginMSELoss, MSELoss
from tfembloss.losses.in_batch import MultipleNegativesRankingLoss
from tfembloss.losses.labeled.triplets import TripletLoss, TripletMarginLoss
from tfembloss.losses.listwise import ListNetLoss
from tfembloss.losses.listwise_pairs import LambdaLoss, RankNetLoss
from tfembloss.losses.ranked_pairs import AnglELoss, CoSENTLoss
from tfembloss.losses.reconstruction import DenoisingAutoEncoderLoss
from tfembloss.losses.scored_pairs import (
    ContrastiveLoss,
    CosineSimilarityLoss,
    OnlineContrastiveLoss,
)
from tfembloss.losses.two_encoders import (
    CLIPLoss,
    ContrastiveTensionLossInBatchNegatives,
    SigLIPLoss,
)

# The kinds of data, by what a row holds, and the losses for them, the best choice first.
# README's table says which shapes x and y have.
_LOSSES = {
    "article-label": (TripletMarginLoss, ArcFaceLoss, CosFaceLoss),
    "query-article": (MultipleNegativesRankingLoss,),
    "query-article-irrelevant_article": (
        MultipleNegativesRankingLoss,
        MarginMSELoss,
        TripletLoss,
    ),
    "query-article-score": (CoSENTLoss, CosineSimilarityLoss, AnglELoss),
    "query-article-match": (OnlineContrastiveLoss, ContrastiveLoss),
    "query-article-teacher_scores": (DistillKLDivLoss, MarginMSELoss),
    "query-articles-grades": (LambdaLoss, ListNetLoss, RankNetLoss),
    "premise-hypothesis-label": (SoftmaxLoss,),
    "text-image": (CLIPLoss, SigLIPLoss),
    "text-teacher_embedding": (MSELoss,),
    "text": (ContrastiveTensionLossInBatchNegatives, DenoisingAutoEncoderLoss),
}


def for_data(kind):
    """Returns the losses recommended for a kind of data, the best choice first.

    | kind | y | in `tfembloss.evaluation` |
    |---|---|---|
    | `"article-label"` | a class of each article | `LabelEvaluator` |
    | `"query-article"` | none: the other rows' articles are the negatives | `RetrievalEvaluator` |
    | `"query-article-irrelevant_article"` | none; a teacher's margins for `MarginMSELoss` | `TripletEvaluator`, `RetrievalEvaluator` |
    | `"query-article-score"` | how similar the two are, a number | `SimilarityEvaluator` |
    | `"query-article-match"` | 1 for a match, 0 for none | `PairClassificationEvaluator` |
    | `"query-article-teacher_scores"` | a teacher's score of each article of a query | `RerankingEvaluator` |
    | `"query-articles-grades"` | a grade of each article of a query, for `tfembloss.CrossEncoder` | `RerankingEvaluator` |
    | `"premise-hypothesis-label"` | the relation of two texts, a class | `SimilarityEvaluator` |
    | `"text-image"` | none: two modalities, for `tfembloss.DualEncoder` | `RetrievalEvaluator` |
    | `"text-teacher_embedding"` | a teacher's embedding of each text | `MSEEvaluator`, `TranslationEvaluator` |
    | `"text"` | none: texts only, for models of their own | `SimilarityEvaluator` |

    The README's table "Which loss for your data" says the same with the shapes of x and y.
    With `"query-article-teacher_scores"`, `RerankingEvaluator` is for data whose relevant
    articles are known.

    Args:
        kind: one of these.

    Returns:
        Tuple of losses with their default options, for `model.compile(loss=...)`.

    Raises:
        ValueError: if the kind is unknown.

    Example:

    >>> [type(loss).__name__ for loss in for_data("article-label")]
    ['TripletMarginLoss', 'ArcFaceLoss', 'CosFaceLoss']

    Relations:
        These are Finetuner's five kinds of data and its losses for them, and six more.
    """  # noqa: E501
    if kind in _LOSSES:
        return tuple(loss() for loss in _LOSSES[kind])
    raise ValueError(
        f"Unknown kind of data. Expected one of {sorted(_LOSSES)}. Received: kind={kind!r}"
    )
