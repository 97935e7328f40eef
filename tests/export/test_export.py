import functools
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfembloss

VOCABULARY = ["[PAD]", "[UNK]", *"abcdefghijklmnop"]
TEXTS = [b"a b c", b"", b"a " * 10000, "\U0001f600 b".encode(), b"\xff\xfe p", b"\x00"]

SERVE = """
import json, sys
import tensorflow as tf
import tensorflow_text

# tensorflow_text has imported keras for itself; the model needs neither of them.
sys.modules["keras"] = sys.modules["tfembloss"] = None

model = tf.saved_model.load(sys.argv[1])
signature = model.signatures["serving_default"]
texts = [bytes.fromhex(text) for text in json.loads(sys.argv[2])]
wrong = []
for x in ["a", [["a", "b"], ["c", "d"]], [[["a"]]], [[]], b"\\xff\\x00", "a " * 500000]:
    x = tf.constant(x, tf.string)
    for call in (lambda x: signature(text=x), signature, model.serving_default):
        try:
            wrong.append(f"answered with {call(x)}")
        except Exception as error:
            wrong.append(str(error))
for x in [["a " * 500000], [b"\\x00", b"\\xff\\xfe", b""], [bytes(range(256))] * 300, []]:
    rows = signature(text=tf.constant(x, tf.string))["embedding"].shape[0]
    if rows != len(x):
        wrong.append(f"{rows} rows for {len(x)}")
embedding = signature(text=tf.constant(texts))["embedding"]
print(json.dumps([embedding.numpy().tolist(), wrong]))
"""


def text_model(num_layers=0):
    encoder = tfembloss.text.TextEncoder(18, dim=6, num_layers=num_layers, num_heads=2)
    return tfembloss.EmbeddingModel(
        encoder, tfembloss.text.TextPreprocessor(VOCABULARY, 5, "longest")
    )


def test_serves_what_predict_gives_in_a_process_of_its_own(tmp_path):
    model, path = text_model(num_layers=1), str(tmp_path / "encoder")
    texts = [text[:200] for text in TEXTS]  # an argument of a process has its limits
    tfembloss.export_encoder(model, path)
    expected = model.predict(texts, verbose=0)
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    expected = expected / np.where(lengths == 0, 1, lengths)
    texts = json.dumps([text.hex() for text in texts])
    command = [sys.executable, "-c", SERVE, path, texts]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    embeddings, answers = json.loads(done.stdout.strip().split("\n")[-1])
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)
    assert len(answers) == 18
    for answer in answers:  # to a scalar, a matrix ...
        assert "Expected text: string of shape [rows]. Received" in answer


def test_odd_texts_and_the_signature(tmp_path):
    model = text_model()
    tfembloss.export_encoder(model, tmp_path / "encoder", normalize=False)
    signature = tf.saved_model.load(str(tmp_path / "encoder")).signatures["serving_default"]
    ((_, inputs), outputs) = (
        signature.structured_input_signature,
        signature.structured_outputs,
    )
    assert inputs["text"] == tf.TensorSpec([None], tf.string, name="text")
    assert outputs["embedding"].dtype == tf.float32
    assert outputs["embedding"].shape.as_list() == [None, 6]
    embeddings = signature(text=tf.constant(TEXTS))["embedding"]
    np.testing.assert_allclose(embeddings, model.predict(TEXTS, verbose=0), atol=1e-6)
    assert signature(text=tf.constant([], tf.string))["embedding"].shape == (0, 6)


def test_a_plain_encoder_takes_its_own_input(tmp_path):
    a, b = keras.Input([2], name="a"), keras.Input([3], name="b", dtype="float16")
    encoder = keras.Model([a, b], keras.layers.Dense(4)(keras.layers.Concatenate()([a, b])))
    tfembloss.export_encoder(encoder, tmp_path / "encoder", normalize=False)
    serve = tf.saved_model.load(str(tmp_path / "encoder")).signatures["serving_default"]
    inputs = {"a": np.ones([2, 2], "float32"), "b": np.ones([2, 3], "float16")}
    embeddings = serve(**{name: tf.constant(x) for name, x in inputs.items()})["embedding"]
    np.testing.assert_allclose(embeddings, encoder(list(inputs.values())), rtol=1e-5)


