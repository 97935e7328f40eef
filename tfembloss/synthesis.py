"""Training data from texts alone: hard negatives, triplets with margins, no duplicates.

`mine_hard_negatives` finds negatives for pairs, `synthesize` makes triplets of queries and
a corpus without any pairs, `find_duplicates` cleans a corpus.
"""

import hashlib
import json
import os
import pathlib

import numpy as np
import tensorflow as tf

from tfembloss import search
from tfembloss.checks import check_count
from tfembloss.duplicates import Duplicates, find_duplicates
from tfembloss.hard_negatives import HardNegatives, mine_hard_negatives
from tfembloss.scoring import (
    check_task,
    chunks,
    embed_to_disk,
    embedders,
    rows_of_known,
    scorer,
)

__all__ = [
    "Duplicates",
    "HardNegatives",
    "find_duplicates",
    "load_synthesized",
    "mine_hard_negatives",
    "synthesize",
]

_SHARD = 256  # queries whose rows are one file
_PROBES = 2  # texts whose embeddings tell one model from another
_MANIFEST, _PARTIAL = "synthesized.json", ".partial"
_TEXTS = ("query", "article", "irrelevant_article")


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
    r"""Triplets with a teacher's margins, from queries and a corpus and nothing else.

    The relation miner finds the n = `num_relations` texts nearest to a query q by cosine.
    The first is its similar article p, each of the others an irrelevant one, $a_k$, and
    the cross encoder says by how much:

    $$m_k = CE(q, p) - CE(q, a_k), \qquad k = 1, ..., n - 1$$

    That is `Q * (n - 1)` rows. A margin below 0 is where the cross encoder takes the
    irrelevant one for better. The query's own text is not found, and a text that is in the
    corpus twice is found once.

    The rows go to files in `path`, 256 queries in each. A run that was killed goes on
    from what is there, with the same arguments, to the rows of one that was not; a file
    that is damaged is made again. Where the set is finished no model is called.

    Args:
        queries: Q texts; also a dict of id to text.
        corpus: N texts; also a dict of id to text.
        relation_miner: function from a list of texts to embeddings `[n, D]`, or a Keras
            model whose `predict` takes texts, as `tfembloss.EmbeddingModel`; a tuple of
            two of them, for queries and for the corpus; or a list of several miners,
            which take turns: first the nearest of each, then the second nearest, without
            repeats, until there are n. The number of rows stays the same.
        cross_encoder: function from two lists of texts, queries and articles, to scores
            `[n]`; or a Keras model whose `predict` maps a tuple of both to `[n]` or
            `[n, 1]`.
        path: local folder of the set, a new one or one that was begun.
        num_relations: n, >= 2.
        positives: where they are known, for each query its positive text or a list of
            them, in the containers of `mine_hard_negatives`. The first (of a set the first
            when sorted) is then the similar article, and all the others found are
            irrelevant ones, but none that is a positive.
        batch_size: texts, or pairs of them, that a model is given at a time, > 0.
        verbose: 1 for progress bars, and a line where the set is finished already.

    Returns:
        The dataset of `load_synthesized(path)`, for `MarginMSELoss`:
        `model.fit(dataset.shuffle(10_000).batch(64))`.

    Raises:
        ValueError: the corpus has too few texts, an option is out of range, a text is
            empty or none, a model returns another shape or numbers that are not finite;
            or `path` holds something else, a set of other texts or options, or one that
            was begun with other models and is not finished: of one that is no model is
            called, and others are not noticed. Nothing there is changed then.

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
        After Jina Finetuner's synthesis run, which takes names of models, runs in their
        cloud and cannot go on. GPL makes up the queries, whose article is then known: that
        is `positives`; it mines 50 negatives for each and draws one in a step.
    """
    queries, corpus, known = check_task(queries, corpus, positives, unknown_allowed=True)
    num_relations = check_count(num_relations, "num_relations", 2)
    batch_size = check_count(batch_size, "batch_size", 1)
    several = relation_miner if isinstance(relation_miner, list) else [relation_miner]
    if not several:
        raise ValueError("Expected a relation_miner or a list of them, received none.")
    miners = [embedders(miner, batch_size, "relation_miner") for miner in several]
    score = scorer(cross_encoder, batch_size)
    num_hits = num_relations if positives is None else num_relations - 1
    excluded = rows_of_known(queries, corpus, known)
    fewest = len(corpus) - max(map(len, excluded))
    if fewest < num_hits:
        raise ValueError(
            f"Expected a corpus in which {num_hits} texts can be found for each query, "
            f"besides its own text and its positives. Received: {len(corpus)} different "
            f"texts, for one query {fewest}. Add texts, or give a smaller num_relations "
            f"than {num_relations}."
        )

    path = _local_folder(path)
    plan = {
        "inputs": _fingerprint(
            queries, corpus, *known, map(str, [num_relations, len(miners), _SHARD])
        ),
        "rows": [  # of each shard
            (num_relations - 1) * len(queries[start : start + _SHARD])
            for start in range(0, len(queries), _SHARD)
        ],
    }
    _check_folder(path, plan)
    if missing := _missing_shards(path, plan):
        probes = _probe(miners, score, queries, corpus)
        _begin(path, plan, probes)
        corpora = [
            embed_to_disk(
                of_corpus,
                corpus,
                np.shape(probes[i])[1],
                path / f"corpus-{i}.float32",
                batch_size,
                f"texts, relation miner {i + 1} of {len(miners)}",
                verbose,
            )
            for i, (_, of_corpus) in enumerate(miners)
        ]
        title = f"Making triplets: {len(missing)} of {len(plan['rows'])} files"
        for step in chunks(len(missing), 1, title, verbose):
            shard = missing[step.start]
            part = slice(shard * _SHARD, (shard + 1) * _SHARD)
            hits = _hits(queries[part], miners, corpora, excluded, part, num_hits)
            articles = [
                [*of_query[: positives is not None], *(corpus[row] for row in rows)]
                for of_query, rows in zip(known[part], hits, strict=True)
            ]
            _write(_shard_file(path, plan, shard), queries[part], articles, score)
    elif verbose:
        print(f"The set in {path} is finished: no model is called.")
    for file in path.glob("corpus-*.float32"):
        file.unlink()
    return _dataset(path, plan)


