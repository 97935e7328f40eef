"""Evaluation of embeddings and scores: metrics, and callbacks that log them in `fit`.

| what you have | in `fit` | of arrays |
|---|---|---|
| queries, a corpus and what is relevant | `RetrievalEvaluator` | `retrieval_metrics`, by default `DEFAULT_METRICS` |
| the same as files of BEIR | `read_beir` reads them | |
| the benchmarks of the package mteb | `MTEBEncoder`, after training | |
| two rankings: what the second one no longer answers | | `error_analysis` |
| rows with a label each | `LabelEvaluator` | `label_retrieval_metrics`, by default `LABEL_METRICS`; `clustering_metrics` |
| pairs with a score | `SimilarityEvaluator` | `similarity_metrics` |
| pairs with a label 1 or 0 | `PairClassificationEvaluator` | `pair_classification_metrics` |
| the same, and a precision or recall to reach | | `calibrate` |
| candidates of each query, relevant and not | `RerankingEvaluator` | `reranking_metrics` |
| texts, and which of them are duplicates | `ParaphraseMiningEvaluator` | |
| triplets | `TripletEvaluator` | |
| texts and their translations | `TranslationEvaluator` | |
| a teacher's embeddings | `MSEEvaluator` | |
| pictures, with `pip install "tfembloss[plot]"` | `plot_history` | `plot_embeddings`, `plot_similarities`, `plot_precision_recall` |
| files for TensorBoard's projector | | `tensorboard_projector` |
| queries and results to look through | | `nearest_neighbors_page` |
| a measure of your own | a subclass of `Evaluator` | |
"""  # noqa: E501

from tfembloss.evaluation.beir import RetrievalData, read_beir
from tfembloss.evaluation.clusters import clustering_metrics
from tfembloss.evaluation.errors import LostQuery, error_analysis
from tfembloss.evaluation.evaluator import Evaluator
from tfembloss.evaluation.labels import LabelEvaluator
from tfembloss.evaluation.metrics import (
    DEFAULT_METRICS,
    LABEL_METRICS,
    label_retrieval_metrics,
    retrieval_metrics,
)
from tfembloss.evaluation.mteb import MTEBEncoder
from tfembloss.evaluation.page import nearest_neighbors_page
from tfembloss.evaluation.pair_evaluators import (
    MSEEvaluator,
    PairClassificationEvaluator,
    ParaphraseMiningEvaluator,
    SimilarityEvaluator,
    TranslationEvaluator,
    TripletEvaluator,
)
from tfembloss.evaluation.pairs import (
    calibrate,
    pair_classification_metrics,
    similarity_metrics,
)
from tfembloss.evaluation.plots import (
    plot_embeddings,
    plot_history,
    plot_precision_recall,
    plot_similarities,
)
from tfembloss.evaluation.projector import tensorboard_projector
from tfembloss.evaluation.reranking import RerankingEvaluator, reranking_metrics
from tfembloss.evaluation.retrieval import RetrievalEvaluator

__all__ = [
    "DEFAULT_METRICS",
    "LABEL_METRICS",
    "Evaluator",
    "LabelEvaluator",
    "LostQuery",
    "MSEEvaluator",
    "MTEBEncoder",
    "PairClassificationEvaluator",
    "ParaphraseMiningEvaluator",
    "RerankingEvaluator",
    "RetrievalData",
    "RetrievalEvaluator",
    "SimilarityEvaluator",
    "TranslationEvaluator",
    "TripletEvaluator",
    "calibrate",
    "clustering_metrics",
    "error_analysis",
    "label_retrieval_metrics",
    "nearest_neighbors_page",
    "pair_classification_metrics",
    "plot_embeddings",
    "plot_history",
    "plot_precision_recall",
    "plot_similarities",
    "read_beir",
    "reranking_metrics",
    "retrieval_metrics",
    "similarity_metrics",
    "tensorboard_projector",
]
