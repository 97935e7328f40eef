import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfembloss import search
from tfembloss.evaluation import (
    RetrievalEvaluator,
    label_retrieval_metrics,
    retrieval_metrics,
)

FOLDER = pathlib.Path(__file__).parents[1] / "golden"
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


@pytest.mark.parametrize("kind", ["metrics_self", "metrics_ref"])
@pytest.mark.parametrize("case", sorted({key.split("/")[1] for key in LABELS_GOLDEN}))
def test_of_queries_with_labels_equals_pytorch_metric_learning(case, kind):
    prefix = f"{kind}/{case}/"
    golden = {
        key.removeprefix(prefix): LABELS_GOLDEN[key]
        for key in LABELS_GOLDEN
        if key.startswith(prefix)
    }
    of_itself = kind == "metrics_self"
    corpus = golden["embeddings" if of_itself else "ref_emb"]
    labels = golden["labels" if of_itself else "ref_labels"]
    _, ranking = search.top_k(golden["embeddings"], corpus, len(corpus), "euclidean")
    queries = np.arange(len(ranking))
    if of_itself:
        ranking = ranking[ranking != queries[:, None]].reshape(len(ranking), -1)
    same = golden["labels"][:, None] == labels
    if of_itself:
        np.fill_diagonal(same, False)
    queries = queries[same.any(axis=1)]
    relevant = [np.flatnonzero(same[query]) for query in queries]
    k = ranking.shape[1]
    metrics = ["precision@1", "precision@r", "map@r", f"map@{k}", f"mrr@{k}"]
    found = retrieval_metrics(ranking[queries], relevant, metrics)
    peers = [
        "precision_at_1",
        "r_precision",
        "mean_average_precision_at_r",
        "mean_average_precision",
        "mean_reciprocal_rank",
    ]
    for name, peers_name in zip(metrics, peers, strict=True):
        assert found[name] == pytest.approx(float(golden[f"m_{peers_name}"]), rel=1e-9)


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


# What users have: sets, grades, ids, datasets.

RANKING = [[0, 1, 2], [2, 1, 0]]
METRICS = ["recall@1", "mrr@3"]


@pytest.mark.parametrize("relevant", [
    [{0}, {2, 1}],
    [frozenset([0]), range(1, 3)],
    [{0: 1}, {2: 1, 1: 1, 0: 0}],
    [{0: 3}, {2: 2, 1: 1, 0: -1}],
    {1: [2, 1], 0: 0},
    [np.array([0]), np.uint8([1, 2])],
    [np.int64(0), (row for row in (2, 1))],
])  # fmt: skip
def test_relevant_rows_in_other_containers(relevant):
    found = retrieval_metrics(RANKING, relevant, METRICS)
    assert found == {"recall@1": 0.75, "mrr@3": 1.0}


@pytest.mark.parametrize("relevant, message", [
    ([["d0"], ["d2", "d1"]], r"one kind.*\['int', 'str'\]"),
    ({7: [0], 8: [2, 1]}, r"only the queries \[0, 1\]. Received: 7"),
    ([[True, False, False], [False, True, True]], "np.flatnonzero"),
    (np.eye(2, 3, dtype=int), "looks like a mask"),
    ([None, 0], "relevant to query 0, got nothing"),
    ([0, set()], "relevant to query 1, got nothing"),
    ([0, {1: 0}], "relevant to query 1, got nothing"),
    ([0, -1], "Received: -1 of query 1"),
    ([0.0, 1.0], r"\[0.0\] of query 0"),
    ([0, np.nan], r"\[nan\] of query 1"),
    ([0, [1, "2"]], "'2'"),
    ([0, [1, [2]]], "of query 1"),
    ([0, {1: "yes"}], "grades, numbers.*'yes'"),
    ({0, 1}, "A set has no order"),
    (None, "None of type NoneType"),
])  # fmt: skip
def test_relevant_rows_that_are_none_are_refused(relevant, message):
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(RANKING, relevant, METRICS)