def load_synthesized(path):
    """The triplets that `synthesize` has made, as a dataset for `fit`.

    Args:
        path: the folder that was given to `synthesize`.

    Returns:
        A `tf.data.Dataset` of single rows `((query, similar, irrelevant), margin)`,
        strings and a float32, in the order of the queries, of known length: go on with
        `.shuffle(...).batch(...)`. The files are TFRecords of `tf.train.Example` with the
        features query, article, irrelevant_article and margin. They are read through once
        here, for damage.

    Raises:
        ValueError: there is no set in the folder, it is not finished, or a file of it is
            damaged.

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
    path = _local_folder(path)
    if not (path / _MANIFEST).exists():
        raise ValueError(
            "Expected the folder of a set that tfembloss.synthesis.synthesize has made. "
            f"Received: path={str(path)!r}, where there is no {_MANIFEST}."
        )
    plan = _manifest(path)
    if missing := _missing_shards(path, plan):
        num_shards, first = len(plan["rows"]), _shard_file(path, plan, missing[0])
        raise ValueError(
            f"Expected a finished set. Received: path={str(path)!r}, which has "
            f"{num_shards - len(missing)} of {num_shards} files: {first.name} is "
            f"{'damaged' if first.exists() else 'missing'}. Call synthesize with this path "
            "and the same arguments: it makes the rest."
        )
    return _dataset(path, plan)


def _dataset(path, plan):
    """The dataset of a set that is whole."""
    files = [str(_shard_file(path, plan, shard)) for shard in range(len(plan["rows"]))]
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in _TEXTS}
    features["margin"] = tf.io.FixedLenFeature([], tf.float32)

    def row(example):
        parsed = tf.io.parse_single_example(example, features)
        return tuple(parsed[name] for name in _TEXTS), parsed["margin"]

    rows = tf.data.TFRecordDataset(files).map(row, tf.data.AUTOTUNE)
    return rows.apply(tf.data.experimental.assert_cardinality(sum(plan["rows"])))


# What is found.


def _hits(queries, miners, corpora, excluded, part, num_hits):
    """For each query of a part the rows of the corpus that its miners find."""
    counts = np.full(len(queries), num_hits)
    rankings = [
        search.nearest_besides(of_queries(queries), embeddings, counts, excluded[part])[1]
        for (of_queries, _), embeddings in zip(miners, corpora, strict=True)
    ]
    return [_take_turns(of_query, num_hits) for of_query in zip(*rankings, strict=True)]


def _take_turns(rankings, count):
    """The first rows of all rankings, the second of all, ...: so many, without repeats."""
    in_turn = np.stack(rankings, axis=1).ravel().tolist()
    return list(dict.fromkeys(in_turn))[:count]


# The folder.


def _local_folder(path):
    is_path = isinstance(path, str | os.PathLike) and str(path)
    if not is_path or "://" in str(path) or "\0" in str(path):
        raise ValueError(f"Expected a local folder. Received: path={path!r}")
    return pathlib.Path(path).expanduser().resolve()


def _fingerprint(*lists):
    """A hash of lists of texts."""
    digest = hashlib.sha256()
    for texts in lists:
        texts = list(texts)
        digest.update(f"{len(texts)};".encode())
        for text in texts:
            digest.update(f"{len(text)}:{text}".encode())
    return digest.hexdigest()


def _manifest(path):
    """What the folder's manifest says."""
    try:
        plan = json.loads((path / _MANIFEST).read_bytes())
    except (ValueError, RecursionError, IsADirectoryError):  # no JSON, no UTF-8, no file
        plan = None
    if not _is_plan(plan):
        raise _damaged(path)
    return plan


