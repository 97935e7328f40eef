"""Targets of a moving average of the encoder: MoCo, BYOL and SimSiam."""

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from goldens import kernels, plain_kernels  # noqa: F401

import tfembloss
from tfembloss import layers, losses

A, B = np.random.default_rng(0).normal(size=[2, 6, 4]).astype("float32")
RATE, MOMENTUM = 0.1, 0.75
RANKING = losses.MultipleNegativesRankingLoss(scale=2.0)


def momentum_model(loss=None, predictor=True, hidden=(), compiled=None, **options):
    """One of linear layers, W of the encoder and P of the predictor."""
    keras.utils.set_random_seed(2)
    dense = keras.layers.Dense(3, use_bias=False, dtype=options.get("dtype"))
    encoder = keras.Sequential([keras.Input([4]), *hidden, dense])
    if predictor:
        options["predictor"] = keras.layers.Dense(3, use_bias=False)
    model = tfembloss.MomentumModel(encoder, **{"momentum": MOMENTUM, **options})
    compiled = {"run_eagerly": True} if compiled is None else compiled
    loss = losses.SimSiamLoss() if loss is None else loss
    model.compile(keras.optimizers.SGD(RATE), loss, **compiled)
    model._build_known()
    return model


def fit(model, epochs=1, x=(A, B), **options):
    options = {"batch_size": len(A), "shuffle": False, "verbose": 0, **options}
    return model.fit(x, epochs=epochs, **options).history["loss"]


def matrices(model):
    """Those of the encoder, its average and the predictor."""
    parts = (model.encoder, model.target_encoder, model.predictor)
    return [part.get_weights()[0].astype("float64") for part in parts if part is not None]


def slope(function, weights):
    """The numeric gradient of a function of an array."""
    result = np.zeros_like(weights)
    for index in np.ndindex(weights.shape):
        for sign in (1, -1):
            moved = weights.copy()
            moved[index] += sign * 1e-5
            result[index] += sign * function(moved) / 2e-5
    return result


def ranking(queries, keys):
    return oracles.multiple_negatives_ranking(None, np.stack([queries, keys], 1), 2.0)


def sim_siam(queries, keys):
    return oracles.sim_siam(None, np.stack([queries, keys], 1))


@pytest.mark.parametrize("momentum", [MOMENTUM, 0])
@pytest.mark.parametrize(
    ("loss", "of_pairs"), [(losses.SimSiamLoss(), sim_siam), (RANKING, ranking)]
)
def test_steps_are_those_written_out(momentum, loss, of_pairs):
    """The gradient is that of the queries alone, and the average comes after it."""
    model = momentum_model(loss, momentum=momentum)
    w, *average, p = matrices(model)
    average = average[0] if momentum else w
    for _ in range(2):

        def value(w, p, average=average):
            both = (A @ w @ p, B @ average), (B @ w @ p, A @ average)
            return np.mean([of_pairs(*pairs) for pairs in both])

        expected = value(w, p)
        of_w, of_p = slope(lambda w, p=p: value(w, p), w), slope(lambda p: value(w, p), p)  # noqa: B023
        w, p = w - RATE * of_w, p - RATE * of_p
        average = momentum * average + (1 - momentum) * w
        assert fit(model)[0] == pytest.approx(expected, rel=1e-5)
    found = matrices(model)
    for ours, written_out in zip(found, [w, *[average] * bool(momentum), p], strict=True):
        np.testing.assert_allclose(ours, written_out, atol=1e-6)
    if momentum:
        assert np.abs(found[0] - found[1]).max() > 1e-3


def test_the_queue_holds_keys_of_the_average():
    model = momentum_model(RANKING, predictor=False, memory=layers.CrossBatchMemory(8))
    rows, keys = [], np.zeros([0, 3])
    for _ in range(2):
        w, average = matrices(model)
        queries, new = A @ w, B @ average
        padding = np.zeros_like(keys)  # anchors of its rows, whose values are not counted
        values = ranking(np.concatenate([queries, padding]), np.concatenate([new, keys]))
        assert fit(model)[0] == pytest.approx(values[: len(A)].mean(), rel=1e-5)
        keys = np.concatenate([keys, new])[-8:]
        rows.append(model.memory.contents().embeddings.numpy()[:, 1])
    np.testing.assert_allclose(rows[0][:6], B @ matrices(momentum_model())[1], atol=1e-6)
    np.testing.assert_allclose(np.sort(rows[1], 0), np.sort(keys, 0), atol=1e-6)


def test_ids_of_columns_change_places_with_them():
    """The keys of the second direction are those of the first column."""
    ids = np.array([[0, 10], [1, 0], [2, 12], [3, 13], [4, 14], [5, 15]])
    loss = losses.MultipleNegativesRankingLoss(scale=2.0, exclude_equal_ids=True)
    model = momentum_model(loss)
    pairs = np.split(model((A, B)).numpy(), 2, axis=1)
    expected = (loss(ids, pairs[0]) + loss(ids[:, ::-1].copy(), pairs[1])) / 2
    found = model.evaluate((A, B), ids, verbose=0)
    assert found == pytest.approx(float(expected), rel=1e-5)
    assert float(loss(ids, pairs[1])) != pytest.approx(
        float(loss(ids[:, ::-1].copy(), pairs[1]))
    )


