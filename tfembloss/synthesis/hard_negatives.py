"""Hard-negative mining: negatives from a corpus, as columns for `fit`."""

import itertools
import operator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfembloss import distances, search
from tfembloss.checks import integer
from tfembloss.synthesis.scoring import BATCHES, chunks, embed_all, embedders, scorer
from tfembloss.synthesis.selection import (
    check_conditions,
    generator,
    remove,
    summary,
    take,
)
from tfembloss.synthesis.texts import by_query, check_task, rows_of_known, unique

_CHUNK = 4096  # pairs of rows compared at a time


class HardNegatives(NamedTuple):
    """Mined negatives: one entry for each pair of a query and one of its positives.

    Args:
        queries: texts; those of one query's pairs stand one after the other.
        positives: texts.
        negatives: a list of texts for each pair, highest score first; it may be short or
            empty. All pairs of a query have the same.
        scores: for each pair the scores of its positive and then of its negatives, a
            float32 array `[1 + negatives]`.

    Example:

    >>> mined = HardNegatives(
    ...     ["q", "r"], ["p", "o"], [["m", "n"], ["m"]], [[0.75, 0.5, 0.25], [0.5, 0.0]]
    ... )
    >>> mined.triplets()
    (['q', 'q', 'r'], ['p', 'p', 'o'], ['m', 'n', 'm'])
    >>> mined.triplet_scores().tolist()
    [[0.75, 0.5], [0.75, 0.25], [0.5, 0.0]]
    >>> mined.tuples()
    (['q'], ['p'], ['m'], ['n'])
    """

    queries: list
    positives: list
    negatives: list
    scores: list

    def triplets(self):
        """Columns (queries, positives, negatives), a row for each negative.

        For `model.fit(mined.triplets())`, with a loss on triplets or ranking.
        """
        pairs = list(zip(self.queries, self.positives, self.negatives, strict=True))
        rows = [(q, p, n) for q, p, negatives in pairs for n in negatives]
        return _columns(rows, 3)

    def triplet_scores(self):
        """Scores `[rows, 2]` of each triplet's positive and negative, for MarginMSELoss.

        `model.fit(mined.triplets(), mined.triplet_scores())`
        """
        rows = [(of[0], score) for of in self.scores for score in of[1:]]
        return np.array(rows, "float32").reshape(-1, 2)

    def tuples(self, num_negatives=None):
        """Columns (queries, positives, negatives, more negatives, ...), a row for a pair.

        Pairs with fewer negatives are left out, more are not taken. By default
        `num_negatives` is the most that any pair has.
        """
        count = self._count(num_negatives)
        entries = zip(self.queries, self.positives, self.negatives, strict=True)
        rows = [(q, p, *of[:count]) for q, p, of in entries if len(of) >= count]
        return _columns(rows, 2 + count)

    def tuple_scores(self, num_negatives=None):
        """Scores `[rows, 1 + n]` of each tuple's positive and negatives.

        For MarginMSELoss and DistillKLDivLoss:
        `model.fit(mined.tuples(), mined.tuple_scores())`
        """
        count = self._count(num_negatives)
        rows = [of[: 1 + count] for of in self.scores if len(of) > count]
        return np.array(rows, "float32").reshape(-1, 1 + count)

    def pairs(self):
        """Columns (texts, others), and labels `[rows]`: 1 for a positive, 0 for a negative.

        Each pair once, also a negative of a query with several positives. For
        `model.fit(*mined.pairs())`, with a loss on matches.
        """
        entries = zip(self.queries, self.positives, self.negatives, strict=True)
        labels = {}
        for query, positive, negatives in entries:
            labels[query, positive] = 1
            labels.update({(query, negative): 0 for negative in negatives})
        return _columns(labels, 2), np.array(list(labels.values()), "int32")

    def _count(self, num_negatives):
        if num_negatives is not None:
            return integer("num_negatives", num_negatives, 1)
        return max([1, *map(len, self.negatives)])


