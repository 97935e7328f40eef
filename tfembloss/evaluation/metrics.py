"""Retrieval metrics of rankings, and of embeddings with labels."""

from collections.abc import Mapping

import numpy as np

from tfembloss import search
from tfembloss.checks import as_list, one_of
from tfembloss.evaluation.inputs import (
    EXPECTED_RELEVANT,
    NO_RESULT,
    as_numbers,
    by_query,
    check_ranking,
    check_relevant,
    grades_of,
    labels_of,
    named_query,
)

_METRICS = ("recall", "precision", "hit_rate", "mrr", "ndcg", "map")
DEFAULT_METRICS = ("recall@1", "recall@10", "mrr@10", "ndcg@10", "map@100")
LABEL_METRICS = ("precision@1", "precision@r", "map@r")
AVERAGES = ("micro", "macro", None)
_QUERY_CHUNK = 1024


def retrieval_metrics(ranking, relevant, metrics=DEFAULT_METRICS):
    r"""Computes mean retrieval metrics of ranked results.

    With $h_r = 1$ if the result of rank r (from 1) is relevant, else 0, its grade $g_r$,
    which is $h_r$ if there are no grades, and R relevant rows:

    | name | value for one query |
    |---|---|
    | `recall@k` | $\sum_{r \le k} h_r / R$ |
    | `precision@k` | $\sum_{r \le k} h_r / k$ |
    | `hit_rate@k` | 1 if any $h_r, r \le k$ |
    | `mrr@k` | $1 / r$ of the first relevant result within k, else 0 |
    | `ndcg@k` | $\sum_{r \le k} g_r / \log_2(r + 1)$, divided by its maximum |
    | `map@k` | $\sum_{r \le k} h_r \, P(r) \;/\; \min(k, R)$, P(r) the precision at r |

    k is a number, or the letter `r` for each query's own R: `precision@r` is R-precision,
    `map@r` is MAP@R.

    Args:
        ranking: row numbers `[Q, K]` of the results of each query, best first, without
            duplicates, as `search.top_k` returns them. K should be at least the largest k
            (with `r`, the largest R), or the size of the corpus. A query with fewer results
            has a shorter list, or is padded with -1. Text ids are accepted too, and so is a
            dict of query id to results.
        relevant: for each query the row number (or id) that is relevant, or several of
            them as a list, an array or a set, or as a dict of row to grade: rows with a
            grade above 0 are relevant, and `ndcg` uses their grades. If `ranking` is a
            dict, a dict of query id to these. A row that is not in the ranking counts as
            not found: only `RetrievalEvaluator` knows which rows exist.
        metrics: names from the table, with a number or `r` for k.

    Returns:
        Dict of name to the mean over the queries, floats.

    Raises:
        ValueError: a query has nothing relevant; a ranking has duplicates or is too short
            for k; `relevant` is a mask, has row numbers while the ranking has text ids, or
            is for other queries.

    Example:

    >>> retrieval_metrics([[3, 0, 1], [2, 1, 0]], [3, [1, 0]], ["recall@1", "mrr@3"])
    {'recall@1': 0.5, 'mrr@3': 0.75}
    >>> run, judged = {"q7": ["d2", "d9"]}, {"q7": {"d9": 1, "d5": 1, "d2": 0}}
    >>> retrieval_metrics(run, judged, ["recall@2", "mrr@2"])
    {'recall@2': 0.5, 'mrr@2': 0.5}
    >>> retrieval_metrics([[1, 0]], [{0: 3, 1: 1}], ["ndcg@2"])
    {'ndcg@2': 0.796...}

    Relations:
        Equal to sentence-transformers' InformationRetrievalEvaluator, which calls
        `hit_rate@k` accuracy@k and knows no grades. With grades, `ndcg` is that of
        trec_eval, and so of BEIR and MTEB.
    """
    cuts = parse_metrics(metrics)
    names = list(ranking) if isinstance(ranking, Mapping) else None
    ranking = check_ranking(ranking if names is None else list(ranking.values()))
    if names is not None or isinstance(relevant, Mapping):
        relevant = by_query(relevant, range(len(ranking)) if names is None else names)
    given = as_list(relevant, EXPECTED_RELEVANT)
    relevant = check_relevant(given, names)
    if len(ranking) != len(relevant) or not len(ranking):
        raise ValueError(
            "Expected a ranking [Q, K] of at least one query, and relevant rows for each. "
            f"Received: a ranking of {len(ranking)} queries, relevant rows for "
            f"{len(relevant)} queries."
        )
    ranking, relevant, number_of = as_numbers(ranking, relevant, names)
    grades = grades_of(given, relevant, number_of)
    return metrics_of(cuts, ranking, relevant, grades, names)


