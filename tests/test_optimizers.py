"""An optimizer of several is each of them for its variables."""

import functools

import h5py
import keras
import numpy as np
import pytest
from goldens import FOLDER
from keras.optimizers import SGD, Adam, AdamW, LossScaleOptimizer
from keras.optimizers.schedules import CosineDecay

import tfembloss
from tfembloss.optimizers import MultiOptimizer, layerwise_decay

X = np.random.default_rng(0).normal(size=[8, 4]).astype("float32")
Y = np.random.default_rng(1).normal(size=[8, 3]).astype("float32")
PATHS = ["low/kernel", "low/bias", "block_0/kernel", "block_0/bias", "block_1/kernel",
         "block_1/bias"]  # fmt: skip


def network():
    """A model of three layers, and a second output that no loss here uses."""
    keras.utils.set_random_seed(0)
    x = keras.Input([4])
    y = keras.layers.Dense(5, "tanh", name="low")(x)
    y = keras.layers.Dense(6, "tanh", name="block_0")(y)
    return keras.Model(x, keras.layers.Dense(3, name="block_1")(y))


def weights(model):
    return [v.numpy() for v in model.weights]


def trained(optimizer, epochs=2, model=None, run_eagerly=True, **options):
    """The model, after two steps in each epoch: fewer than pay for a graph."""
    model = network() if model is None else model
    model.compile(optimizer, loss="mse", run_eagerly=run_eagerly, **options)
    fit(model, epochs)
    return model


def fit(model, epochs, **options):
    return model.fit(X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, **options)


def assert_same(one, two, **tolerance):
    for a, b in zip(weights(one), weights(two), strict=True):
        np.testing.assert_allclose(a, b, **({"rtol": 1e-6, "atol": 1e-7} | tolerance))


def moved(model):
    """Names of the variables that training has changed."""
    pairs = zip(model.weights, weights(network()), strict=True)
    return [v.path for v, before in pairs if np.abs(v.numpy() - before).max() > 1e-6]


def rates(optimizer):
    return [round(float(part.learning_rate), 6) for part in optimizer.parts]


OPTIONS = {
    "plain": {},
    "weight decay": {"weight_decay": 0.1},
    "clipnorm": {"clipnorm": 0.1},
    "clipvalue": {"clipvalue": 0.01},
    "average": {"use_ema": True, "ema_momentum": 0.5},
    "average in between": {"use_ema": True, "ema_overwrite_frequency": 2},
    "accumulation": {"gradient_accumulation_steps": 2},
    "loss scale": {"loss_scale_factor": 1024.0},
    "schedule": {"learning_rate": CosineDecay(0.0, 6, warmup_target=0.1, warmup_steps=2)},
}


def adam(name):
    """An optimizer with some options."""
    options = OPTIONS.get(name, {"global_clipnorm": 0.01})
    made = AdamW(**{"learning_rate": 0.05, **options})
    made.exclude_from_weight_decay(var_names=["bias"])
    return made


@functools.cache
def alone(name):
    model = trained(adam(name))
    assert len(moved(model)) == len(PATHS)
    return model


@pytest.mark.parametrize("name", OPTIONS)
def test_equal_optimizers_are_one(name):
    groups = [("bias", adam(name)), ("block_0", adam(name))]
    several = trained(MultiOptimizer(adam(name), groups))
    assert_same(several, alone(name))


@pytest.mark.parametrize("name", [*OPTIONS, "global_clipnorm"])
def test_without_decay_it_is_the_optimizer(name):
    model = network()
    trained(layerwise_decay(model, adam(name), 1.0), model=model)
    assert_same(model, alone(name), rtol=1e-5)


def test_all_at_once_in_xla():
    def several():
        groups = [("low", adam("accumulation"))]
        several = MultiOptimizer(adam("schedule"), groups, global_clipnorm=0.1)
        return LossScaleOptimizer(several)

    graph = trained(several(), run_eagerly=False)
    assert len(moved(graph)) == len(PATHS)
    in_xla = trained(several(), run_eagerly=False, jit_compile=True)
    assert_same(in_xla, graph, rtol=1e-5, atol=1e-6)


def test_a_loss_is_scaled_around_all():
    scaled = LossScaleOptimizer(MultiOptimizer(SGD(0.1), [("low", SGD(0.1))]))
    assert_same(trained(scaled), trained(SGD(0.1)), rtol=1e-5, atol=1e-6)
    assert int(scaled.iterations) == 4


def test_the_first_pattern_wins():
    model = network()
    low, block = model.get_layer("low"), model.get_layer("block_0")
    groups = [("kernel", SGD(0.0)), (block, SGD(0.1)), (low, SGD(0.0))]
    assert moved(trained(MultiOptimizer(SGD(0.0), groups), model=model)) == ["block_0/bias"]


