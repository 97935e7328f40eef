"""Which losses and targets a `CrossEncoder` trains with."""

import tensorflow as tf

from tfembloss.losses.base import EmbeddingLoss
from tfembloss.losses.distillation import DistillKLDivLoss, MarginMSELoss
from tfembloss.losses.listwise import CrossEncoderMultipleNegativesRankingLoss, ListLoss

_ON_ONE_SCORE = (
    ListLoss,
    CrossEncoderMultipleNegativesRankingLoss,
    MarginMSELoss,
    DistillKLDivLoss,
)


def check_loss(loss, num_labels):
    """Raises ValueError for a loss of ours that does not take so many scores of a pair."""
    if not isinstance(loss, EmbeddingLoss):
        return
    name, of_pairs = type(loss).__name__, isinstance(loss, _ON_ONE_SCORE)
    if of_pairs and num_labels > 1:
        raise ValueError(
            f"{name} takes one score of each pair: expected a CrossEncoder with "
            f"num_labels=1. Received: num_labels={num_labels}. SoftmaxLoss takes logits of "
            "classes."
        )
    if not of_pairs and (not loss.takes_scores or getattr(loss, "cosines", False)):
        what = "cosines to classes" if loss.takes_scores else "embeddings"
        raise ValueError(
            f"{name} takes {what}, and a CrossEncoder returns scores of pairs. Expected a "
            "loss of Keras; on lists of documents, such as LambdaLoss; or "
            "CrossEncoderMultipleNegativesRankingLoss, on pairs without labels."
        )


def takes_any_length(loss):
    """Whether lists may be of different lengths: the others compare all scores of one."""
    return isinstance(loss, ListLoss) or not isinstance(loss, EmbeddingLoss)


def check_targets(loss, y, y_pred, num_labels, of_lists):
    """Raises ValueError if y are not labels or scores of pairs, or of each document."""
    shape = None if y is None else tuple(y.shape)
    if y is None or y.dtype == tf.string:
        right = False
    elif of_lists:
        on_scores = isinstance(loss, EmbeddingLoss)  # which checks the shape
        right = on_scores or y.shape.is_compatible_with(y_pred.shape)
    else:
        classes = [(num_labels,)] if num_labels > 1 else []
        right = shape[1:] in ((), (1,), *classes)
    if not right:
        each = "pair as y, numbers of shape [rows]"
        if of_lists:
            each = "text of a list as y, numbers of shape [rows, L]"
        raise ValueError(
            f"Expected one label or score for each {each}. Received: "
            f"{'none' if y is None else f'{y.dtype} of shape {shape}'}"
        )