def metrics_of(cuts, ranking, relevant, grades=None, names=None):
    """Computes metrics of a checked ranking `[Q, K]` of numbers, and arrays of them."""
    _check_results(cuts, ranking, relevant, names)
    num_relevant = np.array([len(rows) for rows in relevant])
    values = []
    for start in range(0, len(ranking), _QUERY_CHUNK):
        part = slice(start, start + _QUERY_CHUNK)
        graded = None if grades is None else grades[part]
        hits, gains = _hits(ranking[part], relevant[part], graded)
        values.append(_values(cuts, hits, num_relevant[part], gains, graded))
    return _means({metric: np.concatenate([v[metric] for v in values]) for metric in cuts})


def _hits(ranking, relevant, grades=None):
    """Returns whether a query's results are relevant to it, and their grades, `[Q, K]`."""
    known, numbers = np.unique(np.concatenate(relevant), return_inverse=True)
    places = np.minimum(np.searchsorted(known, ranking), len(known) - 1)
    queries = np.arange(len(ranking))
    of_relevant = np.repeat(queries, [len(rows) for rows in relevant])
    relevant = of_relevant * len(known) + numbers  # ascending, as each query's rows are
    results = queries[:, None] * len(known) + places
    found = np.minimum(np.searchsorted(relevant, results), len(relevant) - 1)
    hits = (relevant[found] == results) & (known[places] == ranking)
    return hits, None if grades is None else np.concatenate(grades)[found] * hits


def _check_results(cuts, ranking, relevant, names):
    """Checks that there are no duplicates, and that the ranking is long enough for k."""
    ordered = np.sort(ranking, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != NO_RESULT)
    if twice.any():
        query, place = np.argwhere(twice)[0]
        raise ValueError(
            "Expected a ranking without duplicates. Received: row "
            f"{ordered[query, place]} twice {named_query(query, names)}."
        )
    # A ranking of the whole corpus (without the query itself) may be shorter than k.
    width = ranking.shape[1]
    num_rows = max(ranking.max(initial=0), *(rows[-1] for rows in relevant)) + 1
    if num_rows > width + 1 and width and (ranking != NO_RESULT).all():
        for metric, (_, k) in cuts.items():
            deepest = max(map(len, relevant)) if k == "r" else k
            if deepest > width:
                raise ValueError(
                    f"Expected for {metric} a ranking of {deepest} results, or of the "
                    f"whole corpus. Received: {width} results, from a corpus of at least "
                    f"{num_rows} rows. Search deeper, or ask for a smaller k."
                )


def label_retrieval_metrics(
    embeddings, ids, metrics=LABEL_METRICS, distance="cosine", average="micro"
):
    r"""Computes mean retrieval metrics of each row as a query for its label's other rows.

    Each row is a query among all other rows, and the R other rows with its label are
    relevant. A row whose label occurs only once is left out of the mean, but remains a
    possible result of other queries. With $h_r = 1$ if the result of rank r has the
    query's label, else 0:

    $$precision@R = \frac{1}{R} \sum_{r \le R} h_r \qquad
      MAP@R = \frac{1}{R} \sum_{r \le R} h_r \, \frac{1}{r} \sum_{i \le r} h_i$$

    Args:
        embeddings: array `[N, D]`.
        ids: labels `[N]` or `[N, 1]`, integers or strings.
        metrics: as in `retrieval_metrics`. By default `precision@1`, which metric
            learning calls Recall@1, R-precision and MAP@R.
        distance: the distance that ranks, see `tfembloss.distances`.
        average: `"micro"` for the mean over rows, `"macro"` for the mean over labels of
            their means, or None for the mean of each label.

    Returns:
        Dict of name to the mean over the rows whose label occurs more than once, floats;
        with `average=None`, dict of name to a dict of label to float.

    Raises:
        ValueError: embeddings and ids differ in length, an embedding is not finite, a label
            is missing, no two rows have the same label, or an argument is invalid.

    Example:

    >>> angles = np.radians([0, 10, 18, 25])
    >>> points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    >>> label_retrieval_metrics(points, ["a", "a", "b", "a"])
    {'precision@1': 0.333..., 'precision@r': 0.5, 'map@r': 0.333...}
    >>> ids = ["a", "a", "b", "b"]
    >>> label_retrieval_metrics(points, ids, ["precision@1"], average=None)
    {'precision@1': {'a': 0.5, 'b': 1.0}}

    Reference:
        Musgrave et al. 2020, A Metric Learning Reality Check,
        https://arxiv.org/abs/2003.08505

    Relations:
        Equal to pytorch-metric-learning's AccuracyCalculator with the queries as the
        reference: `precision_at_1`, `r_precision`, `mean_average_precision_at_r`, and with
        k = N, `mrr@k` is its `mean_reciprocal_rank`. `average="macro"` is its
        `avg_of_avgs`, `average=None` its `return_per_class`, which are lists.
    """
    cuts = parse_metrics(metrics)
    one_of("average", average, AVERAGES)
    embeddings = np.asarray(search.as_embeddings(embeddings, "embeddings"))
    search.check_finite(embeddings, "embeddings")
    labels, classes = labels_of(ids, embeddings.shape)
    num_relevant = np.bincount(classes)[classes] - 1
    queries = np.flatnonzero(num_relevant)
    if not len(queries):
        raise ValueError(
            f"Expected two rows with the same label. Received: {len(classes)} rows, each "
            "with a different label."
        )
    last = len(classes) - 1
    depths = [min(search_depth(cuts, [r]), last) + 1 for r in num_relevant[queries]]
    values = {metric: np.empty(len(queries)) for metric in cuts}
    for part in search.parts_of_like_depth(depths):
        rows, depth = queries[part], depths[part[-1]] - 1
        _, ranking = search.top_k(embeddings[rows], embeddings, depth + 1, distance)
        # Drops the row itself or, if rows equal to it have pushed it out of the ranking,
        # the last one.
        left_out = ranking == rows[:, None]
        left_out[~left_out.any(axis=1), -1] = True
        ranking = ranking[~left_out].reshape(len(rows), depth)
        hits = classes[ranking] == classes[rows][:, None]
        for metric, of_part in _values(cuts, hits, num_relevant[rows]).items():
            values[metric][part] = of_part
    if average == "micro":
        return _means(values)
    found, of_queries = np.unique(classes[queries], return_inverse=True)
    counts = np.bincount(of_queries)
    by_label = {m: np.bincount(of_queries, v) / counts for m, v in values.items()}
    if average == "macro":
        return _means(by_label)
    names = labels[found].tolist()
    return {m: dict(zip(names, v.tolist(), strict=True)) for m, v in by_label.items()}