def test_an_export_replaces_the_one_before_and_nothing_else(tmp_path):
    path, model = tmp_path / "encoder", text_model()
    tfembloss.export_encoder(model, path)
    first = serve_here(path)
    model.encoder.set_weights([w + 1.0 for w in model.encoder.get_weights()])
    tfembloss.export_encoder(model, path)
    assert np.abs(serve_here(path) - first).max() > 1e-3
    assert [p.name for p in tmp_path.iterdir()] == ["encoder"]


def serve_here(path):
    loaded = tf.saved_model.load(str(path))
    return loaded.signatures["serving_default"](text=tf.constant(["a b", "c"]))["embedding"]


def test_an_export_that_fails_leaves_the_old_one_whole(tmp_path, monkeypatch):
    path, model = tmp_path / "encoder", text_model()
    tfembloss.export_encoder(model, path)
    before = serve_here(path)

    archive = type(keras.export.ExportArchive())
    write = archive.write_out

    def fail(self, filepath, **options):
        write(self, filepath, **options)
        raise OSError("no space left")

    monkeypatch.setattr(archive, "write_out", fail)
    with pytest.raises(OSError, match="no space"):
        tfembloss.export_encoder(model, path)
    np.testing.assert_array_equal(serve_here(path), before)
    assert [p.name for p in tmp_path.iterdir()] == ["encoder"]


@pytest.mark.parametrize("path", ["gs://bucket/encoder", "hdfs:/x", "", "a\0b", None, 3])
def test_what_is_no_local_path_is_refused(path):
    with pytest.raises(ValueError, match="local folder"):
        tfembloss.export_encoder(small_encoder(), path)


def test_a_cross_encoder_serves_scores_of_two_columns(tmp_path):
    preprocessor = tfembloss.text.TextPairPreprocessor(VOCABULARY, 4, 4)
    encoder = tfembloss.text.TextEncoder(18, dim=6, num_layers=0)
    model = tfembloss.CrossEncoder(encoder, preprocessor)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="not built"):  # its score has no weights yet
        unbuilt = keras.Sequential([keras.layers.Dense(2)])
        tfembloss.export_encoder(tfembloss.CrossEncoder(unbuilt), tmp_path / "x")
    model.fit((["a", "b"], ["c", "d"]), [0.0, 1.0], verbose=0)
    tfembloss.export_encoder(model, tmp_path / "model")
    serve = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    first, second = tf.constant(["a b", "c", ""]), tf.constant(["d", "", "e"])
    score = serve(first=first, second=second)["score"]
    assert score.shape == (3,)
    np.testing.assert_allclose(
        score, model.predict((first.numpy().tolist(), second.numpy().tolist()), verbose=0)
    )
    assert serve(first=first[:0], second=second[:0])["score"].shape == (0,)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="equal numbers of rows of first"
    ):
        serve(first=first, second=second[:2])
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected second: string of"):
        serve(first=first, second=second[0])
    with pytest.raises(ValueError, match="gives scores"):
        tfembloss.export_encoder(model, tmp_path / "model", dimensions=2)


def small_encoder(shape=(3,), **options):
    layers = [keras.layers.Flatten(), keras.layers.Dense(2)]
    return keras.Sequential([keras.Input(shape, name="x", **options), *layers])


def exported(model, path, **options):
    tfembloss.export_encoder(model, path, normalize=False, **options)
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]
    signature.loaded = loaded  # which owns its tables
    return signature


def test_numbers_of_another_shape_are_answered_with_an_error(tmp_path):
    serve = exported(small_encoder(), tmp_path / "encoder")
    for x in (1.0, [1.0] * 3, [[1.0] * 4], [[[1.0] * 3]], np.ones([3, 0])):
        x = tf.constant(x, tf.float32)
        for call in (lambda x: serve(x=x), serve, serve.loaded.serving_default):
            with pytest.raises(
                tf.errors.InvalidArgumentError, match=r"float32 of shape \[rows, 3\]"
            ):
                call(x)
    assert serve(x=tf.ones([0, 3]))["embedding"].shape == (0, 2)
    a, b = keras.Input([2], name="a"), keras.Input([2], name="b")
    serve = exported(keras.Model([a, b], a + b), tmp_path / "two")
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="equal numbers of rows of a, b"
    ):
        serve(a=tf.ones([2, 2]), b=tf.ones([1, 2]))


