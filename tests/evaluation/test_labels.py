"""Metrics of each label, of clusters, and the callback of labeled rows."""

import pathlib

import keras
import numpy as np
import pytest

from tfembloss.evaluation import (
    LabelEvaluator,
    clustering_metrics,
    label_retrieval_metrics,
)
from tfembloss.evaluation.clusters import k_means, mutual_information

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "label_metrics.npz")
CASES = sorted({key.split("/")[0] for key in GOLDEN})
PEERS_NAMES = {
    "precision@1": "precision_at_1",
    "precision@r": "r_precision",
    "map@r": "mean_average_precision_at_r",
    "mrr@99": "mean_reciprocal_rank",
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "average, peers",
    [("micro", "rows"), ("macro", "avg_of_avgs"), (None, "return_per_class")],
)
def test_averages_are_the_peers(case, average, peers):
    rows, labels = GOLDEN[f"{case}/embeddings"], GOLDEN[f"{case}/labels"]
    found = label_retrieval_metrics(rows, labels, list(PEERS_NAMES), "euclidean", average)
    for name, peers_name in PEERS_NAMES.items():
        value = found[name]
        if average is None:
            assert list(value) == np.flatnonzero(np.bincount(labels) > 1).tolist()
            value = list(value.values())
        expected = GOLDEN[f"{case}/{peers}/{peers_name}"]
        np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_clusters_are_compared_as_by_the_peer(case):
    found = mutual_information(GOLDEN[f"{case}/clusters"], GOLDEN[f"{case}/labels"])
    assert found["nmi"] == pytest.approx(float(GOLDEN[f"{case}/rows/NMI"]), abs=1e-9)
    assert found["ami"] == pytest.approx(float(GOLDEN[f"{case}/rows/AMI"]), abs=1e-9)


@pytest.mark.parametrize(
    "clusters, classes, expected",
    [
        ([0, 0, 0], [5, 5, 5], 1),
        ([0, 1, 2], [7, 8, 9], 1),
        ([0, 0, 0, 0], [1, 1, 2, 2], 0),
        ([0, 1, 2, 3], [1, 1, 1, 1], 0),
    ],
)
def test_partitions_without_information(clusters, classes, expected):
    found = mutual_information(np.array(clusters), np.array(classes))
    assert found == pytest.approx({"nmi": expected, "ami": expected})


def blobs(num_labels=30, each=8):
    rng = np.random.default_rng(1)
    ids = np.repeat(np.arange(num_labels), each)
    centers = 50 * rng.normal(size=[num_labels, 6])
    return (centers[ids] + rng.normal(size=[len(ids), 6])).astype("float32"), ids


def test_clusters_that_lie_apart_are_found():
    rows, ids = blobs()
    found = clustering_metrics(rows, ids.astype(str), distance="euclidean")
    assert found["nmi"] > 0.97 and found["ami"] > 0.95
    other = clustering_metrics(rows, np.random.default_rng(0).permutation(ids))
    assert other["nmi"] > 0.3 and abs(other["ami"]) < 0.1  # by chance


def test_a_step_of_k_means_moves_no_row_closer_to_another_mean():
    rows, _ = blobs(5, 20)
    clusters = k_means(rows, 5)
    means = np.stack([rows[clusters == i].mean(axis=0) for i in range(5)])
    distances = ((rows[:, None] - means) ** 2).sum(axis=2)
    np.testing.assert_array_equal(distances.argmin(axis=1), clusters)
    np.testing.assert_array_equal(k_means(rows, 5), clusters)  # of the same seed


def test_as_many_clusters_as_rows_and_rows_that_are_equal():
    rows, _ = blobs(3, 2)
    assert sorted(k_means(rows, 6)) == list(range(6))
    assert len(k_means(np.ones([4, 2], "float32"), 3)) == 4
    found = clustering_metrics(np.ones([4, 2]), [0, 0, 1, 1])  # a collapsed encoder
    assert found == pytest.approx({"nmi": 0, "ami": 0})


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(metrics=["nim"]), "'nim'"),
        (dict(ids=[1, 2]), "embeddings of shape"),
        (dict(ids=[1, 2, None]), "all integers or all strings"),
        (dict(embeddings=[[1.0], [np.nan], [2.0]]), "row 1 of the embeddings"),
    ],
)
def test_clusters_of_bad_input(arguments, message):
    arguments = {"embeddings": np.eye(3), "ids": [1, 1, 2], **arguments}
    with pytest.raises(ValueError, match=message):
        clustering_metrics(**arguments)


def identity():
    return keras.Sequential([keras.Input([6]), keras.layers.Identity()])


def test_the_callback_has_metrics_of_each_label():
    rows, ids = blobs(3)
    names = np.array(["cat", "dog", "emu"])[ids]
    metrics = ["precision@1", "nmi"]
    found = LabelEvaluator(rows, names, metrics, average=None).evaluate(identity())
    assert list(found) == ["precision@1_cat", "precision@1_dog", "precision@1_emu", "nmi"]
    as_bytes = LabelEvaluator(rows, names.astype("S"), metrics, average=None)
    assert list(as_bytes.evaluate(identity())) == list(found)
    found = LabelEvaluator(rows, names, metrics, average="macro").evaluate(identity())
    expected = label_retrieval_metrics(rows, names, metrics[:1], average="macro")
    assert found == expected | clustering_metrics(rows, names, ["nmi"])


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(metrics=["nim"]), r"Unknown metric.*or 'nmi'.*Received: 'nim'"),
        (dict(average="weighted"), "`average` must be one of 'micro', 'macro', None"),
    ],
)
def test_options_of_the_callback(options, message):
    with pytest.raises(ValueError, match=message):
        LabelEvaluator(np.eye(3), [1, 1, 2], **options)
