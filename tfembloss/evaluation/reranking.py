"""Metrics of lists of scored documents, and a callback that reranks candidates."""

from collections.abc import Mapping

import numpy as np

from tfembloss import distances
from tfembloss.checks import as_list, integer, shown
from tfembloss.evaluation.evaluator import Evaluator
from tfembloss.evaluation.pair_evaluators import row_similarities
from tfembloss.evaluation.pairs import average_precision
from tfembloss.models.cross_encoder import CrossEncoder


def reranking_metrics(scores, relevant, at_k=10):
    r"""Computes mean metrics of the order that scores give to each query's documents.

    | name | value for one query |
    |---|---|
    | `map` | $\sum_t (R_t - R_{t-1})\, P_t$ over the thresholds t of all documents |
    | `mrr@k` | $1 / r$ of the first relevant document within k, else 0 |
    | `ndcg@k` | $\sum_{r \le k} h_r / \log_2(r + 1)$, divided by its maximum |

    Documents of equal scores share a threshold, and in `ndcg` the mean of their places; in
    `mrr` the relevant ones come last.

    Args:
        scores: for each query the scores of its documents; the larger, the better.
        relevant: for each query as many numbers, 1 for relevant documents and 0 for others.
        at_k: k, > 0.

    Returns:
        Dict of name to the mean over the queries, floats.

    Raises:
        ValueError: numbers of queries or documents differ, a score is not finite, or a
            query has no relevant document or no other.

    Example:

    >>> reranking_metrics([[0.9, 0.5, 0.1], [0.2, 0.7]], [[0, 1, 0], [0, 1]])
    {'map': 0.75, 'mrr@10': 0.75, 'ndcg@10': 0.815...}

    Relations:
        Equal to sentence-transformers' RerankingEvaluator and
        CrossEncoderRerankingEvaluator of positive and negative documents; their `mrr` of
        equal scores is undefined.
    """
    at_k = integer("at_k", at_k, 1)
    scores, relevant = as_list(scores, "scores"), as_list(relevant, "relevant")
    if len(scores) != len(relevant) or not scores:
        raise ValueError(
            "Expected scores and relevant of each query, and at least one. Received: "
            f"{len(scores)} and {len(relevant)} queries."
        )
    found = [
        _of_query(np.asarray(x, "float64"), np.asarray(y), at_k, query)
        for query, (x, y) in enumerate(zip(scores, relevant, strict=True))
    ]
    names = ("map", f"mrr@{at_k}", f"ndcg@{at_k}")
    return dict(zip(names, map(float, np.mean(found, axis=0)), strict=True))


def _of_query(scores, relevant, k, query):
    if scores.shape != relevant.shape or scores.ndim != 1 or not np.isfinite(scores).all():
        raise ValueError(
            "Expected a finite score for each document, and whether it is relevant. "
            f"Received: shapes {scores.shape} and {relevant.shape} of query {query}."
        )
    if not np.isin(relevant, (0, 1)).all() or len(np.unique(relevant)) != 2:
        raise ValueError(
            "Expected some relevant documents, 1, and some others, 0. Received: "
            f"{shown(relevant.tolist())} of query {query}."
        )
    relevant = relevant.astype("float64")
    order = np.lexsort((relevant, -scores))
    ranks = np.arange(1, len(scores) + 1)
    hits = relevant[order]
    first = ranks[hits > 0][0]
    _, ties = np.unique(-scores[order], return_inverse=True)
    shares = (np.bincount(ties, hits) / np.bincount(ties))[ties]
    gains = np.where(ranks <= k, 1 / np.log2(ranks + 1), 0)
    best = gains[: int(relevant.sum())].sum()
    return (
        average_precision(scores, relevant),
        1 / first if first <= k else 0.0,
        shares @ gains / best,
    )


class RerankingEvaluator(Evaluator):
    """Orders each query's candidates, relevant and not, after each epoch.

    Args:
        samples: list of dicts, one for each query: `query`, the text; `positive`, a text or
            a list of texts that are relevant; `negative`, likewise of others. A sample
            without one of these is an error.
        at_k: k of `mrr@k` and `ndcg@k`, > 0.
        distance: the distance that orders, see `tfembloss.distances`. A `CrossEncoder`
            gives scores itself.
        **options: see `Evaluator`. The logs contain `val_map`, `val_mrr@10` and
            `val_ndcg@10`.

    Raises:
        ValueError: an argument is invalid.

    Example:

    >>> class Lengths:
    ...     def predict(self, texts, **options):
    ...         return np.array([[len(text), 1.0] for text in texts])
    >>> samples = [{"query": "aaa", "positive": "bbb", "negative": ["b", "bb"]}]
    >>> RerankingEvaluator(samples, distance="euclidean").evaluate(Lengths())
    {'map': 1.0, 'mrr@10': 1.0, 'ndcg@10': 1.0}

    Relations:
        sentence-transformers' RerankingEvaluator, whose samples are taken unchanged, and
        its CrossEncoderRerankingEvaluator for a `CrossEncoder`. They leave samples out that
        have no positive or no negative text.
    """

    def __init__(self, samples, at_k=10, distance="cosine", **options):
        super().__init__(**options)
        samples = samples.values() if isinstance(samples, Mapping) else samples
        samples = as_list(samples, "samples as a list of dicts")
        self.queries, self.documents, self.relevant = [], [], []
        for place, sample in enumerate(samples):
            query, positive, negative = _checked(sample, place)
            self.queries.append(query)
            self.documents.append([*positive, *negative])
            self.relevant.append([1] * len(positive) + [0] * len(negative))
        if not self.queries:
            raise ValueError("Expected at least one sample. Received none.")
        self.at_k = integer("at_k", at_k, 1)
        distances.get(distance)
        self.distance = distance

    def evaluate(self, model):
        """Computes the metrics of a model in its current state: a dict of name to float."""
        documents = [text for of_query in self.documents for text in of_query]
        ends = np.cumsum([len(of_query) for of_query in self.documents])[:-1]
        sizes = [len(of_query) for of_query in self.documents]
        if isinstance(model, CrossEncoder):
            queries = [
                x for x, n in zip(self.queries, sizes, strict=True) for _ in range(n)
            ]
            pairs = (queries, documents)
            scores = model.predict(pairs, batch_size=self.batch_size, verbose=0)
        else:
            queries = self.embeddings(model, self.queries, "queries", "query")
            texts = list(dict.fromkeys(documents))
            places = {text: place for place, text in enumerate(texts)}
            found = self.embeddings(model, texts, "documents", "document")
            found = found[[places[text] for text in documents]]
            queries = np.repeat(queries, sizes, axis=0)
            scores = row_similarities(queries, found, self.distance)
        return reranking_metrics(np.split(scores, ends), self.relevant, self.at_k)


def _checked(sample, place):
    """Returns a sample's query, positive and negative texts."""
    names = ("query", "positive", "negative")
    texts = []
    if isinstance(sample, Mapping) and all(name in sample for name in names):
        given = [sample[name] for name in names]
        texts = [[x] if isinstance(x, str | bytes) else list(x or ()) for x in given]
    if not all(texts) or not texts or len(texts[0]) != 1:
        raise ValueError(
            "Expected samples as dicts with a query, and at least one positive and one "
            f"negative text. Received: {shown(sample)} in place {place}. Leave such a "
            "sample out."
        )
    return texts[0][0], texts[1], texts[2]
