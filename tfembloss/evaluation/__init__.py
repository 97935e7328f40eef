"""Evaluation of embeddings: retrieval metrics, and a callback that logs them.

| what you have | take |
|---|---|
| queries, a corpus and what is relevant, during `fit` | `RetrievalEvaluator` |
| the same, ranked already | `retrieval_metrics`, by default `DEFAULT_METRICS` |
| embeddings with a label each | `label_retrieval_metrics`, by default `LABEL_METRICS` |
"""

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