def test_a_layer_may_be_a_model():
    encoder = network()
    model = tfembloss.EmbeddingClassifier(encoder, tfembloss.layers.CosineHead(4))
    optimizer = MultiOptimizer(SGD(1.0), [(encoder, SGD(0.0))])
    model.compile(optimizer, tfembloss.losses.ArcFaceLoss(scale=8.0))
    model(X)
    before = model.head.centers.numpy()
    model.fit(X, np.arange(8) % 4, verbose=0)
    assert not moved(encoder)
    assert np.abs(model.head.centers.numpy() - before).max() > 1e-3


def test_a_group_without_gradients_is_left_alone():
    class Unused(keras.layers.Layer):
        def build(self, shape):
            self.extra = self.add_weight(shape=(2,), initializer="ones", name="extra")

        def call(self, x):
            return x

    model = keras.Sequential([network(), Unused()])
    average = SGD(0.1, use_ema=True, weight_decay=0.1)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        trained(MultiOptimizer(SGD(0.1), [("extra", average)]), model=model)
    np.testing.assert_array_equal(model.layers[1].extra, [1, 1])
    assert len(moved(model.layers[0])) == len(PATHS)


# Learning rates.


def test_callbacks_keep_the_ratios():
    def halved(epoch, rate):
        return rate / 2

    optimizer = MultiOptimizer(
        SGD(0.1), [("bias", SGD(0.4)), ("low", SGD(CosineDecay(1.0, 9)))]
    )
    model = trained(LossScaleOptimizer(optimizer), epochs=0)
    history = fit(model, 2, callbacks=[keras.callbacks.LearningRateScheduler(halved)])
    np.testing.assert_allclose(history.history["learning_rate"], [0.05, 0.025])
    assert rates(optimizer)[:2] == [0.025, 0.1]
    assert float(optimizer.parts[2].learning_rate) < 1  # as its schedule says
    plateau = keras.callbacks.ReduceLROnPlateau("loss", 0.1, patience=1, min_delta=1e6)
    fit(model, 2, callbacks=[plateau])
    assert rates(optimizer)[:2] == [0.0025, 0.01]


def test_a_rate_of_0_does_not_lose_the_ratios(tmp_path):
    model = trained(MultiOptimizer(SGD(0.1), [("bias", SGD(0.4))]))
    model.optimizer.learning_rate = 0.0
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    again.optimizer.learning_rate = 0.2
    assert rates(again.optimizer) == [0.2, 0.8]
    again.optimizer.learning_rate = CosineDecay(1.0, 10)
    first, bias = (float(part.learning_rate) for part in again.optimizer.parts)
    assert bias == pytest.approx(4 * first)


def encoder_of(model):
    return tfembloss.EmbeddingModel(model)


@pytest.mark.parametrize("wrap", [encoder_of, lambda model: model])
def test_lower_layers_have_lower_rates(wrap):
    model = network()
    optimizer = layerwise_decay(wrap(model), AdamW(0.1, weight_decay=0.2), decay=0.5)
    optimizer.build(model.trainable_variables)
    found = {v.path: float(part.learning_rate) for part in optimizer.parts
             for v in part._trainable_variables}  # fmt: skip
    expected = [0.025, 0.025, 0.05, 0.05, 0.1, 0.1]
    assert found == pytest.approx(dict(zip(PATHS, expected, strict=True)))
    assert all(part.weight_decay == 0.2 for part in optimizer.parts)


def test_schedules_decay_too():
    schedule = CosineDecay(0.0, 4, warmup_target=0.1, warmup_steps=2)
    model = network()
    optimizer = layerwise_decay(model, SGD(schedule), decay=0.5)
    trained(optimizer, epochs=1, model=model)
    assert rates(optimizer) == [0.1, 0.025, 0.05]
    assert len(moved(model)) == len(PATHS)


def test_frozen_layers_have_no_group():
    model = network()
    model.get_layer("low").trainable = False
    trained(layerwise_decay(model, SGD(0.1)), model=model)
    assert moved(model) == PATHS[2:]


# Saving.


def by_path():
    return MultiOptimizer(
        Adam(0.05, gradient_accumulation_steps=2),
        [("bias", AdamW(CosineDecay(0.1, 8), weight_decay=0.1)), ("low", SGD(0.1, 0.9))],
    )


def by_layer(model):
    groups = [(model.get_layer("low"), Adam(0.05, use_ema=True))]
    return MultiOptimizer(SGD(0.1), groups, global_clipnorm=1.0)


