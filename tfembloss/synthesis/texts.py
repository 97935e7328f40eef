"""Checks of queries, texts and positives, as users pass them."""

import numbers
from collections.abc import Hashable, Mapping

from tfembloss.checks import as_list, shown, with_grade


def check_texts(texts, name, empty_allowed=False):
    """Returns a list of the texts. Raises ValueError if they are not all texts."""
    if isinstance(texts, Mapping):
        ids, texts = list(texts), list(texts.values())
    else:
        ids, texts = None, as_list(texts, f"{name} as a list of texts")

    def place(row):
        return f"row {row}" if ids is None else f"the row of id {ids[row]!r}"

    if not texts:
        raise ValueError(f"Expected at least one text in {name}, received none.")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                f"Expected {name} as a list of strings (convert bytes with .decode()). "
                f"Received: {shown(text)} of type {type(text).__name__} in {place(row)}."
            )
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"Expected Unicode text in every row of {name}. Received half of a "
                f"surrogate pair in {place(row)}: {shown(text)}. Leave it out."
            ) from None
    empty = [row for row, text in enumerate(texts) if not text.strip()]
    if empty and not empty_allowed:
        raise ValueError(
            f"Expected a text in every row of {name}. Received {len(empty)} without any, "
            f"the first in {place(empty[0])}: leave them out."
        )
    return texts


def check_task(queries, corpus, positives, unknown_allowed=False):
    """Returns the queries, the corpus without duplicates, and each query's positives.

    All of them may be given by id, see `check_positives`.
    """
    texts, others = check_texts(queries, "queries"), check_texts(corpus, "corpus")
    if positives is None and unknown_allowed:
        return texts, unique(others), [[] for _ in texts]
    by_id = [
        dict(zip(given, of, strict=True)) if isinstance(given, Mapping) else of
        for given, of in ((queries, texts), (corpus, others))
    ]
    return texts, unique(others), check_positives(positives, *by_id)


def check_positives(positives, queries, corpus):
    """Returns for each query the list of its positives, without duplicates.

    The positives of a query are a text or several, as a list, a set, or a dict of text to
    grade. If the corpus is a dict of id to text, its ids are accepted too. They are given
    in the order of the queries, or as a dict: by query id if the queries are a dict of id
    to text, else by the query's text.
    """
    expected = "positives as a list: for each query its positive text or a list of them"
    if isinstance(positives, Mapping):
        positives = _of_each(positives, list(queries))
    positives = [
        _several(of, expected, row) for row, of in enumerate(as_list(positives, expected))
    ]
    if len(positives) != len(queries):
        raise ValueError(
            "Expected for each query its positive text or a list of them. Received: "
            f"{len(queries)} queries, positives for {len(positives)}."
        )
    if isinstance(corpus, Mapping):
        positives = _texts_of_ids(positives, corpus)
    for row, texts in enumerate(positives):
        check_texts(texts, f"the positives of query {row}")
    return [unique(texts) for texts in positives]


def _of_each(positives, queries):
    """Returns the values of a dict, in the order of the queries."""
    missing = [query for query in queries if query not in positives]
    others = positives.keys() - set(queries)
    if missing or others:
        which = f"none for {shown(missing[0])}" if missing else shown(next(iter(others)))
        raise ValueError(
            "Expected positives as a dict with a key for each query: its id if the "
            "queries are a dict, else its text. Received: positives with "
            f"{len(missing)} queries missing and {len(others)} keys that are not queries: "
            f"{which}. Leave out queries without positives."
        )
    return [positives[query] for query in queries]


def _several(of, expected, row):
    """Returns the positives of one query as a list."""
    if isinstance(of, Mapping):
        return with_grade(of, f"of query {row}")
    if isinstance(of, set | frozenset):  # whose order changes from run to run
        return sorted(of, key=lambda text: (str(type(text)), text))
    if isinstance(of, str | numbers.Integral):
        return [of]
    return as_list(of, expected, f" in row {row}")


def _texts_of_ids(positives, corpus):
    """Returns texts, of ids of the corpus if all are ids, unchanged if all are texts."""

    def unknown_of(known):
        pairs = ((row, of) for row, several in enumerate(positives) for of in several)
        return next(
            (p for p in pairs if not isinstance(p[1], Hashable) or p[1] not in known), None
        )

    unknown = unknown_of(corpus)
    if unknown is None:
        return [[corpus[id] for id in several] for several in positives]
    if unknown_of(set(corpus.values())) is None:
        return positives
    raise ValueError(
        "Expected positives as ids of the corpus, as it is a dict of id to text, or all as "
        f"texts of it. Received: {shown(unknown[1])} of query {unknown[0]}, not an id. "
        "If positives are not in the corpus, pass list(corpus.values())."
    )


def by_query(queries, positives):
    """Returns all positives of each query, merging those of duplicate queries."""
    merged = {}
    for query, texts in zip(queries, positives, strict=True):
        merged.setdefault(query, {}).update(dict.fromkeys(texts))
    return {query: list(texts) for query, texts in merged.items()}


def rows_of_known(queries, corpus, positives):
    """Returns for each query the corpus rows of its own text and of its positives."""
    row_of = {text: row for row, text in enumerate(corpus)}
    known = {query: {query, *of} for query, of in by_query(queries, positives).items()}
    return [[row_of[text] for text in known[q] if text in row_of] for q in queries]


def unique(texts):
    """Returns the texts without duplicates, in the order of first occurrence."""
    return list(dict.fromkeys(texts))
