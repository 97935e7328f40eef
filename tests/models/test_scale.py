"""A scale of similarities that is learned with the encoder."""

import functools

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from cases import DIRECTIONS
from goldens import kernels, plain_kernels  # noqa: F401

import tfembloss
from tfembloss import layers, losses, miners

X = np.random.default_rng(0).normal(size=[12, 4]).astype("float32")
IDS = np.arange(12) % 3
PAIRS = (X, X[::-1].copy())


def model(loss, optimizer=None, compiled=None, **options):
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    found = tfembloss.EmbeddingModel(encoder, **{"learn_scale": True, **options})
    how = {"run_eagerly": True} if compiled is None else compiled  # a graph takes longer
    found.compile(optimizer or keras.optimizers.SGD(0.1), loss, **how)
    return found


def _sum(scale=20.0):
    """Of a part with the scale and of one of the lengths of embeddings."""
    return losses.WeightedSum(
        {
            "rank": losses.MultipleNegativesRankingLoss(scale),
            "length": losses.LpRegularizationLoss(),
        },
        {"length": 0.1},
    )


def _truncated(scale=20.0):
    return losses.MatryoshkaLoss(
        losses.MultipleNegativesRankingLoss(scale, symmetric=True), dims=[3, 2]
    )


CASES = {
    "ranking": (losses.MultipleNegativesRankingLoss, "scale", PAIRS, None),
    "symmetric": (
        functools.partial(losses.MultipleNegativesRankingLoss, symmetric=True),
        "scale", PAIRS, None,
    ),
    "margin": (
        functools.partial(losses.MultipleNegativesRankingLoss, relative_margin=0.1),
        "scale", PAIRS, None,
    ),
    "directions": (
        functools.partial(losses.MultipleNegativesRankingLoss, directions=DIRECTIONS),
        "scale", PAIRS, None,
    ),
    "ntxent": (losses.NTXentLoss, "temperature", X, IDS),
    "mined": (
        functools.partial(losses.NTXentLoss, miner=miners.MultiSimilarityMiner()),
        "temperature", X, IDS,
    ),
    "supcon": (losses.SupConLoss, "temperature", X, IDS),
    "cosent": (losses.CoSENTLoss, "scale", PAIRS, np.linspace(0, 1, 12)),
    "gist": (
        losses.GISTEmbedLoss, "temperature", PAIRS,
        np.random.default_rng(1).normal(size=[12, 2, 5]).astype("float32"),
    ),
    "sum": (_sum, "scale", PAIRS, None),
    "truncated": (_truncated, "scale", PAIRS, None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_loss_of_that_scale(name):
    make, argument, x, y = CASES[name]
    scale = 5.0  # which is the default of none
    value = {argument: scale if argument == "scale" else 1 / scale}
    learned = model(make(), initial_scale=scale)
    fixed = model(make(**value), learn_scale=False)
    result, expected = (
        m.evaluate(x, y, batch_size=12, verbose=0, return_dict=True)
        for m in (learned, fixed)
    )
    assert result.pop("scale") == pytest.approx(scale)
    assert result == pytest.approx(expected, rel=1e-5)  # also of parts
    # Where none is given it begins with the loss's.
    assert float(model(make(**value)).learned_scale) == pytest.approx(scale)


@pytest.mark.parametrize("name", CASES)
def test_its_gradient_is_the_slope(name):
    make, argument, x, y = CASES[name]

    def value(scale):
        option = {argument: scale if argument == "scale" else 1 / scale}
        fixed = model(make(**option), learn_scale=False)
        return fixed.evaluate(x, y, batch_size=12, verbose=0, return_dict=True)["loss"]

    learned = model(make(), initial_scale=6.0)
    before = float(learned.log_scale)
    learned.train_on_batch(x, y)
    step = 1e-2
    slope = (value(6.0 * np.exp(step)) - value(6.0 * np.exp(-step))) / (2 * step)
    moved = (before - float(learned.log_scale)) / 0.1
    assert moved == pytest.approx(slope, rel=2e-2, abs=1e-4)


@pytest.mark.parametrize("how", [
    {"run_eagerly": True}, {"jit_compile": True}, {"mini_batch_size": 5},
    {"memory": layers.CrossBatchMemory(12)},
])  # fmt: skip
def test_every_mode_learns_the_same(how):
    options = {k: v for k, v in how.items() if k in ("mini_batch_size", "memory")}
    compiled = {k: v for k, v in how.items() if k not in options}
    fit = {"batch_size": 12, "epochs": 2, "shuffle": False, "verbose": 0}
    run, expected = (
        model(losses.SupConLoss(), compiled=compiled, **options),
        model(losses.SupConLoss(), compiled={}),
    )
    with kernels(compiled=True):
        history, others = (m.fit(X, IDS, **fit).history for m in (run, expected))
    if "memory" in options:  # empty in the first step; later the earlier rows count too
        history = {key: values[:1] for key, values in history.items()}
    for key, values in history.items():
        np.testing.assert_allclose(values, others[key][: len(values)], rtol=1e-5)


def test_rows_of_a_memory_count_in_its_gradient():
    def second_step(scale, rate=0.0):
        run = model(
            losses.SupConLoss(), initial_scale=scale, memory=layers.CrossBatchMemory(24)
        )
        run.optimizer.learning_rate = 0.0
        run.train_on_batch(X[::-1].copy(), IDS)  # fills the memory
        run.reset_metrics()
        run.optimizer.learning_rate = rate
        value = run.train_on_batch(X, IDS, return_dict=True)["loss"]
        return float(value), float(run.log_scale)

    _, moved = second_step(6.0, rate=0.1)
    step = 1e-2
    up, down = (second_step(6.0 * np.exp(by))[0] for by in (step, -step))
    assert (np.log(6.0) - moved) / 0.1 == pytest.approx((up - down) / (2 * step), rel=2e-2)


def test_it_stays_in_range_and_does_not_decay():
    near = np.eye(4, dtype="float32")[np.arange(12) % 4]
    run = model(
        losses.MultipleNegativesRankingLoss(),
        keras.optimizers.AdamW(1.0, weight_decay=0.9),
        initial_scale=90.0,
    )
    run.encoder.trainable = False
    run.fit((near[:4], near[:4]), epochs=6, verbose=0)
    assert float(run.learned_scale) == pytest.approx(100.0)
    still = model(
        losses.MultipleNegativesRankingLoss(),
        keras.optimizers.AdamW(0.0, weight_decay=0.9),
        initial_scale=16.0,
    )
    still.fit(PAIRS, epochs=5, verbose=0)
    assert float(still.learned_scale) == pytest.approx(16.0)


def test_a_bias_is_learned_with_the_scale():
    """To the slopes of the loss written out, alone and of truncated embeddings."""
    embeddings = model(losses.SigLIPLoss(), initial_scale=1).predict(PAIRS, verbose=0)

    def value(log_scale, bias, dims):
        total = 0
        for dim in dims:
            rows = embeddings[..., :dim].astype("float64")
            rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
            columns = rows * np.exp(log_scale / 2)
            total += oracles.sig_lip(None, columns, bias=bias).mean()
        return total

    whole, step = losses.SigLIPLoss(bias=-1.0), 1e-4
    for loss, dims in ((whole, [3]), (losses.MatryoshkaLoss(whole, [3, 2]), [3, 2])):
        optimizer = keras.optimizers.SGD(0.01)
        run = model(loss, optimizer, initial_scale=6.0, initial_bias=-2.0)
        logs = run.train_on_batch(PAIRS, return_dict=True)
        at = np.log(6.0)
        assert float(logs["loss"]) == pytest.approx(value(at, -2.0, dims), rel=1e-5)
        assert float(logs["bias"]) == float(run.learned_bias)
        up, down = (value(at + by, -2.0, dims) for by in (step, -step))
        moved = (at - float(run.log_scale)) / 0.01
        assert moved == pytest.approx((up - down) / (2 * step), rel=1e-3)
        up, down = (value(at, -2.0 + by, dims) for by in (step, -step))
        moved = (-2.0 - float(run.learned_bias)) / 0.01
        assert moved == pytest.approx((up - down) / (2 * step), rel=1e-3)


def test_a_bias_is_saved_and_does_not_decay(tmp_path):
    optimizer = keras.optimizers.AdamW(0.0, weight_decay=0.9)
    run = model(losses.SigLIPLoss(), optimizer, initial_scale=9.0, initial_bias=-2.0)
    run.fit(PAIRS, epochs=2, verbose=0)
    assert float(run.learned_bias) == -2.0
    run.learned_bias.assign(-3.0)
    run.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert (float(again.learned_bias), again.initial_bias) == (-3.0, -2.0)
    expected = run.evaluate(PAIRS, batch_size=12, verbose=0)
    assert again.evaluate(PAIRS, batch_size=12, verbose=0) == pytest.approx(expected)


def test_half_precision():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        history = model(losses.SupConLoss()).fit(X, IDS, epochs=2, verbose=0).history
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert np.isfinite(history["loss"]).all() and history["scale"][1] != history["scale"][0]


def test_saved_it_trains_on_and_compiled_again_it_keeps_the_scale(tmp_path):
    run = model(losses.SupConLoss(), keras.optimizers.Adam(0.01))
    run.fit(X, IDS, epochs=3, verbose=0)
    run.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert float(again.learned_scale) == float(run.learned_scale)
    for each in (run, again):
        each.fit(X, IDS, epochs=2, shuffle=False, verbose=0)
    assert float(again.learned_scale) == pytest.approx(float(run.learned_scale), rel=1e-6)
    again.compile("adam", losses.SupConLoss())
    assert float(again.learned_scale) == pytest.approx(float(run.learned_scale), rel=1e-6)


@pytest.mark.parametrize(
    "loss, message",
    [
        (losses.TripletMarginLoss(), "a scale or a temperature.*TripletMarginLoss"),
        (losses.AnglELoss(), "AnglELoss"),
        ("mse", "MeanSquaredError|str"),
        (losses.CoSENTLoss(similarity="dot"), "CoSENTLoss of 'dot'"),
        (losses.NTXentLoss(temperature=0.005), "initial_scale.*a scale of 200"),
        (
            losses.MultipleNegativesRankingLoss(similarity="euclidean"),
            "MultipleNegativesRankingLoss of 'euclidean'",
        ),
        (
            losses.NTXentLoss(miner=miners.TripletMarginMiner(distance="euclidean")),
            "a miner of directions.*TripletMarginMiner by 'euclidean'",
        ),
        (
            losses.MultipleNegativesRankingLoss(absolute_margin=0.1),
            "expected a relative_margin",
        ),
        (
            losses.MultipleNegativesRankingLoss(hardness="all", hardness_strength=5),
            "without hardness",
        ),
        (
            losses.WeightedSum({"a": losses.TripletMarginLoss()}),
            "a scale or a temperature.*WeightedSum",
        ),
        (
            losses.WeightedSum({"a": losses.SupConLoss(0.1), "b": losses.NTXentLoss(0.05)}),
            "same scale.*SupConLoss with temperature=0.1, NTXentLoss",
        ),
        (
            losses.WeightedSum(
                {"a": losses.SupConLoss(0.1), "b": losses.CoSENTLoss(similarity="dot")}
            ),
            "CoSENTLoss of 'dot'",
        ),
        (
            losses.MatryoshkaLoss(losses.TripletMarginLoss(), dims=[2]),
            "a scale or a temperature.*MatryoshkaLoss",
        ),
    ],
)
def test_losses_without_a_scale_are_refused(loss, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        model(loss)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(initial_scale=0.5), "a number from 1 to 100"),
        (dict(learn_scale=False, initial_scale=20), "learn_scale=True too"),
        (dict(learn_scale=False, initial_bias=-10), "learn_scale=True too"),
        (dict(initial_bias=-10), "expected a loss with a bias, SigLIPLoss.*SupConLoss"),
        (dict(initial_bias="low"), "initial_bias"),
        (dict(learn_scale=1), "must be True or False"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        model(losses.SupConLoss(), **options)


def test_the_scale_is_no_part_of_an_export(tmp_path):
    run = model(losses.SupConLoss())
    tfembloss.export_encoder(run, tmp_path / "encoder", normalize=False)
    served = tf.saved_model.load(str(tmp_path / "encoder")).signatures["serving_default"]
    (name,) = served.structured_input_signature[1]
    found = served(**{name: tf.constant(X)})["embedding"]
    np.testing.assert_allclose(found, run.predict(X, verbose=0), rtol=1e-5)
