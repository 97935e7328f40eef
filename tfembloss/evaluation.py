"""How good embeddings are: retrieval metrics, and a callback that reports them."""

import inspect
import numbers
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from tfembloss import distances, search
from tfembloss.checks import check_count
from tfembloss.scoring import as_list, shown, with_grade

_METRICS = ("recall", "precision", "hit_rate", "mrr", "ndcg", "map")
DEFAULT_METRICS = ("recall@1", "recall@10", "mrr@10", "ndcg@10", "map@100")
LABEL_METRICS = ("precision@1", "precision@r", "map@r")
_QUERY_CHUNK = 1024
_NO_RESULT = -1  # in a ranking, where a query has fewer results


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
            the largest R), or the size of the corpus. A query with fewer results has a
            shorter list, or -1 in the places of those that are missing. Ids that are
            texts are taken too; and a dict of query id to its results.
        relevant: for each query the row number (or id) that is relevant, or several of
            them as a list, an array or a set, or as a dict of row to grade: what has a
            grade above 0 is relevant. Where `ranking` is a dict, a dict of query id to
            that. A row that is not ranked counts as not found: only
            `RetrievalEvaluator` knows which rows there are.
        metrics: names from the table, with a number or `r` for k.

    Returns:
        Dict of name to the mean over the queries, floats.

    Raises:
        ValueError: a metric is unknown, or a query has nothing relevant; a result is there
            twice; a ranking is too short for k; `relevant` is a mask, has numbers where
            the ranking has texts, or is of other queries; or `ndcg` is asked for with
            grades other than 0 and 1, which it would not use.

    Example:

    >>> retrieval_metrics([[3, 0, 1], [2, 1, 0]], [3, [1, 0]], ["recall@1", "mrr@3"])
    {'recall@1': 0.5, 'mrr@3': 0.75}
    >>> run, judged = {"q7": ["d2", "d9"]}, {"q7": {"d9": 1, "d5": 1, "d2": 0}}
    >>> retrieval_metrics(run, judged, ["recall@2", "mrr@2"])
    {'recall@2': 0.5, 'mrr@2': 0.5}

    Relations:
        Equal to sentence-transformers' InformationRetrievalEvaluator, which calls
        `hit_rate@k` accuracy@k.
    """
    cuts = _parse(metrics)
    names = list(ranking) if isinstance(ranking, Mapping) else None
    ranking = _check_ranking(ranking if names is None else list(ranking.values()))
    if names is not None or isinstance(relevant, Mapping):
        relevant = _by_query(relevant, range(len(ranking)) if names is None else names)
    relevant = _check_relevant(relevant, cuts, names)
    if len(ranking) != len(relevant) or not len(ranking):
        raise ValueError(
            "Expected a ranking [Q, K] of at least one query, and relevant rows for each. "
            f"Received: a ranking of {len(ranking)} queries, relevant rows for "
            f"{len(relevant)} queries."
        )
    return _metrics_of(cuts, *_as_numbers(ranking, relevant, names), names)


def _metrics_of(cuts, ranking, relevant, names=None):
    """Metrics of checked rows: a ranking `[Q, K]` of numbers, and arrays of them."""
    _check_results(cuts, ranking, relevant, names)
    num_relevant = np.array([len(rows) for rows in relevant])
    values = []
    for start in range(0, len(ranking), _QUERY_CHUNK):
        part = slice(start, start + _QUERY_CHUNK)
        hits = _hits(ranking[part], relevant[part])
        values.append(_values(cuts, hits, num_relevant[part]))
    return _means({metric: np.concatenate([v[metric] for v in values]) for metric in cuts})


def _hits(ranking, relevant):
    """Where a query's results are relevant to it, `[Q, K]`."""
    known, numbers = np.unique(np.concatenate(relevant), return_inverse=True)
    places = np.minimum(np.searchsorted(known, ranking), len(known) - 1)
    queries = np.arange(len(ranking))
    of_relevant = np.repeat(queries, [len(rows) for rows in relevant])
    relevant = np.sort(of_relevant * len(known) + numbers)
    results = queries[:, None] * len(known) + places
    found = np.minimum(np.searchsorted(relevant, results), len(relevant) - 1)
    return (relevant[found] == results) & (known[places] == ranking)


