"""Synthesizes triplets with a teacher's margins from queries and a corpus."""

import numpy as np

from tfembloss import search
from tfembloss.checks import integer
from tfembloss.synthesis.scoring import chunks, embed_to_disk, embedders, scorer
from tfembloss.synthesis.shards import (
    MANIFEST,
    SHARD,
    begin,
    check_folder,
    dataset_of,
    fingerprint,
    local_folder,
    missing_shards,
    read_manifest,
    shard_file,
    write_shard,
)
from tfembloss.synthesis.texts import check_task, rows_of_known

_PROBES = 2  # texts whose embeddings identify a model


def synthesize(
    queries,
    corpus,
    relation_miner,
    cross_encoder,
    path,
    num_relations=10,
    positives=None,
    batch_size=256,
    verbose=1,
):
    r"""Synthesizes triplets with a teacher's margins from queries and a corpus only.

    The relation miner finds the n = `num_relations` texts nearest to a query q by cosine.
    The first is its similar article p, the others are irrelevant articles $a_k$, and the
    cross-encoder computes the margins:

    $$m_k = CE(q, p) - CE(q, a_k), \qquad k = 1, ..., n - 1$$

    This gives `Q * (n - 1)` rows. A margin is negative if the cross-encoder prefers the
    irrelevant article. The query's own text is never found, and duplicates in the corpus
    are found once.

    The rows are written to files in `path`, 256 queries in each. A run that was killed
    resumes from these files, if it is called again with the same arguments, and ends with
    the rows of an uninterrupted run; damaged files are made again. If the set is finished,
    no model is called. There is no lock: two runs must not write to the same folder at
    once.

    Args:
        queries: Q texts; also a dict of id to text.
        corpus: N texts; also a dict of id to text.
        relation_miner: function from a list of texts to embeddings `[n, D]`, or a Keras
            model whose `predict` accepts texts, such as `tfembloss.EmbeddingModel`; a tuple
            of two of them, for the queries and for the corpus; or a list of several miners,
            which take turns: first the nearest of each, then the second nearest, without
            duplicates, until there are n. The number of rows remains the same.
        cross_encoder: function from two lists of texts, queries and articles, to scores
            `[n]`; or a Keras model whose `predict` maps a tuple of both to `[n]` or
            `[n, 1]`.
        path: local folder of the set, a new one or that of a set to resume.
        num_relations: n, >= 2.
        positives: if known, for each query its positive text or a list of them, in the
            containers of `mine_hard_negatives`. The first one (of a set, the first in
            sorted order) is then the similar article, and all texts found that are not
            positives are irrelevant articles.
        batch_size: number of texts, or pairs of texts, passed to a model at a time, > 0.
        verbose: 1 for progress bars, and for a message if the set is already finished.

    Returns:
        The dataset of `load_synthesized(path)`, for `MarginMSELoss`:
        `model.fit(dataset.shuffle(10_000).batch(64))`.

    Raises:
        ValueError: the corpus has too few texts, a text is missing or empty, a model
            returns another shape or numbers that are not finite; or `path` contains
            something else, a set of other texts or options, or an unfinished set of other
            models. The folder is then unchanged. If the set is finished, no model is
            called, so other models are not noticed.

    Example:

    >>> import tempfile
    >>> def miner(texts):
    ...     return [[text.count(letter) for letter in "abc"] for text in texts]
    >>> def cross_encoder(queries, articles):
    ...     return [len({*q} & {*a}) for q, a in zip(queries, articles)]
    >>> rows = synthesize(
    ...     ["ab"], ["abc", "aabb", "ccb"], miner, cross_encoder,
    ...     tempfile.mkdtemp() + "/triplets", num_relations=3, verbose=0,
    ... )
    >>> for texts, margin in rows.as_numpy_iterator():
    ...     print(*texts, margin)
    b'ab' b'aabb' b'abc' 0.0
    b'ab' b'aabb' b'ccb' 1.0

    Reference:
        Wang et al., "GPL: Generative Pseudo Labeling for Unsupervised Domain Adaptation of
        Dense Retrieval", 2022, https://arxiv.org/abs/2112.07577

    Relations:
        Based on Jina Finetuner's synthesis run, which takes names of models, runs in their
        cloud and cannot be resumed. GPL generates the queries, so that their articles are
        known, as with `positives`; it mines 50 negatives for each and samples one per step.
    """
    queries, corpus, known = check_task(queries, corpus, positives, unknown_allowed=True)
    num_relations = integer("num_relations", num_relations, 2)
    batch_size = integer("batch_size", batch_size, 1)
    several = relation_miner if isinstance(relation_miner, list) else [relation_miner]
    if not several:
        raise ValueError("Expected a relation_miner or a list of them, received none.")
    miners = [embedders(miner, batch_size, "relation_miner") for miner in several]
    score = scorer(cross_encoder, batch_size)
    num_hits = num_relations if positives is None else num_relations - 1
    excluded = rows_of_known(queries, corpus, known)
    _check_corpus(corpus, excluded, num_hits, num_relations)

    path = local_folder(path)
    plan = {
        "inputs": fingerprint(
            queries, corpus, *known, map(str, [num_relations, len(miners), SHARD])
        ),
        "rows": [  # of each shard
            (num_relations - 1) * len(queries[start : start + SHARD])
            for start in range(0, len(queries), SHARD)
        ],
    }
    check_folder(path, plan)
    if missing := missing_shards(path, plan):
        probes = _probe(miners, score, queries, corpus)
        begin(path, plan, probes)
        dims = [np.shape(probe)[1] for probe in probes[:-1]]
        corpora = _embedded_corpora(path, miners, dims, corpus, batch_size, verbose)
        title = f"Making triplets: {len(missing)} of {len(plan['rows'])} files"
        for step in chunks(len(missing), 1, title, verbose):
            shard = missing[step.start]
            part = slice(shard * SHARD, (shard + 1) * SHARD)
            hits = _hits(queries[part], miners, corpora, excluded, part, num_hits)
            articles = [
                [*of_query[: positives is not None], *(corpus[row] for row in rows)]
                for of_query, rows in zip(known[part], hits, strict=True)
            ]
            write_shard(shard_file(path, plan, shard), queries[part], articles, score)
    elif verbose:
        print(f"The set in {path} is finished: no model is called.")
    for file in path.glob("corpus-*.float32"):
        file.unlink()
    return dataset_of(path, plan)