def _columns(rows, num_columns):
    """Rows as a tuple of lists, also where there is no row."""
    return tuple(map(list, zip(*rows, strict=True))) or ([],) * num_columns


def mine_hard_negatives(
    queries,
    corpus,
    positives,
    embed,
    num_negatives=3,
    range_min=0,
    range_max=None,
    min_score=None,
    max_score=None,
    absolute_margin=None,
    relative_margin=None,
    sampling="top",
    seed=None,
    cross_encoder=None,
    distance="cosine",
    batch_size=256,
    verbose=1,
):
    r"""Texts of a corpus that are near to a query, but are none of its positives.

    For each query the nearest `range_max` texts of the corpus are its candidates. With the
    score s of a text, and $s^+$ the lowest score of the query's positives, those remain
    with

    $$s \le s^+ - m_{abs}, \qquad s \le s^+ - m_{rel} \, |s^+|, \qquad
      s_{min} \le s \le s_{max}$$

    as far as these are given. Of them the `range_min` of highest score are skipped, and
    from the rest `num_negatives` are taken: the highest, or at random.

    A negative is never the query's own text, nor one of its positives, also where these
    stand in the corpus more than once; and no text is there twice. A query that is there
    twice is one query with the positives of both. Where few texts remain, a query has
    fewer negatives, or none.

    Two scores are equal here where they differ by float rounding only, $10^{-6}$ or that
    share of them: with `absolute_margin=0` a text that is as near as the positive remains.

    Args:
        queries: Q texts; also a dict of id to text.
        corpus: N texts, the only ones that become negatives; also a dict of id to text.
        positives: for each query its positive text, or several of them: a list, a set, or
            a dict of text to grade, of which those with a grade above 0 count. They need
            not be in the corpus. Where the corpus is a dict, they are ids of it, or all
            texts of it. A dict has the queries' ids as its keys, or their texts where
            `queries` is a list.
        embed: function from a list of texts to embeddings `[n, D]`, or a Keras model
            whose `predict` takes texts, as `tfembloss.EmbeddingModel`; or a tuple of two
            of them, for queries and for the rest.
        num_negatives: negatives of a query, >= 1.
        range_min: how many of the texts that remain are skipped, highest score first,
            >= 0: they may well be positives that nobody has marked.
        range_max: number of candidates, >= range_min + num_negatives. Positives and the
            query's own text do not count. By default, with P the query's number of
            positives, `range_min + 10 * num_negatives + P` where a cross encoder,
            `max_score`, a margin or random sampling is given, else
            `range_min + num_negatives + P`.
        min_score: least score of a negative.
        max_score: greatest score of a negative.
        absolute_margin: $m_{abs}$, by how much it is below its query's positives.
        relative_margin: $m_{rel}$, by what share of the positive's score: 0.05 for 5%.
        sampling: `"top"` or `"random"`.
        seed: an integer >= 0 that decides a random sample. By default it comes from
            Python's random numbers, which `keras.utils.set_random_seed` sets.
        cross_encoder: function from two lists of texts, queries and others, to scores
            `[n]`; or a Keras model whose `predict` maps a tuple of both to `[n]` or
            `[n, 1]`. Candidates are what is near by `embed`; all scores are then the
            cross encoder's.
        distance: a distance of `tfembloss.distances`. A score is 1 - distance for cosine,
            and -distance for the others.
        batch_size: texts, or pairs of them, that a model is given at a time, > 0.
        verbose: 1 for progress bars and a summary: how many queries have all, some or no
            negatives, and what each condition has removed.

    Returns:
        `HardNegatives`, whose `triplets()`, `tuples()` and `pairs()` go into `fit`.

    Raises:
        ValueError: numbers of queries and positives differ, a query has no positive, a
            text is empty or none, a container has no order or unknown ids, an option is
            out of range, options contradict each other, or a model returns another shape
            or numbers that are not finite.

    Example:

    >>> def embed(texts):
    ...     return [[text.count(letter) for letter in "abc"] for text in texts]
    >>> mined = mine_hard_negatives(
    ...     ["aaab"], ["aaab", "aab", "abb", "bbc", "abb"], ["aab"], embed,
    ...     num_negatives=2, verbose=0,
    ... )
    >>> mined.negatives, mined.scores[0].round(2)
    ([['abb', 'bbc']], array([0.99, 0.71, 0.28], dtype=float32))

    Reference:
        Moreira et al., "NV-Retriever: Improving text embedding models with effective
        hard-negative mining", 2024, https://arxiv.org/abs/2407.15831: relative_margin=0.05

    Relations:
        sentence-transformers' function of this name. That one takes all positives into
        the corpus: add them for the same result. It also offers the query's own text, a
        cross encoder's scores where a condition is on them only, three random negatives
        out of four by default, and lets a query with fewer positives than others have
        candidates beyond range_max.
    """
    queries, corpus, positives = check_task(queries, corpus, positives)
    positives_of = by_query(queries, positives)
    queries, positives = list(positives_of), list(positives_of.values())
    num_negatives = integer("num_negatives", num_negatives, 1)
    range_min = integer("range_min", range_min, 0)
    batch_size = integer("batch_size", batch_size, 1)
    names = ("absolute_margin", "relative_margin", "max_score", "min_score")
    values = (absolute_margin, relative_margin, max_score, min_score)
    conditions = check_conditions(**dict(zip(names, values, strict=True)))
    rng = generator(sampling, seed)
    num_positives = np.array(list(map(len, positives)))
    thinned = rng is not None or cross_encoder is not None
    thinned = thinned or any(name != "min_score" for name in conditions)
    default = num_negatives * (10 if thinned else 1) + num_positives
    counts = _num_candidates(range_min, range_max, num_negatives, default)
    of_queries, of_corpus = embedders(embed, batch_size)
    score = None if cross_encoder is None else scorer(cross_encoder, batch_size)

    return _mine(
        queries,
        corpus,
        positives,
        embedders=(of_queries, of_corpus),
        score=score,
        counts=counts,
        conditions=conditions,
        distance=distance,
        sample=(range_min, num_negatives, rng),
        batch_size=batch_size,
        verbose=verbose,
    )