def _check_results(cuts, ranking, relevant, names):
    """That there are no duplicates, and that the ranking is long enough for k."""
    ordered = np.sort(ranking, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != _NO_RESULT)
    if twice.any():
        query, place = np.argwhere(twice)[0]
        raise ValueError(
            "Expected a ranking without duplicates. Received: row "
            f"{ordered[query, place]} twice {_of(query, names)}."
        )
    # Shorter than k it is right where it is the whole corpus (without the query itself).
    width = ranking.shape[1]
    num_rows = max(ranking.max(initial=0), *(rows[-1] for rows in relevant)) + 1
    if num_rows > width + 1 and width and (ranking != _NO_RESULT).all():
        for metric, (_, k) in cuts.items():
            deepest = max(map(len, relevant)) if k == "r" else k
            if deepest > width:
                raise ValueError(
                    f"Expected for {metric} a ranking of {deepest} results, or of the "
                    f"whole corpus. Received: {width} results, from a corpus of at least "
                    f"{num_rows} rows. Search deeper, or ask for a smaller k."
                )


def _check_ranking(ranking):
    """A ranking `[Q, K]` of row numbers, or lists of ids that are texts."""
    expected = "ranking as row numbers or text ids [Q, K], best first, of each query"
    if not hasattr(ranking, "dtype"):
        rows = as_list(ranking, expected)
        for query, row in enumerate(rows):
            if isinstance(row, Mapping | set | frozenset):
                raise ValueError(
                    f"Expected {expected}. Received: a {type(row).__name__} of query "
                    f"{query}, which has no order: of scores by id take "
                    "sorted(scores, key=scores.get, reverse=True)."
                )
        rows = [as_list(row, expected, f" of query {q}") for q, row in enumerate(rows)]
        if any(isinstance(of, str | bytes) for row in rows for of in row):
            return rows
        width = max(map(len, rows), default=0)
        ranking = [row + [_NO_RESULT] * (width - len(row)) for row in rows]
    try:
        array = np.asarray(ranking)
    except ValueError as error:
        raise ValueError(f"Expected {expected}. Received: {error}") from error
    if array.dtype.kind in "USO" and array.ndim == 2:
        return array.tolist()
    if array.size == 0 and array.ndim == 2:
        array = array.astype("int64")
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise ValueError(
            f"Expected {expected}. Received: shape {array.shape}, dtype {array.dtype}"
        )
    array = array.astype("int64", copy=False)
    if array.min(initial=0) < _NO_RESULT:
        raise ValueError(
            f"Expected {expected}, -1 where there is no result. Received: {array.min()}"
        )
    return array


def _check_relevant(relevant, cuts, names=None):
    """For each query its relevant rows: ascending numbers, or a list of text ids."""
    expected = "relevant as a list: for each query the row that is relevant, or several"
    binary = not any(name == "ndcg" for name, _ in cuts.values())
    return [
        _relevant_to(of, _of(query, names), binary)
        for query, of in enumerate(as_list(relevant, expected))
    ]


