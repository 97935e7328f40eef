"""A model is built when all that it owns is: heads, memories, weights of subclasses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfembloss
from tfembloss import layers, losses

X = np.random.default_rng(0).normal(size=[24, 8]).astype("float32")
Y = np.arange(24) % 6


def encoder(known=True):
    first = [keras.Input([8])] if known else []
    return keras.Sequential([*first, keras.layers.Dense(4)])


def classifier(head=None):
    head = layers.CosineHead(6) if head is None else head
    return compiled(tfembloss.EmbeddingClassifier(encoder(), head))


def with_memory(known=True):
    memory = layers.CrossBatchMemory(16)
    model = tfembloss.EmbeddingModel(encoder(known), memory=memory)
    return compiled(model, losses.SupConLoss())


def compiled(model, loss=None):
    loss = loss or losses.ArcFaceLoss(scale=8.0)
    # Making a graph takes longer than a few steps.
    model.compile(keras.optimizers.Adam(0.05), loss, run_eagerly=True)
    return model


def pairs(head=None):
    model = tfembloss.EmbeddingClassifier(encoder(), layers.PairHead(3))
    return compiled(model, losses.SoftmaxLoss())


@pytest.mark.parametrize(
    "make, x, y",
    [
        (classifier, X, Y),
        (lambda: classifier(keras.layers.Dense(6)), X, Y),
        (pairs, (X, X[::-1].copy()), Y % 3),
        (with_memory, X, Y),
    ],
)
def test_weights_go_into_a_fresh_model_whole(make, x, y, tmp_path):
    saved, loaded = make(), make()
    if isinstance(saved.head if hasattr(saved, "head") else None, keras.layers.Dense):
        for model in (saved, loaded):
            model.compile("adam", losses.SoftmaxLoss(), run_eagerly=True)
    saved.fit(x, y, epochs=2, verbose=0)
    saved.save_weights(tmp_path / "model.weights.h5")
    loaded.load_weights(tmp_path / "model.weights.h5")
    for a, b in zip(saved.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    assert loaded.evaluate(x, y, verbose=0) == saved.evaluate(x, y, verbose=0)


def test_a_memory_of_another_size_is_named(tmp_path):
    saved = with_memory()
    saved.fit(X, Y, verbose=0)
    saved.save_weights(tmp_path / "model.weights.h5")
    memory = layers.CrossBatchMemory(8)
    other = tfembloss.EmbeddingModel(encoder(), memory=memory)
    with pytest.raises(ValueError, match="memory of size 8"):
        other.load_weights(tmp_path / "model.weights.h5")


def test_weights_for_parts_that_are_not_built_are_refused(tmp_path):
    model = classifier()
    model.save_weights(tmp_path / "model.weights.h5")
    lazy = tfembloss.EmbeddingClassifier(encoder(known=False), layers.CosineHead(6))
    with pytest.raises(ValueError, match="not yet been built"):
        lazy.load_weights(tmp_path / "model.weights.h5")


@pytest.mark.parametrize("known", [True, False])
def test_a_backup_holds_the_memory(known, tmp_path):
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def train(*callbacks):
        keras.utils.set_random_seed(0)
        model = with_memory(known)
        model.fit(batches, epochs=3, verbose=0, callbacks=list(callbacks))
        return model

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        train(backup, Interrupt())
    resumed = train(keras.callbacks.BackupAndRestore(tmp_path / "backup"))
    for a, b in zip(train().variables, resumed.variables, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("known", [True, False])
def test_keras_exports_what_was_trained(known, tmp_path):
    towers = {"a": encoder(known), "b": encoder(known)}
    for model, loss, data in [
        (tfembloss.EmbeddingModel(encoder(known)), losses.SupConLoss(), (X, Y)),
        (tfembloss.DualEncoder(towers), losses.CLIPLoss(), ((X, X),)),
    ]:
        compiled(model, loss).fit(*data, verbose=0)
        model.export(str(tmp_path / "export"), verbose=False)
        loaded = tf.saved_model.load(str(tmp_path / "export"))
        np.testing.assert_allclose(
            loaded.serve(data[0]), model.predict(data[0], verbose=0), rtol=1e-5, atol=1e-6
        )


class Scaled(tfembloss.EmbeddingModel):
    """A subclass with a weight that its `build` makes."""

    def build(self, shape):
        super().build(shape)
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        y_pred = y_pred * self.scale
        return super().compute_loss(x, y, y_pred, sample_weight, training)


def test_a_subclass_builds_its_own_weights(tmp_path):
    model = compiled(Scaled(encoder()), losses.TripletMarginLoss(distance="dot"))
    model.fit(X, Y, epochs=2, verbose=0)
    assert float(model.scale) != 1
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", {"Scaled": Scaled})
    assert float(again.scale) == float(model.scale)
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = compiled(Scaled(encoder()), losses.TripletMarginLoss(distance="dot"))
    fresh.load_weights(tmp_path / "model.weights.h5")
    assert float(fresh.scale) == float(model.scale)


def test_predict_before_fit_leaves_the_memory_to_the_columns():
    memory = layers.CrossBatchMemory(16)
    model = tfembloss.EmbeddingModel(encoder(), memory=memory)
    compiled(model, losses.MultipleNegativesRankingLoss())
    model.predict(X, verbose=0)
    model.fit((X, X[::-1].copy()), verbose=0)
    assert tuple(memory.embeddings.shape) == (16, 2, 4)


# Optimizers that count or scale by themselves.


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("head_optimizer", [None, "sgd"])
def test_sampled_classes_change_in_every_step(frozen, head_optimizer):
    made = encoder()
    made.trainable = not frozen
    model = tfembloss.EmbeddingClassifier(made, layers.CosineHead(100), num_sampled=10)
    sgd = keras.optimizers.SGD(
        0.1, gradient_accumulation_steps=5 if head_optimizer else None
    )
    model.compile(sgd, losses.NormalizedSoftmaxLoss(1.0), head_optimizer=head_optimizer,
                  run_eagerly=True)  # fmt: skip
    model(X)
    before = model.head.centers.numpy()
    for _ in range(10):
        model.train_on_batch(X[:4], np.arange(4))
    moved = np.abs(model.head.centers.numpy() - before).max(axis=1) > 0
    assert moved.sum() > 25
    assert int(model.optimizer.iterations) == 10


@pytest.mark.parametrize(
    "scaled",
    [
        lambda: keras.optimizers.SGD(0.1, loss_scale_factor=1024.0),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)),
    ],
)
@pytest.mark.parametrize("which", [(True, True), (True, False), (False, True)])
def test_a_loss_scale_changes_nothing(scaled, which):
    def moved(optimizers):
        keras.utils.set_random_seed(0)
        model = tfembloss.EmbeddingClassifier(encoder(), layers.CosineHead(6))
        model.compile(optimizers[0], losses.ArcFaceLoss(scale=8.0),
                      head_optimizer=optimizers[1])  # fmt: skip
        for _ in range(2):
            model.train_on_batch(X, Y)
        return [v.numpy() for v in model.trainable_variables]

    plain = moved([keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.1)])
    again = moved([scaled() if s else keras.optimizers.SGD(0.1) for s in which])
    for a, b in zip(plain, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_loss_scale_belongs_around_both():
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    with pytest.raises(ValueError, match="A loss is scaled once"):
        tfembloss.models.HeadOptimizer(scaled, "sgd")


def test_weight_decay_leaves_scale_and_bias_alone():
    towers = {"a": encoder(), "b": encoder()}
    model = tfembloss.DualEncoder(towers, initial_scale=10.0, initial_bias=-10.0)
    own = keras.optimizers.SGD(0.0, weight_decay=0.5)
    own.learning_rate = 1.0
    own.exclude_from_weight_decay(var_list=[model.towers["a"].encoder.weights[1]])
    model.compile(own, losses.SigLIPLoss())
    model((X, X))
    own.build(model.trainable_variables)
    decays = [v.path for v in model.trainable_variables if own._use_weight_decay(v)]
    assert len(decays) == 3 and not any("scale" in p or p.endswith("bias_") for p in decays)
    assert not own._use_weight_decay(model.log_scale)
    assert not own._use_weight_decay(model.bias)


# Mini-batches.


class RunningScale(keras.layers.Layer):
    def build(self, shape):
        self.top = self.add_weight(shape=(), initializer="ones", trainable=False)

    def call(self, x, training=None):
        if training:
            self.top.assign(0.5 * self.top + 0.5 * tf.reduce_max(tf.abs(x)))
        return x / self.top


class Noise(keras.layers.Layer):
    def call(self, x):
        return x + tf.random.normal(tf.shape(x))


def mini_batch_step(make_layer, size, **options):
    keras.utils.set_random_seed(1)
    made = keras.Sequential([keras.Input([8]), make_layer(), keras.layers.Dense(4)])
    model = tfembloss.EmbeddingModel(made, mini_batch_size=size)
    model.compile(keras.optimizers.SGD(1.0), losses.SupConLoss(), **options)
    loss = model.train_on_batch(X, Y)
    return loss, [w.numpy() for w in model.weights]


@pytest.mark.parametrize("eager", [True, False])
def test_a_state_that_follows_from_weights_alone_is_replayed(eager):
    def layer():
        return keras.layers.SpectralNormalization(keras.layers.Dense(8))

    whole = mini_batch_step(layer, None, run_eagerly=eager)
    parts = mini_batch_step(layer, 7, run_eagerly=eager)
    assert parts[0] == pytest.approx(whole[0], rel=1e-5)
    for a, b in zip(whole[1], parts[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize(
    "layer, message",
    [(RunningScale, "layer '.*running_scale"), (Noise, "computes the same when")],
)
def test_what_would_differ_by_mini_batches_is_refused(layer, message, eager):
    with pytest.raises(ValueError, match=message):
        mini_batch_step(layer, 6, run_eagerly=eager)


def test_under_xla_which_raises_nothing_it_is_nan():
    loss, _ = mini_batch_step(RunningScale, 6, jit_compile=True)
    assert np.isnan(loss)
