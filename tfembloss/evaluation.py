"""How good embeddings are: retrieval metrics, and a callback that reports them."""

import keras
import numpy as np

from tfembloss import search

_METRICS = ("recall", "precision", "hit_rate", "mrr", "ndcg", "map")
DEFAULT_METRICS = ("recall@1", "recall@10", "mrr@10", "ndcg@10", "map@100")


def retrieval_metrics(ranking, relevant, metrics=DEFAULT_METRICS):
    r"""Mean retrieval metrics of ranked results, relevance being yes or no.

    With $h_r = 1$ where the result of rank r (from 1) is relevant, and R relevant rows:

    | name | value for one query |
    |---|---|
    | `recall@k` | $\sum_{r \le k} h_r / R$ |
    | `precision@k` | $\sum_{r \le k} h_r / k$ |
    | `hit_rate@k` | 1 if any $h_r, r \le k$ |
    | `mrr@k` | $1 / r$ of the first relevant result within k, else 0 |
    | `ndcg@k` | $\sum_{r \le k} h_r / \log_2(r + 1)$, divided by its best value |
    | `map@k` | $\sum_{r \le k} h_r \, precision@r \;/\; \min(k, R)$ |

    Args:
        ranking: row numbers `[Q, K]` of the results of each query, best first, none
            twice, as `search.top_k` returns them. K should reach the largest k, or the
            size of the corpus.
        relevant: for each query the row number that is relevant, or several of them.
        metrics: names from the table with a number for k.

    Returns:
        Dict of name to the mean over the queries, floats.

    Raises:
        ValueError: a metric is unknown, or a query has nothing relevant.

    Example:

    >>> retrieval_metrics([[3, 0, 1], [2, 1, 0]], [3, [1, 0]], ["recall@1", "mrr@3"])
    {'recall@1': 0.5, 'mrr@3': 0.75}

    Relations:
        Equal to sentence-transformers' InformationRetrievalEvaluator, which calls
        `hit_rate@k` accuracy@k.
    """
    cuts = {metric: _parse(metric) for metric in metrics}
    ranking = np.asarray(ranking)
    relevant = [np.unique(rows) for rows in relevant]
    if ranking.ndim != 2 or len(ranking) != len(relevant):
        raise ValueError(
            "Expected a ranking [Q, K] and relevant rows for each of its queries. "
            f"Received: ranking of shape {ranking.shape}, {len(relevant)} queries."
        )
    for query, rows in enumerate(relevant):
        if not len(rows):
            raise ValueError(f"Expected something relevant to query {query}, got nothing.")

    hits = np.stack([np.isin(*pair) for pair in zip(ranking, relevant, strict=True)])
    num_relevant = np.array([len(rows) for rows in relevant])
    return {
        metric: float(np.mean(_metric(name, k, hits[:, :k], num_relevant)))
        for metric, (name, k) in cuts.items()
    }


def _parse(metric):
    """`"recall@10"` as `("recall", 10)`."""
    name, _, k = metric.partition("@")
    if name not in _METRICS or not k.isdecimal() or int(k) < 1:
        raise ValueError(
            f"Unknown metric. Expected one of {_METRICS} with a number, like "
            f"'recall@10'. Received: {metric!r}"
        )
    return name, int(k)


def _metric(name, k, hits, num_relevant):
    """Values `[Q]` of one metric from hits `[Q, <= k]`."""
    ranks = np.arange(1, hits.shape[1] + 1)
    found = hits.sum(axis=1)
    match name:
        case "recall":
            return found / num_relevant
        case "precision":
            return found / k
        case "hit_rate":
            return found > 0
        case "mrr":
            return (hits / ranks).max(axis=1)
        case "ndcg":
            gains = 1 / np.log2(np.arange(2, k + 2))  # of ranks 1 to k
            best = np.cumsum(gains)[np.minimum(num_relevant, k) - 1]
            return hits @ gains[: hits.shape[1]] / best
        case "map":
            precision = np.cumsum(hits, axis=1) / ranks
            return (hits * precision).sum(axis=1) / np.minimum(num_relevant, k)


class RetrievalEvaluator(keras.callbacks.Callback):
    """Searches a corpus after each epoch and puts retrieval metrics into the logs.

    Args:
        queries: inputs of the queries, as the model's `predict` takes them.
        corpus: inputs of the corpus, likewise.
        relevant: for each query the row of the corpus that answers it, or several.
        metrics: what to report, see `retrieval_metrics`.
        distance: the distance that ranks, see `tfembloss.distances`.
        batch_size: rows embedded at a time.

    After an epoch the logs hold `val_recall@1` and so on, for the callbacks that come
    after this one: `EarlyStopping(monitor="val_mrr@10", mode="max")`, say.

    Raises:
        ValueError: as `retrieval_metrics`; or queries and relevant differ in number.

    Example:

    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
    >>> points = np.random.default_rng(0).normal(size=[5, 2])
    >>> evaluator = RetrievalEvaluator(points, points, range(5), metrics=["mrr@3"])
    >>> evaluator.evaluate(model)
    {'mrr@3': 1.0}
    """

    def __init__(
        self,
        queries,
        corpus,
        relevant,
        metrics=DEFAULT_METRICS,
        distance="cosine",
        batch_size=256,
    ):
        super().__init__()
        self.queries = queries
        self.corpus = corpus
        self.relevant = list(relevant)
        if hasattr(queries, "__len__") and len(queries) != len(self.relevant):
            raise ValueError(
                "Expected relevant rows for each query. "
                f"Received: {len(queries)} queries, relevant rows for {len(self.relevant)}."
            )
        self.metrics = tuple(metrics) or DEFAULT_METRICS
        self.distance = distance
        self.batch_size = batch_size
        self._depth = max(_parse(metric)[1] for metric in self.metrics)

    def evaluate(self, model):
        """Metrics of a model as it stands: a dict of name to float."""
        queries, corpus = (
            model.predict(x, batch_size=self.batch_size, verbose=0)
            for x in (self.queries, self.corpus)
        )
        last = max(np.max(rows, initial=0) for rows in self.relevant)
        if last >= len(corpus):
            raise ValueError(
                f"Expected relevant rows below the corpus's {len(corpus)}. Received: {last}"
            )
        k = min(self._depth, len(corpus))
        _, ranking = search.top_k(queries, corpus, k, self.distance)
        return retrieval_metrics(ranking, self.relevant, self.metrics)

    def on_epoch_end(self, epoch, logs=None):
        """Adds the metrics to the epoch's logs."""
        found = self.evaluate(self.model)
        logs = {} if logs is None else logs
        logs.update({f"val_{name}": value for name, value in found.items()})