def _relevant_to(rows, query, binary):
    if isinstance(rows, Mapping):
        positive = with_grade(rows, query)
        if not binary and any(rows[of] != 1 for of in positive):
            raise ValueError(
                "Expected grades of 0 and 1, as ndcg is here of relevance yes or no. "
                f"Received: {shown(rows)} {query}. Leave ndcg out, or give a set of the "
                "relevant ones."
            )
        rows = positive
    if rows is None or isinstance(rows, str | bytes) or not np.iterable(rows):
        rows = [] if rows is None else [rows]
    if not hasattr(rows, "dtype"):
        rows = list(rows)
    try:
        array = np.asarray(rows, None if hasattr(rows, "dtype") else _dtype_of(rows))
    except ValueError:  # lists of different lengths
        array = np.zeros([1, 1], "object")
    if not array.size:
        raise ValueError(
            f"Expected something relevant to {query.removeprefix('of ')}, got nothing. "
            "Leave out a query that has no answer."
        )
    if array.dtype.kind in "USO":
        texts = array.ravel().tolist()
        if any(all(isinstance(id, kind) for id in texts) for kind in (str, bytes)):
            return list(dict.fromkeys(texts))
    if array.dtype.kind not in "iu" or array.ndim > 1:
        mend = "; of a mask take np.flatnonzero(mask)" if array.dtype.kind == "b" else ""
        raise ValueError(
            "Expected row numbers (integers) or text ids of what is relevant. Received: "
            f"{shown(rows)} {query}{mend}."
        )
    found = np.unique(array)
    if found[0] < 0:
        raise ValueError(
            f"Expected row numbers from 0. Received: {found[0]} {query}. Leave out a query "
            "that has no answer."
        )
    if array.size > 2 and found[-1] <= 1:
        raise ValueError(
            "Expected row numbers of what is relevant. Received: what looks like a mask, "
            f"{shown(rows)} {query}: take np.flatnonzero(mask)."
        )
    return found


def _dtype_of(values):
    """So that NumPy makes no texts of numbers, and cuts no NUL at a text's end."""
    return "object" if any(isinstance(value, str | bytes) for value in values) else None


def _as_numbers(ranking, relevant, names):
    """Both by number, also where they are text ids."""
    as_texts = isinstance(ranking, list), isinstance(relevant[0], list)
    kinds = {type(of) for rows in ranking for of in rows} if as_texts[0] else {int}
    kinds |= {type(rows[0]) if isinstance(rows, list) else int for rows in relevant}
    kinds = {bytes if issubclass(k, bytes) else str if issubclass(k, str) else k
             for k in kinds}  # fmt: skip
    if len(kinds) > 1:
        raise ValueError(
            "Expected ranking and relevant of one kind: row numbers or text ids. "
            f"Received: {sorted(kind.__name__ for kind in kinds)}"
        )
    if not as_texts[0]:
        return ranking, relevant
    for query, row in enumerate(ranking):
        if len(set(row)) < len(row):
            twice = next(id for id in row if row.count(id) > 1)
            raise ValueError(
                "Expected a ranking without duplicates. Received: "
                f"{shown(twice)} twice {_of(query, names)}."
            )
    number_of = {}
    ranking, relevant = (
        [[number_of.setdefault(id, len(number_of)) for id in row] for row in rows]
        for rows in (ranking, relevant)
    )
    width = max(map(len, ranking))
    padded = [row + [_NO_RESULT] * (width - len(row)) for row in ranking]
    return np.array(padded), [np.unique(row) for row in relevant]


def _by_query(values, queries):
    """Those of a dict by query id, in the order of the queries."""
    if not isinstance(values, Mapping):
        raise ValueError(
            "Expected relevant as a dict of query id to what is relevant, as the queries "
            f"are one. Received: a {type(values).__name__}."
        )
    known = set(queries)
    unknown = [query for query in values if query not in known]
    if unknown:
        raise ValueError(
            f"Expected in relevant only the queries {shown(list(queries))}. Received: "
            f"{shown(unknown[0])}, which is none of them. What is relevant may also be a "
            "list, in the order of the queries."
        )
    return [values.get(query) for query in queries]


def _of(query, names):
    return f"of query {query if names is None else repr(names[query])}"


