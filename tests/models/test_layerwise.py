"""Encoders that can be cut after any layer, and the losses that train them."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from checkpoints import unpack
from goldens import plain_kernels  # noqa: F401

import tfembloss
from tfembloss import losses
from tfembloss.losses import drawing
from tfembloss.models import layerwise

TOKENS = np.random.default_rng(0).integers(1, 20, size=[2, 6, 5]) * [1, 1, 1, 1, 0]
KINDS = ["bert", "albert", "mpnet", "deberta-v3", "gemma3", "qwen3"]


def text_encoder(dropout=0.0):
    keras.utils.set_random_seed(0)
    return tfembloss.text.TextEncoder(
        20, dim=8, sequence_length=5, num_layers=3, num_heads=2, dropout=dropout
    )


def model_of(loss, optimizer=None, dropout=0.0, **options):
    model = tfembloss.EmbeddingModel(text_encoder(dropout), **options)
    model.compile(optimizer or keras.optimizers.SGD(0.05), loss, run_eagerly=True)
    return model


def embeddings(encoder):
    """Of all layers, `[B, 2, L + 1, D]`."""
    of_layers = layerwise.embeddings_of_layers(encoder)
    return np.stack([of_layers(tokens) for tokens in TOKENS], axis=1)


def test_first_layers_give_what_the_layers_show():
    encoder = text_encoder()
    shown = embeddings(encoder)
    assert shown.shape == (6, 2, 4, 8)
    np.testing.assert_allclose(shown[:, 0, -1], encoder(TOKENS[0]), rtol=1e-6)
    for num_layers in range(4):
        first = layerwise.first_layers(encoder, num_layers)
        found = first(TOKENS[0])
        np.testing.assert_allclose(found, shown[:, 0, num_layers], rtol=1e-5, atol=1e-6)
    assert first.count_params() == encoder.count_params()
    assert np.abs(shown[:, 0, 1] - shown[:, 0, 2]).max() > 1e-2


@pytest.mark.parametrize("name", KINDS)
def test_checkpoints_show_their_layers(name, tmp_path):
    pytest.importorskip("safetensors")
    model = tfembloss.EmbeddingModel.from_pretrained(unpack(tmp_path, name) / name)
    encoder = model.encoder
    x = model.encoder_inputs(tf.constant(["free and equal", "in dignity"]))
    of_layers = layerwise.embeddings_of_layers(encoder)(x)
    np.testing.assert_allclose(of_layers[:, -1], encoder(x), rtol=1e-5, atol=1e-6)
    config = json.loads(encoder.config)
    num_layers = of_layers.shape[1] - 1
    assert num_layers == config["num_hidden_layers"]
    first = layerwise.first_layers(encoder, num_layers - 1)(x)
    np.testing.assert_allclose(first, of_layers[:, -2], rtol=1e-5, atol=1e-6)
    assert np.abs(first - of_layers[:, -1]).max() > 1e-3


def test_fit_trains_all_layers_and_evaluate_measures_the_last():
    inner = losses.MultipleNegativesRankingLoss(scale=2.0)
    loss = losses.AdaptiveLayerLoss(inner, None)
    model = model_of(loss)
    expected = loss(None, embeddings(model.encoder))
    before = model.evaluate(tuple(TOKENS), batch_size=6, verbose=0)
    last = np.stack([model.encoder(tokens) for tokens in TOKENS], axis=1)
    assert before == pytest.approx(float(inner(None, last)), rel=1e-5)
    history = model.fit(tuple(TOKENS), batch_size=6, epochs=5, verbose=0).history["loss"]
    assert history[0] == pytest.approx(float(expected), rel=1e-5)
    assert history[-1] < history[0] - 0.1
    assert model.predict(TOKENS[0], verbose=0).shape == (6, 8)


def test_mini_batches_train_as_the_whole():
    weights = []
    for options in ({}, {"mini_batch_size": 4}):
        loss = losses.AdaptiveLayerLoss(losses.CosineSimilarityLoss())
        model = model_of(loss, dropout=0.0, **options)
        model.fit(tuple(TOKENS), np.arange(6) / 6, batch_size=6, verbose=0)
        weights.append(model.get_weights())
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_layer_is_drawn_in_each_step():
    """In each step one of three, so that its value is that of one of them."""
    inner = losses.MultipleNegativesRankingLoss(scale=2.0)
    loss = losses.AdaptiveLayerLoss(inner, 1, kl_temperature=0)
    model = model_of(loss, keras.optimizers.SGD(0.0))
    layers = embeddings(model.encoder)
    *of_each, last = (float(inner(None, layers[:, :, i])) for i in range(4))
    history = model.fit(tuple(TOKENS), batch_size=6, epochs=5, verbose=0).history["loss"]
    drawn = [np.abs(value - last - np.array(of_each)).argmin() for value in history]
    expected = [last + of_each[i] for i in drawn]
    np.testing.assert_allclose(history, expected, rtol=1e-5)
    assert len(set(drawn)) > 1


@pytest.mark.parametrize(
    "inner",
    [
        losses.MultipleNegativesRankingLoss(scale=2.0),
        losses.CLIPLoss(),
        losses.AnglELoss(scale=2.0),  # depends on the number of dimensions
    ],
)
def test_dimensions_are_drawn_without_replacement(inner):
    loss = losses.MatryoshkaLoss(inner, [8, 4, 2], [1, 2, 4], num_dims_per_step=2)
    y, x = np.arange(6) / 6, np.random.default_rng(0).normal(size=[6, 2, 8]).astype("f")
    one = {
        dim: float(losses.MatryoshkaLoss(inner, [dim])(y, x)) * weight
        for dim, weight in zip(loss.dims, loss.weights, strict=True)
    }
    assert float(loss(y, x)) == pytest.approx(sum(one.values()), rel=1e-5)
    left_out = set()
    for step in range(8):
        with drawing.at_step(step):
            draw = drawing.drawn(2, 3, loss.seed)
            found = float(loss(y, x))
        rest = ({0, 1, 2} - set(draw.numpy())).pop()
        left_out.add(rest)
        expected = sum(one.values()) - one[loss.dims[rest]]
        assert found == pytest.approx(expected, rel=1e-5)
    assert left_out == {0, 1, 2}


def test_layers_and_dimensions_are_drawn_independently():
    """Also of equal seeds: every dimension trains in every layer."""
    inner = losses.CosineSimilarityLoss(reduction=None)
    layers = tf.constant(np.random.default_rng(0).normal(size=[1, 2, 4, 8]), "float32")
    loss = losses.Matryoshka2dLoss(inner, [8, 4, 2], kl_temperature=0, last_layer_weight=0)
    of_each = [
        [float(losses.MatryoshkaLoss(inner, [dim])([0.5], layers[:, :, i]))
         for dim in loss.dims] for i in range(3)
    ]  # fmt: skip
    found = set()
    for step in range(60):
        with drawing.at_step(step):
            value = float(loss(tf.constant([0.5]), layers))
        found.add(np.abs(np.array(of_each) - value).argmin())
        assert np.abs(np.array(of_each) - value).min() < 1e-6
    assert found == set(range(9))


def test_several_labels_and_wrong_tokens_are_as_of_the_wrapped_loss():
    loss = losses.SupConLoss(multi_label="ids")
    labels, x = np.array([["a", "b"], ["a", ""], ["c", ""]]), np.eye(3, dtype="float32")
    assert float(losses.AdaptiveLayerLoss(loss)(labels, x)) == float(loss(labels, x))
    model = model_of(losses.AdaptiveLayerLoss(losses.MultipleNegativesRankingLoss()))
    with pytest.raises(ValueError, match="Expected token ids from 0"):
        model.train_on_batch((TOKENS[0], -TOKENS[1]))


class Ones(tfembloss.EmbeddingModel):
    def call(self, x, training=None):
        return tf.ones_like(super().call(x, training=training))


def test_an_own_call_is_not_left_out_of_an_export(tmp_path):
    with pytest.raises(ValueError, match=r"`call`.*Received: Ones"):
        tfembloss.export_encoder(Ones(text_encoder()), tmp_path / "two", num_layers=2)


def test_an_exported_encoder_of_fewer_layers(tmp_path):
    vocabulary = ["[PAD]", "[UNK]", *(f"w{i}" for i in range(18))]
    preprocessor = tfembloss.text.TextPreprocessor(vocabulary, 5)
    model = tfembloss.EmbeddingModel(text_encoder(), preprocessor)
    texts = tf.constant(["w1 w2", "w3 w4 w5"])
    tfembloss.export_encoder(model, tmp_path / "two", normalize=False, num_layers=2)
    serve = tf.saved_model.load(str(tmp_path / "two")).signatures["serving_default"]
    tokens = model.encoder_inputs(texts)
    expected = layerwise.embeddings_of_layers(model.encoder)(tokens)[:, 2]
    np.testing.assert_allclose(
        serve(text=texts)["embedding"], expected, rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match="`num_layers` must be an integer from 0 to 3"):
        tfembloss.export_encoder(model, tmp_path / "four", num_layers=4)
    other = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"blocks.*hidden_states\. Received: Sequential"):
        tfembloss.export_encoder(other, tmp_path / "other", num_layers=1)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda inner: losses.AdaptiveLayerLoss(inner, 0), "num_layers_per_step"),
        (lambda inner: losses.AdaptiveLayerLoss("mse"), "`loss` must be an instance"),
        (
            lambda inner: losses.MatryoshkaLoss(losses.AdaptiveLayerLoss(inner), [2]),
            "`loss` must be an instance",
        ),
        (
            lambda inner: losses.AdaptiveLayerLoss(inner, layer_weighting="flat"),
            "`layer_weighting` must be one of 'uniform', 'log', 'linear'",
        ),
        (
            lambda inner: losses.MatryoshkaLoss(inner, [4, 2], num_dims_per_step=3),
            "`num_dims_per_step` must be an integer from 1 to 2",
        ),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make(losses.MultipleNegativesRankingLoss())


def test_models_without_layers_are_refused():
    loss = losses.AdaptiveLayerLoss(losses.MultipleNegativesRankingLoss())
    dense = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"expected an EmbeddingModel.*DualEncoder"):
        tfembloss.DualEncoder({"a": dense, "b": dense}).compile("sgd", loss)
    with pytest.raises(ValueError, match=r"an encoder with blocks.*Sequential"):
        tfembloss.EmbeddingModel(dense).compile("sgd", loss)
    with pytest.raises(ValueError, match="AdaptiveLayerLoss takes all layers' embeddings"):
        losses.WeightedSum({"a": loss})