def _is_plan(plan):
    """Whether this is what `synthesize` writes into a manifest, and not something else."""
    if not isinstance(plan, dict) or not {"inputs", "rows", "probes"} <= plan.keys():
        return False
    inputs, rows, probes = plan["inputs"], plan["rows"], plan["probes"]
    is_text = isinstance(inputs, str) and len(inputs) == 64
    are_counts = isinstance(rows, list) and all(type(n) is int and n > 0 for n in rows)
    if not (is_text and are_counts and rows and isinstance(probes, list)):
        return False
    try:
        probes = [np.array(probe) for probe in probes]
    except ValueError:  # rows of different lengths
        return False
    ranks = [probe.ndim for probe in probes if _is_finite(probe)]
    return len(ranks) == len(probes) > 1 and ranks == [2] * (len(ranks) - 1) + [1]


def _is_finite(array):
    return array.dtype.kind in "if" and array.size > 0 and np.isfinite(array).all()


def _damaged(path):
    return ValueError(
        "Expected a manifest that tfembloss.synthesis.synthesize has written. "
        f"Received: {str(path / _MANIFEST)!r}, which is damaged: put back a copy of "
        "it, or remove the folder and make the set again."
    )


def _check_folder(path, plan):
    """That it is new, or holds this set."""
    if (path / _MANIFEST).exists():
        made = _manifest(path)
        if made["inputs"] == plan["inputs"] and made["rows"] != plan["rows"]:
            raise _damaged(path)
        for shard in range(len(plan["rows"])):
            if (file := _shard_file(path, plan, shard)).is_dir():
                raise ValueError(
                    "Expected a folder of files that tfembloss.synthesis.synthesize has "
                    f"written. Received: {str(file)!r}, a folder: remove it."
                )
        if made["inputs"] != plan["inputs"]:
            raise ValueError(
                "Expected a new folder, or one with a set of the same texts and options. "
                f"Received: path={str(path)!r}, which holds a set of others (queries, "
                "corpus, positives, num_relations or the number of relation miners). "
                "Choose another folder, or remove this one."
            )
    elif path.exists() and not (path.is_dir() and _is_empty(path)):
        raise ValueError(
            "Expected a new folder, or one of a set that was begun. Received: "
            f"path={str(path)!r}, which is something else: choose another."
        )