def label_retrieval_metrics(embeddings, ids, metrics=LABEL_METRICS, distance="cosine"):
    r"""Mean retrieval metrics where every row searches for the others with its label.

    Row by row, its R relevant rows are the other rows of its label, among all rows but
    itself. A row whose label no other row has finds nothing and is left out of the mean,
    though others may find it. With $h_r = 1$ where the result of rank r has the label:

    $$precision@R = \frac{1}{R} \sum_{r \le R} h_r \qquad
      MAP@R = \frac{1}{R} \sum_{r \le R} h_r \, \frac{1}{r} \sum_{i \le r} h_i$$

    Args:
        embeddings: array `[N, D]`.
        ids: labels `[N]` or `[N, 1]`, integers or strings.
        metrics: as in `retrieval_metrics`. By default `precision@1`, which metric
            learning calls Recall@1, R-precision and MAP@R.
        distance: the distance that ranks, see `tfembloss.distances`.

    Returns:
        Dict of name to the mean over the rows that share their label, floats.

    Raises:
        ValueError: a metric or the distance is unknown, embeddings and ids do not fit, an
            embedding is not finite, a label is missing, or no two rows share a label.

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
    embeddings = np.asarray(search.as_embeddings(embeddings, "embeddings"))
    search.check_finite(embeddings, "embeddings")
    classes = _check_labels(ids, embeddings.shape)
    num_relevant = np.bincount(classes)[classes] - 1
    queries = np.flatnonzero(num_relevant)
    if not len(queries):
        raise ValueError(
            f"Expected two rows with the same label. Received: {len(classes)} rows, each "
            "of its own label."
        )
    last = len(classes) - 1
    depths = [min(_depth(cuts, [r]), last) + 1 for r in num_relevant[queries]]
    values = {metric: np.empty(len(queries)) for metric in cuts}
    for part in search.parts_of_like_depth(depths):
        rows, depth = queries[part], depths[part[-1]] - 1
        _, ranking = search.top_k(embeddings[rows], embeddings, depth + 1, distance)
        # Without the row itself, or where rows equal to it have pushed it out of the
        # ranking, without the last one.
        left_out = ranking == rows[:, None]
        left_out[~left_out.any(axis=1), -1] = True
        ranking = ranking[~left_out].reshape(len(rows), depth)
        hits = classes[ranking] == classes[rows][:, None]
        for metric, of_part in _values(cuts, hits, num_relevant[rows]).items():
            values[metric][part] = of_part
    return _means(values)


def _check_labels(ids, shape):
    """Classes `[N]` from 0, of the labels of embeddings of a shape."""
    labels = ids if hasattr(ids, "dtype") else as_list(ids, "ids as labels [N]")
    try:
        labels = np.asarray(labels, None if hasattr(ids, "dtype") else _dtype_of(labels))
    except ValueError as error:
        raise ValueError(f"Expected ids as labels [N]. Received: {error}") from error
    if labels.shape == (shape[0], 1):
        labels = labels[:, 0]
    if labels.shape != shape[:1]:
        raise ValueError(
            "Expected embeddings [N, D] and a label for each of their rows. "
            f"Received: embeddings of shape {shape}, ids of shape {labels.shape}"
        )
    kind = labels.dtype.kind
    wrong = np.zeros(0, bool)
    if kind == "f":
        wrong = ~np.isfinite(labels) | (labels != np.round(labels))
    elif kind == "O" and len(labels):
        of_one = [k for k in (str, bytes, numbers.Integral) if isinstance(labels[0], k)]
        wrong = np.array([not isinstance(label, tuple(of_one)) for label in labels])
    else:
        wrong = np.full(len(labels), kind not in "iubSU")
    if wrong.any():
        row = wrong.argmax()
        raise ValueError(
            "Expected ids as labels, all integers or all strings. Received: "
            f"{shown(labels[row])} of type {type(labels[row]).__name__} in row {row}."
        )
    return np.unique(labels, return_inverse=True)[1]


def _parse(metrics):
    """`["map@9", "map@r"]` as `{"map@9": ("map", 9), "map@r": ("map", "r")}`."""
    cuts = {}
    metrics = [metrics] if isinstance(metrics, str) else metrics
    for metric in as_list(metrics, "metrics as a list of names"):
        name, _, k = metric.partition("@") if isinstance(metric, str) else ("", "", "")
        is_cut = k == "r" or (k.isdecimal() and len(k) < 16 and int(k) > 0)
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


class RetrievalEvaluator(keras.callbacks.Callback):
    """Searches a corpus after each epoch and puts retrieval metrics into the logs.

    Args:
        queries: inputs of the queries, as the model's `predict` takes them: arrays, lists
            of texts, a dict of the inputs of a model that has several, a dataset or a
            `PyDataset`. It is gone through after each epoch, always in the same order.
            Or a dict of id to text.
        corpus: inputs of the corpus, likewise.
        relevant: for each query the row of the corpus that answers it, or several, as in
            `retrieval_metrics`. Where the corpus is a dict of id to text, ids of it; and
            where the queries are one, a dict of query id to that, or in their order.
        metrics: what to report, see `retrieval_metrics`.
        distance: the distance that ranks, see `tfembloss.distances`.
        batch_size: rows embedded at a time, of what is no dataset, which has its own.

    After an epoch the logs hold `val_recall@1` and so on, for the callbacks that come
    after this one: `EarlyStopping(monitor="val_mrr@10", mode="max")`, say.

    Raises:
        ValueError: as `retrieval_metrics`; queries and relevant differ in number, a row or
            an id is not in the corpus, the inputs are a generator (there is nothing left
            of it after the first epoch), shuffled or endless; or the model's embeddings
            are no array `[N, D]` of finite numbers.

    Example:

    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
    >>> points = np.random.default_rng(0).normal(size=[5, 2])
    >>> evaluator = RetrievalEvaluator(points, points, range(5), metrics=["mrr@3"])
    >>> evaluator.evaluate(model)
    {'mrr@3': 1.0}

    Relations:
        sentence-transformers' InformationRetrievalEvaluator, whose `queries`, `corpus` and
        `relevant_docs` (dicts by id) are taken as they are.
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
        query_ids, self.queries = _check_inputs(queries, "queries")
        corpus_ids, self.corpus = _check_inputs(corpus, "corpus")
        self._cuts = _parse(metrics) or _parse(DEFAULT_METRICS)
        self.metrics = tuple(self._cuts)
        if isinstance(relevant, Mapping):
            num_queries = _num_rows(self.queries) or len(relevant)
            relevant = _by_query(relevant, query_ids or range(num_queries))
        relevant = _check_relevant(relevant, self._cuts, query_ids)
        self._names = query_ids
        self.relevant = _rows_of_ids(relevant, corpus_ids, query_ids)
        self._check_number(_num_rows(self.queries))
        distances.get(distance)
        self.distance = distance
        self.batch_size = check_count(batch_size, "batch_size", 1)
        self._depth = _depth(self._cuts, [len(rows) for rows in self.relevant])

    def evaluate(self, model):
        """Metrics of a model as it stands: a dict of name to float."""
        queries = self._embeddings(model, self.queries, "queries")
        corpus = self._embeddings(model, self.corpus, "corpus")
        self._check_number(len(queries))
        for query, rows in enumerate(self.relevant):
            if rows[-1] >= len(corpus):
                raise ValueError(
                    f"Expected relevant rows below the corpus's {len(corpus)}. Received: "
                    f"{rows[-1]} {_of(query, self._names)}"
                )
        k = min(self._depth, len(corpus))
        _, ranking = search.top_k(queries, corpus, k, self.distance)
        return _metrics_of(self._cuts, ranking, self.relevant, self._names)

    def _embeddings(self, model, x, name):
        sized = _is_arrays(x)  # Keras refuses a size beside a dataset's own
        options = {"batch_size": self.batch_size} if sized else {}
        try:
            embeddings = model.predict(x, verbose=0, **options)
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            if not isinstance(x, tf.data.Dataset):
                raise
            # Most often single rows, of which Keras only says that a rank is unknown.
            raise ValueError(
                f"Expected {name} as a dataset of batches that the model takes. Received: "
                f"elements {x.element_spec}. Is a batch(...) missing?"
            ) from error
        shape = getattr(embeddings, "shape", ())
        if len(shape) != 2:
            raise ValueError(
                f"Expected the model to make embeddings [N, D] of the {name}. Received: "
                f"{f'shape {tuple(shape)}' if shape else shown(embeddings)}"
            )
        return embeddings

    def _check_number(self, num_queries):
        if num_queries is not None and num_queries != len(self.relevant):
            raise ValueError(
                "Expected relevant rows for each query. Received: "
                f"{num_queries} queries, relevant rows for {len(self.relevant)}."
            )

    def on_epoch_end(self, epoch, logs=None):
        """Adds the metrics to the epoch's logs."""
        found = self.evaluate(self.model)
        logs = {} if logs is None else logs
        logs.update({f"val_{name}": value for name, value in found.items()})