def load_synthesized(path):
    """Loads the triplets that `synthesize` has made, as a dataset for `fit`.

    The files are TFRecords of `tf.train.Example` with the features query, article,
    irrelevant_article and margin. They are read once here, to check for damage.

    Args:
        path: the folder that was passed to `synthesize`.

    Returns:
        A `tf.data.Dataset` of single rows `((query, similar, irrelevant), margin)`,
        strings and a float32, in the order of the queries, of known length: continue with
        `.shuffle(...).batch(...)`.

    Raises:
        ValueError: the folder does not contain a set, or the set is unfinished or damaged.

    Example:

    >>> import tempfile
    >>> def miner(texts):
    ...     return [[text.count("a"), text.count("b")] for text in texts]
    >>> def cross_encoder(queries, articles):
    ...     return [-abs(len(q) - len(a)) for q, a in zip(queries, articles)]
    >>> path = tempfile.mkdtemp()
    >>> _ = synthesize(["ab"], ["aab", "aaaab"], miner, cross_encoder, path, 2, verbose=0)
    >>> for texts, margin in load_synthesized(path).as_numpy_iterator():
    ...     print(*texts, margin)
    b'ab' b'aab' b'aaaab' 2.0
    """
    path = local_folder(path)
    if not (path / MANIFEST).exists():
        raise ValueError(
            "Expected the folder of a set that tfembloss.synthesis.synthesize has made. "
            f"Received: path={str(path)!r}, which has no {MANIFEST}."
        )
    plan = read_manifest(path)
    if missing := missing_shards(path, plan):
        num_shards, first = len(plan["rows"]), shard_file(path, plan, missing[0])
        raise ValueError(
            f"Expected a finished set. Received: path={str(path)!r}, which has "
            f"{num_shards - len(missing)} of {num_shards} files: {first.name} is "
            f"{'damaged' if first.exists() else 'missing'}. Call synthesize with this path "
            "and the same arguments to make the rest."
        )
    return dataset_of(path, plan)


def _check_corpus(corpus, excluded, num_hits, num_relations):
    """Checks that enough texts can be found for each query."""
    fewest = len(corpus) - max(map(len, excluded))
    if fewest < num_hits:
        raise ValueError(
            f"Expected a corpus in which {num_hits} texts can be found for each query, "
            f"besides its own text and its positives. Received: {len(corpus)} different "
            f"texts, for one query {fewest}. Add texts, or pass a num_relations below "
            f"{num_relations}."
        )


def _embedded_corpora(path, miners, dims, corpus, batch_size, verbose):
    """Returns each miner's embeddings of the corpus, in files of the folder."""
    corpora = []
    for i, ((_, of_corpus), dim) in enumerate(zip(miners, dims, strict=True)):
        file = path / f"corpus-{i}.float32"
        name = f"texts, relation miner {i + 1} of {len(miners)}"
        corpora.append(
            embed_to_disk(of_corpus, corpus, dim, file, batch_size, name, verbose)
        )
    return corpora


def _hits(queries, miners, corpora, excluded, part, num_hits):
    """Returns for each query of a part the corpus rows that the miners find."""
    counts = np.full(len(queries), num_hits)
    rankings = [
        search.nearest_besides(of_queries(queries), embeddings, counts, excluded[part])[1]
        for (of_queries, _), embeddings in zip(miners, corpora, strict=True)
    ]
    return [_take_turns(of_query, num_hits) for of_query in zip(*rankings, strict=True)]


def _take_turns(rankings, count):
    """Returns `count` rows: the first of each ranking, then the second of each, ..."""
    in_turn = np.stack(rankings, axis=1).ravel().tolist()
    return list(dict.fromkeys(in_turn))[:count]


def _probe(miners, score, queries, corpus):
    """Returns embeddings of a few texts by each miner, and scores, as lists for JSON."""
    queries, corpus = queries[:_PROBES], corpus[:_PROBES]
    probes = [
        np.concatenate([of_queries(queries), of_corpus(corpus)])
        for of_queries, of_corpus in miners
    ]
    num_pairs = min(len(queries), len(corpus))
    probes.append(score(queries[:num_pairs], corpus[:num_pairs]))
    return [probe.tolist() for probe in probes]
