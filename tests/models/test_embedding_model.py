import keras
import numpy as np
import pytest
import tensorflow as tf

import tfembloss
from tfembloss.losses import MultipleNegativesRankingLoss

VOCABULARY = ["[PAD]", "[UNK]", *"abcdefghijklmnop"]
ANCHORS = ["a b", "c d", "e f", "g h", "i j", "k l", "m n", "o p", "a c"]
POSITIVES = ["b", "d", "f", "h", "j", "l", "n", "p", "c"]


def text_model(padding="max_length", dropout=0.0, compiled=True, in_graph=False):
    keras.utils.set_random_seed(1)
    model = tfembloss.EmbeddingModel(
        tfembloss.text.TextEncoder(len(VOCABULARY), dim=8, dropout=dropout),
        tfembloss.text.TextPreprocessor(VOCABULARY, 4, padding),
    )
    if compiled:
        model.compile(
            keras.optimizers.Adam(0.01),
            MultipleNegativesRankingLoss(),
            run_eagerly=not in_graph,  # whose making takes longer than a few steps
        )
    return model


def dense_model(dim=3, **options):
    keras.utils.set_random_seed(1)
    model = tfembloss.EmbeddingModel(keras.Sequential([keras.layers.Dense(4)]))
    model.compile(keras.optimizers.SGD(0.1), MultipleNegativesRankingLoss(), **options)
    return model


def points(rows, num_columns=2, seed=0):
    x = np.random.default_rng(seed).normal(size=[num_columns, rows, 3]).astype("float32")
    return tuple(x)


# Columns in, embeddings out.


def test_columns_are_stacked():
    model, x = dense_model(), points(5, num_columns=3)
    together = model.predict(x, verbose=0)
    assert together.shape == (5, 3, 4)
    for i, column in enumerate(x):
        np.testing.assert_allclose(
            together[:, i], model.predict(column, verbose=0), rtol=1e-5
        )


class Counting(keras.layers.Layer):
    calls = 0

    def call(self, x):
        Counting.calls += 1
        return tf.reduce_sum(x, axis=1)


@pytest.mark.parametrize(
    "columns, calls",
    [
        ((np.ones([2, 3, 4]), np.ones([2, 3, 4]), np.ones([2, 3, 4])), 1),
        ((np.ones([2, 3, 4]), np.ones([2, 5, 4])), 2),
    ],
)
def test_columns_of_equal_shape_go_through_the_encoder_together(columns, calls):
    model = tfembloss.EmbeddingModel(Counting())
    Counting.calls = 0
    model(columns)
    assert Counting.calls == calls


def test_a_column_may_be_a_dict():
    a, b = keras.Input([2], name="a"), keras.Input([1], name="b")
    encoder = keras.Model({"a": a, "b": b}, keras.layers.Concatenate()([a, b]))
    column = {"a": np.ones([3, 2], "float32"), "b": np.zeros([3, 1], "float32")}
    other = {"a": np.zeros([3, 2], "float32"), "b": np.ones([3, 1], "float32")}
    embeddings = tfembloss.EmbeddingModel(encoder)((column, other)).numpy()
    np.testing.assert_array_equal(embeddings, [[[1, 1, 0], [0, 0, 1]]] * 3)


