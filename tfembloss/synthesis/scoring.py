"""Embeds texts and scores pairs of texts, with models or functions."""

import keras
import numpy as np
import tensorflow as tf

from tfembloss.checks import shown
from tfembloss.models.base import ColumnModel
from tfembloss.models.cross_encoder import CrossEncoder

ROUNDING = 1e-6  # tolerance of equal float32 scores; those of one text differ by half of it
BATCHES = 16  # batches in one call of `predict`, and in one step of the progress bar


def embedders(embed, batch_size, name="embed"):
    """Returns two functions from a list of texts to embeddings, for queries and corpus.

    Those of a model with prompts of these names put `"query"` and `"document"` before.
    """
    dims = set()  # the D of the batches so far
    is_pair = isinstance(embed, tuple) and len(embed) == 2
    both = embed if is_pair else (embed, embed)
    return tuple(
        embedder(part, batch_size, name, prompt, dims)
        for part, prompt in zip(both, ("query", "document"), strict=True)
    )


def embedder(embed, batch_size, name="embed", prompt=None, dims=None):
    """Returns a function from a list of texts to embeddings `[n, D]`."""
    dims = set() if dims is None else dims
    if isinstance(embed, CrossEncoder):
        raise ValueError(
            f"Expected `{name}` as a model of single texts. Received: a CrossEncoder, "
            "which scores pairs of texts; pass it as `cross_encoder`."
        )
    prompt = prompt if prompt in getattr(embed, "prompts", {}) else None
    signature = "a list of texts to embeddings [n, D]"
    call, size = _caller(embed, batch_size, name, signature, prompt)

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

    return embeddings


def scorer(cross_encoder, batch_size):
    """Returns a function from two lists of texts to the scores `[n]` of their pairs."""
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


def _caller(model, batch_size, name, signature, prompt=None):
    """Returns a function from lists of texts to a model's output, and its batch size."""
    options = {} if prompt is None else {"prompt": prompt}
    if isinstance(model, ColumnModel) and not model.takes_raw_inputs:
        wrapper = "CrossEncoder" if name == "cross_encoder" else "EmbeddingModel"
        raise ValueError(
            f"Expected `{name}` as a model that takes texts. Received: "
            f"{type(model).__name__} without a preprocessor. Wrap it: "
            f"{wrapper}(encoder, preprocessor)."
        )
    if isinstance(model, keras.Model):
        _check_takes_texts(model, name)
        # Our models order lists by length; Keras's own take tensors only.
        as_column = list if isinstance(model, ColumnModel) else tf.constant

        def predict(*columns):
            x = tuple(map(as_column, columns))
            x = x if len(x) > 1 else x[0]
            return model.predict(x, batch_size=batch_size, verbose=0, **options)

        return predict, batch_size * BATCHES
    if callable(model):
        return model, batch_size
    raise ValueError(
        f"Expected `{name}` as a Keras model, or a function from {signature}. "
        f"Received: {model!r}"
    )


def _check_takes_texts(model, name):
    """Checks that a model's inputs, if known, are strings: one, or two for a scorer."""
    inputs = getattr(model, "inputs", None)
    if isinstance(model, ColumnModel) or not inputs:
        return
    count = 2 if name == "cross_encoder" else 1
    dtypes = [keras.backend.standardize_dtype(x.dtype) for x in inputs]
    if dtypes != ["string"] * count:
        raise ValueError(
            f"Expected `{name}` as a model of {count} input{'s' * (count - 1)} of texts. "
            f"Received: {type(model).__name__} with inputs of dtype {dtypes}. Wrap a model "
            "of tokens in tfembloss.EmbeddingModel(encoder, preprocessor) or "
            "tfembloss.CrossEncoder(encoder, preprocessor)."
        )


def _as_array(result, expected):
    try:
        array = np.asarray(result)
        if array.dtype.kind in "cSU":
            raise TypeError(f"of dtype {array.dtype}")
        with np.errstate(over="ignore"):  # infinity is reported by _check_finite
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
    """Yields slices of `size` rows, with a title and a progress bar if verbose."""
    starts = range(0, num_rows, size)
    if verbose:
        print(title, flush=True)
    progress = keras.utils.Progbar(len(starts), verbose=verbose)
    for start in starts:
        yield slice(start, min(start + size, num_rows))
        progress.add(1)


def embed_all(embeddings, texts, batch_size, name, verbose):
    """Computes embeddings `[N, D]` of all texts."""
    title = f"Embedding {len(texts):,} {name}"
    everything = None
    for rows in chunks(len(texts), batch_size * BATCHES, title, verbose):
        part = embeddings(texts[rows])
        if everything is None:
            everything = np.empty([len(texts), part.shape[1]], "float32")
        everything[rows] = part
    return everything


def embed_to_disk(embeddings, texts, dim, file, batch_size, name, verbose):
    """Computes embeddings `[N, D]` of all texts, resuming at the end of the file."""
    step, row = batch_size * BATCHES, np.dtype("float32").itemsize * dim
    size = file.stat().st_size if file.exists() else 0
    # Only whole steps count, so that all batches are those of an uninterrupted run.
    done = len(texts) if size == len(texts) * row else size // (step * row) * step
    with file.open("r+b" if size else "wb") as out:
        out.seek(done * row)
        title = f"Embedding {len(texts) - done:,} {name}"
        for rows in chunks(len(texts) - done, step, title, verbose):
            part = embeddings(texts[done + rows.start : done + rows.stop])
            out.write(part.tobytes())
            out.flush()
    return np.memmap(file, "float32", "r", shape=(len(texts), dim))
