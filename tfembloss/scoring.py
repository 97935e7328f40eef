"""Lists of texts, and the models that embed them and score pairs of them."""

import math
import numbers
from collections.abc import Hashable, Mapping

import keras
import numpy as np
import tensorflow as tf

from tfembloss.models.base import ColumnModel
from tfembloss.models.cross_encoder import CrossEncoder

ROUNDING = 1e-6  # up to which scores of float32 are equal: two of one text differ by half
BATCHES = 16  # of a model's batches in one call of `predict`, and in one step of the bar


def check_texts(texts, name, empty_allowed=False):
    """A list of the texts; a ValueError where they are none, or not all texts."""
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
                f"Expected {name} as a list of strings (of bytes take .decode()). "
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
    """Lists of the queries, of the corpus's different texts, and of each query's positives.

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
    """For each query the list of its positives, each once.

    They are for each query its text or several of them, as a list, a set, or a dict of text
    to grade. Where the corpus is a dict of id to text, ids of it are taken too. They come
    in the order of the queries, or as a dict: by query id where the queries are a dict of
    id to text, else by the query's text.
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
    """Those of a dict, in the order of the queries."""
    missing = [query for query in queries if query not in positives]
    others = positives.keys() - set(queries)
    if missing or others:
        which = f"none for {shown(missing[0])}" if missing else shown(next(iter(others)))
        raise ValueError(
            "Expected positives as a dict with a key for each query: its id where the "
            "queries are a dict, else its text. Received: positives with "
            f"{len(missing)} queries missing and {len(others)} keys that are no query: "
            f"{which}. Leave out queries without positives."
        )
    return [positives[query] for query in queries]


def _several(of, expected, row):
    """The positives of one query as a list."""
    if isinstance(of, Mapping):
        return with_grade(of, f"of query {row}")
    if isinstance(of, set | frozenset):  # whose order changes from run to run
        return sorted(of, key=lambda text: (str(type(text)), text))
    if isinstance(of, str | numbers.Integral):
        return [of]
    return as_list(of, expected, f" in row {row}")


def with_grade(grades, place):
    """The keys of a dict to a grade whose grade is above 0."""
    for grade in grades.values():
        if not isinstance(grade, numbers.Real) or math.isnan(grade):
            raise ValueError(
                "Expected a dict to grades, numbers. Received: "
                f"{shown(grades)} {place}, with {shown(grade)}."
            )
    return [key for key, grade in grades.items() if grade > 0]


def _texts_of_ids(positives, corpus):
    """Texts: of ids where all are ids, as they are where all are texts of the corpus."""

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
        f"texts of it. Received: {shown(unknown[1])} of query {unknown[0]}, no id. "
        "For positives that are not in the corpus give list(corpus.values())."
    )


def as_list(values, expected, place=""):
    """A list of the values, where they are several, in an order, and not one text."""
    mend = ""
    if isinstance(values, set | frozenset):
        mend = " A set has no order: give sorted(...)."
    elif hasattr(values, "columns"):
        mend = " Give one of its columns."
    elif isinstance(values, tf.data.Dataset):
        mend = " Give [text.decode() for text in dataset.as_numpy_iterator()]."
    elif isinstance(values, Mapping):
        mend = " A dict is taken where its keys are known."
    elif not isinstance(values, str | bytes):
        try:
            if isinstance(values, np.ndarray) and values.dtype.kind in "US":
                return values.tolist()  # str, not np.str_
            return list(values)
        except TypeError:
            pass
    raise ValueError(
        f"Expected {expected}. Received: {shown(values)} of type "
        f"{type(values).__name__}{place}.{mend}"
    )


