import pathlib

import keras
import numpy as np
import pytest

from tfembloss import search
from tfembloss.evaluation import (
    RetrievalEvaluator,
    label_retrieval_metrics,
    retrieval_metrics,
)

FOLDER = pathlib.Path(__file__).parent / "golden"
GOLDEN = np.load(FOLDER / "information_retrieval.npz")
LABELS_GOLDEN = np.load(FOLDER / "label_retrieval.npz")


@pytest.mark.parametrize("distance", ["cosine", "dot"])
@pytest.mark.parametrize("case", ["ir/case0", "ir/case1"])
def test_equals_sentence_transformers(case, distance):
    queries, corpus = GOLDEN[f"{case}/queries"], GOLDEN[f"{case}/corpus"]
    relevant = [np.flatnonzero(row) for row in GOLDEN[f"{case}/relevant"]]
    prefix = f"{case}/{distance}/"
    names = [key.removeprefix(prefix) for key in GOLDEN.files if key.startswith(prefix)]
    assert len(names) == 18
    _, ranking = search.top_k(queries, corpus, min(100, len(corpus)), distance)
    metrics = [name.replace("accuracy", "hit_rate") for name in names]
    found = retrieval_metrics(ranking, relevant, metrics)
    for name, metric in zip(names, metrics, strict=True):
        np.testing.assert_allclose(
            found[metric], GOLDEN[prefix + name], rtol=1e-6, atol=1e-9
        )


def test_by_hand():
    ranking = [[4, 2, 0, 1], [3, 1, 2, 0]]
    relevant = [[2, 1, 9], 3]
    found = retrieval_metrics(
        ranking,
        relevant,
        ["recall@3", "precision@2", "hit_rate@1", "mrr@4", "map@4", "ndcg@2"],
    )
    best = 1 + 1 / np.log2(3)
    assert found == pytest.approx({
        "recall@3": (1 / 3 + 1) / 2,
        "precision@2": (1 / 2 + 1 / 2) / 2,
        "hit_rate@1": (0 + 1) / 2,
        "mrr@4": (1 / 2 + 1) / 2,
        "map@4": ((1 / 2 + 2 / 4) / 3 + 1) / 2,
        "ndcg@2": (1 / np.log2(3) / best + 1) / 2,
    })  # fmt: skip


def test_cuts_at_r_are_cuts_at_each_querys_number_of_relevant_rows():
    rng = np.random.default_rng(0)
    ranking = np.stack([rng.permutation(30) for _ in range(8)])
    relevant = [rng.choice(30, size=rng.integers(1, 9), replace=False) for _ in range(8)]
    for name in ("recall", "precision", "hit_rate", "mrr", "ndcg", "map"):
        one_by_one = [
            retrieval_metrics([row], [rows], [f"{name}@{len(rows)}"])
            for row, rows in zip(ranking, relevant, strict=True)
        ]
        expected = np.mean([value for found in one_by_one for value in found.values()])
        found = retrieval_metrics(ranking, relevant, [f"{name}@r", f"{name}@30"])
        assert found[f"{name}@r"] == pytest.approx(expected)


# Labelled rows.

PEERS_NAMES = {
    "precision@1": "m_precision_at_1",
    "precision@r": "m_r_precision",
    "map@r": "m_mean_average_precision_at_r",
}


@pytest.mark.parametrize("case", sorted({key.split("/")[1] for key in LABELS_GOLDEN}))
def test_equals_pytorch_metric_learning(case):
    prefix = f"metrics_self/{case}/"
    found = label_retrieval_metrics(
        LABELS_GOLDEN[prefix + "embeddings"],
        LABELS_GOLDEN[prefix + "labels"],
        distance="euclidean",
    )
    for name, peers_name in PEERS_NAMES.items():
        assert found[name] == pytest.approx(float(LABELS_GOLDEN[prefix + peers_name]))


def oracle(embeddings, ids):
    """Musgrave et al. 2020, section 3.1, in loops; by squared euclidean distance."""
    values = {name: [] for name in PEERS_NAMES}
    for q in range(len(ids)):
        others = [i for i in range(len(ids)) if i != q]
        others.sort(key=lambda i: (np.sum((embeddings[i] - embeddings[q]) ** 2), i))
        relevant = [ids[i] == ids[q] for i in others]
        r = sum(relevant)
        if r:
            values["precision@1"].append(relevant[0])
            values["precision@r"].append(sum(relevant[:r]) / r)
            precisions = [sum(relevant[: i + 1]) / (i + 1) for i in range(r)]
            values["map@r"].append(sum(np.multiply(precisions, relevant[:r])) / r)
    return {name: np.mean(of_queries) for name, of_queries in values.items()}


