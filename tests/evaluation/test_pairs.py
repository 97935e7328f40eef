"""Evaluators of pairs and triplets: equal to sentence-transformers', and in `fit`."""

import csv
import pathlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfembloss
from tfembloss import evaluation

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "pair_evaluators.npz")
CASES = ["case0", "case1", "case2"]
DISTANCES = ["cosine", "dot", "euclidean", "manhattan"]
IDENTITY = keras.Sequential([keras.layers.Identity()])


def columns(case):
    return np.split(GOLDEN[f"{case}/rows"], 3)


def check(found, case, names):
    for name, value in found.items():
        expected = GOLDEN[f"{case}/{names.format(name)}"]
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("case", CASES)
def test_similarities_are_the_peers(case, distance):
    a, b, _ = columns(case)
    evaluator = evaluation.SimilarityEvaluator(a, b, GOLDEN[f"{case}/scores"], distance)
    found = evaluator.evaluate(IDENTITY)
    assert list(found) == ["pearson", "spearman"]
    check(found, case, "{}_" + distance)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("case", CASES)
def test_classes_of_pairs_are_the_peers(case, distance):
    a, b, _ = columns(case)
    labels = GOLDEN[f"{case}/labels"]
    found = evaluation.PairClassificationEvaluator(a, b, labels, distance).evaluate(
        IDENTITY
    )
    assert len(found) == 8
    check(found, case, f"pairs_{distance}_" + "{}")


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("case", CASES)
def test_triplets_are_the_peers(case, distance):
    evaluator = evaluation.TripletEvaluator(*columns(case), 0.1, distance)
    check(evaluator.evaluate(IDENTITY), case, f"triplet_{distance}_" + "{}")


@pytest.mark.parametrize("case", CASES)
def test_translations_are_the_peers(case):
    found = evaluation.TranslationEvaluator(*columns(case)[:2]).evaluate(IDENTITY)
    theirs = {
        "source_to_target": "src2trg_accuracy",
        "target_to_source": "trg2src_accuracy",
        "mean_accuracy": "mean_accuracy",
    }
    assert list(found) == list(theirs)
    check({theirs[name]: found[name] for name in found}, case, "translation_{}")


def test_an_equal_translation_is_right():
    class Model:
        def predict(self, x, **options):
            return np.array([{"a": [1.0, 0], "b": [0, 1.0]}[text] for text in x])

    found = evaluation.TranslationEvaluator(["a", "a", "b"], ["a", "a", "b"])
    assert set(found.evaluate(Model()).values()) == {1.0}


def test_a_collapsed_encoder_has_no_correlation():
    for similarity in (0.5, 0.1):
        found = evaluation.similarity_metrics([similarity] * 3, [1, 2, 3])
        assert np.isnan(list(found.values())).all()


@pytest.mark.parametrize(
    ("message", "similarities", "values"),
    [
        ("at least two different scores", [0.1, 0.2], [3, 3]),
        ("as many similarities as scores", [0.1, 0.2], [3, 2, 1]),
        ("Expected scores as numbers", [0.1, 0.2], ["a", "b"]),
        ("finite numbers .* 1 of them", [0.1, float("nan")], [1, 2]),
    ],
)
def test_bad_scores_are_refused(message, similarities, values):
    with pytest.raises(ValueError, match=message):
        evaluation.similarity_metrics(similarities, values)


@pytest.mark.parametrize("labels", ([1, 1, 1], [0, 0, 0], [0.2, 0.9, 1], [1, 2, 1]))
def test_labels_of_no_two_classes_are_refused(labels):
    for function in (evaluation.pair_classification_metrics, evaluation.calibrate):
        with pytest.raises(ValueError, match="labels 1 and 0, of positive and negative"):
            function([0.1, 0.2, 0.3], labels)


