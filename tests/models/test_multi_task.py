"""Several tasks that train one encoder."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfembloss
from tfembloss import callbacks, data, layers, losses

A, B, C = np.random.default_rng(0).normal(size=[3, 12, 6]).astype("float32")
LABELS = np.arange(12) % 3
X = {"pairs": (A, B), "area": C, "nli": (A, C), "scored": (B, C)}
Y = {"area": LABELS, "nli": LABELS[::-1], "scored": np.linspace(0, 1, 12)}
LOSSES = {
    "pairs": losses.MultipleNegativesRankingLoss(scale=5.0),
    "area": losses.ArcFaceLoss(scale=5.0),
    "nli": losses.SoftmaxLoss(),
    "scored": losses.CosineSimilarityLoss(),
}


TWO = ("pairs", "area")


def model(names=TWO, optimizer=None, dropout=0.0, **compiled):
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential(
        [keras.Input([6]), keras.layers.Dense(5), keras.layers.Dropout(dropout)]
    )
    tasks = {  # all are created, so that they start alike
        "pairs": tfembloss.EmbeddingModel(encoder, learn_scale=True),
        "area": tfembloss.EmbeddingClassifier(encoder, layers.CosineHead(3)),
        "nli": tfembloss.EmbeddingClassifier(encoder, layers.PairHead(3)),
        "scored": tfembloss.EmbeddingModel(encoder, mini_batch_size=4),
    }
    for task in tasks.values():
        task.build([(None, 6)])
        task._build_parts((None, 2, 5) if task is tasks["nli"] else (None, 5))
    found = tfembloss.MultiTaskModel({name: tasks[name] for name in names})
    found.compile(
        optimizer or keras.optimizers.SGD(0.1),
        {name: LOSSES[name] for name in names},
        **compiled,
    )
    return found


def fit(a_model, x=None, y=None, **options):
    x = {name: X[name] for name in a_model.tasks} if x is None else x
    y = {name: Y[name] for name in x if name in Y} if y is None else y
    options = {"batch_size": 4, "shuffle": False, "verbose": 0, **options}
    return a_model.fit(x, y, **options).history


def weights(a_model):
    return np.concatenate([np.ravel(v) for v in a_model.trainable_variables])


def of_encoder(a_model):
    return a_model.encoder.get_weights()[0]


@pytest.mark.parametrize("name", LOSSES)
def test_one_task_is_that_task_alone(name):
    alone, in_mixture = model([name]).tasks[name], model([name])
    alone.compile(keras.optimizers.SGD(0.1), LOSSES[name])
    options = {"batch_size": 4, "shuffle": False, "epochs": 2, "verbose": 0}
    expected = alone.fit(X[name], Y.get(name), **options).history
    found = fit(in_mixture, epochs=2)
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-6)
    for key, values in expected.items():
        np.testing.assert_allclose(found[f"{name}_{key}"], values, rtol=1e-6)
    same = [np.sort(weights(a_model)) for a_model in (in_mixture, alone)]  # in other orders
    np.testing.assert_allclose(*same, rtol=1e-6)


def test_a_mixture_is_the_steps_of_its_tasks_in_turn():
    """Compared with gradient descent written out, with the weights of the tasks."""
    mixed, written_out = model(loss_weights={"area": 0.25}), model()
    history = fit(mixed, mixing="round_robin", epochs=2)
    values = {"pairs": [], "area": []}
    for step in range(12):
        name = TWO[step % 2]
        rows = slice(4 * (step // 2 % 3), 4 * (step // 2 % 3) + 4)
        task = written_out.tasks[name]
        x = tuple(column[rows] for column in (A, B)) if name == "pairs" else C[rows]
        with tf.GradientTape() as tape:
            value = task.compute_loss(x, Y[name][rows] if name in Y else None, task(x))
        values[name].append(float(value))
        rate = 0.1 * (0.25 if name == "area" else 1.0)
        variables = task.trainable_variables
        for variable, gradient in zip(
            variables, tape.gradient(value, [v.value for v in variables]), strict=True
        ):
            variable.assign_sub(rate * tf.convert_to_tensor(gradient))
    np.testing.assert_allclose(weights(mixed), weights(written_out), rtol=1e-5, atol=1e-6)
    last = {name: np.mean(of_task[3:]) for name, of_task in values.items()}
    assert history["pairs_loss"][1] == pytest.approx(last["pairs"], rel=1e-5)
    assert history["area_loss"][1] == pytest.approx(last["area"], rel=1e-5)
    total = (last["pairs"] + 0.25 * last["area"]) / 2
    assert history["loss"][1] == pytest.approx(total, rel=1e-5)
    assert history["pairs_steps"] == history["area_steps"] == [3, 3]


def test_a_weight_of_zero_is_as_if_the_task_were_not_there():
    without, zero = model(["pairs"]), model(loss_weights={"area": 0})
    start = zero.tasks["area"].head.get_weights()
    expected, found = fit(without, epochs=2), fit(zero, epochs=2)
    assert found == expected
    np.testing.assert_array_equal(of_encoder(zero), of_encoder(without))
    np.testing.assert_array_equal(zero.tasks["area"].head.get_weights(), start)
    no_data = fit(model(loss_weights={"area": 0}), x={"pairs": X["pairs"]}, epochs=2)
    assert no_data == expected
    held_out = zero.evaluate({"area": C}, {"area": LABELS}, verbose=0, return_dict=True)
    assert held_out["loss"] == 0 and held_out["area_loss"] > 0


def test_a_step_leaves_the_heads_of_other_tasks_alone():
    trained = model(optimizer=keras.optimizers.AdamW(0.1, weight_decay=0.1))
    fit(trained, mixing={"weights": {"pairs": 3, "area": 1}})
    area = trained.tasks["area"]
    before = area.head.get_weights()
    fit(trained, mixing={"weights": {"pairs": 1, "area": 0}})
    np.testing.assert_array_equal(area.head.get_weights(), before)


MODES = {
    "eagerly": {"run_eagerly": True},
    "xla": {"jit_compile": True},
    "several": {"steps_per_execution": 5},
}


@pytest.mark.parametrize("mode", MODES)
def test_every_way_of_running_it(mode):
    names = ["pairs", "scored"] if mode == "xla" else TWO
    expected = fit(model(names), epochs=2)
    found = fit(model(names, **MODES[mode]), epochs=2)
    assert list(found) == list(expected)
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-4)


def test_half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        half = model()
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(half.optimizer, keras.optimizers.LossScaleOptimizer)
    found, expected = fit(half, epochs=2), fit(model(), epochs=2)
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=2e-2)
    assert int(half.optimizer.inner_optimizer.iterations) == 12


def test_saved_and_trained_on(tmp_path):
    adam, metrics = keras.optimizers.Adam(0.01), {"area": ["accuracy"]}
    trained = model(["area", "nli"], adam, metrics=metrics, loss_weights={"nli": 0.5})
    fit(trained)
    trained.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert all(task.encoder is loaded.encoder for task in loaded.tasks.values())
    assert len(loaded.weights) == len(trained.weights)
    expected, found = fit(trained), fit(loaded)
    assert found == expected and "area_accuracy" in found
    np.testing.assert_array_equal(weights(trained), weights(loaded))


class Stop(keras.callbacks.Callback):
    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def on_train_batch_end(self, batch, logs=None):
        self.steps -= 1
        if self.steps == 0:
            raise InterruptedError


@pytest.mark.parametrize("kind", ["in an epoch", "at its end"])
def test_it_resumes(tmp_path, kind):
    def train(steps=None):
        a_model = model(optimizer=keras.optimizers.Adam(0.01), dropout=0.3)
        if kind == "in an epoch":
            backup = callbacks.ResumableCheckpoint(tmp_path / "backup", save_freq=1)
        else:
            backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
            a_model = model(optimizer=keras.optimizers.Adam(0.01))
        stop = [] if steps is None else [Stop(steps)]
        return fit(a_model, epochs=3, callbacks=[backup, *stop]), weights(a_model)

    expected = train()
    with pytest.raises(InterruptedError):
        train(8)  # of 6 in each epoch
    found = train()
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)
    assert found[0]["loss"][-1] == pytest.approx(expected[0]["loss"][-1], rel=1e-6)


def test_validation_logs_what_is_given():
    trained = model()
    history = fit(trained, validation_data=({"area": C}, {"area": LABELS}), epochs=2)
    assert {key for key in history if key.startswith("val_")} == {
        "val_loss",
        "val_area_loss",
    }
    alone = trained.tasks["area"].evaluate(C, LABELS, batch_size=4, verbose=0)
    assert history["val_area_loss"][-1] == pytest.approx(alone, rel=1e-6)
    named = trained.evaluate(X_OF_TWO, {"area": LABELS}, verbose=0, return_dict=True)
    in_order = ["loss", "pairs_loss", "pairs_scale", "area_loss"]
    assert set(named) == set(in_order)
    as_list = trained.evaluate(X_OF_TWO, {"area": LABELS}, verbose=0)
    assert as_list == [named[name] for name in in_order]
    split = fit(trained, validation_split=0.25)
    assert {"val_pairs_loss", "val_area_loss"} < set(split)


X_OF_TWO = {name: X[name] for name in ("pairs", "area")}


def test_columns_and_lists_as_a_task_alone_takes_them():
    lists = {"pairs": [A, B], "area": C.tolist()}
    y = {"area": LABELS.tolist()}
    assert fit(model(), x=lists, y=y) == fit(model())


def test_logs_of_tasks_that_had_no_step_and_of_some_steps():
    trained = model()
    x, y = {name: X[name] for name in TWO}, {"area": LABELS}
    history = fit(trained, steps_per_epoch=1, mixing="round_robin",
                  validation_data=(x, y), validation_steps=1)  # fmt: skip
    assert np.isnan(history["area_loss"][0]) and history["area_steps"] == [0]
    assert np.isfinite(history["loss"] + history["val_area_loss"]).all()
    some = trained.evaluate(x, y, 4, steps=1, verbose=0, return_dict=True)
    first = {name: rows[:4] if name == "area" else tuple(column[:4] for column in rows)
             for name, rows in x.items()}  # fmt: skip
    of_first = trained.evaluate(first, {"area": LABELS[:4]}, verbose=0, return_dict=True)
    assert some == pytest.approx(of_first)
    values = trained.evaluate({"area": C}, {"area": LABELS}, verbose=0)
    assert dict(zip(trained.metrics_names, values, strict=True)).keys() == {
        "loss", "area_loss",
    }  # fmt: skip
    twice = {"a": losses.WeightedSum({"b": RANKING}), "a_b": RANKING}
    one, other = two().values()
    same = tfembloss.MultiTaskModel({"a": one, "a_b": other})
    same.compile("sgd", twice)
    with pytest.raises(ValueError, match=r"different names\. Received: two of 'a_b_loss'"):
        same.fit({"a": (A, B), "a_b": (A, B)}, verbose=0)


def test_epochs_of_some_steps_go_on_in_the_mixture():
    whole, parts = model(), model()
    fit(whole, mixing="round_robin", epochs=2)
    history = fit(parts, mixing="round_robin", epochs=4, steps_per_epoch=3)
    assert history["pairs_steps"] == [2, 1, 2, 1]
    np.testing.assert_allclose(weights(parts), weights(whole), rtol=1e-6)


def test_weights_of_rows_and_of_classes():
    def trained(**options):
        found = model(["area", "scored"])
        fit(found, **options)
        return weights(found)

    rows = np.where(LABELS == 1, 3.0, 1.0)
    expected = trained(sample_weight={"area": rows})
    np.testing.assert_allclose(trained(class_weight={"area": {1: 3.0}}), expected)
    assert np.abs(trained() - expected).max() > 1e-3


def test_texts_images_and_all_kinds_of_tasks(tmp_path):
    texts = np.array([f"w{i % 5} w{i % 7} w{i % 3}" for i in range(12)])
    vocabulary = ["[PAD]", "[UNK]", *(f"w{i}" for i in range(8))]
    keras.utils.set_random_seed(0)
    encoder = tfembloss.text.TextEncoder(10, dim=6, sequence_length=8)
    preprocessor = tfembloss.text.TextPreprocessor(vocabulary, 8)
    trained = tfembloss.MultiTaskModel(
        {
            "pairs": tfembloss.EmbeddingModel(
                encoder, preprocessor, memory=layers.CrossBatchMemory(8)
            ),
            "teacher": tfembloss.EmbeddingClassifier(
                encoder, keras.layers.Dense(7), preprocessor
            ),
            "tension": tfembloss.ContrastiveTensionModel(encoder, preprocessor),
            "noise": tfembloss.DenoisingAutoEncoder(encoder, preprocessor),
        }
    )
    trained.compile(
        "adam",
        {
            "pairs": losses.MultipleNegativesRankingLoss(),
            "teacher": losses.MSELoss(),
            "tension": losses.ContrastiveTensionLossInBatchNegatives(),
            "noise": losses.DenoisingAutoEncoderLoss(),
        },
        run_eagerly=True,
    )
    teacher = np.random.default_rng(0).normal(size=[12, 7])
    pairs = data.columns(texts.tolist(), texts[::-1].tolist()).batch(6)
    x = {"pairs": pairs, "teacher": texts, "tension": list(texts), "noise": texts}
    evaluator = tfembloss.evaluation.SimilarityEvaluator(
        texts, texts[::-1], np.arange(12.0), name="sts"
    )
    history = trained.fit(
        x, {"teacher": teacher}, batch_size={"noise": 3}, epochs=2, verbose=0,
        validation_data=({"teacher": texts}, {"teacher": teacher}), callbacks=[evaluator],
    ).history  # fmt: skip
    assert history["noise_steps"] == [4, 4] and history["pairs_steps"] == [2, 2]
    assert history["noise_loss"][1] < history["noise_loss"][0]
    assert any(key.startswith("val_sts") for key in history)
    embeddings = trained.predict(texts, verbose=0)
    trained.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(texts, verbose=0), embeddings)
    tfembloss.export_encoder(trained, tmp_path / "export", normalize=False)
    served = tf.saved_model.load(tmp_path / "export").signatures["serving_default"]
    found = next(iter(served(tf.constant(texts)).values()))
    np.testing.assert_allclose(found, embeddings, atol=1e-6)


def test_a_batch_of_one_task_in_a_custom_loop():
    trained, expected = model(), model()
    fit(expected, mixing="round_robin", x={"pairs": (A[:4], B[:4]), "area": C[:4]},
        y={"area": LABELS[:4]})  # fmt: skip
    trained.tasks["pairs"].train_on_batch((A[:4], B[:4]))
    trained.tasks["area"].train_on_batch(C[:4], LABELS[:4])
    np.testing.assert_allclose(weights(trained), weights(expected), rtol=1e-6)


def two(encoder=None):
    encoder = encoder or keras.Sequential([keras.Input([6]), keras.layers.Dense(5)])
    return {"a": tfembloss.EmbeddingModel(encoder), "b": tfembloss.EmbeddingModel(encoder)}


RANKING = losses.MultipleNegativesRankingLoss()


@pytest.mark.parametrize(
    "tasks, message",
    [
        (lambda: {}, "Expected tasks as a dict"),
        (lambda: {"a": keras.layers.Dense(3)}, "models with one encoder.*Dense as 'a'"),
        (lambda: {0: two()["a"]}, "names of tasks as texts. Received: 0"),
        (lambda: {"a": two()["a"], "b": two()["b"]}, "one encoder.*in 'b' than in 'a'"),
        (lambda: dict.fromkeys(["a", "b"], two()["a"]), "same one as 'a' and as 'b'"),
        (
            lambda: {"a": tfembloss.MultiTaskModel(two())},
            "Received: MultiTaskModel as 'a'",
        ),
    ],
)
def test_errors_of_tasks(tasks, message):
    with pytest.raises(ValueError, match=message):
        tfembloss.MultiTaskModel(tasks())


@pytest.mark.parametrize(
    "compiled, message",
    [
        ({"loss": RANKING}, "loss as a dict by the names of the tasks, .*'a', 'b'"),
        ({"loss": {"a": RANKING}}, "a loss for each of the tasks.*none for 'b'"),
        ({"loss": {"a": RANKING, "c": RANKING}}, r"\['a', 'b'\], in loss. Received: 'c'"),
        ({"loss_weights": {"a": 0, "b": 0.0}}, "at least one task with a weight above 0"),
        ({"loss_weights": {"a": -1}}, "loss_weights.*-1"),
        ({"loss_weights": [1, 2]}, "loss_weights as a dict.*Received: list"),
        ({"metrics": {"c": ["mse"]}}, "in metrics. Received: 'c'"),
        (
            {"optimizer": keras.optimizers.SGD(gradient_accumulation_steps=2)},
            "without gradient_accumulation_steps.*2. Give.*mini_batch_size",
        ),
        ({"loss": {"a": losses.ArcFaceLoss(), "b": RANKING}}, "ArcFaceLoss takes class"),
    ],
)
def test_errors_of_compile(compiled, message):
    options = {"optimizer": "sgd", "loss": {"a": RANKING, "b": RANKING}, **compiled}
    with pytest.raises(ValueError, match=message):
        tfembloss.MultiTaskModel(two()).compile(**options)


PAIR = {"a": (A, B), "b": (A, C)}


@pytest.mark.parametrize(
    "given, message",
    [
        ({"x": {"a": (A, B)}}, "data for each task.*none for 'b'"),
        ({"x": (A, B)}, "x as a dict by the names of the tasks.*Received: tuple"),
        ({"x": {**PAIR, "c": A}}, "in x. Received: 'c'"),
        ({"x": {}}, "Expected x as a dict of data"),
        ({"x": PAIR, "y": LABELS}, "y as a dict.*Received: ndarray"),
        ({"x": PAIR, "y": {"c": LABELS}}, "in y. Received: 'c'"),
        ({"x": PAIR, "mixing": "random"}, "strategy.*random"),
        ({"x": PAIR, "mixing": {"shares": {}}}, "dict of its arguments.*'weights'"),
        ({"x": PAIR, "mixing": {"weights": {"a": 1}}}, "a number for each"),
        ({"x": {**PAIR, "b": iter([A])}}, "from_generator"),
        ({"x": {**PAIR, "b": (A, C[:5])}}, "Task 'b': .* same number of rows"),
        ({"x": {**PAIR, "b": (A[:0], C[:0])}}, "."),
        ({"x": PAIR, "batch_size": 0}, "Task 'a': .*batch_size.*0"),
        ({"x": PAIR, "batch_size": {"c": 1}}, "in batch_size. Received: 'c'"),
        (
            {"x": {**PAIR, "b": tf.data.Dataset.from_tensors(((A, C),)).repeat()}},
            "'b' is infinite",
        ),
    ],
)
def test_errors_of_data(given, message):
    found = tfembloss.MultiTaskModel(two())
    found.compile("sgd", {"a": RANKING, "b": RANKING})
    with pytest.raises(ValueError, match=message):
        found.fit(**given, verbose=0)


def test_errors_that_name_what_to_do_instead():
    found = tfembloss.MultiTaskModel(two())
    with pytest.raises(ValueError, match="compile"):
        found.fit(PAIR)
    found.compile("sgd", {"a": RANKING, "b": RANKING})
    with pytest.raises(ValueError, match=r"Task 'b': .*columns"):
        found.fit({**PAIR, "b": A}, verbose=0)
    found.fit(PAIR, batch_size=12, verbose=0)  # corrected, it trains
    with pytest.raises(ValueError, match=r'model\.tasks\["a"\]\.train_on_batch'):
        found.train_on_batch(PAIR)
    with pytest.raises(ValueError, match="a task given as rows, to split them"):
        found.fit(
            {name: data.columns(A, B).batch(4) for name in "ab"}, validation_split=0.5
        )
    with pytest.raises(ValueError, match="compile"):
        tfembloss.MultiTaskModel(two()).evaluate(PAIR)
    found.tasks["b"].compile("sgd", RANKING)
    with pytest.raises(ValueError, match="'b', compiled by itself"):
        found.fit(PAIR)
    with pytest.raises(ValueError, match=r"base = EmbeddingModel\.from_pretrained"):
        tfembloss.MultiTaskModel.from_pretrained("folder")