def test_a_preprocessor_with_a_table(tmp_path):
    class Lookup(tf.Module):
        def __init__(self):
            super().__init__()
            rows = tf.lookup.KeyValueTensorInitializer(["a", "b"], [1.0, 2.0])
            self.table = tf.lookup.StaticHashTable(rows, default_value=0.0)

        def __call__(self, texts):
            return self.table.lookup(texts)[:, None]

    encoder = keras.Sequential([keras.Input([1]), keras.layers.Dense(2)])
    model = tfembloss.EmbeddingModel(encoder, Lookup())
    tfembloss.export_encoder(model, tmp_path / "encoder", normalize=False)
    np.testing.assert_allclose(
        serve_here(tmp_path / "encoder"), model.predict(["a b", "c"], verbose=0)
    )


def test_an_encoder_of_unknown_input_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"keras\.Input"):
        tfembloss.export_encoder(
            tfembloss.EmbeddingModel(keras.layers.Dense(2)), tmp_path / "encoder"
        )


# Preprocessors.

IMAGES = np.random.default_rng(0).integers(0, 256, [3, 5, 6, 1]).astype("uint8")


def compiled_model(encoder, preprocessor):
    model = tfembloss.EmbeddingModel(encoder, preprocessor)
    model.compile("sgd", "mse")
    return model


def resize(x, training=False):
    x = tf.image.resize(tf.cast(x, tf.float32), [4, 4])
    return x + tf.random.uniform([]) if training else x


def decode_and_flip(files):
    spec = tf.TensorSpec([4, 4, 1], tf.float32)
    images = tf.map_fn(lambda f: resize(tf.io.decode_png(f, 1)), files, spec.dtype,
                       fn_output_signature=spec)  # fmt: skip
    return FLIP(images)


FLIP = keras.layers.RandomFlip("horizontal")


@pytest.mark.parametrize(
    ("preprocessor", "shape"),
    [
        (lambda x: resize(x), [None, None, None, 1]),
        (functools.partial(resize), [None, None, None, 1]),
        (keras.layers.Resizing(4, 4), [None, None, None, 1]),
        (keras.Sequential([keras.layers.Resizing(4, 4), FLIP]), [None, 5, 6, 1]),
        (keras.Sequential([keras.Input([5, 6, 1]), keras.layers.Resizing(4, 4)]),
         [None, 5, 6, 1]),
    ],
)  # fmt: skip
def test_preprocessors_of_images(tmp_path, preprocessor, shape):
    model = compiled_model(small_encoder([4, 4, 1]), preprocessor)
    expected = model.predict(IMAGES, verbose=0)
    serve = exported(model, tmp_path / "encoder")
    spec = serve.structured_input_signature[1]["x"]
    assert (spec.shape.as_list(), spec.dtype) == (shape, tf.float32)
    for _ in range(2):
        result = serve(x=tf.cast(IMAGES, tf.float32))["embedding"]
        np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_a_preprocessor_of_files_does_not_flip_where_it_serves(tmp_path):
    serve = exported(
        compiled_model(small_encoder([4, 4, 1]), decode_and_flip), tmp_path / "encoder"
    )
    files = tf.stack([tf.io.encode_png(image) for image in IMAGES])
    first = serve(text=files)["embedding"]
    np.testing.assert_array_equal(serve(text=files)["embedding"], first)


def test_a_preprocessor_of_unknown_input_needs_a_signature(tmp_path):
    def scaled(x):  # bytes, and floats as they are
        return tf.image.resize(tf.image.convert_image_dtype(x, tf.float32), [4, 4])

    def gray(x):
        return tf.image.rgb_to_grayscale(tf.image.resize(x, [4, 4]))

    for preprocessor in (scaled, gray):
        model = compiled_model(small_encoder([4, 4, 1]), preprocessor)
        with pytest.raises(ValueError, match=r"Otherwise pass input_signature="):
            tfembloss.export_encoder(model, tmp_path / "encoder")
    model = compiled_model(small_encoder([4, 4, 1]), scaled)
    spec = tf.TensorSpec([None, None, None, 1], tf.uint8, name="image")
    serve = exported(model, tmp_path / "encoder", input_signature=spec)
    np.testing.assert_allclose(
        serve(image=tf.constant(IMAGES))["embedding"],
        model.predict(IMAGES, verbose=0),
        rtol=1e-5,
    )
    with pytest.raises(ValueError, match="Expected an `input_signature` that the model"):
        exported(
            model, tmp_path / "encoder", input_signature=tf.TensorSpec([None], tf.string)
        )