def test_grades_are_the_gains_of_ndcg():
    gains = 1 / np.log2(np.arange(2, 6))
    ranking, grades = [[4, 2, 0, 1], [3, 1, 2, 0]], [{2: 3, 1: 0.5, 0: 0, 9: 2}, {3: 1}]
    found = retrieval_metrics(ranking, grades, ["ndcg@4", "ndcg@2", "ndcg@r", "mrr@4"])
    best = 3 * gains[0] + 2 * gains[1] + 0.5 * gains[2]
    within = {4: 3 * gains[1] + 0.5 * gains[3], 2: 3 * gains[1]}
    assert found["ndcg@4"] == pytest.approx((within[4] / best + 1) / 2)
    assert found["ndcg@2"] == pytest.approx((within[2] / (best - 0.5 * gains[2]) + 1) / 2)
    assert found["ndcg@r"] == pytest.approx((within[2] / best + 1) / 2)
    assert found["mrr@4"] == 0.75
    texts = [[f"d{row}" for row in of] for of in ranking]
    by_id = [{f"d{row}": grade for row, grade in of.items()} for of in grades]
    metrics = list(found)
    assert retrieval_metrics(texts, by_id, metrics) == found
    assert retrieval_metrics(ranking, iter(grades), metrics) == found
    run, judged = ({"a": of[0], "b": of[1]} for of in (texts, by_id))
    assert retrieval_metrics(run, dict(reversed(judged.items())), metrics) == found
    corpus = {f"d{row}": text for row, text in enumerate("jihgfedcba")}

    class Model:
        def predict(self, x, **options):
            places = ["jihgfedcba".find(text[:1]) for text in x]
            return np.array([[np.cos(place), np.sin(place)] for place in places])

    queries = {"a": "jq", "b": "gq"}
    evaluator = RetrievalEvaluator(queries, corpus, judged, metrics)
    order, _ = evaluator.evaluate(Model()), None
    _, found_rows = search.top_k(
        Model().predict(list(queries.values())), Model().predict(list(corpus.values())), 10
    )
    assert order == retrieval_metrics(found_rows, grades, metrics)
    found = retrieval_metrics(RANKING, [{0: True}, {2: 1.0, 1: 0}], "ndcg@3")
    assert found == {"ndcg@3": 1.0}


def test_ids_that_are_texts():
    found = retrieval_metrics([["a", "a\0"], ["b"], []], ["a\0", {"b"}, ["c"]], METRICS)
    assert found == pytest.approx({"recall@1": 1 / 3, "mrr@3": 0.5})
    run = {"q7": ["d2", "d9"], "q1": ["d5", "d2"]}
    found = retrieval_metrics(run, {"q1": {"d5": 1}, "q7": {"d9"}}, METRICS)
    assert found == {"recall@1": 0.5, "mrr@3": 0.75}
    with pytest.raises(ValueError, match=r"queries.*'z'"):
        retrieval_metrics(run, {"z": ["d5"]})
    with pytest.raises(ValueError, match="relevant to query 'q1'"):
        retrieval_metrics(run, {"q7": ["d5"]})
    with pytest.raises(ValueError, match=r"dict of query 0.*no order.*sorted"):
        retrieval_metrics({"q": {"d": 0.5}}, {"q": ["d"]})


@pytest.mark.parametrize("ranking, message", [
    ([[0, 1, 0]], "row 0 twice of query 0"),
    ([["a", "b", "a"]], "'a' twice of query 0"),
    ([[0.0, 1.0]], "dtype float64"),
    ([[True, False]], "dtype bool"),
    ([[0, -2]], "Received: -2"),
    ([0, 1], "0 of type int of query 0"),
    ([{0, 1}], "set of query 0"),
    ((np.zeros([1, 2]), np.zeros([1, 2], int)), r"\(2, 1, 2\)"),  # all of top_k's result
    ([[5, 6, 7]], "recall@10 a ranking of 10 results.*3 results.*at least 8"),
])  # fmt: skip
def test_wrong_rankings_are_refused(ranking, message):
    relevant = ["a"] if ranking == [["a", "b", "a"]] else [0]
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(ranking, relevant, ["recall@10"])


def test_fewer_results_than_asked_for_are_not_found():
    padded = [[0, 1, -1, -1], [2, -1, -1, -1], [-1] * 4]
    for ranking in (padded, [[0, 1], [2], []]):
        found = retrieval_metrics(ranking, [1, 30, 4], ["recall@10", "mrr@r"])
        assert found == {"recall@10": 1 / 3, "mrr@r": 0.0}
    assert retrieval_metrics([[], []], [0, 1], METRICS) == {"recall@1": 0, "mrr@3": 0}


def test_a_cut_beyond_all_rows_takes_no_memory():
    name = "ndcg@1000000000000"
    assert retrieval_metrics([[0, 1, 2]], [1], [name])[name] == pytest.approx(
        0.6309, abs=1e-4
    )
    for metrics in ("accuracy@1", [None], None, ["mrr@" + "9" * 5000]):
        with pytest.raises(ValueError, match="metric"):
            retrieval_metrics([[0, 1, 2]], [1], metrics)


