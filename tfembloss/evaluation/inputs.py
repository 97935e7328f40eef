"""Checks of what users pass to evaluators: rankings, relevant rows, labels, inputs."""

import inspect
import numbers
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tfembloss.checks import as_list, shown, with_grade

EXPECTED_RELEVANT = (
    "relevant as a list: for each query the row that is relevant, or several"
)
NO_RESULT = -1  # in a ranking, if a query has fewer results


def check_ranking(ranking):
    """Returns a ranking `[Q, K]` of row numbers, or lists of text ids."""
    expected = "ranking as row numbers or text ids [Q, K], best first, of each query"
    if not hasattr(ranking, "dtype"):
        rows = as_list(ranking, expected)
        for query, row in enumerate(rows):
            if isinstance(row, Mapping | set | frozenset):
                raise ValueError(
                    f"Expected {expected}. Received: a {type(row).__name__} of query "
                    f"{query}, which has no order: convert scores by id with "
                    "sorted(scores, key=scores.get, reverse=True)."
                )
        rows = [as_list(row, expected, f" of query {q}") for q, row in enumerate(rows)]
        if any(isinstance(of, str | bytes) for row in rows for of in row):
            return rows
        width = max(map(len, rows), default=0)
        ranking = [row + [NO_RESULT] * (width - len(row)) for row in rows]
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
    if array.min(initial=0) < NO_RESULT:
        raise ValueError(
            f"Expected {expected}, -1 for a missing result. Received: {array.min()}"
        )
    return array


def check_relevant(relevant, names=None):
    """Returns each query's relevant rows: ascending numbers, or a list of text ids."""
    return [
        _relevant_to(of, named_query(query, names))
        for query, of in enumerate(as_list(relevant, EXPECTED_RELEVANT))
    ]


def grades_of(given, relevant, number_of=None):
    """Returns the grades of each query's relevant rows; None if all of them are 1.

    Args:
        given: list of what is relevant to each query, dicts to grades among them.
        relevant: the same as arrays of row numbers.
        number_of: dict of a text id to its row number, or None.
    """
    if not any(isinstance(of_query, Mapping) for of_query in given):
        return None
    grades = []
    for of_query, rows in zip(given, relevant, strict=True):
        grade_of = dict.fromkeys(rows.tolist(), 1.0)
        if isinstance(of_query, Mapping):
            for key, grade in of_query.items():
                if grade > 0:
                    grade_of[key if number_of is None else number_of[key]] = float(grade)
        grades.append(np.array([grade_of[row] for row in rows.tolist()]))
    return None if all((of == 1).all() for of in grades) else grades


def _relevant_to(rows, query):
    if isinstance(rows, Mapping):
        rows = with_grade(rows, query)
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
        mend = "; pass np.flatnonzero(mask) of a mask" if array.dtype.kind == "b" else ""
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
            f"{shown(rows)} {query}: convert it with np.flatnonzero(mask)."
        )
    return found


def _dtype_of(values):
    """Keeps NumPy from converting numbers to texts, and from stripping NULs of texts."""
    return "object" if any(isinstance(value, str | bytes) for value in values) else None


def as_numbers(ranking, relevant, names):
    """Returns both as row numbers, and a dict of text ids to them, or None."""
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
        return ranking, relevant, None
    for query, row in enumerate(ranking):
        if len(set(row)) < len(row):
            twice = next(id for id in row if row.count(id) > 1)
            raise ValueError(
                "Expected a ranking without duplicates. Received: "
                f"{shown(twice)} twice {named_query(query, names)}."
            )
    number_of = {}
    ranking, relevant = (
        [[number_of.setdefault(id, len(number_of)) for id in row] for row in rows]
        for rows in (ranking, relevant)
    )
    width = max(map(len, ranking))
    padded = [row + [NO_RESULT] * (width - len(row)) for row in ranking]
    return np.array(padded), [np.unique(row) for row in relevant], number_of


def labels_of(ids, shape):
    """Returns the labels of embeddings of a shape, and the number `[N]` of each row's."""
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
    return np.unique(labels, return_inverse=True)


def by_query(values, queries):
    """Returns the values of a dict by query id, in the order of the queries."""
    if not isinstance(values, Mapping):
        raise ValueError(
            "Expected relevant as a dict of query id to what is relevant, as the queries "
            f"are a dict. Received: a {type(values).__name__}."
        )
    known = set(queries)
    unknown = [query for query in values if query not in known]
    if unknown:
        raise ValueError(
            f"Expected in relevant only the queries {shown(list(queries))}. Received: "
            f"{shown(unknown[0])}, which is none of them. Relevant may also be a list, in "
            "the order of the queries."
        )
    return [values.get(query) for query in queries]


