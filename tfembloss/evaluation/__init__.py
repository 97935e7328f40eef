"""Evaluation of embeddings: retrieval metrics, and a callback that logs them."""

from tfembloss.evaluation.metrics import (
    DEFAULT_METRICS,
    LABEL_METRICS,
    label_retrieval_metrics,
    retrieval_metrics,
)
from tfembloss.evaluation.retrieval import RetrievalEvaluator

__all__ = [
    "DEFAULT_METRICS",
    "LABEL_METRICS",
    "RetrievalEvaluator",
    "label_retrieval_metrics",
    "retrieval_metrics",
]
