"""How good embeddings are: retrieval metrics, and a callback that reports them."""

import keras
import numpy as np

from tfembloss import search

_METRICS = ("recall", "precision", "hit_rate", "mrr", "ndcg", "map")
DEFAULT_METRICS = ("recall@1", "recall@10", "mrr@10", "ndcg@10", "map@100")
LABEL_METRICS = ("precision@1", "precision@r", "map@r")
_QUERY_CHUNK = 1024


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
    | `map@k` | $\sum_{r \le k} h_r \, P(r) \;/\; \min(k, R)$, P(r) the precision at r |

    k is a number, or the letter `r` for each query's own R: `precision@r` is R-precision,
    `map@r` is MAP@R.

    Args:
        ranking: row numbers `[Q, K]` of the results of each query, best first, none
            twice, as `search.top_k` returns them. K should reach the largest k (with `r`
            the largest R), or the size of the corpus.
        relevant: for each query the row number that is relevant, or several of them.
        metrics: names from the table, with a number or `r` for k.

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
    cuts = _parse(metrics)
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
    return _means(_values(cuts, hits, num_relevant))


def label_retrieval_metrics(embeddings, ids, metrics=LABEL_METRICS, distance="cosine"):
    r"""Mean retrieval metrics where every row searches for the others with its label.

    Row by row, its R relevant rows are the other rows of its label, among all rows but
    itself. A row whose label no other row has finds nothing and is left out of the mean,
    though others may find it. With $h_r = 1$ where the result of rank r has the label:

    $$precision@R = \frac{1}{R} \sum_{r \le R} h_r \qquad
      MAP@R = \frac{1}{R} \sum_{r \le R} h_r \, \frac{1}{r} \sum_{i \le r} h_i$$

    Args:
        embeddings: array `[N, D]`.
        ids: labels `[N]`, integers or strings.
        metrics: as in `retrieval_metrics`. By default `precision@1`, which metric
            learning calls Recall@1, R-precision and MAP@R.
        distance: the distance that ranks, see `tfembloss.distances`.

    Returns:
        Dict of name to the mean over the rows that share their label, floats.

    Raises:
        ValueError: a metric or the distance is unknown, embeddings and ids do not fit, or
            no two rows share a label.

    Example:

    >>> angles = np.radians([0, 10, 18, 25])
    >>> points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    >>> label_retrieval_metrics(points, ["a", "a", "b", "a"])
    {'precision@1': 0.333..., 'precision@r': 0.5, 'map@r': 0.333...}

    Reference:
        Musgrave et al. 2020, A Metric Learning Reality Check,
        https://arxiv.org/abs/2003.08505

    Relations:
        Equal to pytorch-metric-learning's AccuracyCalculator, where the rows are their
        own reference: its `precision_at_1`, `r_precision`, `mean_average_precision_at_r`.
    """
    cuts = _parse(metrics)
    embeddings, ids = np.asarray(embeddings), np.asarray(ids)
    if embeddings.ndim != 2 or ids.shape != embeddings.shape[:1]:
        raise ValueError(
            "Expected embeddings [N, D] and a label for each of their rows. "
            f"Received: embeddings of shape {embeddings.shape}, ids of shape {ids.shape}"
        )
    _, classes, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    num_relevant = sizes[classes] - 1
    queries = np.flatnonzero(num_relevant)
    if not len(queries):
        raise ValueError(
            f"Expected two rows with the same label. Received: {len(ids)} rows, each of "
            "its own label."
        )
    values = []
    for start in range(0, len(queries), _QUERY_CHUNK):
        rows = queries[start : start + _QUERY_CHUNK]
        depth = min(_depth(cuts, num_relevant[rows]), len(ids) - 1)
        _, ranking = search.top_k(embeddings[rows], embeddings, depth + 1, distance)
        # Without the row itself, or where rows equal to it have pushed it out of the
        # ranking, without the last one.
        left_out = ranking == rows[:, None]
        left_out[~left_out.any(axis=1), -1] = True
        ranking = ranking[~left_out].reshape(len(rows), depth)
        hits = classes[ranking] == classes[rows][:, None]
        values.append(_values(cuts, hits, num_relevant[rows]))
    return _means({metric: np.concatenate([v[metric] for v in values]) for metric in cuts})


def _parse(metrics):
    """`["map@9", "map@r"]` as `{"map@9": ("map", 9), "map@r": ("map", "r")}`."""
    cuts = {}
    for metric in metrics:
        name, _, k = metric.partition("@")
        is_cut = k == "r" or (k.isdecimal() and int(k) > 0)
        if name not in _METRICS or not is_cut:
            raise ValueError(
                f"Unknown metric. Expected one of {_METRICS} with a number or r, like "
                f"'recall@10' or 'map@r'. Received: {metric!r}"
            )
        cuts[metric] = name, k if k == "r" else int(k)
    return cuts


def _depth(cuts, num_relevant):
    """How many results of a query the metrics look at, at most."""
    depths = [np.max(num_relevant) if k == "r" else k for _, k in cuts.values()]
    return int(max(depths, default=1))


def _values(cuts, hits, num_relevant):
    """For each metric its values `[Q]`, from hits `[Q, K]`."""
    values = {}
    for metric, (name, k) in cuts.items():
        k = num_relevant if k == "r" else np.full(len(hits), k)
        within = np.arange(1, hits.shape[1] + 1) <= k[:, None]
        values[metric] = _metric(name, k, (hits & within)[:, : k.max()], num_relevant)
    return values


def _means(values):
    return {metric: float(np.mean(of_queries)) for metric, of_queries in values.items()}


def _metric(name, k, hits, num_relevant):
    """Values `[Q]` of one metric from hits `[Q, K]`, none of them beyond k `[Q]`."""
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
            gains = 1 / np.log2(np.arange(2, k.max() + 2))  # of ranks 1 to k
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
        self._depth = _depth(
            _parse(self.metrics), [np.size(rows) for rows in self.relevant]
        )

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
