import goldens
import keras
import numpy as np
import pytest
import tensorflow as tf

import tfembloss
from tfembloss import losses

TEXTS = ["a b", "c d", "e f", "g h", "i j", "k l", "m n", "o p"]
VOCABULARY = ["[PAD]", "[UNK]", *"abcdefghijklmnop"]
IN_BATCH = "ContrastiveTensionLossInBatchNegatives"


# The losses.


def test_learned_scale_is_sentence_transformers():
    golden = goldens.arrays("sentence_transformers", IN_BATCH, "case2")
    x, _ = goldens.columns(golden)
    x = x.astype("float32")
    towers = {name: keras.Sequential([keras.layers.Identity()]) for name in "ab"}
    model = tfembloss.DualEncoder(towers, initial_scale=20.0)
    model.compile("sgd", losses.CLIPLoss())
    with tf.GradientTape() as tape:
        loss = model.compute_loss(y_pred=model((x[:, 0], x[:, 1])))
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-5)
    gradient = tape.gradient(loss, model.log_scale.value)
    np.testing.assert_allclose(gradient, golden["grad_w_logit_scale"], rtol=1e-4)


def test_labels_out_of_range():
    x = tf.ones([2, 2, 3])
    with pytest.raises(ValueError, match="from 0 to 1"):
        losses.ContrastiveTensionLoss()(tf.constant([0, 2]), x)
    with pytest.raises(ValueError, match="contrastive_tension_batches"):
        losses.ContrastiveTensionLoss()(None, x)
    whole = losses.MatryoshkaLoss(losses.ContrastiveTensionLoss(), dims=[3])
    labels = tf.constant([0, 1])
    np.testing.assert_allclose(
        whole(labels, x), losses.ContrastiveTensionLoss()(labels, x), rtol=1e-6
    )


# The model.


def tension_model(loss=None, optimizer="adam", dropout=0.0, **options):
    keras.utils.set_random_seed(1)
    model = tfembloss.ContrastiveTensionModel(
        tfembloss.text.TextEncoder(len(VOCABULARY), dim=8, dropout=dropout),
        tfembloss.text.TextPreprocessor(VOCABULARY, 4),
        **options,
    )
    loss = losses.ContrastiveTensionLossInBatchNegatives() if loss is None else loss
    # Making a graph takes longer than a few steps.
    model.compile(optimizer, loss, run_eagerly=True)
    model.optimizer.learning_rate = 0.01
    return model


def test_both_begin_alike_and_part():
    model = tension_model(dropout=0.3)
    begin = model.predict((TEXTS, TEXTS), verbose=0)
    np.testing.assert_array_equal(begin[:, 0], begin[:, 1])
    expected = losses.MultipleNegativesRankingLoss(symmetric=True)(None, begin)
    np.testing.assert_allclose(model.evaluate(TEXTS, verbose=0), expected, rtol=1e-5)
    history = model.fit(TEXTS, validation_data=(TEXTS,), epochs=3, verbose=0).history
    assert max(history["val_loss"]) < 0.1  # as it was: they find their own all the time
    end = model.predict((TEXTS, TEXTS), verbose=0)
    assert np.abs(end[:, 0] - end[:, 1]).max() > 1e-3  # each has dropout of its own
    # One column is the encoder's, the second of two.
    np.testing.assert_array_equal(model.predict(TEXTS, verbose=0), end[:, 1])


def test_pairs_with_labels():
    model = tension_model(losses.ContrastiveTensionLoss())
    others, labels = [*TEXTS[:4], *TEXTS[:4]], [1] * 4 + [0] * 4
    history = model.fit((TEXTS, others), labels, epochs=12, verbose=0).history["loss"]
    assert history[-1] < history[0]
    u, v = model.predict((TEXTS, others), verbose=0).transpose(1, 0, 2)
    scores = (u * v).sum(axis=1)
    assert scores[:4].min() > scores[4:].max()


class Scaled(keras.layers.Layer):
    """No class that Keras knows by name."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(), initializer="ones")
        self.built = True

    def call(self, x):
        return self.scale * x


def test_saved_with_its_twin(tmp_path):
    x = np.random.default_rng(0).normal(size=[4, 3]).astype("float32")
    encoder = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
    model = tfembloss.ContrastiveTensionModel(encoder)
    model.compile("sgd", losses.ContrastiveTensionLossInBatchNegatives())
    begin = model((x, x))
    np.testing.assert_array_equal(begin[:, 0], begin[:, 1])
    model.fit((x, x), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(loaded.trainable_variables) == 4
    np.testing.assert_array_equal(loaded((x, x)), model((x, x)))


def test_what_is_copied():
    own = Scaled()
    own.build([None, 3])
    own.scale.assign(2.0)
    assert float(tfembloss.models.twin(own).scale) == 2
    with pytest.raises(ValueError, match="an encoder that is built"):
        tfembloss.ContrastiveTensionModel(keras.Sequential([keras.layers.Dense(2)]))
    lazy = keras.layers.Lambda(lambda x: x)
    lazy.build([None, 3])
    assert isinstance(tfembloss.models.twin(lazy), keras.layers.Lambda)


def test_export_is_the_encoder_alone(tmp_path):
    model = tension_model()
    model.fit(TEXTS, verbose=0)
    tfembloss.export_encoder(model, tmp_path / "encoder", normalize=False)
    exported = tf.saved_model.load(tmp_path / "encoder")
    embed = exported.signatures["serving_default"]
    np.testing.assert_allclose(
        embed(text=tf.constant(TEXTS))["embedding"],
        model.predict(TEXTS, verbose=0),
        rtol=1e-6,
    )


def test_mini_batches_are_the_batch():
    losses_of = [
        tension_model(optimizer="sgd", mini_batch_size=size).fit(
            tfembloss.data.from_arrays(TEXTS).batch(8), epochs=2, verbose=0
        )
        for size in (None, 3)
    ]
    whole, parts = (run.history["loss"] for run in losses_of)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_three_columns_are_refused():
    with pytest.raises(ValueError, match="Received: 3 columns"):
        tension_model().fit((TEXTS, TEXTS, TEXTS), verbose=0)