@pytest.mark.parametrize("chunk", [1, 7, 1024])
@pytest.mark.parametrize("kind", ["integers", "strings", "duplicates", "all of one"])
def test_equals_the_definition(kind, chunk, monkeypatch):
    monkeypatch.setattr("tfembloss.search._QUERY_CHUNK", chunk)
    rng = np.random.default_rng(0)
    ids = rng.choice([5, 6, 7, 8], p=[0.6, 0.2, 0.15, 0.05], size=40)
    ids = np.append(ids, 9)  # a label that one row has
    embeddings = rng.normal(size=[41, 3])
    if kind == "strings":
        ids = ids.astype(str)
    elif kind == "duplicates":  # a row is not always the nearest to itself
        embeddings = rng.integers(2, size=[41, 3]).astype(float)
    elif kind == "all of one":
        ids[:] = 5
    found = label_retrieval_metrics(embeddings, ids, distance="squared_euclidean")
    assert found == pytest.approx(oracle(embeddings, ids))
    if kind == "all of one":
        assert set(found.values()) == {1.0}


def test_separated_labels_are_found_and_a_row_alone_is_left_out():
    points = np.repeat(np.eye(3), [4, 3, 1], axis=0)
    found = label_retrieval_metrics(points, list("aaaabbbc"))
    assert found == {"precision@1": 1.0, "precision@r": 1.0, "map@r": 1.0}
    # By itself a row would be found first; without its label nothing is.
    assert label_retrieval_metrics(points, list("abababac"), ["recall@1"])["recall@1"] < 1


def test_labels_that_do_not_fit_are_refused():
    points = np.eye(3)
    with pytest.raises(ValueError, match=r"same label.*3 rows"):
        label_retrieval_metrics(points, [1, 2, 3])
    with pytest.raises(ValueError, match=r"\(3, 3\), ids of shape \(2,\)"):
        label_retrieval_metrics(points, [1, 2])
    with pytest.raises(ValueError, match=r"ids of shape \(3, 2\)"):
        label_retrieval_metrics(points, [[1, 0], [1, 0], [1, 0]])
    with pytest.raises(ValueError, match=r"'map@r'.*Received: 'r_precision'"):
        label_retrieval_metrics(points, [1, 1, 1], ["r_precision"])


@pytest.mark.parametrize(
    "metric", ["recall", "recall@", "recall@0", "accuracy@1", "mrr@x", "map@R"]
)
def test_unknown_metrics_are_refused(metric):
    with pytest.raises(ValueError, match=r"'recall', .*'map'.*Received"):
        retrieval_metrics([[0]], [0], [metric])


def test_queries_without_answers_are_refused():
    with pytest.raises(ValueError, match="query 1"):
        retrieval_metrics([[0], [1]], [0, []])
    with pytest.raises(ValueError, match="2 queries"):
        retrieval_metrics([[0]], [0, 0])


def test_relevant_rows_must_fit():
    x = np.eye(4, dtype="float32")
    identity = keras.Sequential([keras.Input([4]), keras.layers.Activation("linear")])
    with pytest.raises(ValueError, match="4 queries, relevant rows for 3"):
        RetrievalEvaluator(x, x, range(3))
    with pytest.raises(ValueError, match="Received: 4"):
        RetrievalEvaluator(x, x, [0, 1, [2, 4], 3]).evaluate(identity)


def test_callback_reports_to_the_callbacks_after_it(tmp_path):
    x = np.random.default_rng(0).normal(size=[30, 4]).astype("float32")
    model = keras.Sequential([keras.Input([4]), keras.layers.Dense(4)])
    model.compile("sgd", loss="mse")
    seen = []
    stop = keras.callbacks.EarlyStopping(monitor="val_mrr@10", mode="max", patience=1)
    best = keras.callbacks.ModelCheckpoint(
        tmp_path / "{epoch}.keras", monitor="val_mrr@10", mode="max", save_best_only=True
    )
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(dict(logs))
    )
    evaluator = RetrievalEvaluator(x[:9], x, range(9))
    callbacks = [evaluator, stop, best, watch]
    history = model.fit(x, x, epochs=50, verbose=0, callbacks=callbacks)
    assert "val_recall@1" in history.history and "val_map@100" in history.history
    assert stop.stopped_epoch > 0
    assert seen[0]["val_mrr@10"] == history.history["val_mrr@10"][0]
    assert list(tmp_path.iterdir())
    # The same numbers from the parts.
    embeddings = model.predict(x, verbose=0)
    _, ranking = search.top_k(embeddings[:9], embeddings, 30)
    expected = retrieval_metrics(ranking, range(9), ["mrr@10"])["mrr@10"]
    assert history.history["val_mrr@10"][-1] == pytest.approx(expected, abs=1e-6)


def test_callback_reaches_as_deep_as_r():
    x = np.random.default_rng(0).normal(size=[30, 4]).astype("float32")
    identity = keras.Sequential([keras.Input([4]), keras.layers.Activation("linear")])
    relevant = [[1, 2, 3], 4, range(9, 30)]
    found = RetrievalEvaluator(x[:3], x, relevant, ["map@r"]).evaluate(identity)
    _, ranking = search.top_k(x[:3], x, 30)
    assert found == retrieval_metrics(ranking, relevant, ["map@r"])
