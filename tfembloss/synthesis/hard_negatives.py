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
        queries: texts; the pairs of one query are adjacent.
        positives: texts.
        negatives: a list of texts for each pair, highest score first; it may be short or
            empty. All pairs of a query have the same negatives.
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
        """Returns columns (queries, positives, negatives), a row for each negative.

        For `model.fit(mined.triplets())`, with a triplet or ranking loss.
        """
        pairs = list(zip(self.queries, self.positives, self.negatives, strict=True))
        rows = [(q, p, n) for q, p, negatives in pairs for n in negatives]
        return _columns(rows, 3)

    def triplet_scores(self):
        """Returns scores `[rows, 2]` of each triplet's positive and negative.

        For MarginMSELoss: `model.fit(mined.triplets(), mined.triplet_scores())`
        """
        rows = [(of[0], score) for of in self.scores for score in of[1:]]
        return np.array(rows, "float32").reshape(-1, 2)

    def tuples(self, num_negatives=None):
        """Returns columns (queries, positives, negatives, ...), a row for each pair.

        A row has `num_negatives` negatives, by default the maximum of all pairs. Pairs with
        fewer negatives are left out, and negatives beyond that number are dropped.
        """
        count = self._count(num_negatives)
        entries = zip(self.queries, self.positives, self.negatives, strict=True)
        rows = [(q, p, *of[:count]) for q, p, of in entries if len(of) >= count]
        return _columns(rows, 2 + count)

    def tuple_scores(self, num_negatives=None):
        """Returns scores `[rows, 1 + n]` of each tuple's positive and negatives.

        For MarginMSELoss and DistillKLDivLoss:
        `model.fit(mined.tuples(), mined.tuple_scores())`
        """
        count = self._count(num_negatives)
        rows = [of[: 1 + count] for of in self.scores if len(of) > count]
        return np.array(rows, "float32").reshape(-1, 1 + count)

    def pairs(self):
        """Returns columns (texts, others), and labels `[rows]`, 1 for positives, else 0.

        Each pair occurs once, even a negative of a query with several positives. For
        `model.fit(*mined.pairs())`, with a loss on labeled pairs.
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
    """Returns rows as a tuple of lists, even if there are no rows."""
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
    r"""Mines hard negatives: texts similar to a query that are not among its positives.

    The candidates of a query are the nearest `range_max` texts of the corpus. With the
    score s of a text, and $s^+$ the lowest score of the query's positives, the candidates
    remain that satisfy

    $$s \le s^+ - m_{abs}, \qquad s \le s^+ - m_{rel} \, |s^+|, \qquad
      s_{min} \le s \le s_{max}$$

    as far as these are given. Of the remaining texts, the `range_min` with the highest
    scores are skipped, and `num_negatives` of the rest are chosen: those with the highest
    scores, or a random sample.

    A negative is never the query's own text or one of its positives, not even as a
    duplicate in the corpus, and the negatives of a query have no duplicates. Duplicate
    queries are one query with the positives of all. If few texts remain, a query has fewer
    negatives, or none.

    Two scores count as equal here if they differ by at most $10^{-6}$ (cosines) or by that
    fraction of them (other scores), the error of rounding: with `absolute_margin=0` a text
    as similar as the positive remains.

    Args:
        queries: Q texts; also a dict of id to text.
        corpus: N texts, the only ones that become negatives; also a dict of id to text.
        positives: for each query its positive text, or several of them: a list, a set, or
            a dict of text to grade, where texts with a grade above 0 are positives. They
            need not be in the corpus. If the corpus is a dict, they are its ids, or all of
            them are its texts. Instead of a list, a dict from the queries' ids, or from
            their texts if `queries` is a list.
        embed: function from a list of texts to embeddings `[n, D]`, or a Keras model
            whose `predict` accepts texts, such as `tfembloss.EmbeddingModel`; or a tuple
            of two of them, for the queries and for all other texts. A model's prompts
            `"query"` and `"document"`, if it has them, are put before these.
        num_negatives: negatives of a query, >= 1.
        range_min: number of remaining texts to skip, highest scores first, >= 0: they may
            be positives that are not labeled.
        range_max: number of candidates, >= range_min + num_negatives, not counting
            positives and the query's own text. By default, with P the query's number of
            positives, `range_min + 10 * num_negatives + P` if a cross-encoder,
            `max_score`, a margin or random sampling is used, else
            `range_min + num_negatives + P`.
        min_score: minimum score of a negative.
        max_score: maximum score of a negative.
        absolute_margin: $m_{abs}$, by which a negative's score must be below those of its
            query's positives.
        relative_margin: $m_{rel}$, the same as a fraction of the positive's score: 0.05
            for 5%.
        sampling: `"top"` or `"random"`.
        seed: an integer >= 0 that determines a random sample. By default it comes from
            Python's random generator, which `keras.utils.set_random_seed` seeds.
        cross_encoder: function from two lists of texts, queries and others, to scores
            `[n]`; or a Keras model whose `predict` maps a tuple of both to `[n]` or
            `[n, 1]`. The candidates are then still the nearest by `embed`, but all scores
            are those of the cross-encoder.
        distance: a distance of `tfembloss.distances`. A score is 1 - distance for cosine,
            and -distance for the others.
        batch_size: number of texts, or pairs of texts, passed to a model at a time, > 0.
        verbose: 1 for progress bars and a summary: how many queries have all, some or no
            negatives, and how many candidates each condition has removed.

    Returns:
        `HardNegatives`, whose `triplets()`, `tuples()` and `pairs()` are inputs of `fit`.

    Raises:
        ValueError: the numbers of queries and positives differ, a query does not have a
            positive, a text is missing or empty, a container has no order or unknown ids,
            options contradict each other, or a model returns another shape or numbers that
            are not finite.

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
        sentence-transformers' function of the same name. That one adds all positives to
        the corpus: add them for the same result. It may also return the query's own text,
        uses a cross-encoder's scores only if a condition needs them, samples three out of
        four candidates at random by default, and gives a query with fewer positives than
        others candidates beyond range_max.
    """
    rng = generator(sampling, seed)
    task = MiningTask(
        queries,
        corpus,
        positives,
        num_negatives=num_negatives,
        range_min=range_min,
        range_max=range_max,
        min_score=min_score,
        max_score=max_score,
        absolute_margin=absolute_margin,
        relative_margin=relative_margin,
        is_random=rng is not None,
        cross_encoder=cross_encoder,
        distance=distance,
        batch_size=batch_size,
    )
    return task.mine(embedders(embed, task.batch_size), rng, verbose)


class MiningTask:
    """Checked arguments of `mine_hard_negatives`, to mine with one model after another.

    `queries` are without duplicates, each with the list of its `positives`; `known` are the
    rows of `corpus` that are a query's own text or one of its positives.
    """

    def __init__(
        self,
        queries,
        corpus,
        positives,
        *,
        num_negatives,
        range_min,
        range_max,
        min_score,
        max_score,
        absolute_margin,
        relative_margin,
        is_random,
        cross_encoder,
        distance,
        batch_size,
    ):
        queries, self.corpus, positives = check_task(queries, corpus, positives)
        positives_of = by_query(queries, positives)
        self.queries, self.positives = list(positives_of), list(positives_of.values())
        self.known = rows_of_known(self.queries, self.corpus, self.positives)
        self.num_negatives = integer("num_negatives", num_negatives, 1)
        self.range_min = integer("range_min", range_min, 0)
        self.batch_size = integer("batch_size", batch_size, 1)
        self.conditions = check_conditions(
            absolute_margin=absolute_margin,
            relative_margin=relative_margin,
            max_score=max_score,
            min_score=min_score,
        )
        num_positives = np.array(list(map(len, self.positives)))
        thinned = is_random or cross_encoder is not None
        thinned = thinned or any(name != "min_score" for name in self.conditions)
        default = self.num_negatives * (10 if thinned else 1) + num_positives
        self._counts = _num_candidates(
            self.range_min, range_max, self.num_negatives, default
        )
        distances.get(distance)
        self.distance = distance
        self._score = None
        if cross_encoder is not None:
            self._score = scorer(cross_encoder, self.batch_size)

    def mine(self, embedders, rng, verbose):
        """Mines with two functions from a list of texts to embeddings."""
        of_queries, of_corpus = embedders
        queries, positives, distance = self.queries, self.positives, self.distance
        # Each text once: the corpus, followed by the positives that are not in it.
        texts = unique(itertools.chain(self.corpus, *positives))
        row_of = {text: row for row, text in enumerate(texts)}
        query_of_pair = np.repeat(np.arange(len(queries)), list(map(len, positives)))
        row_of_pair = np.array([row_of[text] for of in positives for text in of])
        embeddings = (
            embed_all(of_queries, queries, self.batch_size, "queries", verbose),
            embed_all(of_corpus, texts, self.batch_size, "texts", verbose),
        )
        found, candidates, bounds = _search(
            *embeddings, len(self.corpus), self._counts, self.known, distance, verbose
        )
        pairs = query_of_pair, row_of_pair
        if self._score is None:
            both = _by_distance(
                distance, embeddings, pairs, candidates, found, self.conditions
            )
        else:
            rows = [np.concatenate(parts) for parts in zip(pairs, candidates, strict=True)]
            of_all = _pair_scores(
                self._score, queries, texts, rows, self.batch_size, verbose
            )
            both = np.split(of_all, [len(row_of_pair)])
        positive_scores, scores = both

        (begins,) = np.nonzero(np.diff(query_of_pair, prepend=-1))
        lowest = np.minimum.reduceat(positive_scores, begins)[candidates[0]]
        least = 1 if _is_cosine(distance) and self._score is None else 0
        remain, removed = remove(scores, lowest, self.conditions, least)
        options = self.range_min, self.num_negatives, rng
        taken = [
            begin + take(remain[begin:end], scores[begin:end], *options)
            for begin, end in itertools.pairwise(bounds)
        ]
        if verbose:
            print(summary(taken, self.num_negatives, positive_scores, scores, removed))
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
    """Returns each query's number of candidates, `[Q]`."""
    if range_max is None:
        return range_min + default
    if integer("range_max", range_max, 1) >= range_min + num_negatives:
        return np.full(len(default), operator.index(range_max))
    raise ValueError(
        "Expected range_max >= range_min + num_negatives candidates. Received: "
        f"range_max={range_max}, range_min={range_min}, num_negatives={num_negatives}"
    )


