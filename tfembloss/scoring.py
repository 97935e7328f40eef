"""Lists of texts, and the models that embed them and score pairs of them."""

import operator

import keras
import numpy as np
import tensorflow as tf

BATCHES = 16  # of a model's batches in one call of `predict`, and in one step of the bar


def check_texts(texts, name, empty_allowed=False):
    """A list of the texts; a ValueError where they are none, or not all texts."""
    if isinstance(texts, str | bytes):
        raise ValueError(f"Expected {name} as a list of texts. Received: {texts!r}")
    texts = list(texts)
    if not texts:
        raise ValueError(f"Expected at least one text in {name}, received none.")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                f"Expected {name} as a list of strings (of bytes take .decode()). "
                f"Received: {text!r} of type {type(text).__name__} in row {row}."
            )
    empty = [row for row, text in enumerate(texts) if not text.strip()]
    if empty and not empty_allowed:
        raise ValueError(
            f"Expected a text in every row of {name}. Received {len(empty)} without any, "
            f"the first in row {empty[0]}: leave them out."
        )
    return texts


def check_positives(queries, positives):
    """For each query the list of its positives, each once."""
    positives = [[of] if isinstance(of, str) else list(of) for of in positives]
    if len(positives) != len(queries):
        raise ValueError(
            "Expected for each query its positive text or a list of them. Received: "
            f"{len(queries)} queries, positives for {len(positives)}."
        )
    for row, texts in enumerate(positives):
        check_texts(texts, f"the positives of query {row}")
    return [unique(texts) for texts in positives]


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


def check_count(value, name, at_least):
    """A whole number of at least so much."""
    try:
        number = operator.index(value)
    except TypeError:
        number = at_least - 1
    if number < at_least:
        raise ValueError(
            f"Expected a whole number {name} >= {at_least}. Received: {value!r}"
        )
    return number


def embedders(embed, batch_size, name="embed"):
    """Functions from a list of texts to embeddings `[n, D]`: of queries, of the corpus."""
    if isinstance(embed, tuple) and len(embed) == 2:
        return tuple(embedders(part, batch_size, name)[0] for part in embed)
    call, size = _caller(embed, batch_size, name, "a list of texts to embeddings [n, D]")

    def embeddings(texts):
        parts = []
        for batch in chunks(len(texts), size):
            part = np.asarray(call(texts[batch]), "float32")
            if part.ndim != 2 or len(part) != len(texts[batch]):
                raise ValueError(
                    f"Expected `{name}` to return embeddings [n, D], here n = "
                    f"{len(texts[batch])}. Received: shape {part.shape}"
                )
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
            part = np.asarray(call(queries[batch], texts[batch]), "float32")
            if part.shape not in [(len(texts[batch]),), (len(texts[batch]), 1)]:
                raise ValueError(
                    "Expected `cross_encoder` to return scores [n] or [n, 1], here n = "
                    f"{len(texts[batch])}. Received: shape {part.shape}"
                )
            part = part.reshape(-1)
            _check_finite(part, "`cross_encoder`'s score", texts[batch])
            parts.append(part)
        return np.concatenate(parts)

    return scores


def _caller(model, batch_size, name, signature):
    """What maps lists of texts to a model's output, and how many texts it is given."""
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