def test_calibrate_finds_the_best_threshold_of_all():
    rng = np.random.default_rng(0)
    similarities = np.round(rng.normal(size=80), 1)
    labels = (similarities + rng.normal(size=80) > 0).astype(int)

    def values(threshold):
        chosen = similarities >= threshold
        precision = labels[chosen].mean() if chosen.any() else 0.0
        recall = labels[chosen].sum() / labels.sum()
        return (
            precision,
            recall,
            2 * (labels * chosen).sum() / (chosen.sum() + labels.sum()),
        )

    every = [values(t) for t in np.unique(similarities)]
    for option, goal in (("precision", 0.8), ("recall", 0.7), (None, None)):
        options = {} if option is None else {option: goal}
        found = evaluation.calibrate(similarities, labels, **options)
        at_threshold = values(found["threshold"])
        names = ("precision", "recall", "f1")
        np.testing.assert_allclose([found[x] for x in names], at_threshold, rtol=1e-12)
        if option == "precision":
            assert found["recall"] == max(r for p, r, _ in every if p >= goal)
        elif option == "recall":
            assert found["precision"] == max(p for p, r, _ in every if r >= goal)
        else:
            assert found["f1"] == max(f for *_, f in every)


def test_calibrate_reports_held_out_pairs():
    found = evaluation.calibrate(
        [0.9, 0.5, 0.1], [1, 1, 0], recall=1.0, held_out=([0.8, 0.4, 0.2], [0, 1, 1])
    )
    assert found["threshold"] == pytest.approx(0.3)
    held_out = [found[f"held_out_{x}"] for x in ("precision", "recall", "f1")]
    np.testing.assert_allclose(held_out, [0.5, 0.5, 0.5])
    with pytest.raises(ValueError, match=r"at most 0\.5000 here. Received: precision=0\.9"):
        evaluation.calibrate([0.9, 0.5], [0, 1], precision=0.9)
    with pytest.raises(ValueError, match="precision or recall, as the other"):
        evaluation.calibrate([0.9, 0.5], [0, 1], precision=0.9, recall=0.5)


# In fit.


def model_and_pairs():
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=[32, 4]).astype("float32")
    encoder = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    model = tfembloss.EmbeddingModel(encoder)
    model.compile("adam", tfembloss.losses.MultipleNegativesRankingLoss())
    return model, (x, x[::-1].copy())


def test_logs_have_the_metrics_of_the_model_that_is_trained(tmp_path):
    model, pairs = model_and_pairs()
    scores, file = np.arange(32), tmp_path / "folder" / "sts.csv"
    evaluator = evaluation.SimilarityEvaluator(*pairs, scores, name="sts", csv_file=file)
    triplets = evaluation.TripletEvaluator(*pairs, pairs[0][::-1] + 1, frequency=2)
    steps = evaluation.SimilarityEvaluator(*pairs, scores, unit="step", frequency=3)
    stopping = keras.callbacks.EarlyStopping("val_sts_spearman", mode="max", patience=9)
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = model.fit(
        pairs,
        batch_size=8,
        epochs=4,
        verbose=0,
        callbacks=[stopping, logger, evaluator, triplets, steps],
    ).history
    assert len(history["val_sts_spearman"]) == 4 and len(history["val_accuracy"]) == 2
    assert stopping.best == max(history["val_sts_spearman"])
    assert history["val_sts_spearman"][-1] == evaluator.evaluate(model)["spearman"]
    # 4 steps in an epoch: after steps 3, 6, 9 and 12, 15.
    assert len(history["val_spearman"]) == 4
    rows = list(csv.DictReader(file.open(newline="", encoding="utf-8")))
    assert [row["epoch"] for row in rows] == list("1234")
    assert [row["step"] for row in rows] == ["4", "8", "12", "16"]
    logged = [float(row["spearman"]) for row in rows]
    np.testing.assert_allclose(logged, history["val_sts_spearman"])
    with (tmp_path / "log.csv").open(newline="", encoding="utf-8") as file:
        assert "val_sts_spearman" in next(csv.reader(file))