def _search(queries, texts, num_texts, counts, excluded, distance, verbose):
    """Finds the nearest of the first `num_texts` texts to each query.

    Returns:
        Distances; the row numbers of the queries and of the texts; and `bounds`: the
        results of query q are those from `bounds[q]` to `bounds[q + 1]`.
    """
    if verbose:
        print(f"Searching {num_texts:,} texts", flush=True)
    found, rows = search.nearest_besides(
        queries, texts[:num_texts], counts, excluded, distance,
        # A function as distance allocates [1024, chunk, D].
        chunk_size=16384 if isinstance(distance, str) else 64,
        verbose=verbose,
    )  # fmt: skip
    bounds = np.cumsum([0, *map(len, rows)])
    query_of = np.repeat(np.arange(len(queries)), np.diff(bounds))
    return np.concatenate(found), (query_of, np.concatenate(rows)), bounds


def _by_distance(distance, embeddings, pairs, candidates, found, conditions):
    """Returns the scores of the pairs and of the candidates."""
    of_pairs = _rowwise(distance, embeddings, pairs)
    if conditions and not _is_cosine(distance):
        # Pairwise distances are rounded differently, so the two cannot be compared.
        return of_pairs, _rowwise(distance, embeddings, candidates)
    return of_pairs, _similarity(distance, found)


def _is_cosine(distance):
    return distances.get(distance) is distances.cosine


def _similarity(distance, values):
    is_cosine = distances.get(distance) is distances.cosine
    return 1 - values if is_cosine else -values


def _rowwise(distance, embeddings, pairs):
    """Returns scores `[P]` of pairs of rows of the queries' and the texts' embeddings."""
    rowwise = distances.get(distance).rowwise
    parts = []
    for part in chunks(len(pairs[0]), _CHUNK):
        a, b = (x[rows[part]] for x, rows in zip(embeddings, pairs, strict=True))
        parts.append(np.asarray(rowwise(tf.constant(a), tf.constant(b))))
    return _similarity(distance, np.concatenate(parts))


def _pair_scores(score, queries, texts, pairs, batch_size, verbose):
    """Returns the cross-encoder's scores `[P]` of pairs of rows of queries and texts."""
    title = f"Scoring {len(pairs[0]):,} pairs"
    parts = []
    for part in chunks(len(pairs[0]), batch_size * BATCHES, title, verbose):
        a, b = (
            [of[row] for row in rows[part]]
            for of, rows in zip((queries, texts), pairs, strict=True)
        )
        parts.append(score(a, b))
    return np.concatenate(parts)
