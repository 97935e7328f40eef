"""Several losses of the same embeddings, and regularizers among them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from goldens import ROWS, arrays, value_and_gradient

import tfembloss
from tfembloss import layers, losses

X = np.random.default_rng(0).normal(size=[12, 4]).astype("float32")
IDS = np.arange(12) % 3


def parts():
    return {
        "labels": losses.SupConLoss(),
        "length": losses.LpRegularizationLoss(),
        "spread": losses.GlobalOrthogonalRegularizationLoss(),
    }


def test_value_and_gradient_are_the_sums():
    weights = {"length": 0.5, "spread": 2.0}
    value, gradient = value_and_gradient(losses.WeightedSum(parts(), weights), IDS, X)
    each = [value_and_gradient(loss, IDS, X) for loss in parts().values()]
    values, gradients = zip(*each, strict=True)
    np.testing.assert_allclose(value, np.dot([1, 0.5, 2], values), rtol=1e-6)
    expected = np.tensordot([1, 0.5, 2], gradients, 1)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)


def test_a_part_of_weight_0_is_as_if_it_were_not_there():
    with_part = losses.WeightedSum(parts(), [1, 0, 0])
    without = losses.WeightedSum({"labels": losses.SupConLoss()})
    for ours, expected in zip(
        value_and_gradient(with_part, IDS, X),
        value_and_gradient(without, IDS, X),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, expected)
    x = np.full([3, 2], np.nan, "float32")  # and hides nothing of the others
    assert np.isnan(with_part(IDS[:3], x))


def test_targets_by_name():
    rows = tf.constant(np.stack([X, X[::-1]], axis=1))
    scores = np.linspace(0, 1, 12)
    loss = losses.WeightedSum(
        {
            "scores": losses.CoSENTLoss(),
            "teacher": losses.MSELoss(),
            "rank": losses.MultipleNegativesRankingLoss(),
        }
    )
    expected = (
        losses.CoSENTLoss()(scores, rows)
        + losses.MSELoss()(X, rows)
        + losses.MultipleNegativesRankingLoss()(None, rows)
    )
    np.testing.assert_allclose(
        loss({"scores": scores, "teacher": X}, rows), expected, rtol=1e-6
    )
    with pytest.raises(ValueError, match=r"by the names \['scores'.*Received: 'others'"):
        loss({"others": scores}, rows)


def model(loss, **options):
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    found = tfembloss.EmbeddingModel(encoder, **options)
    found.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
    return found


@pytest.mark.parametrize("options", [{}, {"mini_batch_size": 3}])
def test_models_log_each_part(options):
    loss = losses.WeightedSum(parts(), {"length": 0.5, "spread": 0})
    trained = model(loss, **options)
    start = trained.predict(X, verbose=0)
    history = trained.fit(
        X, IDS, batch_size=12, epochs=2, validation_data=(X, IDS), verbose=0
    ).history
    assert set(history) == {
        *("loss", "labels_loss", "length_loss"),
        *("val_loss", "val_labels_loss", "val_length_loss"),
    }
    expected = float(losses.SupConLoss()(IDS, start))
    assert history["labels_loss"][0] == pytest.approx(expected, rel=1e-5)
    total = np.array(history["labels_loss"]) + 0.5 * np.array(history["length_loss"])
    np.testing.assert_allclose(history["loss"], total, rtol=1e-5)
    np.testing.assert_allclose(
        history["val_loss"][0], history["loss"][1], rtol=1e-5
    )  # after the first step


def test_each_part_is_that_loss_alone():
    """Trained by a sum with weight 0 for the others, in the same model."""
    runs = [
        model(loss)
        for loss in (
            losses.SupConLoss(),
            losses.WeightedSum(parts(), {"length": 0, "spread": 0}),
        )
    ]
    for run in runs:
        run.fit(X, IDS, batch_size=6, epochs=2, shuffle=False, verbose=0)
    for ours, expected in zip(*(run.get_weights() for run in runs), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("as_dataset", [False, True])
def test_models_take_targets_by_name(as_dataset):
    loss = losses.WeightedSum(
        {
            "ids": losses.MultipleNegativesRankingLoss(exclude_equal_ids=True),
            "teacher": losses.MSELoss(),
        }
    )
    y = {"ids": [f"id {i}" for i in IDS], "teacher": X[:, :3]}
    trained = model(loss)
    if as_dataset:
        data = tf.data.Dataset.from_tensor_slices(((X, X[::-1].copy()), y)).batch(6)
        history = trained.fit(data, verbose=0).history
    else:
        history = trained.fit((X, X[::-1].copy()), y, batch_size=6, verbose=0).history
    assert set(history) == {"loss", "ids_loss", "teacher_loss"}
    trained.train_on_batch((X, X), {"ids": IDS, "teacher": X[:, :3]})


def test_texts_with_targets_by_name():
    texts = ["a b", "c d", "a c", "b d"]
    vocabulary = ["[PAD]", "[UNK]", *"abcd"]
    trained = tfembloss.EmbeddingModel(
        tfembloss.text.TextEncoder(len(vocabulary), dim=4),
        tfembloss.text.TextPreprocessor(vocabulary, 4),
    )
    loss = losses.WeightedSum(
        {
            "ids": losses.MultipleNegativesRankingLoss(exclude_equal_ids=True),
            "teacher": losses.MSELoss(),
        }
    )
    trained.compile("adam", loss)
    data = (texts, texts[::-1]), {"ids": texts, "teacher": X[:4]}
    history = trained.fit(*data, validation_data=data, verbose=0).history
    assert {"ids_loss", "val_teacher_loss"} < set(history)
    with pytest.raises(ValueError, match="number of rows"):
        trained.fit((texts, texts), {"teacher": X[:3]}, verbose=0)


def test_labels_that_are_texts_beside_a_regularizer_under_xla():
    sums = [losses.WeightedSum(parts()) for _ in range(2)]
    values = []
    for loss, y in zip(sums, ([f"label {i}" for i in IDS], IDS), strict=True):
        trained = model(loss)
        trained.compile("sgd", loss, jit_compile=True)
        values.append(trained.fit(X, y, batch_size=12, verbose=0).history["loss"][0])
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_weights_of_keras_are_refused():
    with pytest.raises(ValueError, match="WeightedSum has weights"):
        model(None).compile("sgd", losses.WeightedSum(parts()), loss_weights=[0.1])


def test_a_sum_is_not_truncated_as_a_whole():
    with pytest.raises(ValueError, match="wrap its parts"):
        losses.MatryoshkaLoss(losses.WeightedSum(parts()), [2, 1])
    lengths = losses.MatryoshkaLoss(losses.LpRegularizationLoss(), [4, 2])(None, X)
    expected = [np.linalg.norm(X[:, :dim], axis=1).mean() for dim in (4, 2)]
    assert float(lengths) == pytest.approx(sum(expected), rel=1e-5)


def test_a_dict_of_targets_needs_this_loss():
    with pytest.raises(ValueError, match="only the loss WeightedSum takes"):
        model(losses.SupConLoss()).fit(X, {"ids": IDS}, verbose=0)


def test_with_a_memory_and_saved(tmp_path):
    loss = losses.WeightedSum({"rank": losses.SupConLoss(), "n": losses.NTXentLoss()})
    trained = model(loss, memory=layers.CrossBatchMemory(20))
    history = trained.fit(X, IDS, batch_size=4, verbose=0).history
    assert set(history) == {"loss", "rank_loss", "n_loss"}
    trained.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.loss.weights == loss.weights
    for run in (trained, again):
        run.fit(X, IDS, batch_size=4, shuffle=False, verbose=0)
    for ours, expected in zip(again.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="y as one array"):
        trained.fit(X, {"rank": IDS, "n": IDS}, verbose=0)
    regularized = losses.WeightedSum(parts())
    with pytest.raises(ValueError, match="takes no memory"):
        model(regularized, memory=layers.CrossBatchMemory(20)).fit(X, IDS, verbose=0)


def test_it_warns_of_a_first_batch_as_its_parts_do():
    with pytest.warns(UserWarning, match="'labels': no two rows"):
        losses.WeightedSum(parts())(np.arange(12), X)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(losses=[losses.SupConLoss()]), "dict of name to loss"),
        (dict(losses={}), "dict of name to loss"),
        (dict(losses={"a": keras.losses.MeanSquaredError()}), "of tfembloss.losses"),
        (dict(losses={"a": losses.ArcFaceLoss()}), "takes scores, others"),
        (dict(weights={"other": 1}), r"by the names \['labels', 'length', 'spread'\]"),
        (dict(weights=[1, 2]), "a list of as many"),
        (dict(weights=[0, 0, 0]), "at least one weight above 0"),
        (dict(weights={"length": -1}), "`weights` must be a number >= 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        losses.WeightedSum(**{"losses": parts(), **arguments})


# Regularizers, in a sum and of centers.


@pytest.mark.parametrize("row", ROWS[1:])
def test_a_regularized_loss_is_the_peers(row):
    golden = arrays("pytorch_metric_learning", "loss_triplet_embreg", row)
    loss = losses.WeightedSum(
        {
            "triplets": losses.TripletMarginLoss(margin=0.2, dtype="float64"),
            "length": losses.LpRegularizationLoss(dtype="float64"),
        },
        {"length": 0.3},
    )
    value, gradient = value_and_gradient(loss, golden["labels"], golden["embeddings"])
    np.testing.assert_allclose(value, golden["loss"], rtol=1e-9)
    np.testing.assert_allclose(gradient, golden["grad"], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("row", ROWS[1:])
def test_regularized_centers_are_the_peers(row):
    golden = arrays("pytorch_metric_learning", "loss_arcface_regularface", row)
    head = layers.CosineHead(
        10, regularizer=layers.RegularFaceRegularizer(0.5), dtype="float64"
    )
    head.build(golden["embeddings"].shape)
    head.set_weights([golden["param_W"].T])
    with tf.GradientTape() as tape:
        scores = head(golden["embeddings"])
        loss = losses.ArcFaceLoss(dtype="float64")(golden["labels"], scores)
        loss += sum(head.losses)
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-9)
    gradient = tape.gradient(loss, head.centers.value)
    np.testing.assert_allclose(gradient, golden["pgrad_W"].T, rtol=1e-7, atol=1e-10)


def test_centers_of_equal_length_and_sub_centers_that_are_one_cost_nothing():
    centers = np.random.default_rng(0).normal(size=[6, 3])
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    assert abs(layers.CenterInvariantRegularizer()(centers)) < 1e-12
    assert layers.SparseCentersRegularizer(2)(np.repeat(centers, 2, axis=0)) < 1e-7
    lengths = [np.linalg.norm(centers[i] - centers[i + 1]) for i in (0, 2, 4)]
    expected = 0.1 * np.sum(lengths) / (3 * 2)
    found = layers.SparseCentersRegularizer(2, weight=0.1)(centers)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert layers.RegularFaceRegularizer()(centers[:1]) == 0
    with pytest.raises(ValueError, match="the same sub_centers"):
        layers.SparseCentersRegularizer(4)(centers)
    with pytest.raises(ValueError, match="sub_centers=1, and 2 in the regularizer"):
        layers.CosineHead(10, regularizer=layers.SparseCentersRegularizer(2))


def test_a_head_with_a_regularizer_trains_and_is_saved(tmp_path):
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    head = layers.CosineHead(3, 2, regularizer=layers.SparseCentersRegularizer(2, 10.0))
    trained = tfembloss.EmbeddingClassifier(encoder, head)
    trained.compile("adam", losses.ArcFaceLoss())
    before = float(sum(head.losses)) if head.built else np.inf
    trained.fit(X, IDS, epochs=30, verbose=0)
    assert float(sum(head.losses)) < min(before, 10.0)
    trained.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.head.regularizer.sub_centers == 2
    np.testing.assert_allclose(again.predict(X, verbose=0), trained.predict(X, verbose=0))