def parse_metrics(metrics, others=()):
    """Parses `["map@9", "map@r"]` into `{"map@9": ("map", 9), "map@r": ("map", "r")}`.

    An error names the others, which are no metrics of rankings.
    """
    cuts = {}
    metrics = [metrics] if isinstance(metrics, str) else metrics
    for metric in as_list(metrics, "metrics as a list of names"):
        name, _, k = metric.partition("@") if isinstance(metric, str) else ("", "", "")
        is_cut = k == "r" or (k.isdecimal() and len(k) < 16 and int(k) > 0)
        if name not in _METRICS or not is_cut:
            raise ValueError(
                f"Unknown metric. Expected one of {_METRICS} with a number or r, like "
                f"'recall@10' or 'map@r'{''.join(f', or {name!r}' for name in others)}. "
                f"Received: {metric!r}"
            )
        cuts[metric] = name, k if k == "r" else int(k)
    return cuts


def search_depth(cuts, num_relevant):
    """Returns the maximum number of a query's results that the metrics use."""
    depths = [np.max(num_relevant) if k == "r" else k for _, k in cuts.values()]
    return int(max(depths, default=1))


def _values(cuts, hits, num_relevant, gains=None, grades=None):
    """Returns each metric's values `[Q]`, from hits and, if there are grades, gains."""
    values = {}
    for metric, (name, k) in cuts.items():
        k = num_relevant if k == "r" else np.full(len(hits), k)
        within = np.arange(1, hits.shape[1] + 1) <= k[:, None]
        if name == "ndcg" and grades is not None:
            values[metric] = _graded_ndcg(gains * within, grades, k)
        else:
            values[metric] = _metric(name, k, (hits & within)[:, : k.max()], num_relevant)
    return values


def _graded_ndcg(gains, grades, k):
    """Returns ndcg `[Q]` of gains `[Q, K]`, none of them beyond k `[Q]`."""
    width = max(gains.shape[1], max(map(len, grades)))
    discounts = 1 / np.log2(np.arange(2, width + 2))
    best = [
        np.sort(of_query)[::-1][:most] @ discounts[: min(len(of_query), most)]
        for of_query, most in zip(grades, k, strict=True)
    ]
    return gains @ discounts[: gains.shape[1]] / np.array(best)


def _means(values):
    return {metric: float(np.mean(of_queries)) for metric, of_queries in values.items()}


def _metric(name, k, hits, num_relevant):
    """Returns values `[Q]` of one metric from hits `[Q, K]`, none of them beyond k."""
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
            return (hits / ranks).max(axis=1, initial=0)
        case "ndcg":
            within = np.minimum(num_relevant, k)
            ranks = np.arange(1, max(within.max(), hits.shape[1]) + 1)
            gains = 1 / np.log2(ranks + 1)
            best = np.cumsum(gains)[within - 1]
            return hits @ gains[: hits.shape[1]] / best
        case "map":
            precision = np.cumsum(hits, axis=1) / ranks
            return (hits * precision).sum(axis=1) / np.minimum(num_relevant, k)