# Training.


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_fit_agrees_eager_graph_and_xla_with_a_partial_last_batch(
    jit_compile, steps_per_execution
):
    results = []
    for options in (
        {"run_eagerly": True},
        {"jit_compile": jit_compile, "steps_per_execution": steps_per_execution},
    ):
        model = dense_model(**options)
        history = model.fit(points(10), batch_size=4, epochs=2, shuffle=False, verbose=0)
        results.append((history.history["loss"], model.get_weights()))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)
    for eager, compiled in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(eager, compiled, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("padding", ["max_length", "longest"])
def test_fit_on_raw_texts_lowers_the_loss(padding):
    model = text_model(padding, in_graph=padding == "longest")
    history = model.fit((ANCHORS, POSITIVES), batch_size=4, epochs=8, verbose=0)
    assert history.history["loss"][-1] < 0.5 * history.history["loss"][0]
    assert model.evaluate((ANCHORS, POSITIVES), verbose=0) < history.history["loss"][0]


def test_raw_inputs_in_every_form_train_alike():
    arrays = (np.array(ANCHORS), np.array(POSITIVES, object))
    batches = tfembloss.data.columns(ANCHORS, POSITIVES).batch(4)
    forms = [
        {"x": (ANCHORS, POSITIVES), "batch_size": 4},
        {"x": arrays, "batch_size": 4},
        {"x": batches},
    ]
    weights = []
    for form in forms:
        model = text_model()
        model.fit(**form, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for other in weights[1:]:
        for a, b in zip(weights[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_validation():
    model = text_model()
    for validation in (
        {"validation_data": ((ANCHORS, POSITIVES),)},
        {"validation_data": ((ANCHORS, POSITIVES), list(range(9)), np.ones(9))},
        {"validation_data": tfembloss.data.columns(ANCHORS, POSITIVES).batch(9)},
        {"validation_split": 0.4},
    ):
        history = model.fit(
            (ANCHORS, POSITIVES), batch_size=9, epochs=2, verbose=0, **validation
        )
        assert np.isfinite(history.history["val_loss"]).all()
    weights = np.arange(9.0)
    last = {"validation_data": ((ANCHORS, POSITIVES), np.arange(9), weights)}
    history = model.fit((ANCHORS, POSITIVES), batch_size=9, verbose=0, **last)
    expected = model.evaluate(
        (ANCHORS, POSITIVES), sample_weight=weights, batch_size=9, verbose=0
    )
    assert expected != model.evaluate((ANCHORS, POSITIVES), batch_size=9, verbose=0)
    assert history.history["val_loss"][0] == pytest.approx(expected, rel=1e-6)


def test_sample_weights_without_y():
    weights = np.array([1, 0, 0, 0, 0, 0, 0, 0, 0], "float32")
    model = text_model()
    weighted = model.evaluate(
        (ANCHORS, POSITIVES), sample_weight=weights, batch_size=9, verbose=0
    )
    embeddings = model.predict((ANCHORS, POSITIVES), batch_size=9, verbose=0)
    values = MultipleNegativesRankingLoss(reduction=None)(np.zeros([9, 0]), embeddings)
    assert weighted == pytest.approx(values[0].numpy() / 9, rel=1e-5)


@pytest.mark.parametrize(
    "ids, in_graph",
    [(np.arange(9) % 4 + 2**40, True), (np.array(list("abababcde")), False)],
)
def test_ids_reach_the_loss(ids, in_graph):
    model = text_model(compiled=False)
    loss = MultipleNegativesRankingLoss(exclude_equal_ids=True)
    model.compile("sgd", loss, run_eagerly=not in_graph)
    loss = model.evaluate((ANCHORS, POSITIVES), ids, batch_size=9, verbose=0)
    embeddings = model.predict((ANCHORS, POSITIVES), verbose=0)
    expected = MultipleNegativesRankingLoss(exclude_equal_ids=True)(ids, embeddings)
    assert loss == pytest.approx(float(expected), rel=1e-5)
    model.fit((ANCHORS, POSITIVES), ids, verbose=0)


def test_mixed_precision_trains():
    keras.utils.set_random_seed(1)
    encoder = keras.Sequential([keras.layers.Dense(4, dtype="mixed_float16")])
    model = tfembloss.EmbeddingModel(encoder)
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1), initial_scale=64.0
    )
    model.compile(optimizer, MultipleNegativesRankingLoss())
    history = model.fit(points(8), epochs=20, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]


# Saving.


def test_saved_in_the_middle_training_goes_on_exactly(tmp_path):
    def batches():
        return tfembloss.data.columns(ANCHORS, POSITIVES).batch(4)

    model = text_model(dropout=0.3, in_graph=True)
    model.fit(batches(), epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert int(again.optimizer.iterations) == 6
    np.testing.assert_array_equal(
        again.predict(ANCHORS, verbose=0), model.predict(ANCHORS, verbose=0)
    )
    for m in (model, again):
        m.fit(batches(), epochs=2, verbose=0)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_encoder_without_input_shape_is_saved(tmp_path):
    model = dense_model()
    model.fit(points(6), verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = points(6)
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


def test_an_interrupted_fit_goes_on_exactly(tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def train(*callbacks):
        model = text_model(dropout=0.3)
        batches = tfembloss.data.columns(ANCHORS, POSITIVES).batch(4)
        model.fit(batches, epochs=4, verbose=0, callbacks=list(callbacks))
        return model.get_weights()

    backup = tmp_path / "backup"
    with pytest.raises(KeyboardInterrupt):
        train(keras.callbacks.BackupAndRestore(backup), Interrupt())
    resumed = train(keras.callbacks.BackupAndRestore(backup))
    for a, b in zip(train(), resumed, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dropouts", [(0.3, 0.3), (0.3, 0.0), (0.0, 0.3)])
def test_weights_go_into_a_model_with_other_dropout(tmp_path, dropouts):
    saved, loaded = (text_model(dropout=dropout) for dropout in dropouts)
    loaded.encoder.set_weights([w + 1 for w in loaded.encoder.get_weights()])
    saved.save_weights(tmp_path / "model.weights.h5")
    loaded.load_weights(tmp_path / "model.weights.h5")
    for a, b in zip(saved.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# What users get wrong.


def test_raw_texts_outside_of_fit_and_predict_are_explained():
    with pytest.raises(ValueError, match="fit, evaluate and predict take raw inputs"):
        text_model()(tf.constant(ANCHORS))


def test_a_bare_dataset_of_pairs_is_explained():
    batches = tf.data.Dataset.from_tensor_slices((ANCHORS, POSITIVES)).batch(4)
    with pytest.raises(
        ValueError, match=r"read by Keras as \(x, y\).*tfembloss.data.columns"
    ):
        text_model().fit(batches, verbose=0)


def test_a_bare_dataset_of_triplets_is_explained():
    batches = tf.data.Dataset.from_tensor_slices((ANCHORS, POSITIVES, ANCHORS)).batch(4)
    with pytest.raises(ValueError, match=r"tfembloss\.data\.columns"):
        text_model().fit(batches, verbose=0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"x": ANCHORS}, r"n >= 2.*\(9, 8\)"),
        ({"x": (ANCHORS, POSITIVES[:4])}, r"same number of rows.*\[9, 4\]"),
        ({"x": [ANCHORS, POSITIVES]}, "columns go into a tuple"),
        ({"x": (["a"], "b")}, "one string"),
        ({"x": ([], [])}, "at least one row"),
        ({"x": tfembloss.data.columns(ANCHORS, POSITIVES)}, "batch"),
        (
            {"x": tfembloss.data.columns(ANCHORS, POSITIVES).batch(3), "y": [1]},
            "no y beside it",
        ),
        ({"x": (text for text in ANCHORS)}, "from_generator"),
    ],
)
def test_wrong_inputs_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        text_model().fit(**arguments, verbose=0)


def test_missing_ids_are_explained():
    model = text_model(compiled=False)
    model.compile("sgd", MultipleNegativesRankingLoss(exclude_equal_ids=True))
    with pytest.raises(ValueError, match="give them as y"):
        model.fit((ANCHORS, POSITIVES), verbose=0)


def test_wrong_parts_are_explained():
    with pytest.raises(ValueError, match="`encoder`"):
        tfembloss.EmbeddingModel(lambda x: x)
    with pytest.raises(ValueError, match="`preprocessor`"):
        tfembloss.EmbeddingModel(keras.layers.Dense(2), preprocessor="bert")


def test_one_row():
    model = text_model()
    history = model.fit((["a"], ["b"]), verbose=0)
    assert history.history["loss"] == [0.0]
    assert model.predict([""], verbose=0).shape == (1, 8)


def test_weights_of_classes_are_weights_of_their_rows():
    x = np.random.default_rng(0).normal(size=[12, 4]).astype("float32")
    labels = np.repeat([0, 1, 2], [6, 4, 2])
    counts = np.bincount(labels)
    weights = len(labels) / (len(counts) * counts)
    history = []
    for options in (
        {},
        {"class_weight": dict(enumerate(weights))},
        {"sample_weight": weights[labels]},
    ):
        keras.utils.set_random_seed(0)
        model = tfembloss.EmbeddingModel(keras.Sequential([keras.layers.Dense(3)]))
        model.compile("sgd", loss=tfembloss.losses.SupConLoss())
        history += model.fit(x, labels, batch_size=12, verbose=0, **options).history["loss"]
    plain, of_classes, of_rows = history
    assert of_classes == pytest.approx(of_rows, rel=1e-6)
    assert abs(of_classes - plain) > 0.01