def _mine(
    queries,
    corpus,
    positives,
    *,
    embedders,
    score,
    counts,
    conditions,
    distance,
    sample,
    batch_size,
    verbose,
):
    """The hard negatives of checked queries: embedded, searched, scored and taken."""
    of_queries, of_corpus = embedders
    range_min, num_negatives, rng = sample
    # Each text once: the corpus, and behind it the positives that are not in it.
    texts = unique(itertools.chain(corpus, *positives))
    row_of = {text: row for row, text in enumerate(texts)}
    query_of_pair = np.repeat(np.arange(len(queries)), list(map(len, positives)))
    row_of_pair = np.array([row_of[text] for of in positives for text in of])
    embeddings = (
        embed_all(of_queries, queries, batch_size, "queries", verbose),
        embed_all(of_corpus, texts, batch_size, "texts", verbose),
    )
    excluded = rows_of_known(queries, corpus, positives)
    found, candidates, bounds = _search(
        *embeddings, len(corpus), counts, excluded, distance, verbose
    )
    pairs = query_of_pair, row_of_pair
    if score is None:
        both = _by_distance(distance, embeddings, pairs, candidates, found, conditions)
    else:
        rows = [np.concatenate(parts) for parts in zip(pairs, candidates, strict=True)]
        of_all = _pair_scores(score, queries, texts, rows, batch_size, verbose)
        both = np.split(of_all, [len(row_of_pair)])
    positive_scores, scores = both

    (begins,) = np.nonzero(np.diff(query_of_pair, prepend=-1))
    lowest = np.minimum.reduceat(positive_scores, begins)[candidates[0]]
    least = 1 if _is_cosine(distance) and score is None else 0
    remain, removed = remove(scores, lowest, conditions, least)
    taken = [
        begin + take(remain[begin:end], scores[begin:end], range_min, num_negatives, rng)
        for begin, end in itertools.pairwise(bounds)
    ]
    if verbose:
        print(summary(taken, num_negatives, positive_scores, scores, removed))
    taken_of_pair = [taken[query] for query in query_of_pair]
    return HardNegatives(
        [queries[query] for query in query_of_pair],
        [texts[row] for row in row_of_pair],
        [[texts[row] for row in candidates[1][rows]] for rows in taken_of_pair],
        [
            np.append(of_positive, scores[rows])
            for of_positive, rows in zip(positive_scores, taken_of_pair, strict=True)
        ],
    )


