"""Lists of texts, and the models that embed them and score pairs of them."""

import keras
import numpy as np
import tensorflow as tf

from tfembloss.models.base import ColumnModel
from tfembloss.models.cross_encoder import CrossEncoder

BATCHES = 16  # of a model's batches in one call of `predict`, and in one step of the bar


def check_texts(texts, name, empty_allowed=False):
    """A list of the texts; a ValueError where they are none, or not all texts."""
    texts = _as_list(texts, f"{name} as a list of texts")
    if not texts:
        raise ValueError(f"Expected at least one text in {name}, received none.")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                f"Expected {name} as a list of strings (of bytes take .decode()). "
                f"Received: {text!r} of type {type(text).__name__} in row {row}."
            )
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"Expected Unicode text in every row of {name}. Received half of a "
                f"surrogate pair in row {row}: {text[:80]!r}. Leave it out."
            ) from None
    empty = [row for row, text in enumerate(texts) if not text.strip()]
    if empty and not empty_allowed:
        raise ValueError(
            f"Expected a text in every row of {name}. Received {len(empty)} without any, "
            f"the first in row {empty[0]}: leave them out."
        )
    return texts


def check_positives(queries, positives):
    """For each query the list of its positives, each once."""
    expected = "positives as a list: for each query its positive text or a list of them"
    positives = [
        [of] if isinstance(of, str) else _as_list(of, expected, f" in row {row}")
        for row, of in enumerate(_as_list(positives, expected))
    ]
    if len(positives) != len(queries):
        raise ValueError(
            "Expected for each query its positive text or a list of them. Received: "
            f"{len(queries)} queries, positives for {len(positives)}."
        )
    for row, texts in enumerate(positives):
        check_texts(texts, f"the positives of query {row}")
    return [unique(texts) for texts in positives]


def _as_list(values, expected, place=""):
    """A list of the values, where they are several and not one text."""
    try:
        if not isinstance(values, str | bytes):
            return list(values)
    except TypeError:
        pass
    raise ValueError(
        f"Expected {expected}. Received: {values!r} of type {type(values).__name__}{place}."
    )


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
            dims.update(part.shape[1:] if part.ndim == 2 and not dims else ())
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


def _as_array(result, expected):
    try:
        return np.asarray(result, "float32")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected {expected}, one array of numbers. Received: "
            f"{type(result).__name__} ({error})"
        ) from error


def _check_finite(values, what, texts):
    wrong = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if wrong.any():
        raise ValueError(
            f"Expected finite numbers. Received: {what} of {texts[np.argmax(wrong)]!r} is "
            "NaN or infinite."
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