@pytest.mark.parametrize("plain", [False, True])
def test_metrics_reach_the_callbacks_before_the_evaluator(plain, tmp_path):
    model, pairs = model_and_pairs()
    x, y = pairs, None
    if plain:  # of Keras alone, whose `fit` calls callbacks in their order
        model, (x, _) = model.encoder, pairs
        model.compile("adam", tfembloss.losses.SupConLoss())
        y = np.arange(32) % 4
    evaluator = evaluation.SimilarityEvaluator(*pairs, np.arange(32), name="sts")
    if plain:
        evaluator = evaluation.LabelEvaluator(x, y, ["map@r"], name="sts")
    monitor = "val_sts_map@r" if plain else "val_sts_spearman"
    stopping = keras.callbacks.EarlyStopping(monitor, mode="max", patience=9)
    best = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.keras", monitor, mode="max", save_best_only=True
    )
    # Its rate falls in each epoch that is not better by 9.
    slower = keras.callbacks.ReduceLROnPlateau(
        monitor, factor=0.5, patience=1, min_delta=9, mode="max"
    )
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    seen = []
    last = keras.callbacks.LambdaCallback(on_epoch_end=lambda _, logs: seen.append(logs))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # Keras warns of missing metrics
        history = model.fit(
            x, y, epochs=3, verbose=0,
            callbacks=[last, stopping, best, slower, logger, evaluator],
        ).history  # fmt: skip
    assert stopping.best == best.best == max(history[monitor])
    assert float(model.optimizer.learning_rate) == pytest.approx(0.001 * 0.5**2)
    assert all(monitor in logs for logs in seen)
    with (tmp_path / "log.csv").open(newline="", encoding="utf-8") as file:
        logged = [float(row[monitor]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(logged, history[monitor])


def test_a_csv_file_of_something_else_is_kept(tmp_path):
    file = tmp_path / "other.csv"
    file.write_text("a,b\n1,2\n", "utf-8")
    model, pairs = model_and_pairs()
    evaluator = evaluation.SimilarityEvaluator(*pairs, np.arange(32), csv_file=file)
    with pytest.raises(ValueError, match=r"csv_file.* Received: .*\['a', 'b'\]"):
        model.fit(pairs, verbose=0, callbacks=[evaluator])
    assert file.read_text("utf-8") == "a,b\n1,2\n"


def test_texts_prompts_and_towers():
    asked = []

    class Tower:
        prompts = {"query": "query: ", "document": ""}  # noqa: RUF012

        def __init__(self, name):
            self.name = name

        def predict(self, x, batch_size=None, verbose=0, prompt=None):
            asked.append((self.name, prompt))
            return np.array([[len(text), 1.0] for text in x])

    class Towers:
        towers = {"image": Tower("image"), "text": Tower("text")}  # noqa: RUF012

    texts = ["a", "bb", "ccc"]
    evaluation.SimilarityEvaluator(texts, texts, [1, 2, 3]).evaluate(Towers())
    assert asked == [("image", "query"), ("text", "document")]
    asked.clear()
    evaluator = evaluation.RetrievalEvaluator(
        texts, texts, range(3), ["mrr@3"], towers=("text", "image")
    )
    evaluator.evaluate(Towers())
    assert asked == [("text", "query"), ("image", "document")]
    with pytest.raises(ValueError, match="towers"):
        evaluation.TripletEvaluator(texts, texts, texts, towers=("a", "b")).evaluate(
            Towers()
        )


def test_a_cross_encoder_is_measured_by_its_scores():
    keras.utils.set_random_seed(0)
    texts = ["a red apple", "the blue sky", "a green pear", "the grey sea"]
    vocabulary = tfembloss.text.learn_vocabulary(texts, size=60)
    preprocessor = tfembloss.text.TextPairPreprocessor(vocabulary, 8, 8)
    encoder = tfembloss.text.TextEncoder(len(vocabulary), dim=8, num_layers=1, num_heads=2)
    model = tfembloss.CrossEncoder(encoder, preprocessor)
    scores = model.predict((texts, texts[::-1]), verbose=0)
    found = evaluation.SimilarityEvaluator(texts, texts[::-1], scores).evaluate(model)
    assert found["spearman"] == pytest.approx(1.0)
    found = evaluation.PairClassificationEvaluator(
        texts, texts[::-1], scores > np.median(scores)
    ).evaluate(model)
    assert found["f1"] == 1.0 and min(scores) < found["f1_threshold"] <= max(scores)


def test_a_teachers_embeddings():
    targets = np.ones([3, 2])
    found = evaluation.MSEEvaluator(np.zeros([3, 2]), targets).evaluate(IDENTITY)
    assert found == {"mse": 1.0}
    with pytest.raises(ValueError, match=r"\(3, 2\), and embeddings of shape \(3, 5\)"):
        evaluation.MSEEvaluator(np.zeros([3, 5]), targets).evaluate(IDENTITY)
    with pytest.raises(ValueError, match="targets as embeddings"):
        evaluation.MSEEvaluator(np.zeros([3, 5]), [1, 2])


def test_inputs_that_differ_in_number_are_refused():
    rows = np.eye(3)
    with pytest.raises(ValueError, match=r"equal numbers .*'first': 3, 'second': 2"):
        evaluation.SimilarityEvaluator(rows, rows[:2], [1, 2, 3])
    with pytest.raises(ValueError, match=r"equal numbers .*'labels': 2"):
        evaluation.PairClassificationEvaluator(rows, rows, [1, 0])
    with pytest.raises(ValueError, match="labels 1 and 0"):
        evaluation.PairClassificationEvaluator(rows, rows, [0, 1, 2])
    with pytest.raises(ValueError, match="two different scores"):
        evaluation.SimilarityEvaluator(rows, rows, [1, 1, 1])
    with pytest.raises(ValueError, match="equal numbers"):
        evaluation.TripletEvaluator(rows, rows, rows[:1])
    with pytest.raises(ValueError, match="equal numbers"):
        evaluation.TranslationEvaluator(rows, rows[:1])
    batches = tf.data.Dataset.from_tensor_slices(rows).batch(2)
    with pytest.raises(ValueError, match=r"as many inputs of one kind .* 3 and 2"):
        evaluation.SimilarityEvaluator(batches, rows[:2], [1, 2]).evaluate(IDENTITY)
    with pytest.raises(ValueError, match="label for each"):
        evaluation.LabelEvaluator(rows, [1, 2])
    with pytest.raises(ValueError, match="Unknown `distance`"):
        evaluation.LabelEvaluator(rows, [1, 1, 2], distance="cosin")
    for towers in ("ab", ("a",), (1, 2)):
        with pytest.raises(ValueError, match="towers as the names of two"):
            evaluation.MSEEvaluator(rows, rows, towers=towers)
    with pytest.raises(ValueError, match="a dict of ids"):
        evaluation.SimilarityEvaluator({"a": "text"}, ["text"], [1])
    dataset = tf.data.Dataset.from_tensor_slices(rows).repeat().batch(2)
    with pytest.raises(ValueError, match="without an end"):
        evaluation.MSEEvaluator(dataset, rows)
    with pytest.raises(ValueError, match="frequency"):
        evaluation.MSEEvaluator(rows, rows, frequency=0)
    with pytest.raises(ValueError, match="name"):
        evaluation.MSEEvaluator(rows, rows, name="")


def test_a_model_that_diverged_is_no_bad_one():
    rows = np.full([3, 2], np.nan)
    with pytest.raises(ValueError, match="finite embeddings"):
        evaluation.TripletEvaluator(rows, rows, rows).evaluate(IDENTITY)


def test_tuples_of_texts_are_rows():
    class Model:
        def predict(self, x, **options):
            assert isinstance(x, list)
            return np.array([[len(text), 1.0] for text in x])

    first, second, scores = zip(("a", "b", 1), ("aa", "b", 2), ("c", "cc", 0), strict=True)
    assert evaluation.SimilarityEvaluator(first, second, scores).evaluate(Model())


def test_steps_are_those_of_the_model(tmp_path):
    model, pairs = model_and_pairs()
    model.compile(
        "adam", tfembloss.losses.MultipleNegativesRankingLoss(), steps_per_execution=2
    )
    file, scores = tmp_path / "steps.csv", np.arange(32)

    def evaluator():
        return evaluation.SimilarityEvaluator(
            *pairs, scores, unit="step", frequency=4, csv_file=file
        )

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 6:
                raise InterruptedError

    def train(*callbacks):
        checkpoint = tfembloss.callbacks.ResumableCheckpoint(tmp_path / "b", save_freq=2)
        model.fit(
            pairs, batch_size=4, epochs=2, shuffle=False, verbose=0,
            callbacks=[evaluator(), *callbacks, checkpoint],
        )  # fmt: skip

    with pytest.raises(InterruptedError):
        train(Stop())
    train()
    rows = list(csv.DictReader(file.open(newline="", encoding="utf-8")))
    # 8 steps in an epoch. It stopped after 6, and what is skipped is not measured again.
    assert [row["step"] for row in rows] == ["4", "8", "12", "16"]


def test_labels_in_fit():
    model, (x, _) = model_and_pairs()
    ids = np.arange(32) % 4
    evaluator = evaluation.LabelEvaluator(x, ids, name="classes")
    expected = evaluation.label_retrieval_metrics(model.predict(x, verbose=0), ids)
    assert evaluator.evaluate(model) == expected
    model.compile("adam", tfembloss.losses.SupConLoss())
    history = model.fit(x, ids, verbose=0, callbacks=[evaluator]).history
    assert set(history) == {"loss", *(f"val_classes_{name}" for name in expected)}


# Reranking.


def samples_of(rows):
    """The samples of golden/pair_evaluators.py, as rows instead of texts."""
    num, start, samples = len(rows) // 3, len(rows) // 3, []
    for i in range(num // 6):
        positives, negatives = 1 + i % 3, 2 + i % 4
        texts = [str(j) for j in range(start, start + positives + negatives)]
        start += len(texts)
        samples.append(
            {"query": str(i), "positive": texts[:positives], "negative": texts[positives:]}
        )
    return samples


@pytest.mark.parametrize("case", CASES[:2])
def test_reranking_is_the_peers(case):
    rows = GOLDEN[f"{case}/rows"]

    class Model:
        def predict(self, x, **options):
            return rows[[int(text) for text in x]]

    found = evaluation.RerankingEvaluator(samples_of(rows), at_k=3).evaluate(Model())
    theirs = {name.partition("@")[0]: value for name, value in found.items()}
    if case == "case1":  # of equal scores, the peer's first one is undefined
        del theirs["mrr"]
    check(theirs, case, "reranking_{}")


@pytest.mark.parametrize("case", ["case0", "case2"])  # case1 has more ties than places
def test_mined_duplicates_are_the_peers(case):
    rows = GOLDEN[f"{case}/rows"]
    num = len(rows) // 3
    pairs = [(num + i, i) for i in range(0, num, 2)]
    options = {"top_k": 5, "max_pairs": 4 * num}
    found = evaluation.ParaphraseMiningEvaluator(rows[: 2 * num], pairs, **options)
    found = found.evaluate(IDENTITY)
    found["average_precision"] = found.pop("ap")
    found["threshold"] = found.pop("f1_threshold")
    check(found, case, "mining_{}")


def test_duplicates_by_id():
    texts = {"x": "aa", "y": "bb", "z": "c"}

    class Model:
        def predict(self, x, **options):
            return np.array([[len(text), 1.0] for text in x])

    found = evaluation.ParaphraseMiningEvaluator(texts, [("y", "x")]).evaluate(Model())
    assert found["f1"] == found["ap"] == 1.0
    for pairs in ([("x", "v")], [("x", "x")], [("x",)], [0, 1], ("x", "y")):
        with pytest.raises(ValueError, match="duplicates as pairs of rows"):
            evaluation.ParaphraseMiningEvaluator(texts, pairs)
    for pair in (("aa", "bb"), (0.7, 1)):
        with pytest.raises(ValueError, match="duplicates as pairs of rows"):
            evaluation.ParaphraseMiningEvaluator(list(texts.values()), [pair])
    with pytest.raises(ValueError, match="at least one pair"):
        evaluation.ParaphraseMiningEvaluator(texts, [])
    with pytest.raises(ValueError, match="Received: row 7"):
        evaluation.ParaphraseMiningEvaluator(np.eye(3), [(0, 7)]).evaluate(IDENTITY)


def test_equal_scores_are_no_merit():
    found = evaluation.reranking_metrics([[1, 1, 1, 1]], [[1, 0, 0, 0]])
    assert found["mrr@10"] == 0.25 and found["map"] == 0.25
    gains = 1 / np.log2(np.arange(2, 6))
    assert found["ndcg@10"] == pytest.approx(gains.mean())


@pytest.mark.parametrize(
    ("message", "scores", "relevant"),
    [
        ("some relevant documents", [[1, 2]], [[1, 1]]),
        ("some relevant documents", [[1, 2]], [[0, 0]]),
        ("a finite score .* of query 0", [[1, float("inf")]], [[0, 1]]),
        ("a finite score", [[1, 2]], [[0, 1, 1]]),
        ("of each query", [[1, 2]], []),
    ],
)
def test_bad_lists_are_refused(message, scores, relevant):
    with pytest.raises(ValueError, match=message):
        evaluation.reranking_metrics(scores, relevant)


@pytest.mark.parametrize(
    "sample",
    [
        {"query": "a", "positive": "b", "negative": None},
        {"query": "a"},
        {"query": "a", "positive": [], "negative": "b"},
        "a",
    ],
)
def test_bad_samples_are_refused(sample):
    with pytest.raises(ValueError, match=r"Expected samples as dicts .* in place 0"):
        evaluation.RerankingEvaluator([sample])