def _is_empty(path):
    """Nothing but what a run left that was killed at its very beginning."""
    return all(file.name == _MANIFEST + _PARTIAL for file in path.iterdir())


def _begin(path, plan, probes):
    """Writes the manifest, or checks that it is of the same models."""
    file = path / _MANIFEST
    if not file.exists():
        path.mkdir(parents=True, exist_ok=True)
        partial = path / (_MANIFEST + _PARTIAL)
        partial.write_text(json.dumps({**plan, "probes": probes}))
        os.replace(partial, file)
    begun = _manifest(path)["probes"]
    if len(begun) != len(probes):
        raise _damaged(path)
    for before, now in zip(begun, probes, strict=True):
        # Of another machine's rounding; also of numbers that are 0.
        tolerance = max(1e-3 * np.max(np.abs(before)), 1e-6)
        if np.shape(before) != np.shape(now) or not np.allclose(
            before, now, rtol=0, atol=tolerance
        ):
            raise ValueError(
                "Expected the models with which the set was begun. Received: "
                f"path={str(path)!r}, and a relation_miner or cross_encoder that gives "
                "its first texts other embeddings or scores. Give the same models, or "
                "choose another folder."
            )


def _probe(miners, score, queries, corpus):
    """Of each miner embeddings, and at last scores of a few texts, as lists for JSON."""
    queries, corpus = queries[:_PROBES], corpus[:_PROBES]
    probes = [
        np.concatenate([of_queries(queries), of_corpus(corpus)])
        for of_queries, of_corpus in miners
    ]
    num_pairs = min(len(queries), len(corpus))
    probes.append(score(queries[:num_pairs], corpus[:num_pairs]))
    return [probe.tolist() for probe in probes]


def _shard_file(path, plan, shard):
    return path / f"rows-{shard:05d}-of-{len(plan['rows']):05d}.tfrecord"


def _missing_shards(path, plan):
    """The shards whose file is not there, or has not all of its rows."""
    return [
        shard
        for shard, num_rows in enumerate(plan["rows"])
        if _num_rows(_shard_file(path, plan, shard)) != num_rows
    ]


def _num_rows(file):
    """How many records a file has; None where it is missing or damaged."""
    try:
        if not _lengths_fit(file):
            return None
        return sum(map(len, tf.data.TFRecordDataset(str(file)).batch(4096)))
    except FileNotFoundError:
        return None
    except (IsADirectoryError, tf.errors.NotFoundError, tf.errors.DataLossError):
        return None


def _lengths_fit(file):
    """Whether its records end where it does: TensorFlow allocates what a length says."""
    size, end = file.stat().st_size, 0
    with file.open("rb") as content:
        while end + 16 <= size:  # a length, its checksum, and the one of the record
            content.seek(end)
            end += 16 + int.from_bytes(content.read(8), "little")
    return end == size


def _write(file, queries, articles, score):
    """The file of some queries' rows; of their articles the first is the similar one."""
    pairs = [
        (query, text) for query, of in zip(queries, articles, strict=True) for text in of
    ]
    scores = score(*map(list, zip(*pairs, strict=True))).reshape(len(queries), -1)
    margins = scores[:, :1] - scores[:, 1:]
    partial = file.with_name(file.name + _PARTIAL)
    with tf.io.TFRecordWriter(str(partial)) as writer:
        for query, (similar, *others), of_query in zip(
            queries, articles, margins, strict=True
        ):
            for irrelevant, margin in zip(others, of_query, strict=True):
                writer.write(_example((query, similar, irrelevant), margin))
    os.replace(partial, file)


def _example(texts, margin):
    features = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))
        for name, text in zip(_TEXTS, texts, strict=True)
    }
    features["margin"] = tf.train.Feature(float_list=tf.train.FloatList(value=[margin]))
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)
