"""Prompts, lengths and model cards of pretrained encoders in the rest of the package."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from replica_runs import Run

import tfembloss
from tfembloss.export.encoder import prompts_of_signatures
from tfembloss.export.files import FORMATS

pytest.importorskip("safetensors", reason='no safetensors: pip install ".[hub]"')

TEXTS = ["free", "born free and equal", "in dignity and rights", "reason and conscience"]
PROMPTS = {"query": "free: ", "document": "equal: "}


@pytest.fixture(scope="module")
def folder(golden):
    return golden[0] / "bert"


def load(folder, **options):
    return tfembloss.EmbeddingModel.from_pretrained(folder, **options)


def test_each_prompt_is_a_signature(folder, tmp_path):
    model = load(folder, prompts=PROMPTS)
    tfembloss.export_encoder(model, tmp_path / "export", normalize=False)
    signatures = tf.saved_model.load(str(tmp_path / "export")).signatures
    served = {x: of(text=tf.constant(TEXTS))["embedding"] for x, of in signatures.items()}
    assert set(served) == {"serving_default", "query", "document"}
    for name in PROMPTS:
        expected = model.predict(TEXTS, prompt=name, verbose=0)
        np.testing.assert_allclose(served[name], expected, atol=1e-5)
    np.testing.assert_array_equal(served["serving_default"], served["document"])
    assert np.abs(served["query"] - served["document"]).max() > 1e-3


def test_the_default_prompt_is_served_by_default(folder):
    model = load(folder, prompts=PROMPTS)
    model.preprocessor.default_prompt = "query"
    names = {"serving_default": "query", "query": "query", "document": "document"}
    assert prompts_of_signatures(model) == names
    assert prompts_of_signatures(load(folder, prompts={})) == {"serving_default": None}


def test_mining_puts_prompts_before_queries_and_documents(folder):
    model = load(folder, prompts=PROMPTS)
    given = []

    class Recording(tfembloss.EmbeddingModel):
        def predict(self, x, batch_size=None, *, prompt=None, **kwargs):
            given.append((list(x), prompt))
            return super().predict(x, batch_size, prompt=prompt, **kwargs)

    recording = Recording(model.encoder, model.preprocessor)
    mined = tfembloss.synthesis.mine_hard_negatives(
        TEXTS[:2], TEXTS, TEXTS[1:3], recording, num_negatives=1, verbose=0
    )
    assert (TEXTS[:2], "query") in given and (TEXTS, "document") in given
    query, document = (
        keras.utils.normalize(model.predict(TEXTS, prompt=x, verbose=0)) for x in PROMPTS
    )
    cosines = query @ document.T
    np.testing.assert_allclose(mined.scores[0][0], cosines[0, 1], atol=1e-5)
    given.clear()
    tfembloss.synthesis.find_duplicates(TEXTS, recording, verbose=0)
    assert [prompt for _, prompt in given] == [None]


def lengths(model, texts):
    return [model.encoder_inputs(tf.constant(x))["token_ids"].shape[1] for x in texts]


def test_lengths_are_the_longest_texts_or_buckets_for_xla(folder):
    texts = [["[SEP] " * n] for n in (1, 20, 40)]
    model = load(folder)
    assert lengths(model, texts) == [3, 22, 42]
    model.compile("sgd", jit_compile=True)
    assert lengths(model, texts) == [16, 32, 48]  # the last is the checkpoint's own
    towers = {name: load(folder) for name in "ab"}
    dual = tfembloss.DualEncoder(towers)
    for jit_compile, expected in ((False, 22), (True, 32)):
        dual.compile("sgd", tfembloss.losses.CLIPLoss(), jit_compile=jit_compile)
        column, _ = dual.encoder_inputs((tf.constant(texts[1]),) * 2)
        assert column["token_ids"].shape[1] == expected


def test_padding_does_not_change_embeddings_and_steps(folder):
    found = {}
    for padding in ("longest", "buckets", "max_length"):
        model = load(folder, dropout=0.0)
        model.preprocessor.padding = padding
        model.compile("sgd", tfembloss.losses.MultipleNegativesRankingLoss())
        model.fit((TEXTS[:2], TEXTS[2:]), verbose=0)
        found[padding] = model.predict(TEXTS, verbose=0)
    for padding in ("buckets", "max_length"):
        np.testing.assert_allclose(found[padding], found["longest"], atol=1e-5)


@pytest.mark.parametrize("how", [{"run_eagerly": True}, {"jit_compile": True}])
def test_eagerly_in_a_graph_and_with_xla_it_trains_alike(folder, how):
    found = []
    for options in ({}, how):
        model = load(folder, dropout=0.0)
        loss = tfembloss.losses.MultipleNegativesRankingLoss()
        model.compile(keras.optimizers.SGD(0.01), loss, **options)
        history = model.fit((TEXTS[:2], TEXTS[2:]), epochs=2, verbose=0)
        found.append([*history.history["loss"], *model.predict(TEXTS, verbose=0).ravel()])
    np.testing.assert_allclose(found[1], found[0], atol=2e-5)


def test_the_card_says_how_it_was_trained(folder, tmp_path):
    model = load(folder, prompts=PROMPTS)
    path = tmp_path / "folder"
    model.save_pretrained(path)
    card = (path / "README.md").read_text()
    assert "## Training" not in card and "Last evaluation" not in card
    assert '| query | `"free: "` |' in card

    evaluator = tfembloss.evaluation.RetrievalEvaluator(TEXTS[:2], TEXTS, [1, 3])
    model.compile("sgd", tfembloss.losses.MultipleNegativesRankingLoss(scale=30.0))
    model.fit((TEXTS[:2], TEXTS[2:]), callbacks=[evaluator], verbose=0)
    model.predict(TEXTS, verbose=0)
    model.save_pretrained(path)
    card = (path / "README.md").read_text()
    assert "`MultipleNegativesRankingLoss(scale=30.0, " in card
    assert ", on 2 columns of texts." in card and "| val_mrr@10 | " in card
    model.save_pretrained(path, metrics={"accuracy": np.float32(0.75)})
    assert "| accuracy | 0.75 |" in (path / "README.md").read_text()
    with pytest.raises(ValueError, match=r"dict of names to numbers.*'good'"):
        model.save_pretrained(path, metrics={"accuracy": "good"})


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def as_arrays(model):
    return {name: x.numpy() for name, x in model.preprocessor(TEXTS).items()}


def test_a_litert_file_computes_the_same(folder, tmp_path):
    model, path = load(folder), tmp_path / "folder" / "encoder.tflite"
    tfembloss.export_encoder(model, path, dimensions=8, format="litert")
    runner = tf.lite.Interpreter(str(path)).get_signature_runner()
    (found,) = runner(**as_arrays(model)).values()
    expected = unit(model.predict(TEXTS, verbose=0)[:, :8])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(ValueError, match="input_signature=None for format='litert'"):
        spec = tf.TensorSpec([None], tf.string)
        tfembloss.export_encoder(model, path, input_signature=spec, format="litert")
    with pytest.raises(ValueError, match=r"format.*Received: .*'pickle'"):
        tfembloss.export_encoder(model, path, format="pickle")


def test_an_onnx_file_computes_the_same(folder, tmp_path):
    for package in ("tf2onnx", "onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"no {package}: pip install {package}")
    import onnxruntime

    model, path = load(folder), tmp_path / "encoder.onnx"
    tfembloss.export_encoder(model, path, normalize=False, format="onnx")
    (found,) = onnxruntime.InferenceSession(str(path)).run(None, as_arrays(model))
    expected = model.predict(TEXTS, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_without_its_packages_onnx_says_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "onnx", ["no_such_package"])
    with pytest.raises(ValueError, match="pip install no_such_package"):
        tfembloss.export_encoder(load(folder), tmp_path / "x.onnx", format="onnx")


def test_int8_stays_close_and_is_saved(folder, tmp_path):
    model = load(folder)
    before = unit(model.predict(TEXTS, verbose=0))
    model.encoder.quantize("int8")
    model = tfembloss.EmbeddingModel(model.encoder, model.preprocessor)
    after = model.predict(TEXTS, verbose=0)
    assert (before * unit(after)).sum(axis=1).min() > 0.99
    assert "int8" in {variable.dtype for variable in model.encoder.weights}
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(TEXTS, verbose=0), after, atol=1e-6)
    with pytest.raises(ValueError, match=r"not quantized.*int8.*before quantize"):
        model.save_pretrained(tmp_path / "folder")


def test_several_replicas_train_as_one(tmp_path):
    runs = [
        Run(tmp_path / str(n), n, *how, "--models", "pretrained")
        for n, how in ((1, ["--eager"]), (2, ["--no-xla"]), (4, ["--eager"]))
    ]
    one, *others = (run.finish() for run in runs)
    assert one
    for several in others:
        for name, value in several.items():
            np.testing.assert_allclose(value, one[name], rtol=1e-5, atol=1e-6)