@pytest.mark.parametrize("ids, message", [
    ([0, 0, None, 1], "None of type NoneType in row 2"),
    ([0, 0, np.nan, 1], "in row 2"),
    ([0.5, 0.5, 1, 1], "0.5.* in row 0"),
    ([0, "0", 1, 1], "'0' of type str in row 1"),
    ({0: 1}, "of type dict"),
    ("aabb", "'aabb' of type str"),
    ([[0], [0, 1], [1], [1]], "labels"),
])  # fmt: skip
def test_labels_that_are_none_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        label_retrieval_metrics(np.eye(4), ids)


def test_labels_in_a_column_and_rows_that_are_not_finite():
    points = np.random.default_rng(0).normal(size=[6, 2])
    expected = label_retrieval_metrics(points, [0, 0, 1, 1, 1, 0])
    assert label_retrieval_metrics(points, np.array([[0, 0, 1, 1, 1, 0]]).T) == expected
    assert label_retrieval_metrics(points.tolist(), list("aabbba")) == expected
    assert label_retrieval_metrics(points, ["a", "a", *["a\0"] * 3, "a"]) == expected
    points[4, 1] = np.inf
    with pytest.raises(ValueError, match="row 4 of the embeddings"):
        label_retrieval_metrics(points, [0, 0, 1, 1, 1, 0], distance="dot")


def test_large_classes_take_bounded_memory(monkeypatch):
    """Of each query no more is ranked at a time than fits, and classes by their size."""
    shapes = []
    top_k = search.top_k

    def watched(queries, corpus, k, distance):
        shapes.append((len(queries), k))
        return top_k(queries, corpus, k, distance)

    monkeypatch.setattr("tfembloss.search.top_k", watched)
    monkeypatch.setattr("tfembloss.search._ENTRIES", 2000)
    monkeypatch.setattr("tfembloss.search._MANY", 50)
    rng = np.random.default_rng(0)
    ids = np.repeat([0, 1, 2], [90, 40, 5])
    points = rng.integers(-5, 6, size=[135, 4]) + 4 * np.eye(4)[ids]
    found = label_retrieval_metrics(points, ids, distance="squared_euclidean")
    assert found == pytest.approx(oracle(points, ids))
    assert max(rows * k for rows, k in shapes) <= 2000
    assert sum(rows for rows, _ in shapes) == 135
    assert sum(rows * k for rows, k in shapes) < 135 * 90


IDENTITY = keras.Sequential([keras.Input([4]), keras.layers.Activation("linear")])
POINTS = np.eye(4, dtype="float32")


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, i):
        return POINTS[2 * i : 2 * i + 2]


def dataset():
    return tf.data.Dataset.from_tensor_slices(POINTS)


@pytest.mark.parametrize("inputs", [
    POINTS.tolist(),
    tf.constant(POINTS),
    dataset().batch(3),
    dataset().filter(lambda x: True).batch(1),
    tf.data.Dataset.zip(dataset(), dataset()).batch(4),
    Batches(),
], ids=range(6))  # fmt: skip
def test_evaluator_takes_what_predict_takes(inputs):
    evaluator = RetrievalEvaluator(inputs, inputs, [{0}, 1, [2], {3: 1}], "mrr@3")
    assert evaluator.evaluate(IDENTITY) == evaluator.evaluate(IDENTITY) == {"mrr@3": 1.0}


def test_evaluator_takes_the_inputs_of_a_model_that_has_several():
    inputs = {name: keras.Input([4], name=name) for name in "ab"}
    model = keras.Model(inputs, keras.layers.Add()(list(inputs.values())))
    points = {"a": POINTS, "b": POINTS}
    evaluator = RetrievalEvaluator(points, points, range(4), ["recall@1"])
    assert evaluator.evaluate(model) == {"recall@1": 1.0}
    with pytest.raises(ValueError, match="4 queries, relevant rows for 3"):
        RetrievalEvaluator(points, points, range(3))