def shown(value):
    """A value for an error, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def by_query(queries, positives):
    """All positives of each text that is a query, also of one that is there twice."""
    merged = {}
    for query, texts in zip(queries, positives, strict=True):
        merged.setdefault(query, {}).update(dict.fromkeys(texts))
    return {query: list(texts) for query, texts in merged.items()}


def rows_of_known(queries, corpus, positives):
    """For each query the rows of a corpus that are its own text or one of its positives."""
    row_of = {text: row for row, text in enumerate(corpus)}
    known = {query: {query, *of} for query, of in by_query(queries, positives).items()}
    return [[row_of[text] for text in known[q] if text in row_of] for q in queries]


def unique(texts):
    """Each text once, in the order of its first row."""
    return list(dict.fromkeys(texts))


def embedders(embed, batch_size, name="embed", dims=None):
    """Functions from a list of texts to embeddings `[n, D]`: of queries, of the corpus."""
    dims = set() if dims is None else dims  # the D of the batches so far
    if isinstance(embed, tuple) and len(embed) == 2:
        return tuple(embedders(part, batch_size, name, dims)[0] for part in embed)
    if isinstance(embed, CrossEncoder):
        raise ValueError(
            f"Expected `{name}` as a model of single texts. Received: a CrossEncoder, "
            "which scores pairs of them; it goes into `cross_encoder`."
        )
    call, size = _caller(embed, batch_size, name, "a list of texts to embeddings [n, D]")

    def embeddings(texts):
        parts = []
        for batch in chunks(len(texts), size):
            expected = (
                f"`{name}` to return embeddings [n, D], here n = {len(texts[batch])}"
                + "".join(f", D = {dim} as before" for dim in dims)
            )
            part = _as_array(call(texts[batch]), expected)
            if part.ndim == 2 and part.shape[1] and not dims:
                dims.add(part.shape[1])
            if part.shape not in [(len(texts[batch]), dim) for dim in dims]:
                raise ValueError(f"Expected {expected}. Received: shape {part.shape}")
            _check_finite(part, f"`{name}`'s embedding", texts[batch])
            parts.append(part)
        return np.concatenate(parts)

    return embeddings, embeddings


def scorer(cross_encoder, batch_size):
    """A function from two lists of texts to the scores `[n]` of their pairs."""
    signature = "two lists of texts, queries and others, to scores [n]"
    call, size = _caller(cross_encoder, batch_size, "cross_encoder", signature)

    def scores(queries, texts):
        parts = []
        for batch in chunks(len(texts), size):
            n = len(texts[batch])
            expected = f"`cross_encoder` to return scores [n] or [n, 1], here n = {n}"
            part = _as_array(call(queries[batch], texts[batch]), expected)
            if part.shape not in [(n,), (n, 1)]:
                raise ValueError(f"Expected {expected}. Received: shape {part.shape}")
            part = part.reshape(-1)
            _check_finite(part, "`cross_encoder`'s score", texts[batch])
            parts.append(part)
        return np.concatenate(parts)

    return scores


def _caller(model, batch_size, name, signature):
    """What maps lists of texts to a model's output, and how many texts it is given."""
    if isinstance(model, ColumnModel) and not model.takes_raw_inputs:
        wrapper = "CrossEncoder" if name == "cross_encoder" else "EmbeddingModel"
        raise ValueError(
            f"Expected `{name}` as a model that takes texts. Received: "
            f"{type(model).__name__} without a preprocessor: wrap it: "
            f"{wrapper}(encoder, preprocessor)."
        )
    if isinstance(model, keras.Model):
        _check_takes_texts(model, name)

        def predict(*columns):
            x = tuple(map(tf.constant, columns))
            x = x if len(x) > 1 else x[0]
            return model.predict(x, batch_size=batch_size, verbose=0)

        return predict, batch_size * BATCHES
    if callable(model):
        return model, batch_size
    raise ValueError(
        f"Expected `{name}` as a Keras model, or a function from {signature}. "
        f"Received: {model!r}"
    )


def _check_takes_texts(model, name):
    """Where a model knows its inputs: that they are strings, one, or two for a scorer."""
    inputs = getattr(model, "inputs", None)
    if isinstance(model, ColumnModel) or not inputs:
        return
    count = 2 if name == "cross_encoder" else 1
    dtypes = [keras.backend.standardize_dtype(x.dtype) for x in inputs]
    if dtypes != ["string"] * count:
        raise ValueError(
            f"Expected `{name}` as a model of {count} input{'s' * (count - 1)} of texts. "
            f"Received: {type(model).__name__} with inputs of dtype {dtypes}. A model of "
            "tokens becomes one of texts with tfembloss.EmbeddingModel(encoder, "
            "preprocessor) or tfembloss.CrossEncoder(encoder, preprocessor)."
        )


def _as_array(result, expected):
    try:
        array = np.asarray(result)
        if array.dtype.kind in "cSU":
            raise TypeError(f"of dtype {array.dtype}")
        with np.errstate(over="ignore"):  # infinity, which is an error of its own
            return array.astype("float32", copy=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected {expected}, one array of numbers. Received: "
            f"{type(result).__name__} ({shown(str(error))})"
        ) from error


def _check_finite(values, what, texts):
    wrong = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if wrong.any():
        text = shown(texts[np.argmax(wrong)])
        raise ValueError(
            f"Expected finite numbers. Received: {what} of {text} is NaN or infinite."
        )


def chunks(num_rows, size, title="", verbose=0):
    """Slices of so many rows, with a title and a progress bar where verbose."""
    starts = range(0, num_rows, size)
    if verbose:
        print(title, flush=True)
    progress = keras.utils.Progbar(len(starts), verbose=verbose)
    for start in starts:
        yield slice(start, min(start + size, num_rows))
        progress.add(1)


def embed_all(embeddings, texts, batch_size, name, verbose):
    """Embeddings `[N, D]` of all texts."""
    title = f"Embedding {len(texts):,} {name}"
    everything = None
    for rows in chunks(len(texts), batch_size * BATCHES, title, verbose):
        part = embeddings(texts[rows])
        if everything is None:
            everything = np.empty([len(texts), part.shape[1]], "float32")
        everything[rows] = part
    return everything


def embed_to_disk(embeddings, texts, dim, file, batch_size, name, verbose):
    """Embeddings `[N, D]` of all texts, in a file that goes on where it ends."""
    step, row = batch_size * BATCHES, np.dtype("float32").itemsize * dim
    size = file.stat().st_size if file.exists() else 0
    # Only whole steps count, so that every batch is the one of a run that did not stop.
    done = len(texts) if size == len(texts) * row else size // (step * row) * step
    with file.open("r+b" if size else "wb") as out:
        out.seek(done * row)
        title = f"Embedding {len(texts) - done:,} {name}"
        for rows in chunks(len(texts) - done, step, title, verbose):
            part = embeddings(texts[done + rows.start : done + rows.stop])
            out.write(part.tobytes())
            out.flush()
    return np.memmap(file, "float32", "r", shape=(len(texts), dim))