def lookup_table():
    rows = tf.lookup.KeyValueTensorInitializer(["a", "b"], [1.0, 2.0])
    return tf.lookup.StaticHashTable(rows, default_value=0.0)


class Holder:
    def __init__(self):
        self.parts = {"tables": [lookup_table()]}

    def __call__(self, texts):
        return self.parts["tables"][0].lookup(texts)[:, None]


def closure():
    table, factor = lookup_table(), tf.Variable(3.0)
    return lambda texts: table.lookup(texts)[:, None] * factor


def branches(texts):
    if tf.shape(texts)[0] > 1:  # by AutoGraph
        return tf.cast(tf.strings.length(texts), tf.float32)[:, None]
    return tf.zeros([tf.shape(texts)[0], 1])


@pytest.mark.parametrize(
    "preprocessor",
    [
        Holder(),
        closure(),
        functools.partial(lambda t, table: table.lookup(t)[:, None], table=lookup_table()),
        branches,
    ],
    ids=["attribute", "closure", "partial", "branches"],
)
def test_what_a_preprocessor_reaches_is_exported(tmp_path, preprocessor):
    model = compiled_model(small_encoder([1]), preprocessor)
    serve = exported(model, tmp_path / "encoder")
    np.testing.assert_allclose(
        serve(text=tf.constant(["a", "bcd"]))["embedding"],
        model.predict(["a", "bcd"], verbose=0),
    )


def test_python_code_in_a_preprocessor_is_refused(tmp_path):
    def lengths(texts):
        of_python = tf.py_function(tf.strings.length, [texts], tf.int32)
        return tf.reshape(tf.cast(of_python, tf.float32), [-1, 1])

    with pytest.raises(ValueError, match="does not store Python code"):
        tfembloss.export_encoder(
            compiled_model(small_encoder([1]), lengths), tmp_path / "encoder"
        )
    assert list(tmp_path.iterdir()) == []


# Models.


def test_models_that_give_no_embeddings_are_refused(tmp_path):
    x = keras.Input([3], name="x")
    two, tokens = keras.Model(x, [x, x]), keras.Input([4, 3], name="x")
    unbuilt = tfembloss.EmbeddingModel(keras.Sequential([keras.layers.Dense(2)]))
    pair = tfembloss.DualEncoder({"image": small_encoder(), "text": small_encoder()})
    for model, message in (
        (two, "one tensor"),
        (keras.Model(tokens, tokens), r"\(None, 4, 3\)"),
        (unbuilt, "not built"),
        (pair, r'towers\["image"\], path\) and .*towers\["text"\]'),
        (lambda x: x, "Keras model"),
        (small_encoder(sparse=True), "dense"),
    ):
        with pytest.raises(ValueError, match=message):
            tfembloss.export_encoder(model, tmp_path / "encoder")
    for dimensions in (0, 3, True, 1.0, "1"):
        with pytest.raises(ValueError, match="from 1 to 2"):
            tfembloss.export_encoder(
                small_encoder(), tmp_path / "encoder", dimensions=dimensions
            )


def test_a_subclass_is_exported_with_its_own_call(tmp_path):
    class Scaled(tfembloss.EmbeddingModel):
        def call(self, x, training=None):
            return 3 * super().call(x, training=training)

    encoder = small_encoder()
    serve = exported(Scaled(encoder), tmp_path / "encoder")
    x = tf.random.uniform([2, 3])
    np.testing.assert_allclose(serve(x=x)["embedding"], 3 * encoder(x), rtol=1e-6)


def test_inputs_have_the_names_of_a_dict_and_names_that_can_be_called(tmp_path):
    a, b = keras.Input([2], name="ids"), keras.Input([2], name="a mask")
    encoder = keras.Model({"ids": a, "a mask": b}, a - b)
    serve = exported(encoder, tmp_path / "encoder")
    result = serve(ids=tf.ones([1, 2]), a_mask=tf.zeros([1, 2]))["embedding"]
    np.testing.assert_array_equal(result, [[1, 1]])