@pytest.mark.parametrize("inputs, message", [
    ((x for x in [POINTS]), "generator or iterator"),
    (iter([POINTS]), "generator or iterator"),
    (dataset().batch(2).repeat(), "without an end"),
    (dataset().shuffle(4).batch(2).prefetch(1), "shuffled"),
    (tf.data.Dataset.range(4), "single rows"),
    ("a text", "'a text' of type str"),
    (None, "None of type NoneType"),
    (5, "5 of type int"),
    (POINTS[:0], "none"),
    ({}, "none"),
    ({"d0": {"title": "a", "text": "b"}}, "join title and text"),
], ids=range(11))  # fmt: skip
def test_evaluator_refuses_what_it_cannot_go_through_again(inputs, message):
    with pytest.raises(ValueError, match=f"queries as .*{message}"):
        RetrievalEvaluator(inputs, POINTS, range(4))


def test_evaluator_takes_texts_by_id():
    class Model:
        def predict(self, texts, batch_size, verbose):
            return np.array([[text.count(letter) for letter in "abc"] for text in texts])

    queries, corpus = {"q1": "a", "q2": "bb"}, {"d5": "cb", "d6": "aa", "d7": "b"}
    relevant = {"q2": {"d7": 1, "d5": 0}, "q1": ["d6"]}
    for of in (relevant, [["d6"], {"d7"}]):
        evaluator = RetrievalEvaluator(queries, corpus, of, ["recall@1"])
        assert evaluator.evaluate(Model()) == {"recall@1": 1.0}
    for of, message in [
        ({"q1": ["d6"]}, "relevant to query 'q2'"),
        ({**relevant, "q3": ["d5"]}, "'q3', which is none of them"),
        ([["d6"], ["d8"]], "ids of the corpus.*'d8' of query 'q2'"),
        ([0, 1], "ids of the corpus.*0 of query 'q1'"),
    ]:
        with pytest.raises(ValueError, match=message):
            RetrievalEvaluator(queries, corpus, of)
    with pytest.raises(ValueError, match="corpus has no ids"):
        RetrievalEvaluator(queries, list(corpus.values()), relevant)


def test_evaluator_refuses_a_models_other_results():
    entry = keras.Input([4])
    for model, message in [
        (keras.Model(entry, [entry, entry]), r"embeddings \[N, D\] of the queries"),
        (keras.Model(entry, entry[:, None]), r"shape \(4, 1, 4\)"),
        (keras.Model(entry, entry * np.nan), "row 0 of the queries"),
    ]:
        with pytest.raises(ValueError, match=message):
            RetrievalEvaluator(POINTS, POINTS, range(4)).evaluate(model)
    rows = dataset()
    with pytest.raises(ValueError, match=r"batch\(...\) missing"):
        RetrievalEvaluator(rows, POINTS, range(4)).evaluate(IDENTITY)
    for change in ({"batch_size": 0}, {"distance": "l2"}, {"metrics": None}):
        with pytest.raises(ValueError, match=next(iter(change))):
            RetrievalEvaluator(POINTS, POINTS, range(4), **change)


@pytest.mark.parametrize("depth", [2, 9])
def test_a_text_of_the_corpus_is_not_its_own_answer(depth):
    angles = {"a": 0, "b": 10, "c": 15, "d": 40}
    corpus = {id: f"{angle}" for id, angle in angles.items()}

    class Model:
        def predict(self, x, **options):
            radians = np.radians([float(text) for text in x])
            return np.stack([np.cos(radians), np.sin(radians)], axis=1)

    queries = {"a": "0", "d": "40", "new": "16"}  # new is not in the corpus
    relevant = {"a": ["b"], "d": ["b"], "new": ["a"]}
    metrics = [f"mrr@{depth}"]

    def mrr(**options):
        evaluator = RetrievalEvaluator(queries, corpus, relevant, metrics, **options)
        return evaluator.evaluate(Model())[metrics[0]]

    # Ranks of the answers: 2, 3, 3; without a and d themselves 1, 2, 3.
    cut = depth == 2
    assert mrr() == pytest.approx((1 / 2 + (0 if cut else 2 / 3)) / 3)
    ignoring = mrr(ignore_identical_ids=True)
    assert ignoring == pytest.approx((1 + 1 / 2 + (0 if cut else 1 / 3)) / 3)


def test_identical_ids_need_ids():
    with pytest.raises(ValueError, match="as dicts of id to text"):
        RetrievalEvaluator(["a"], ["b"], [0], ignore_identical_ids=True)
    texts = {"a": "x", "b": "y"}
    with pytest.raises(ValueError, match=r"own id to be relevant.*'a'"):
        RetrievalEvaluator(
            texts, texts, {"a": ["a"], "b": ["a"]}, ignore_identical_ids=True
        )
