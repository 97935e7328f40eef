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
texts = [bytes.fromhex(text) for text in json.loads(sys.argv[2])]
embedding = model.signatures["serving_default"](text=tf.constant(texts))["embedding"]
print(json.dumps(embedding.numpy().tolist()))
"""


def text_model(num_layers=0):
    encoder = tfembloss.text.TextEncoder(18, dim=6, num_layers=num_layers, num_heads=2)
    return tfembloss.EmbeddingModel(
        encoder, tfembloss.text.TextPreprocessor(VOCABULARY, 5, "longest")
    )


def serve(path, texts):
    command = [
        sys.executable,
        "-c",
        SERVE,
        path,
        json.dumps([text.hex() for text in texts]),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return np.array(json.loads(done.stdout.strip().split("\n")[-1]))


@pytest.mark.parametrize("normalize", [True, False])
def test_serves_what_predict_gives_in_a_process_of_its_own(tmp_path, normalize):
    model, path = text_model(num_layers=1), str(tmp_path / "encoder")
    texts = [text[:200] for text in TEXTS]  # an argument of a process has its limits
    tfembloss.export_encoder(model, path, normalize=normalize)
    expected = model.predict(texts, verbose=0)
    if normalize:
        lengths = np.linalg.norm(expected, axis=1, keepdims=True)
        expected = expected / np.where(lengths == 0, 1, lengths)
    np.testing.assert_allclose(serve(path, texts), expected, atol=1e-6)


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


def test_wrong_targets_are_refused(tmp_path):
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("mine")
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    for path in (file, folder):
        with pytest.raises(ValueError, match="something else"):
            tfembloss.export_encoder(text_model(), path)
    assert file.read_text() == (folder / "mine.txt").read_text() == "mine"


def test_a_remote_path_is_refused(tmp_path):
    with pytest.raises(ValueError, match="local folder"):
        tfembloss.export_encoder(text_model(), "gs://bucket/encoder")


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
