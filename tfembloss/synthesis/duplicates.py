"""Finds duplicates and near-duplicates in a corpus."""

import numbers
import textwrap
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfembloss.checks import integer
from tfembloss.distances import l2_normalize
from tfembloss.synthesis.scoring import ROUNDING, chunks, embed_all, embedder
from tfembloss.synthesis.texts import check_texts, unique

_ROWS, _KEPT_ROWS = 1024, 16384  # of a tile of similarities
_SHOWN, _WIDTH = 5, 30  # pairs in the summary, characters of a text there


class Duplicates(NamedTuple):
    """Rows of a corpus that are duplicates of an earlier row.

    `np.delete(corpus, duplicates.rows)` is the corpus without them.

    Args:
        rows: row numbers `[M]` of the duplicates, ascending, int64.
        originals: for each duplicate the earlier row that is kept instead, int64 `[M]`.
        similarities: the cosine of both, 1 if the texts are equal, float32 `[M]`.
    """

    rows: np.ndarray
    originals: np.ndarray
    similarities: np.ndarray


def find_duplicates(texts, embed, threshold=0.95, batch_size=256, verbose=1):
    r"""Finds duplicates and near-duplicates in a corpus.

    Row by row in order, a text is a duplicate if it is equal to an earlier text, or if

    $$\max_{k \text{ kept before}} \cos(e, e_k) \ge threshold$$

    and is kept otherwise. So no two kept texts are that similar, and every duplicate is
    reported with the most similar kept row before it. A text that is equal to a duplicate
    is reported with the same row.

    Besides the embeddings this needs the memory of `[1024, 16384]` similarities.

    Args:
        texts: N texts; also a dict of id to text, whose rows are numbered in its order.
        embed: function from a list of texts to embeddings `[n, D]`, or a Keras model
            whose `predict` accepts texts, such as `tfembloss.EmbeddingModel`. None to find
            equal texts only.
        threshold: the minimum cosine of duplicates, above 0 and at most 1. With 1, the
            embeddings must have the same direction. There is a tolerance of $10^{-6}$ for
            rounding.
        batch_size: number of texts embedded at a time, > 0.
        verbose: 1 for progress bars and a summary with the first pairs.

    Returns:
        `Duplicates`: rows, originals, similarities.

    Raises:
        ValueError: there are no texts, an element is not a string, or `embed` returns
            another shape or numbers that are not finite.

    Example:

    >>> def embed(texts):
    ...     return [[text.count(letter) for letter in "abc"] for text in texts]
    >>> corpus = ["abc", "abcabcab", "cc", "abc"]
    >>> found = find_duplicates(corpus, embed, verbose=0)
    >>> found.rows, found.originals, found.similarities.round(2)
    (array([1, 3]), array([0, 0]), array([0.98, 1.  ], dtype=float32))
    >>> np.delete(corpus, found.rows).tolist()
    ['abc', 'cc']

    Relations:
        sentence-transformers' paraphrase_mining lists the most similar pairs, without
        deciding which rows to remove.
    """
    texts = check_texts(texts, "texts", empty_allowed=True)
    batch_size = integer("batch_size", batch_size, 1)
    is_number = isinstance(threshold, numbers.Real) and not isinstance(threshold, bool)
    if not is_number or not 0 < threshold <= 1:
        raise ValueError(
            f"Expected a number 0 < threshold <= 1. Received: threshold={threshold!r}"
        )
    different = unique(texts)
    originals, similarities = np.arange(len(different)), np.ones(len(different), "float32")
    if embed is not None:
        of_texts = embedder(embed, batch_size)
        embeddings = embed_all(of_texts, different, batch_size, "texts", verbose)
        limit = float(threshold) - ROUNDING
        originals, similarities = _nearest_kept(embeddings, limit, verbose)

    # From rows of the different texts to rows of all texts.
    number_of = {text: number for number, text in enumerate(different)}
    number = np.array([number_of[text] for text in texts])
    _, first = np.unique(number, return_index=True)
    originals, similarities = first[originals[number]], similarities[number]
    (rows,) = np.nonzero(originals != np.arange(len(texts)))
    duplicates = Duplicates(rows, originals[rows], similarities[rows])
    if verbose:
        print(_summary(texts, duplicates, threshold))
    return duplicates


def _nearest_kept(embeddings, threshold, verbose):
    """Returns for each row the kept row before it that it repeats, or itself; the cosine.

    To save memory, the kept rows overwrite the first of the embeddings, normalized.
    """
    originals = np.arange(len(embeddings))
    similarities = np.ones(len(embeddings), "float32")
    kept_rows = np.empty(0, "int64")
    title = f"Comparing {len(embeddings):,} texts"
    for rows in chunks(len(embeddings), _ROWS, title, verbose):
        tile = l2_normalize(tf.constant(embeddings[rows])).numpy()
        nearest, cosines = _nearest(tile, embeddings[: len(kept_rows)])
        within = tile @ tile.T
        is_kept = np.zeros(len(tile), bool)
        originals_of_tile = np.append(kept_rows, 0)[nearest]
        for i in range(len(tile)):
            if cosines[i] >= threshold:
                continue
            is_kept[i] = True
            # For these later rows of the tile it is the nearest kept row so far.
            (nearer,) = np.nonzero(within[i, i + 1 :] > cosines[i + 1 :])
            cosines[i + 1 + nearer] = within[i, i + 1 + nearer]
            originals_of_tile[i + 1 + nearer] = rows.start + i
        originals[rows][~is_kept] = originals_of_tile[~is_kept]
        similarities[rows][~is_kept] = np.minimum(cosines[~is_kept], 1)
        new = np.flatnonzero(is_kept)
        embeddings[len(kept_rows) : len(kept_rows) + len(new)] = tile[new]
        kept_rows = np.append(kept_rows, rows.start + new)
    return originals, similarities


def _nearest(tile, kept):
    """Returns for each row of a tile the nearest kept row, and their cosine."""
    nearest = np.zeros(len(tile), "int64")
    cosines = np.full(len(tile), -np.inf, "float32")
    for part in chunks(len(kept), _KEPT_ROWS):
        similarities = tile @ kept[part].T  # [1024, 16384]
        best = similarities.argmax(axis=1)
        values = similarities[np.arange(len(tile)), best]
        nearer = values > cosines
        nearest[nearer], cosines[nearer] = part.start + best[nearer], values[nearer]
    return nearest, cosines


def _summary(texts, duplicates, threshold):
    """Describes how many duplicates there are, and shows the first of them."""
    equal = [texts[a] == texts[b] for a, b in zip(*duplicates[:2], strict=True)]
    lines = [
        f"{len(equal):,} of {len(texts):,} texts are duplicates: {sum(equal):,} equal, "
        f"{len(equal) - sum(equal):,} with a cosine >= {threshold}."
    ]
    for row, original, similarity in list(zip(*duplicates, strict=True))[:_SHOWN]:
        of_row, of_original = (
            textwrap.shorten(texts[i], _WIDTH, placeholder="...") for i in (row, original)
        )
        lines.append(
            f"  {similarity:.3f}  {row}: {of_row!r}  of  {original}: {of_original!r}"
        )
    if len(equal) > _SHOWN:
        lines.append("  ...")
    return "\n".join(lines)
