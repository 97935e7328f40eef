import pathlib

import keras
import numpy as np
import pytest

from tfembloss import search
from tfembloss.evaluation import RetrievalEvaluator, retrieval_metrics

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "information_retrieval.npz")


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


@pytest.mark.parametrize("metric", ["recall", "recall@", "recall@0", "accuracy@1", "mrr@x"])
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