def test_xla_computes_the_same():
    eager, compiled = momentum_model(), momentum_model(compiled={"jit_compile": True})
    np.testing.assert_allclose(fit(compiled, 2), fit(eager, 2), rtol=1e-5)
    for ours, theirs in zip(matrices(compiled), matrices(eager), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_mini_batches_are_the_batch():
    whole, parts = momentum_model(RANKING), momentum_model(RANKING, mini_batch_size=4)
    np.testing.assert_allclose(fit(parts, 2), fit(whole, 2), rtol=1e-5)
    for ours, theirs in zip(matrices(parts), matrices(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_in_half_precision_the_average_is_in_float32():
    model = momentum_model(dtype="mixed_float16")
    before = matrices(model)[1]
    assert model((A, B)).dtype == tf.float32  # the predictor's; that of the encoder is half
    assert model(A).dtype == tf.float16
    fit(model)
    w, average, _ = matrices(model)
    expected = (MOMENTUM * before + (1 - MOMENTUM) * w).astype("float32")
    np.testing.assert_allclose(average, expected, rtol=1e-6)
    assert {v.dtype for v in model.target_encoder.variables} == {"float32"}


def test_saved_and_resumed_with_the_average(tmp_path):
    options = {"predictor": False, "memory": layers.CrossBatchMemory(20)}
    model = momentum_model(RANKING, **options)
    fit(model, 2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert np.abs(matrices(loaded)[0] - matrices(loaded)[1]).max() > 1e-3
    assert len(loaded.trainable_variables) == 1
    assert fit(loaded) == pytest.approx(fit(model), rel=1e-6)
    np.testing.assert_allclose(matrices(loaded)[1], matrices(model)[1], rtol=1e-6)


def test_statistics_are_the_target_encoders_own():
    model = momentum_model(hidden=[keras.layers.BatchNormalization(momentum=0.5)])
    ours, target = model.encoder.layers[0], model.target_encoder.layers[0]
    views = (A + 1, B + 3)
    before = target.gamma.numpy()
    ours.gamma.assign(2 * np.ones(4))
    fit(model, x=views)
    mean = np.concatenate(views).mean(axis=0)
    for layer in (ours, target):
        np.testing.assert_allclose(layer.moving_mean, mean / 2, rtol=1e-5)
    expected = MOMENTUM * before + (1 - MOMENTUM) * ours.gamma.numpy()
    np.testing.assert_allclose(target.gamma, expected, rtol=1e-6)
    assert len(model.trainable_variables) == 4  # gamma, beta and two kernels


def test_layers_that_are_frozen_and_trained_again():
    model = momentum_model()
    model.encoder.trainable = False
    model.compile(keras.optimizers.SGD(RATE), losses.SimSiamLoss(), run_eagerly=True)
    before = matrices(model)
    fit(model)
    np.testing.assert_array_equal(matrices(model)[:2], before[:2])
    model.encoder.trainable = model.target_encoder.trainable = True
    model.compile(keras.optimizers.SGD(RATE), losses.SimSiamLoss(), run_eagerly=True)
    fit(model)
    w, average, _ = matrices(model)
    expected = MOMENTUM * before[1] + (1 - MOMENTUM) * w
    np.testing.assert_allclose(average, expected, atol=1e-6)
    assert len(model.trainable_variables) == 2


def test_a_preprocessor_makes_the_views_and_the_export_is_the_encoder(tmp_path):
    def cropped(x, training=False):
        return x * tf.cast(tf.random.uniform([4]) > 0.5, x.dtype) if training else x

    model = momentum_model(RANKING, preprocessor=cropped, memory=layers.CrossBatchMemory(6))
    fit(model, x=(A, A))
    queries, keys = np.moveaxis(model.memory.contents().embeddings.numpy(), 1, 0)
    assert np.abs(queries - keys).max() > 1e-3
    tfembloss.export_encoder(model, tmp_path / "encoder", normalize=False)
    exported = tf.saved_model.load(tmp_path / "encoder")
    (found,) = exported.signatures["serving_default"](tf.constant(A)).values()
    np.testing.assert_allclose(found, A @ matrices(model)[0], atol=1e-5)
    assert len(exported.variables) == 1


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: momentum_model(momentum=1.0), "momentum.* below 1"),
        (lambda: momentum_model(predictor=False), r"predictor=\.\.\."),
        (
            lambda: tfembloss.MomentumModel(keras.Sequential([keras.layers.Dense(2)])),
            "an encoder that is built",
        ),
        (
            lambda: tfembloss.MomentumModel(keras.layers.Dense(2), predictor=3, momentum=0),
            "`predictor` maps",
        ),
        (lambda: momentum_model()((A, B, B)), "Received: 3 columns"),
        (lambda: fit(momentum_model(), x=A), "n = 2"),
        (lambda: momentum_model_of_other_dim()((A, B)), r"dimension .* \[rows, 3\]"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_losses_without_negatives_need_a_predictor():
    loss = losses.SimSiamLoss()
    models = momentum_model(RANKING, predictor=False), tfembloss.EmbeddingModel
    for wrapped in (
        loss,
        losses.WeightedSum({"views": loss, "length": losses.LpRegularizationLoss()}),
        losses.MatryoshkaLoss(loss, dims=[2]),
    ):
        for model in (models[0], models[1](keras.layers.Dense(3))):
            with pytest.raises(ValueError, match=r"SimSiamLoss has no negatives, and with"):
                model.compile("sgd", wrapped)
        momentum_model(wrapped)


def momentum_model_of_other_dim():
    encoder = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    return tfembloss.MomentumModel(encoder, predictor=keras.layers.Dense(2))
