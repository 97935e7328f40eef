"""The folder of a synthesized set: a manifest, and files of rows."""

import hashlib
import json
import os
import pathlib

import numpy as np
import tensorflow as tf

SHARD = 256  # queries in one file
MANIFEST, _PARTIAL = "synthesized.json", ".partial"
_TEXTS = ("query", "article", "irrelevant_article")


def dataset_of(path, plan):
    """Returns the dataset of a finished set."""
    files = [str(shard_file(path, plan, shard)) for shard in range(len(plan["rows"]))]
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in _TEXTS}
    features["margin"] = tf.io.FixedLenFeature([], tf.float32)

    def row(example):
        parsed = tf.io.parse_single_example(example, features)
        return tuple(parsed[name] for name in _TEXTS), parsed["margin"]

    rows = tf.data.TFRecordDataset(files).map(row, tf.data.AUTOTUNE)
    return rows.apply(tf.data.experimental.assert_cardinality(sum(plan["rows"])))


def local_folder(path):
    """Returns an absolute local path. Raises ValueError otherwise."""
    is_path = isinstance(path, str | os.PathLike) and str(path)
    if not is_path or "://" in str(path) or "\0" in str(path):
        raise ValueError(f"Expected a local folder. Received: path={path!r}")
    return pathlib.Path(path).expanduser().resolve()


def fingerprint(*lists):
    """Computes a hash of lists of texts."""
    digest = hashlib.sha256()
    for texts in lists:
        texts = list(texts)
        digest.update(f"{len(texts)};".encode())
        for text in texts:
            digest.update(f"{len(text)}:{text}".encode())
    return digest.hexdigest()


def read_manifest(path):
    """Reads the folder's manifest."""
    try:
        plan = json.loads((path / MANIFEST).read_bytes())
    except (ValueError, RecursionError, IsADirectoryError):  # not JSON, UTF-8 or a file
        plan = None
    if not _is_plan(plan):
        raise _damaged(path)
    return plan


def _is_plan(plan):
    """Returns whether this is the content of a manifest that `synthesize` writes."""
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
        f"Received: {str(path / MANIFEST)!r}, which is damaged: restore a copy of "
        "it, or remove the folder and make the set again."
    )


def check_folder(path, plan):
    """Checks that the folder is new, or contains this set."""
    if (path / MANIFEST).exists():
        made = read_manifest(path)
        if made["inputs"] == plan["inputs"] and made["rows"] != plan["rows"]:
            raise _damaged(path)
        for shard in range(len(plan["rows"])):
            if (file := shard_file(path, plan, shard)).is_dir():
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
            "Expected a new folder, or one of a set to resume. Received: "
            f"path={str(path)!r}, which is something else: choose another."
        )


def _is_empty(path):
    """Returns whether there is at most what a run leaves that is killed at its start."""
    return all(file.name == MANIFEST + _PARTIAL for file in path.iterdir())


def begin(path, plan, probes):
    """Writes the manifest, or checks that it belongs to the same models."""
    file = path / MANIFEST
    if not file.exists():
        path.mkdir(parents=True, exist_ok=True)
        partial = path / (MANIFEST + _PARTIAL)
        partial.write_text(json.dumps({**plan, "probes": probes}))
        os.replace(partial, file)
    begun = read_manifest(path)["probes"]
    if len(begun) != len(probes):
        raise _damaged(path)
    for before, now in zip(begun, probes, strict=True):
        # Allows for the rounding of another machine, also of values near 0.
        tolerance = max(1e-3 * np.max(np.abs(before)), 1e-6)
        if np.shape(before) != np.shape(now) or not np.allclose(
            before, now, rtol=0, atol=tolerance
        ):
            raise ValueError(
                "Expected the models with which the set was begun. Received: "
                f"path={str(path)!r}, and a relation_miner or cross_encoder that returns "
                "other embeddings or scores for its first texts. Pass the same models, or "
                "choose another folder."
            )


def shard_file(path, plan, shard):
    """Returns the path of one of a set's files."""
    return path / f"rows-{shard:05d}-of-{len(plan['rows']):05d}.tfrecord"


def missing_shards(path, plan):
    """Returns the shards whose file is missing or does not have all of its rows."""
    return [
        shard
        for shard, num_rows in enumerate(plan["rows"])
        if _num_rows(shard_file(path, plan, shard)) != num_rows
    ]


def _num_rows(file):
    """Returns the number of a file's records, or None if it is missing or damaged."""
    try:
        if not _lengths_fit(file):
            return None
        return sum(map(len, tf.data.TFRecordDataset(str(file)).batch(4096)))
    except FileNotFoundError:
        return None
    except (IsADirectoryError, tf.errors.NotFoundError, tf.errors.DataLossError):
        return None


def _lengths_fit(file):
    """Returns whether the lengths fit the file; TensorFlow allocates them unchecked."""
    size, end = file.stat().st_size, 0
    with file.open("rb") as content:
        while end + 16 <= size:  # a length, its checksum, and the one of the record
            content.seek(end)
            end += 16 + int.from_bytes(content.read(8), "little")
    return end == size


def write_shard(file, queries, articles, score):
    """Writes the rows of some queries; the first of their articles is the similar one."""
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
