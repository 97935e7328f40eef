import keras
import numpy as np
import pytest
import tensorflow as tf
from goldens import kernels, plain_kernels  # noqa: F401

import tfembloss
from tfembloss import losses

TEXTS = ["a b", "c d", "e f", "g h", "i j", "k l", "m n", "o p"]
VOCABULARY = ["[PAD]", "[UNK]", *"abcdefghijklmnop"]


def towers(text_dim=6):
    keras.utils.set_random_seed(1)
    image = keras.Sequential(
        [keras.Input([4, 4]), keras.layers.Flatten(), keras.layers.Dense(6)]
    )
    text = tfembloss.EmbeddingModel(
        tfembloss.text.TextEncoder(len(VOCABULARY), dim=text_dim),
        tfembloss.text.TextPreprocessor(VOCABULARY, 4),
    )
    return {"image": image, "text": text}


def dual_encoder(loss=None, in_graph=False, **options):
    model = tfembloss.DualEncoder(towers(), **options)
    loss = losses.CLIPLoss() if loss is None else loss
    # Making a graph takes longer than a few steps.
    model.compile(keras.optimizers.Adam(0.02), loss, run_eagerly=not in_graph)
    return model


def images():
    return np.random.default_rng(0).normal(size=[len(TEXTS), 4, 4]).astype("float32")


def logits(model):
    embeddings = model.predict((images(), TEXTS), verbose=0).astype("float64")
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=2), 1, rtol=1e-5)
    return float(model.scale) * embeddings[:, 0] @ embeddings[:, 1].T


def test_clip_sees_the_scaled_cosines():
    model = dual_encoder()
    x = logits(model)
    both = [np.log(np.exp(x).sum(axis=axis)) - np.diag(x) for axis in (0, 1)]
    loss = model.evaluate((images(), TEXTS), verbose=0, return_dict=True)
    np.testing.assert_allclose(loss["loss"], np.mean(both), rtol=1e-5)
    np.testing.assert_allclose(loss["scale"], 1 / 0.07, rtol=1e-5)


def test_sig_lip_sees_the_bias_too():
    model = dual_encoder(losses.SigLIPLoss(), initial_scale=10.0, initial_bias=-10.0)
    x = logits(model) - 10
    sign = 2 * np.eye(len(x)) - 1
    expected = np.log1p(np.exp(-sign * x)).sum(axis=1).mean()
    loss = model.evaluate((images(), TEXTS), verbose=0, return_dict=True)
    np.testing.assert_allclose(loss["loss"], expected, rtol=1e-5)
    assert loss["bias"] == -10


@pytest.mark.parametrize(
    "loss, options",
    [
        (losses.CLIPLoss(), {"in_graph": True}),
        (losses.SigLIPLoss(), {"initial_scale": 10.0, "initial_bias": -10.0}),
        (losses.MatryoshkaLoss(losses.CLIPLoss(), [6, 2]), {}),
        (losses.MultipleNegativesRankingLoss(), {"learn_scale": False}),
    ],
    ids=["clip", "sig-lip", "matryoshka", "ranking"],
)
def test_towers_and_numbers_learn(loss, options):
    model = dual_encoder(loss, **options)
    numbers = lambda: [float(v) for v in (model.scale, model.bias) if v is not None]  # noqa: E731
    before = numbers()
    with kernels(compiled=True):
        history = model.fit((images(), TEXTS), epochs=6, verbose=0).history
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    for old, new in zip(before, numbers(), strict=True):
        assert (new != old) == options.get("learn_scale", True)


@pytest.mark.parametrize("direction, end", [(1, 100.0), (-1, 1.0)])
def test_the_scale_stays_in_its_range(direction, end):
    class Push(losses.EmbeddingLoss):
        def call(self, y_true, y_pred):
            return -direction * tf.norm(y_pred[:, 0], axis=1)

    model = tfembloss.DualEncoder(towers())
    model.compile(keras.optimizers.SGD(10.0), Push())
    model.fit((images(), TEXTS), epochs=2, verbose=0)
    np.testing.assert_allclose(model.scale, end, rtol=1e-5)


