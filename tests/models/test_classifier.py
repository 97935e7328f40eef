import keras
import numpy as np
import pytest
import tensorflow as tf
from goldens import kernels, plain_kernels  # noqa: F401

import tfembloss
from tfembloss import layers, losses

NUM_CLASSES = 5


def rows(num_rows=12, dim=4, seed=0):
    """Inputs and labels, with every class among them."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(num_rows) % NUM_CLASSES)
    return rng.normal(size=[num_rows, dim]).astype("float32"), labels


def classifier(head=None, dropout=0.0, **options):
    keras.utils.set_random_seed(1)
    parts = [keras.layers.Dense(8, "relu"), keras.layers.Dropout(dropout)]
    encoder = keras.Sequential([keras.Input([4]), *parts, keras.layers.Dense(3)])
    head = layers.CosineHead(NUM_CLASSES) if head is None else head
    return tfembloss.EmbeddingClassifier(encoder, head, **options)


def compiled(model, loss=None, learning_rate=0.05, **options):
    loss = losses.CosFaceLoss(scale=8.0) if loss is None else loss
    model.compile(keras.optimizers.Adam(learning_rate), loss, **options)
    return model


def weights(model):
    return [variable.numpy() for variable in model.variables]


def test_predict_gives_embeddings_and_the_loss_sees_scores():
    (x, y), model = rows(), compiled(classifier())
    model.fit(x, y, verbose=0)
    embeddings = model.predict(x, verbose=0)
    np.testing.assert_allclose(embeddings, model.encoder.predict(x, verbose=0), rtol=1e-6)
    expected = losses.CosFaceLoss(scale=8.0)(y, model.head(embeddings))
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0), expected, rtol=1e-5)


@pytest.mark.parametrize("num_sampled, jit_compile", [(None, False), (4, True)])
def test_encoder_and_head_learn(num_sampled, jit_compile):
    (x, y), model = rows(8), classifier(num_sampled=num_sampled)
    model = compiled(model, metrics=["accuracy"], jit_compile=jit_compile)
    model(x)
    before = weights(model.encoder)[0], model.head.centers.numpy()
    with kernels(compiled=True):
        history = model.fit(x, y, batch_size=4, epochs=30, verbose=0).history
        loss, accuracy = model.evaluate(x, y, verbose=0)
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert loss < 0.5 * history["loss"][0] and accuracy > 0.6
    for old, new in zip(
        before, (weights(model.encoder)[0], model.head.centers.numpy()), strict=True
    ):
        assert np.abs(new - old).max() > 0.01


@pytest.mark.parametrize("num_betas", [1, NUM_CLASSES])
def test_the_boundaries_of_a_margin_loss_are_learned_and_saved(num_betas, tmp_path):
    (x, y), head = rows(), layers.MarginHead(num_betas, beta=0.7)
    model = compiled(classifier(head), losses.MarginLoss(num_betas=num_betas, nu=0.1))
    history = model.fit(x, y, epochs=5, verbose=0).history["loss"]
    assert history[-1] < history[0]
    betas = head.betas.numpy()
    assert betas.shape == (num_betas,) and (betas != np.float32(0.7)).all()
    assert model.predict(x, verbose=0).shape == (12, 3)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.head.betas.numpy(), betas)
    np.testing.assert_allclose(
        again.evaluate(x, y, verbose=0), model.evaluate(x, y, verbose=0), rtol=1e-6
    )
    whole = model.head(model.predict(x, verbose=0))
    of_fewer_dimensions = losses.MatryoshkaLoss(model.loss, [3, 2])(y, whole)
    rows_of_2 = tf.concat([whole[:, :2], whole[:, 3:]], axis=1)
    expected = model.loss(y, whole) + model.loss(y, rows_of_2)
    np.testing.assert_allclose(of_fewer_dimensions, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="at least 4 dimensions"):
        losses.MatryoshkaLoss(model.loss, [4])(y, whole)
    matryoshka = losses.MatryoshkaLoss(model.loss, [3, 2])
    for loss in (matryoshka, losses.WeightedSum({"margin": matryoshka})):
        compiled(model, loss, run_eagerly=True)
        found = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_as_many_boundaries_as_the_head_has():
    for head, loss in (
        (layers.MarginHead(2), losses.MarginLoss()),
        (layers.MarginHead(2), losses.MarginLoss(num_betas=3)),
        (layers.MarginHead(2), losses.ArcFaceLoss()),
        (keras.layers.Dense(4), losses.MarginLoss(num_betas=2)),
        (layers.MarginHead(2), losses.MatryoshkaLoss(losses.MarginLoss(), [2])),
    ):
        with pytest.raises(ValueError, match="as many learned boundaries as the head has"):
            compiled(classifier(head), loss)
    learned = losses.MarginLoss(num_betas=1)
    model = tfembloss.EmbeddingModel(keras.layers.Dense(3))
    matryoshka, total = (
        losses.MatryoshkaLoss(learned, [2]),
        losses.WeightedSum({"m": learned}),
    )
    for loss in (learned, matryoshka, total):
        with pytest.raises(ValueError, match="num_betas=1 in MarginLoss, and no head"):
            compiled(model, loss)
    with pytest.raises(ValueError, match=r"embeddings and boundaries \[B, D \+ 4\]"):
        losses.MarginLoss(num_betas=4)([0, 1], np.ones([2, 4]))
    with pytest.raises(ValueError, match=r"expected num_betas too.*nu=0\.1"):
        losses.MarginLoss(nu=0.1)
    with pytest.raises(ValueError, match=r"MarginHead takes embeddings \[B, D\]"):
        layers.MarginHead()(np.ones([2, 3, 4]))


def test_all_classes_sampled_are_all_classes():
    x, y = rows(5)
    histories, ends = [], []
    for num_sampled in (None, NUM_CLASSES):
        model = compiled(classifier(num_sampled=num_sampled))
        history = model.fit(x, y, batch_size=5, epochs=4, verbose=0, shuffle=False)
        histories.append(history.history["loss"])
        ends.append(weights(model.encoder)[0])
    np.testing.assert_allclose(*histories, rtol=1e-5)
    np.testing.assert_allclose(*ends, rtol=1e-4, atol=1e-6)


def test_a_loss_gets_the_lengths_it_takes_and_metrics_cosines(tmp_path):
    x, y = rows(10)
    model = compiled(
        classifier(num_sampled=5), losses.SphereFaceLoss(2.0), metrics=["accuracy"]
    )
    history = model.fit(x, y, epochs=15, verbose=0).history
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    embeddings = model.predict(x, verbose=0)
    loss, accuracy = model.evaluate(x, y, verbose=0)
    scores = model.head(embeddings, lengths="embedding")
    np.testing.assert_allclose(loss, losses.SphereFaceLoss(2.0)(y, scores), rtol=1e-5)
    best = np.argmax(model.head(embeddings), axis=1)
    np.testing.assert_allclose(accuracy, np.mean(best == y), rtol=1e-6)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.evaluate(x, y, verbose=0) == [loss, accuracy]
    dense = compiled(classifier(keras.layers.Dense(5)), losses.SphereFaceLoss())
    with pytest.raises(ValueError, match=r"cosines and lengths.*CosineHead"):
        dense.fit(x, y, verbose=0)


def test_a_step_moves_the_batch_s_classes_and_a_random_rest():
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    model = tfembloss.EmbeddingClassifier(encoder, layers.CosineHead(40), num_sampled=10)
    model.compile(keras.optimizers.SGD(1.0), losses.NormalizedSoftmaxLoss(temperature=1.0))
    x, labels = rows(4)[0], np.array([7, 7, 30, 11])
    moved = []
    for _ in range(3):
        model(x)
        before = model.head.centers.numpy()
        model.train_on_batch(x, labels)
        change = np.abs(model.head.centers.numpy() - before).max(axis=1)
        moved.append(set(np.flatnonzero(change)))
        assert len(moved[-1]) == 10 and {7, 30, 11} <= moved[-1]
    assert moved[0] != moved[1] != moved[2]


@pytest.mark.parametrize("sub_centers", [1, 3])
def test_scores_of_some_classes_are_those_of_all(sub_centers):
    head = layers.CosineHead(6, sub_centers)
    x = np.random.default_rng(0).normal(size=[4, 3]).astype("float32")
    every, classes = head(x), tf.constant([4, 0, 5])
    some = head(x, classes=classes)
    np.testing.assert_allclose(some, every.numpy()[:, [4, 0, 5]], rtol=1e-5)
    best = np.max(
        [tf.matmul(
            tfembloss.distances.l2_normalize(x),
            tfembloss.distances.l2_normalize(head.centers.numpy()[k::sub_centers]),
            transpose_b=True,
        ) for k in range(sub_centers)], axis=0)  # fmt: skip
    np.testing.assert_allclose(every, best, rtol=1e-5, atol=1e-6)


def test_a_temperature_weights_the_sub_centers():
    head = layers.CosineHead(6, sub_centers=3, temperature=0.1)
    x = np.random.default_rng(0).normal(size=[4, 3]).astype("float32")
    every = head(x).numpy()
    centers = keras.utils.normalize(head.centers.numpy(), axis=1)
    cosines = (keras.utils.normalize(x, axis=1) @ centers.T).reshape(4, 6, 3)
    weights = np.exp(cosines / 0.1)
    weights /= weights.sum(axis=2, keepdims=True)
    np.testing.assert_allclose(every, (weights * cosines).sum(axis=2), rtol=1e-4)
    some = head(x, classes=tf.constant([4, 0, 5]))
    np.testing.assert_allclose(some, every[:, [4, 0, 5]], rtol=1e-5)
    again = layers.CosineHead.from_config(head.get_config())
    again.build(x.shape)
    again.set_weights(head.get_weights())
    np.testing.assert_array_equal(again(x), every)
    of_centers = np.linalg.norm(head.centers.numpy(), axis=1).reshape(6, 3)
    lengths = np.linalg.norm(x, axis=1)[:, None] * (weights * of_centers).sum(axis=2)
    found = head(x, lengths="product")[:, 1]
    np.testing.assert_allclose(found, lengths, rtol=1e-4)


def outliers_of(x, labels, centers, degrees):
    """As in the paper: by loops over the rows of each class."""
    found = []
    for row, label in zip(x, labels, strict=True):
        own = x[labels == label] @ centers[label].T  # [n, K]
        nearest = list(own.argmax(axis=1))
        dominant = max(range(len(centers[label])), key=nearest.count)
        cosine = row @ centers[label][dominant]
        found.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))) > degrees)
    return found


@pytest.mark.parametrize("sub_centers, degrees", [(1, 75), (3, 75), (3, 100)])
def test_rows_far_from_the_dominant_sub_center_are_outliers(sub_centers, degrees):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=[1100, 3]).astype("float32")
    labels = rng.integers(5, size=1100)
    head = layers.CosineHead(6, sub_centers)  # no row has the last class
    head(x)
    found = head.outliers(3 * x, labels, np.radians(degrees))
    centers = keras.utils.normalize(head.centers.numpy(), axis=1).reshape(6, -1, 3)
    expected = outliers_of(keras.utils.normalize(x, axis=1), labels, centers, degrees)
    assert found.dtype == bool and 100 < found.sum() < 1000
    np.testing.assert_array_equal(found, expected)
    assert head.outliers(x[:0], labels[:0]).shape == (0,)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((np.ones([2, 3]), [0, 5]), "labels from 0 to 4"),
        ((np.ones([2, 3]), [0]), "labels"),
        ((np.ones([2, 4]), [0, 1]), r"embeddings \[N, 3\].*\(2, 4\)"),
        ((np.ones([2, 3]), [0, 1], 75), "`threshold` must be an angle in radians"),
    ],
)
def test_wrong_arguments_of_outliers_are_explained(arguments, message):
    head = layers.CosineHead(5)
    with pytest.raises(ValueError, match="a trained head"):
        head.outliers(np.ones([2, 3]), [0, 1])
    head.build([None, 3])
    with pytest.raises(ValueError, match=message):
        head.outliers(*arguments)


def test_the_head_computes_in_float32_whatever_the_policy():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        heads = layers.CosineHead(3), layers.PairHead(3)
    finally:
        keras.config.set_dtype_policy("float32")
    x = tf.random.normal([2, 2, 5])
    assert heads[0](tf.cast(x[:, 0], "float16")).dtype == "float32"
    assert heads[1](tf.cast(x, "float16")).dtype == "float32"


# An optimizer of the head's own.


def test_the_head_has_a_learning_rate_of_its_own():
    x, y = rows()
    model = compiled(
        classifier(), learning_rate=0.0, head_optimizer=keras.optimizers.SGD(1.0)
    )
    model(x)
    encoder, head = weights(model.encoder), model.head.centers.numpy()
    model.fit(x, y, verbose=0)
    for old, new in zip(encoder, weights(model.encoder), strict=True):
        np.testing.assert_array_equal(old, new)
    assert np.abs(model.head.centers.numpy() - head).max() > 0.01
    assert float(model.optimizer.learning_rate) == 0
    assert int(model.optimizer.iterations) == 1


def test_equal_optimizers_are_one():
    x, y = rows()
    ends = []
    for options in ({}, {"head_optimizer": keras.optimizers.Adam(0.05)}):
        model = compiled(classifier(), **options)
        model.fit(x, y, epochs=3, shuffle=False, verbose=0)
        ends.append([*weights(model.encoder), model.head.centers.numpy()])
    for one, two in zip(*ends, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)


def test_mixed_precision_with_both():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled(classifier(), head_optimizer=keras.optimizers.SGD(0.5))
    finally:
        keras.config.set_dtype_policy("float32")
    x, y = rows()
    history = model.fit(x, y, epochs=8, verbose=0).history["loss"]
    assert history[-1] < history[0]


@pytest.mark.parametrize("options", [{}, {"head_optimizer": "sgd"}, {"num_sampled": 5}])
def test_saved_in_the_middle_it_goes_on_exactly(tmp_path, options):
    x, y = rows(5)
    num_sampled = options.pop("num_sampled", None)
    model = compiled(classifier(dropout=0.5, num_sampled=num_sampled), **options)
    fit = {"epochs": 2, "shuffle": False, "verbose": 0}
    model.fit(x, y, **fit)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    expected = model.fit(x, y, **fit).history["loss"]
    assert again.fit(x, y, **fit).history["loss"] == expected
    for one, two in zip(weights(model), weights(again), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_export_has_no_head(tmp_path):
    (x, y), model = rows(), compiled(classifier())
    model.fit(x, y, verbose=0)
    tfembloss.export_encoder(model, tmp_path / "encoder", normalize=False)
    exported = tf.saved_model.load(tmp_path / "encoder")
    shapes = [tuple(variable.shape) for variable in exported.variables]
    expected = [tuple(variable.shape) for variable in model.encoder.trainable_variables]
    assert sorted(shapes) == sorted(expected)
    served = next(iter(exported.signatures.values()))(tf.constant(x))["embedding"]
    np.testing.assert_allclose(served, model.predict(x, verbose=0), rtol=1e-5, atol=1e-6)


# Other heads.


def test_pairs_are_classified():
    (u, labels), (v, _) = rows(30), rows(30, seed=1)
    model = compiled(classifier(layers.PairHead(NUM_CLASSES)), losses.SoftmaxLoss(),
                     metrics=["accuracy"])  # fmt: skip
    history = model.fit((u, v), labels, epochs=25, verbose=0).history
    assert history["accuracy"][-1] > history["accuracy"][0] + 0.2
    assert model.predict((u, v), verbose=0).shape == (30, 2, 3)


def test_a_projection_learns_a_teacher_of_another_dimension():
    x, _ = rows(30)
    teacher = np.tanh(x @ np.random.default_rng(2).normal(size=[4, 7]))
    model = compiled(classifier(keras.layers.Dense(7)), losses.MSELoss())
    history = model.fit(x, teacher, epochs=25, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]
    assert model.predict(x, verbose=0).shape == (30, 3)


# What goes wrong.


@pytest.mark.parametrize("label", [NUM_CLASSES, -1])
@pytest.mark.parametrize("num_sampled", [None, NUM_CLASSES])
@pytest.mark.parametrize("run_eagerly", [True, False])
def test_a_label_out_of_range_is_named(label, num_sampled, run_eagerly):
    x, y = rows(5)
    y[2] = label
    model = compiled(classifier(num_sampled=num_sampled), run_eagerly=run_eagerly)
    error = ValueError if run_eagerly else tf.errors.InvalidArgumentError
    with (
        kernels(compiled=not run_eagerly),
        pytest.raises(error, match="labels from 0 to 4"),
    ):
        model.fit(x, y, verbose=0)


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_logits_for_cosines_are_named(run_eagerly):
    x, y = rows()
    model = compiled(
        classifier(keras.layers.Dense(NUM_CLASSES)), losses.ArcFaceLoss(),
        run_eagerly=run_eagerly,
    )  # fmt: skip
    error = ValueError if run_eagerly else tf.errors.InvalidArgumentError
    with (
        kernels(compiled=not run_eagerly),
        pytest.raises(error, match=r"expects cosines.*CosineHead"),
    ):
        model.fit(100 * x, y, verbose=0)


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_more_classes_than_are_sampled_are_named(run_eagerly):
    x, y = rows(4)
    model = compiled(classifier(num_sampled=3), run_eagerly=run_eagerly)
    error = ValueError if run_eagerly else tf.errors.InvalidArgumentError
    message = "`num_sampled`.*num_sampled=3, and a batch with more"
    with kernels(compiled=not run_eagerly), pytest.raises(error, match=message):
        model.fit(x, y, verbose=0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"head": "cosine"}, "`head` maps embeddings to scores.*'cosine'"),
        ({"num_sampled": 6}, "`num_sampled` must be an integer from 1 to 5.*=6"),
        ({"num_sampled": 0}, "`num_sampled` must be"),
        ({"num_sampled": 2, "head": keras.layers.Dense(5)}, "samples classes of a"),
    ],
)
def test_wrong_arguments_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        classifier(**options)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: layers.CosineHead(0), "`num_classes` must be an integer >= 1"),
        (lambda: layers.CosineHead(3, sub_centers=1.5), "`sub_centers`"),
        (lambda: layers.CosineHead(3, temperature=0), "`temperature` must be a number > 0"),
        (lambda: layers.PairHead(0), "`num_labels`"),
        (lambda: layers.PairHead(3, embeddings=False, difference=False), "at least one"),
        (lambda: layers.CosineHead(3)(tf.ones([2, 2, 4])), r"embeddings \[B, D\]"),
        (lambda: layers.PairHead(3)(tf.ones([2, 4])), r"columns \[B, 2, D\]"),
    ],
)
def test_wrong_heads_are_explained(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_missing_labels_are_explained():
    x, _ = rows()
    for num_sampled in (None, 4):
        with pytest.raises(ValueError, match="Expected labels y_true"):
            compiled(classifier(num_sampled=num_sampled)).fit(x, verbose=0)