def _check_inputs(x, name):
    """The ids, of a dict of id to text, and what `predict` takes in every epoch."""
    if isinstance(x, Mapping) and x:
        if all(isinstance(text, str) for text in x.values()):
            return list(x), list(x.values())
        if any(isinstance(value, Mapping) for value in x.values()):
            raise ValueError(
                f"Expected {name} as a dict of id to text, or of a model's inputs. "
                f"Received: {shown(x)}: of id to title and text, join both."
            )
    wrong = None
    if isinstance(x, str | bytes | set | frozenset) or x is None:
        wrong = f"{shown(x)} of type {type(x).__name__}"
    elif inspect.isgenerator(x) or hasattr(x, "__next__"):
        wrong = (
            "a generator or iterator, of which nothing is left after the first epoch: "
            "give a list, an array, or tf.data.Dataset.from_generator(...)"
        )
    elif isinstance(x, tf.data.Dataset):
        wrong = _fault(x)
    elif _num_rows(x) == 0:
        wrong = "none"
    elif isinstance(x, list) and not any(hasattr(row, "dtype") for row in x):
        # Keras takes lists of texts and of arrays, not rows of numbers.
        x = x if any(isinstance(row, str | bytes) for row in x) else _as_rows(x)
    elif not np.iterable(x) and not hasattr(x, "__getitem__"):
        wrong = f"{shown(x)} of type {type(x).__name__}"
    if wrong:
        raise ValueError(
            f"Expected {name} as the model's predict takes them: arrays, lists, a dataset. "
            f"Received: {wrong}."
        )
    return None, x