SAVED = {
    "paths": lambda model: by_path(),
    "layers": by_layer,
    "scaled": lambda model: LossScaleOptimizer(by_path()),
    "decay": lambda model: layerwise_decay(model, Adam(CosineDecay(0.1, 8)), 0.5),
}


@pytest.mark.parametrize("name", SAVED)
def test_saved_in_the_middle_it_resumes_exactly(name, tmp_path):
    model = network()
    trained(SAVED[name](model), epochs=1, model=model, run_eagerly=name != "layers")
    for _ in range(2):  # the second time as it was loaded
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
        before = weights(again)
        fit(model, 1)
        fit(again, 1)
        assert_same(again, model, rtol=0, atol=0)
        assert all((a != b).any() for a, b in zip(before, weights(again), strict=True))
        model = again


def test_states_are_saved_once(tmp_path):
    model = trained(MultiOptimizer(Adam(0.1), [("bias", Adam(0.1))]))
    model.save_weights(tmp_path / "all.weights.h5")
    arrays = []
    with h5py.File(tmp_path / "all.weights.h5") as file:
        file.visititems(lambda _, x: arrays.append(x) if hasattr(x, "shape") else None)
    sizes = sum(int(np.prod(x.shape)) for x in arrays)
    assert sizes < 3.2 * sum(w.size for w in weights(model))


def test_the_head_of_an_earlier_version_resumes():
    """A file of the first HeadOptimizer, which had its state twice, saved after a step."""
    model = keras.saving.load_model(FOLDER / "head_optimizer.keras")
    with np.load(FOLDER / "head_optimizer.npz") as file:
        x, y, *expected = (file[name] for name in file.files)
    optimizer = model.optimizer
    assert [type(part) for part in optimizer.parts] == [Adam, SGD]
    assert int(optimizer.iterations) == int(optimizer.head_optimizer.iterations) == 2
    model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    for ours, theirs in zip(weights(model), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


# Models of the package.


def test_scale_and_bias_of_two_towers_do_not_decay():
    model = tfembloss.DualEncoder({"a": network(), "b": network()}, initial_bias=-10.0)
    decaying = [AdamW(0.1, weight_decay=0.5) for _ in range(2)]
    decaying[1].exclude_from_weight_decay(var_names=["kernel"])
    optimizer = MultiOptimizer(decaying[0], [(model.towers["a"], decaying[1])])
    model.compile(optimizer, tfembloss.losses.SigLIPLoss())
    model((X, X))
    optimizer.build(model.trainable_variables)
    assert not decaying[0]._use_weight_decay(model.log_scale)
    assert decaying[0]._use_weight_decay(model.towers["b"].encoder.weights[0])


# What goes wrong.


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MultiOptimizer("sgd", [("block_2", "sgd")]),
         r"Received: 'block_2', which matches none of 'low/kernel', .* \(6 in all\)"),
        (lambda: MultiOptimizer("sgd", [("low", "sgd"), ("low/bias", "sgd")]),
         "'low/bias', which matches none"),
        (lambda: MultiOptimizer("sgd", [(keras.layers.Dense(1, name="other"), "sgd")]),
         "layer 'other', which matches none"),
        (lambda: MultiOptimizer("sgd", [("low", LossScaleOptimizer(SGD()))]),
         r"expected LossScaleOptimizer\(MultiOptimizer"),
        (lambda: (lambda one: MultiOptimizer(one, [("low", one)]))(SGD()),
         "an optimizer for each group. Received one of them twice"),
        (lambda: MultiOptimizer("sgd", [("(", "sgd")]), r"Received: the pattern '\('"),
        (lambda: MultiOptimizer("sgd", [(3, "sgd")]), "Received: the pattern 3"),
        (lambda: layerwise_decay(network(), "sgd", 0.0), "`decay` must be a number ab"),
        (lambda: layerwise_decay(network(), "sgd", blocks="stage"),
         r"names match 'stage'. Received: .*'block_1'"),
        (lambda: layerwise_decay(keras.layers.Dense(2), "sgd"), "an encoder with blocks"),
        (lambda: layerwise_decay(network(), SGD(lambda: 0.1)), "LearningRateSchedule. Re"),
        (lambda: layerwise_decay(
            network(), SGD(global_clipnorm=1.0, gradient_accumulation_steps=2)),
         "Received: both"),
        (lambda: keras.saving.serialize_keras_object(
            MultiOptimizer("sgd", [(network().get_layer("low"), "sgd")])),
         "an optimizer that is built, to save .* layer 'low'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_explained(make, message):
    with pytest.raises(ValueError, match=message):
        make().build(network().trainable_variables)
