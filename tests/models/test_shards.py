"""Class centers of which each replica has a part; tests/test_replicas.py has several."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import CASES
from goldens import kernels, plain_kernels  # noqa: F401

import tfembloss
from tfembloss import layers, losses, replicas
from tfembloss.layers.shards import ShardedVariable
from tfembloss.losses.classification.softmax import ClassSoftmaxLoss

X = np.random.default_rng(0).normal(size=[12, 4]).astype("float32")
Y = np.random.default_rng(1).integers(5, size=12)
BY_SHARDS = [
    name for name, case in CASES.items() if getattr(case.make(), "takes_shards", False)
]


def classifier(shard, loss=None, optimizer=None, **options):
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    head = layers.CosineHead(5, sub_centers=2, shard=shard)
    model = tfembloss.EmbeddingClassifier(encoder, head)
    optimizer = keras.optimizers.Adam(0.05) if optimizer is None else optimizer
    loss = losses.ArcFaceLoss(scale=8.0) if loss is None else loss
    model.compile(optimizer, loss, run_eagerly=True, **options)
    model._build_known()
    return model


def fit(model, epochs=2, **options):
    options = {"batch_size": 5, "shuffle": False, "verbose": 0, **options}
    return model.fit(X, Y, epochs=epochs, **options).history["loss"]


@pytest.mark.parametrize("num_shards", [1, 2, 4])
@pytest.mark.parametrize("name", BY_SHARDS)
def test_values_of_parts_are_those_of_the_whole(name, num_shards, monkeypatch):
    """Of the parts of some replicas, one after the other."""
    y_true, scores = CASES[name].inputs(6)  # of classes 0 to 5
    scores = tf.constant(scores / (1 + abs(scores)))
    loss = next(x for x in type(CASES[name].make()).__mro__ if x.__module__ != "cases")
    loss = loss(**CASES[name].make(dtype="float64").get_config())
    labels, size = tf.constant(y_true, tf.int64), -(-6 // num_shards)

    def of_parts(scores):
        padded = tf.pad(scores, [[0, 0], [0, num_shards * size - 6]])
        parts = []
        for first in range(0, num_shards * size, size):
            monkeypatch.setattr(replicas, "gather", lambda x: parts.append(x) or x)
            loss.values_of_shards(labels, padded[:, first : first + size], first, 6)
        monkeypatch.setattr(replicas, "gather", lambda x: tf.concat(parts, 0))
        return loss.values_of_shards(labels, padded[:, :size], 0, 6)

    found = []
    for function in (of_parts, lambda scores: loss.values(labels, scores)):
        with tf.GradientTape() as tape:
            tape.watch(scores)
            values = function(scores)
        found.append((values, tape.gradient(values, scores)))
    for ours, expected in zip(*found, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)


def test_which_losses_take_parts():
    by_softmax = [x for x in vars(losses).values() if inspect.isclass(x)]
    by_softmax = [x for x in by_softmax if issubclass(x, ClassSoftmaxLoss)]
    assert {x.__name__ for x in by_softmax if x().takes_shards} == set(BY_SHARDS)
    others = {"CurricularFaceLoss", "AdaFaceLoss", "ProxyAnchorLoss", "SphereFaceLoss"}
    assert not others & set(BY_SHARDS)


@pytest.mark.parametrize("loss", [losses.ArcFaceLoss(scale=8.0), losses.AdaFaceLoss()])
def test_on_one_replica_it_is_the_head_without(loss):
    whole, parts = classifier(False, loss), classifier(True, loss)
    np.testing.assert_allclose(fit(parts), fit(whole), rtol=1e-5)
    for ours, theirs in zip(parts.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert isinstance(parts.head.centers, ShardedVariable)
    found = parts.head.outliers(parts.predict(X, verbose=0), Y)
    np.testing.assert_array_equal(
        found, whole.head.outliers(whole.predict(X, verbose=0), Y)
    )


def test_saved_with_the_optimizers_state(tmp_path):
    model = classifier(True)
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(fit(loaded), fit(model), rtol=1e-6)
    whole = classifier(False)
    model.save_weights(tmp_path / "model.weights.h5")
    whole.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(whole.head.centers, model.head.centers)
    model.set_weights([2 * x for x in whole.get_weights()])
    np.testing.assert_array_equal(model.head.centers, 2 * whole.head.centers.numpy())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: layers.CosineHead(3, shard=1), "shard.* True or False"),
        (lambda: layers.CosineHead(3, shard=True, regularizer="l2"), "none with shard"),
        (
            lambda: classifier(True, optimizer=keras.optimizers.Adam(clipnorm=1.0)),
            "without clipping by norms.*head_optimizer",
        ),
        (
            lambda: classifier(True, head_optimizer=keras.optimizers.Lamb()),
            "each number by itself.*Received: Lamb",
        ),
        (
            lambda: tfembloss.EmbeddingClassifier(
                keras.layers.Dense(2), layers.CosineHead(3, shard=True), num_sampled=2
            ),
            "`num_sampled` or a head",
        ),
        (
            lambda: tfembloss.MultiTaskModel({"faces": classifier(True)}),
            "shard=True in 'faces'",
        ),
        (lambda: built_head().set_weights([np.zeros([4, 2])]), r"of shape \(3, 2\)"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def built_head():
    head = layers.CosineHead(3, shard=True)
    head.build([None, 2])
    return head