def _as_rows(x):
    try:
        return np.asarray(x)
    except ValueError:  # of different lengths: for a preprocessor, perhaps
        return x


def _fault(dataset):
    """Why a dataset's rows cannot be told from each other by number, if so."""
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        return "a dataset without an end: take repeat() out"
    ranks = [
        s.shape.rank for s in tf.nest.flatten(dataset.element_spec) if hasattr(s, "shape")
    ]
    if 0 in ranks:
        return "a dataset of single rows: give dataset.batch(...)"
    left = [dataset]
    while left:
        part = left.pop()
        if "Shuffle" in type(part).__name__:
            return (
                "a shuffled dataset, whose rows `relevant` does not know: take shuffle out"
            )
        # Not public: without it a shuffled dataset is not seen.
        left += getattr(part, "_inputs", list)()
    return None


def _is_arrays(x):
    """Whether x is rows in memory, and not batches."""
    return (
        isinstance(x, list | tuple | Mapping) or hasattr(x, "dtype") or hasattr(x, "iloc")
    )


def _num_rows(x):
    """How many rows there are, where that is plain; else None."""
    if isinstance(x, Mapping):
        return _num_rows(next(iter(x.values()))) if x else 0
    if isinstance(x, list | tuple) and all(isinstance(text, str) for text in x):
        return len(x)
    return len(x) if hasattr(x, "shape") and len(x.shape) else None


def _rows_of_ids(relevant, ids, names):
    """The rows of a corpus that has ids, for each query."""
    if ids is None:
        for query, rows in enumerate(relevant):
            if isinstance(rows, list):
                raise ValueError(
                    "Expected row numbers of what is relevant, as the corpus has no ids. "
                    f"Received: {shown(rows)} {_of(query, names)}. Give row numbers, or "
                    "the corpus as a dict of id to text."
                )
        return relevant
    row_of = {id: row for row, id in enumerate(ids)}
    relevant = [np.asarray(of_query, "object").tolist() for of_query in relevant]
    for query, of_query in enumerate(relevant):
        for id in of_query:
            if id not in row_of:
                raise ValueError(
                    "Expected ids of the corpus. Received: "
                    f"{shown(id)} {_of(query, names)}, which is none of them."
                )
    return [np.unique([row_of[id] for id in of_query]) for of_query in relevant]