def _num_candidates(range_min, range_max, num_negatives, default):
    """How many candidates each query has, `[Q]`."""
    if range_max is None:
        return range_min + default
    if integer("range_max", range_max, 1) >= range_min + num_negatives:
        return np.full(len(default), operator.index(range_max))
    raise ValueError(
        "Expected range_max >= range_min + num_negatives candidates. Received: "
        f"range_max={range_max}, range_min={range_min}, num_negatives={num_negatives}"
    )


def _search(queries, texts, num_texts, counts, excluded, distance, verbose):
    """The nearest of the first texts to each query, of all queries one after the other.

    Returns:
        Distances; numbers of the queries and of the texts; for query q they are those from
        `bounds[q]` to `bounds[q + 1]`.
    """
    if verbose:
        print(f"Searching {num_texts:,} texts", flush=True)
    found, rows = search.nearest_besides(
        queries, texts[:num_texts], counts, excluded, distance,
        # A function of distance makes [1024, chunk, D].
        chunk_size=16384 if isinstance(distance, str) else 64,
        verbose=verbose,
    )  # fmt: skip
    bounds = np.cumsum([0, *map(len, rows)])
    query_of = np.repeat(np.arange(len(queries)), np.diff(bounds))
    return np.concatenate(found), (query_of, np.concatenate(rows)), bounds


def _by_distance(distance, embeddings, pairs, candidates, found, conditions):
    """Similarities of the pairs and of the candidates."""
    of_pairs = _rowwise(distance, embeddings, pairs)
    if conditions and not _is_cosine(distance):
        # Distances of all pairs are rounded otherwise, so two may not be compared.
        return of_pairs, _rowwise(distance, embeddings, candidates)
    return of_pairs, _similarity(distance, found)


def _is_cosine(distance):
    return distances.get(distance) is distances.cosine


def _similarity(distance, values):
    is_cosine = distances.get(distance) is distances.cosine
    return 1 - values if is_cosine else -values


def _rowwise(distance, embeddings, pairs):
    """Scores `[P]` of pairs of rows of the queries' and the texts' embeddings."""
    rowwise = distances.get(distance).rowwise
    parts = []
    for part in chunks(len(pairs[0]), _CHUNK):
        a, b = (x[rows[part]] for x, rows in zip(embeddings, pairs, strict=True))
        parts.append(np.asarray(rowwise(tf.constant(a), tf.constant(b))))
    return _similarity(distance, np.concatenate(parts))


def _pair_scores(score, queries, texts, pairs, batch_size, verbose):
    """The cross encoder's scores `[P]` of pairs of rows of queries and texts."""
    title = f"Scoring {len(pairs[0]):,} pairs"
    parts = []
    for part in chunks(len(pairs[0]), batch_size * BATCHES, title, verbose):
        a, b = (
            [of[row] for row in rows[part]]
            for of, rows in zip((queries, texts), pairs, strict=True)
        )
        parts.append(score(a, b))
    return np.concatenate(parts)