def test_inputs_by_name_or_in_order():
    model = dual_encoder()
    by_order = model.predict((images(), TEXTS), verbose=0)
    by_name = model.predict({"text": TEXTS, "image": images()}, verbose=0)
    np.testing.assert_array_equal(by_order, by_name)
    data = tfembloss.data.columns(images(), TEXTS).batch(4)
    np.testing.assert_allclose(model.predict(data, verbose=0), by_order, rtol=1e-5)


def test_equal_captions_are_no_negatives():
    model = dual_encoder(losses.CLIPLoss(exclude_equal_ids=True))
    captions = TEXTS[:4] * 2
    model.fit((images(), captions), np.array(captions), epochs=1, verbose=0)
    ids = np.arange(8) % 4
    assert (
        model.evaluate((images(), captions), ids, verbose=0, return_dict=True)["loss"] > 0
    )


def test_saved_in_the_middle_it_goes_on_exactly(tmp_path):
    model = dual_encoder(losses.SigLIPLoss(), initial_scale=10.0, initial_bias=-10.0)
    fit = {"epochs": 2, "batch_size": 8, "verbose": 0, "shuffle": False}
    model.fit((images(), TEXTS), **fit)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert list(again.towers) == ["image", "text"]
    expected = model.fit((images(), TEXTS), **fit).history
    assert again.fit((images(), TEXTS), **fit).history == expected


def test_each_tower_exports_by_itself(tmp_path):
    model = dual_encoder()
    model.fit((images(), TEXTS), verbose=0)
    embeddings = model.predict((images(), TEXTS), verbose=0)
    inputs = {"image": tf.constant(images()), "text": tf.constant(TEXTS)}
    for i, (name, tower) in enumerate(model.towers.items()):
        tfembloss.export_encoder(tower, tmp_path / name)
        serve = tf.saved_model.load(tmp_path / name).signatures["serving_default"]
        (argument,) = serve.structured_input_signature[1]
        served = serve(**{argument: inputs[name]})["embedding"]
        np.testing.assert_allclose(served, embeddings[:, i], rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"Export each tower.*towers\[\"image\"\]"):
        tfembloss.export_encoder(model, tmp_path / "both")


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = dual_encoder()
    finally:
        keras.config.set_dtype_policy("float32")
    history = model.fit((images(), TEXTS), epochs=4, verbose=0).history["loss"]
    assert history[-1] < history[0]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: tfembloss.DualEncoder({"image": towers()["image"]}), "`towers` must be"),
        (lambda: tfembloss.DualEncoder(list(towers().values())), "`towers` must be"),
        (lambda: tfembloss.DualEncoder({"a": 1, "b": 2}), "`towers` must be"),
        (lambda: dual_encoder(initial_scale=0.5), "`initial_scale`.*1 to 100.*0.5"),
        (lambda: dual_encoder(initial_bias=float("nan")), "`initial_bias`"),
        (lambda: dual_encoder().predict(TEXTS), r"a tuple \(image, text\)"),
        (lambda: dual_encoder().predict({"image": images()}), "inputs of both towers"),
        (lambda: tfembloss.DualEncoder(towers(5)).predict((images(), TEXTS)),
         r"same dimension.*'image': 6, 'text': 5"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_explained(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("part", [losses.LpRegularizationLoss(), losses.FlopsLoss()])
def test_regularizers_of_lengths_are_refused(part):
    with pytest.raises(ValueError, match=f"cosines only.*{type(part).__name__}"):
        dual_encoder(losses.WeightedSum({"clip": losses.CLIPLoss(), "part": part}))
    dual_encoder(
        losses.WeightedSum(
            {
                "clip": losses.CLIPLoss(),
                "spread": losses.GlobalOrthogonalRegularizationLoss(),
            }
        )
    )


@pytest.mark.parametrize(
    "loss",
    [
        losses.MultipleNegativesRankingLoss(),
        losses.MatryoshkaLoss(losses.MultipleNegativesRankingLoss(), [2]),
        losses.WeightedSum({"a": losses.SigLIPLoss(), "b": losses.CoSENTLoss()}),
    ],
)
def test_a_bias_is_none_of_a_cosine(loss):
    with pytest.raises(ValueError, match=r"Received: \w+ of 'cosine'"):
        dual_encoder(loss, initial_scale=10.0, initial_bias=-10.0)
