"""Image encoders of keras-hub: embeddings equal to its own, in every form."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfembloss

REASON = 'pip install ".[hub]"'
keras_hub = pytest.importorskip("keras_hub", reason=f"keras-hub is missing: {REASON}")
models, layers = keras_hub.models, keras_hub.layers

IMAGES = np.random.default_rng(0).integers(0, 256, [4, 20, 30, 3]).astype("uint8")
FLOATS = IMAGES.astype("float32")  # of bytes, converters round when they are not in a graph
SCALING = {"scale": [1 / 50, 1 / 60, 1 / 70], "offset": [-2.0, -1.9, -1.8]}


def vit(**options):
    shape = {"image_shape": (16, 16, 3), "patch_size": 8}
    return models.ViTBackbone(
        **{**shape, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16},
        **options,
    )


def resnet():
    return models.ResNetBackbone([64], [3], [64, 64], [1, 1], [1, 2], "basic_block")


def vision(kind):
    return kind(
        patch_size=8, hidden_dim=8, num_layers=1, num_heads=2, intermediate_dim=16,
        image_shape=(16, 16, 3),
    )  # fmt: skip


def clip():
    size = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
    text = models.CLIPTextEncoder(40, 8, **size, max_sequence_length=12)
    return models.CLIPBackbone(vision(models.CLIPVisionEncoder), text, projection_dim=6)


def siglip():
    size = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
    text = models.SigLIPTextEncoder(40, 8, **size, max_sequence_length=12)
    return models.SigLIPBackbone(vision(models.SigLIPVisionEncoder), text)


def of_vit(backbone, x):
    return backbone(x)[:, 0]


def of_resnet(backbone, x):
    return tf.reduce_mean(backbone(x), axis=[1, 2])


def of_tower(backbone, x):
    return backbone.get_vision_embeddings(x)


CASES = {
    "vit": (vit, layers.ViTImageConverter, of_vit),
    "resnet": (resnet, layers.ResNetImageConverter, of_resnet),
    "clip": (clip, layers.CLIPImageConverter, of_tower),
    "siglip": (siglip, layers.SigLIPImageConverter, of_tower),
}


def load(source, **options):
    return tfembloss.EmbeddingModel.from_pretrained(source, **options)


@pytest.mark.parametrize("name", CASES)
def test_it_is_keras_hubs_in_every_form(name, tmp_path):
    make, converter, embed = CASES[name]
    backbone, converter = make(), converter(image_size=(16, 16), **SCALING)
    backbone.save_to_preset(str(tmp_path / "preset"))
    converter.save_to_preset(str(tmp_path / "preset"))
    model = load(tmp_path / "preset")
    expected = embed(backbone, converter(FLOATS))
    found = model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found, axis=0).max() > 1e-2  # images differ

    model.compile("adam", loss=tfembloss.losses.SupConLoss())
    model.fit(IMAGES, [0, 1, 0, 1], verbose=0)
    after = model.predict(IMAGES, verbose=0)
    assert np.abs(after - found).max() > 1e-3

    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(IMAGES, verbose=0), after, atol=1e-5)
    tfembloss.export_encoder(model, tmp_path / "export", normalize=False)
    serve = tf.saved_model.load(tmp_path / "export").signatures["serving_default"]
    np.testing.assert_allclose(serve(images=IMAGES)["embedding"], after, atol=1e-5)
    square = IMAGES[:, :18, :18]
    expected = model.predict(square, verbose=0)
    np.testing.assert_allclose(serve(images=square)["embedding"], expected, atol=1e-5)


def test_batch_normalization_is_for_whole_batches():
    converter = layers.ImageConverter(image_size=(16, 16), **SCALING)
    model = load(resnet(), preprocessor=converter, mini_batch_size=2)
    model.compile("adam", loss=tfembloss.losses.SupConLoss())
    with pytest.raises(ValueError, match="BatchNormalization"):
        model.fit(IMAGES, [0, 1, 0, 1], verbose=0)


def test_towers_of_a_dual_encoder():
    converter = layers.ImageConverter(image_size=(16, 16), **SCALING)
    encoder, preprocessor = tfembloss.pretrained.load(vit(), preprocessor=converter)
    encoder = keras.Sequential([encoder, keras.layers.Dense(6)])
    texts = ["red", "blue", "red and blue", "gray"]
    vocabulary = tfembloss.text.learn_vocabulary(texts, size=40)
    model = tfembloss.DualEncoder(
        {
            "image": tfembloss.EmbeddingModel(encoder, preprocessor),
            "text": tfembloss.EmbeddingModel(
                tfembloss.text.TextEncoder(len(vocabulary), dim=6),
                tfembloss.text.TextPreprocessor(vocabulary, 8),
            ),
        }
    )
    model.compile(keras.optimizers.Adam(0.01), loss=tfembloss.losses.CLIPLoss())
    losses = model.fit((IMAGES, texts), epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert model.towers["image"].predict(IMAGES, verbose=0).shape == (4, 6)


def test_both_towers_of_clip(tmp_path):
    pieces = ["<|startoftext|>", *"redblu", *(f"{x}</w>" for x in "redblu"), "re"]
    pieces.append("<|endoftext|>")  # the largest id, by which CLIP finds it
    tokenizer = models.CLIPTokenizer({x: i for i, x in enumerate(pieces)}, ["r e"])
    converter = layers.CLIPImageConverter(image_size=(16, 16), **SCALING)
    both = models.CLIPPreprocessor(tokenizer, converter, sequence_length=12)
    backbone = clip()
    for part in (backbone, both):
        part.save_to_preset(str(tmp_path))
    texts = ["red", "blue", "BLUE red", "bleu"]
    inputs = both({"images": tf.constant(FLOATS), "prompts": tf.constant(texts)})
    towers = {name: load(tmp_path, tower=name) for name in ("image", "text")}
    found = embed(towers["text"], texts)
    expected = backbone.get_text_embeddings(inputs["token_ids"])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    expected = backbone.get_vision_embeddings(inputs["images"])
    found = towers["image"].predict(IMAGES, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)

    model = tfembloss.DualEncoder(towers)
    model.compile(keras.optimizers.Adam(0.01), loss=tfembloss.losses.CLIPLoss())
    losses = model.fit((IMAGES, texts), epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    after = embed(model.towers["text"], texts)
    tfembloss.export_encoder(model.towers["text"], tmp_path / "export", normalize=False)
    serve = tf.saved_model.load(tmp_path / "export").signatures["serving_default"]
    served = serve(text=tf.constant(texts))["embedding"]
    np.testing.assert_allclose(served, after, atol=1e-5)


def embed(model, inputs):
    """Embeddings without tf.data, in which a byte-pair tokenizer is traced again."""
    return model.encoder(model.preprocessor(inputs)).numpy()


@pytest.mark.parametrize(
    "make, pooling, expected",
    [
        (lambda: vit(), "mean", lambda x: tf.reduce_mean(x, 1)),
        (lambda: vit(use_class_token=False), None, lambda x: tf.reduce_mean(x, 1)),
        (lambda: vision(models.CLIPVisionEncoder), None, lambda x: x[:, 0]),
        (lambda: vision(models.SigLIPVisionEncoder), None, lambda x: x),
        (resnet, "max", lambda x: tf.reduce_max(x, [1, 2])),
    ],
)
def test_poolings(make, pooling, expected):
    backbone, images = make(), FLOATS[:, :16, :16]
    model = load(backbone, pooling=pooling, dimensions=5)
    x = backbone({"images": images} if isinstance(backbone.input, dict) else images)
    found = model.predict(images, verbose=0)
    np.testing.assert_allclose(found, expected(x)[:, :5], atol=1e-5)


def test_a_converter_that_does_not_resize():
    plain = layers.ImageConverter(**SCALING)
    resizing = layers.ImageConverter(image_size=(16, 16), **SCALING)
    backbone = vit()
    found = load(backbone, preprocessor=plain).predict(IMAGES, verbose=0)
    expected = load(backbone, preprocessor=resizing).predict(IMAGES, verbose=0)
    np.testing.assert_array_equal(found, expected)
    assert plain.image_size is None
    backbone = resnet()
    model = load(backbone, preprocessor=plain)  # of any size
    expected = of_resnet(backbone, plain(FLOATS))
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0), expected, atol=1e-5)


def image_model():
    converter = layers.ImageConverter(image_size=(16, 16), **SCALING)
    return load(vit(), preprocessor=converter)


@pytest.mark.parametrize(
    "inputs, message",
    [
        (["a text", "another"], "Expected images .*read and decode their files"),
        (IMAGES[0], r"grayscale_to_rgb.*needs .batch"),
        (IMAGES[..., 0], "grayscale_to_rgb"),
        (IMAGES[..., :1], "grayscale_to_rgb"),
        (IMAGES.transpose(0, 3, 1, 2), "the channels last"),
    ],
)
def test_what_is_no_batch_of_color_images_is_refused(inputs, message):
    model = image_model()
    with pytest.raises(ValueError, match=message):
        model.predict(inputs, verbose=0)
    model.compile("adam", loss=tfembloss.losses.SupConLoss())
    with pytest.raises(ValueError, match=message):
        model.fit(inputs, np.zeros(len(inputs), "int32"), verbose=0)


@pytest.mark.parametrize(
    "make, options, message",
    [
        (vit, {"prompts": {"query": "x"}}, "prompts=None, as a ViTBackbone takes images"),
        (vit, {"sequence_length": 8}, "sequence_length=None"),
        (clip, {"pooling": "mean"}, "a CLIPBackbone returns pooled"),
        (clip, {"tower": "images"}, "tower"),
        (resnet, {"pooling": "cls"}, "pooling"),
        (
            vit,
            {"preprocessor": models.ImageClassifierPreprocessor()},
            "with an image converter",
        ),
        (
            vit,
            {"preprocessor": layers.ImageConverter(image_size=(8, 8))},
            r"image_size=\(16, 16\)",
        ),
    ],
)
def test_mistakes(make, options, message):
    with pytest.raises(ValueError, match=message):
        load(make(), **options)


def test_presets_with_less_than_is_asked(tmp_path):
    resnet().save_to_preset(str(tmp_path))
    with pytest.raises(ValueError, match=r"`image_converter.json` doesn't exist"):
        load(tmp_path)
    with pytest.raises(ValueError, match="a ResNetBackbone has no dropout"):
        load(tmp_path, dropout=0.1)
