"""A callback that evaluates retrieval after each epoch."""

from collections.abc import Mapping

import numpy as np

from tfembloss import distances, search
from tfembloss.checks import as_list, flag
from tfembloss.evaluation.evaluator import Evaluator
from tfembloss.evaluation.inputs import (
    EXPECTED_RELEVANT,
    NO_RESULT,
    by_query,
    check_inputs,
    check_relevant,
    grades_of,
    named_query,
    num_rows,
    rows_of_ids,
)
from tfembloss.evaluation.metrics import (
    DEFAULT_METRICS,
    metrics_of,
    parse_metrics,
    search_depth,
)


class RetrievalEvaluator(Evaluator):
    """Searches a corpus after each epoch and adds retrieval metrics to the logs.

    The logs then contain `val_recall@1` and so on, for callbacks such as
    `EarlyStopping(monitor="val_mrr@10", mode="max")`; see `Evaluator`.

    Args:
        queries: the queries, as inputs of the model's `predict`: arrays, lists of texts, a
            dict of inputs if the model has several, a dataset or a `PyDataset`. It is read
            after each epoch and must always have the same order. Or a dict of id to text.
        corpus: inputs of the corpus, likewise.
        relevant: for each query the row of the corpus that answers it, or several, as in
            `retrieval_metrics`. If the corpus is a dict of id to text, ids instead of
            rows; if the queries are such a dict, a dict of query id to these, or a list in
            the order of the queries.
        metrics: names of the metrics, see `retrieval_metrics`.
        distance: the distance that ranks, see `tfembloss.distances`.
        ignore_identical_ids: whether a text of the corpus is left out of the results of the
            query that has the same id, as in BEIR, where queries may be texts of the corpus
            (ArguAna, Quora). Both must be dicts then.
        **options: `name`, `frequency`, `unit`, `csv_file`, `batch_size`, `towers`: see
            `Evaluator`.

    Raises:
        ValueError: as in `retrieval_metrics`; queries and relevant differ in number, a row
            or an id is not in the corpus, the inputs are a generator (which is empty after
            the first epoch), shuffled or infinite; or the model's embeddings are not an
            array `[N, D]` of finite numbers.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
    >>> points = np.random.default_rng(0).normal(size=[5, 2])
    >>> evaluator = RetrievalEvaluator(points, points, range(5), metrics=["mrr@3"])
    >>> evaluator.evaluate(model)
    {'mrr@3': 1.0}

    Relations:
        sentence-transformers' InformationRetrievalEvaluator, whose `queries`, `corpus` and
        `relevant_docs` (dicts by id) are accepted unchanged.
    """

    def __init__(
        self,
        queries,
        corpus,
        relevant,
        metrics=DEFAULT_METRICS,
        distance="cosine",
        ignore_identical_ids=False,
        **options,
    ):
        super().__init__(**options)
        query_ids, self.queries = check_inputs(queries, "queries")
        corpus_ids, self.corpus = check_inputs(corpus, "corpus")
        self._cuts = parse_metrics(metrics) or parse_metrics(DEFAULT_METRICS)
        self.metrics = tuple(self._cuts)
        if isinstance(relevant, Mapping):
            num_queries = num_rows(self.queries) or len(relevant)
            relevant = by_query(relevant, query_ids or range(num_queries))
        given = as_list(relevant, EXPECTED_RELEVANT)
        relevant = check_relevant(given, query_ids)
        self._names = query_ids
        self.relevant = rows_of_ids(relevant, corpus_ids, query_ids)
        row_of = corpus_ids and {id: row for row, id in enumerate(corpus_ids)}
        self._grades = grades_of(given, self.relevant, row_of)
        self._check_number(num_rows(self.queries))
        distances.get(distance)
        self.distance = distance
        self._own = None  # the row of the corpus with a query's id, or -1
        if flag("ignore_identical_ids", ignore_identical_ids):
            if query_ids is None or corpus_ids is None:
                raise ValueError(
                    "Expected queries and corpus as dicts of id to text, to ignore "
                    "identical ids. Received: ignore_identical_ids=True without ids."
                )
            self._own = np.array([row_of.get(id, NO_RESULT) for id in query_ids])
            for query, (rows, own) in enumerate(zip(self.relevant, self._own, strict=True)):
                if own in rows:
                    raise ValueError(
                        "Expected no query's own id to be relevant to it, as identical "
                        f"ids are ignored. Received: {named_query(query, query_ids)}."
                    )
        self._depth = search_depth(self._cuts, [len(rows) for rows in self.relevant])

    def evaluate(self, model):
        """Computes the metrics of a model in its current state: a dict of name to float."""
        queries = self.embeddings(model, self.queries, "queries", "query")
        corpus = self.embeddings(model, self.corpus, "corpus", "document")
        self._check_number(len(queries))
        for query, rows in enumerate(self.relevant):
            if rows[-1] >= len(corpus):
                raise ValueError(
                    f"Expected relevant rows below the corpus's {len(corpus)}. Received: "
                    f"{rows[-1]} {named_query(query, self._names)}"
                )
        k = min(self._depth + (self._own is not None), len(corpus))
        _, ranking = search.top_k(queries, corpus, k, self.distance)
        if self._own is not None:
            is_own = ranking == self._own[:, None]
            others_first = np.argsort(is_own, axis=1, kind="stable")
            ranking = np.where(is_own, NO_RESULT, ranking)
            ranking = np.take_along_axis(ranking, others_first, axis=1)
        return metrics_of(self._cuts, ranking, self.relevant, self._grades, self._names)

    def _check_number(self, num_queries):
        if num_queries is not None and num_queries != len(self.relevant):
            raise ValueError(
                "Expected relevant rows for each query. Received: "
                f"{num_queries} queries, relevant rows for {len(self.relevant)}."
            )
