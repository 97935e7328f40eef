"""What one model answers and another does not."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tfembloss.checks import as_list, integer
from tfembloss.evaluation.inputs import (
    EXPECTED_RELEVANT,
    NO_RESULT,
    as_numbers,
    by_query,
    check_ranking,
    check_relevant,
)


class LostQuery(NamedTuple):
    """A query that was answered before, and is not now.

    Args:
        query: its row number, or its id.
        rank_before: rank of its first relevant result before, from 1.
        rank_now: the same now; None if there is none in the ranking.
        instead: the row number (or id) of what is first now, None for nothing.
    """

    query: Any
    rank_before: int
    rank_now: int | None
    instead: Any


def error_analysis(before, now, relevant, k=10):
    """Finds the queries that one ranking answers within k results and another does not.

    Args:
        before: row numbers (or ids) `[Q, K]` of the results of each query, best first, of
            an earlier epoch or another model, as `tfembloss.search.top_k` returns them;
            also a dict of query id to results.
        now: the same of the model that is analyzed.
        relevant: for each query the row (or id) that is relevant, or several, as in
            `retrieval_metrics`.
        k: the number of results within which a query counts as answered, > 0.

    Returns:
        List of `LostQuery`: query, rank_before, rank_now, instead; those that were best
        before come first. With `before` and `now` exchanged, the queries that are won.

    Raises:
        ValueError: numbers of queries differ, or they are dicts of other queries.

    Example:

    >>> lost = error_analysis([[3, 0], [1, 2]], [[3, 0], [2, 0]], [3, 1])
    >>> [tuple(query) for query in lost]
    [(1, 1, None, 2)]
    """
    k = integer("k", k, 1)
    names = list(now) if isinstance(now, Mapping) else None
    if names is not None:
        if not isinstance(before, Mapping) or set(before) != set(names):
            raise ValueError(
                "Expected before and now as dicts of the same queries, as now is a dict."
            )
        before, now = ([of[name] for name in names] for of in (before, now))
        relevant = by_query(relevant, names)
    elif isinstance(relevant, Mapping):
        relevant = by_query(relevant, range(len(now)))
    relevant = check_relevant(as_list(relevant, EXPECTED_RELEVANT), names)
    rankings = [check_ranking(before), check_ranking(now)]
    counts = len(rankings[0]), len(rankings[1]), len(relevant)
    if len(set(counts)) > 1:
        raise ValueError(
            "Expected before, now and relevant of the same queries. Received: "
            f"{counts[0]}, {counts[1]} and {counts[2]} of them."
        )
    (old, new), first = [_ranks(of, relevant, names) for of in rankings], rankings[1]
    lost = []
    for query, (was, is_now) in enumerate(zip(old, new, strict=True)):
        if was is not None and was <= k and (is_now is None or is_now > k):
            results = [x for x in first[query] if isinstance(x, str | bytes) or x >= 0]
            instead = results[0] if results else None
            instead = int(instead) if isinstance(instead, np.integer) else instead
            name = query if names is None else names[query]
            lost.append(LostQuery(name, was, is_now, instead))
    return sorted(lost, key=lambda query: query.rank_before)


def _ranks(ranking, relevant, names):
    """Returns the rank of each query's first relevant result, None if there is none."""
    ranking, relevant, _ = as_numbers(ranking, relevant, names)
    ranks = []
    for results, rows in zip(ranking, relevant, strict=True):
        (places,) = np.nonzero(np.isin(results, rows) & (results != NO_RESULT))
        ranks.append(int(places[0]) + 1 if len(places) else None)
    return ranks