def named_query(query, names):
    """Names a query in an error."""
    return f"of query {query if names is None else repr(names[query])}"


def check_inputs(x, name):
    """Returns the ids of a dict of id to text, or None, and the inputs of `predict`."""
    if isinstance(x, Mapping) and x:
        if all(isinstance(text, str) for text in x.values()):
            return list(x), list(x.values())
        if any(isinstance(value, Mapping) for value in x.values()):
            raise ValueError(
                f"Expected {name} as a dict of id to text, or of a model's inputs. "
                f"Received: {shown(x)}: join title and text of each id."
            )
    wrong = None
    if isinstance(x, tuple) and x and all(isinstance(row, str | bytes) for row in x):
        x = list(x)  # a tuple would be columns
    if isinstance(x, str | bytes | set | frozenset) or x is None:
        wrong = f"{shown(x)} of type {type(x).__name__}"
    elif inspect.isgenerator(x) or hasattr(x, "__next__"):
        wrong = (
            "a generator or iterator, of which nothing is left after the first epoch: "
            "pass a list, an array, or tf.data.Dataset.from_generator(...)"
        )
    elif isinstance(x, tf.data.Dataset):
        wrong = _fault(x)
    elif num_rows(x) == 0:
        wrong = "none"
    elif isinstance(x, list) and not any(hasattr(row, "dtype") for row in x):
        # Keras accepts lists of texts and of arrays, but not of rows of numbers.
        x = x if any(isinstance(row, str | bytes) for row in x) else _as_rows(x)
    elif not np.iterable(x) and not hasattr(x, "__getitem__"):
        wrong = f"{shown(x)} of type {type(x).__name__}"
    if wrong:
        raise ValueError(
            f"Expected {name} as inputs of the model's predict: arrays, lists, a dataset. "
            f"Received: {wrong}."
        )
    return None, x


def _as_rows(x):
    try:
        return np.asarray(x)
    except ValueError:  # of different lengths, which a preprocessor may pad
        return x


def _fault(dataset):
    """Returns why a dataset's rows cannot be referred to by number, or None."""
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        return "a dataset without an end: remove repeat()"
    ranks = [
        s.shape.rank for s in tf.nest.flatten(dataset.element_spec) if hasattr(s, "shape")
    ]
    if 0 in ranks:
        return "a dataset of single rows: pass dataset.batch(...)"
    left = [dataset]
    while left:
        part = left.pop()
        if "Shuffle" in type(part).__name__:
            return "a shuffled dataset, to which `relevant` cannot refer: remove shuffle()"
        # Not public: without it a shuffled dataset is not detected.
        left += getattr(part, "_inputs", list)()
    return None


def is_arrays(x):
    """Returns whether x is rows in memory instead of batches."""
    return (
        isinstance(x, list | tuple | Mapping) or hasattr(x, "dtype") or hasattr(x, "iloc")
    )


def num_rows(x):
    """Returns the number of rows, or None if it is unknown."""
    if isinstance(x, Mapping):
        return num_rows(next(iter(x.values()))) if x else 0
    if isinstance(x, list | tuple) and all(isinstance(text, str) for text in x):
        return len(x)
    return len(x) if hasattr(x, "shape") and len(x.shape) else None


def rows_of_ids(relevant, ids, names):
    """Returns each query's relevant rows, of ids if the corpus has ids."""
    if ids is None:
        for query, rows in enumerate(relevant):
            if isinstance(rows, list):
                raise ValueError(
                    "Expected row numbers of what is relevant, as the corpus has no ids. "
                    f"Received: {shown(rows)} {named_query(query, names)}. Pass row "
                    "numbers, or the corpus as a dict of id to text."
                )
        return relevant
    row_of = {id: row for row, id in enumerate(ids)}
    relevant = [np.asarray(of_query, "object").tolist() for of_query in relevant]
    for query, of_query in enumerate(relevant):
        for id in of_query:
            if id not in row_of:
                raise ValueError(
                    "Expected ids of the corpus. Received: "
                    f"{shown(id)} {named_query(query, names)}, which is none of them."
                )
    return [np.unique([row_of[id] for id in of_query]) for of_query in relevant]
