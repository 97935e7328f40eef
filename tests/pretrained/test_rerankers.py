"""Cross-encoders of checkpoint folders: scores equal to sentence-transformers'."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from checkpoints import unpack
from pretrained import TEXTS
from rerankers import PAIRS

import tfembloss
from tfembloss.pretrained.rerankers import HEADS

REASON = 'pip install ".[hub]"'
safetensors = pytest.importorskip("safetensors.numpy", reason=f"no safetensors: {REASON}")
pytest.importorskip("sentencepiece", reason=f"no sentencepiece: {REASON}")

FOLDERS = (
    "albert", "bert", "camembert", "deberta-v3", "distilbert", "electra", "mpnet",
    "roberta", "xlm-roberta",
)  # fmt: skip
COLUMNS = tuple(map(list, zip(*PAIRS, strict=True)))
LABELS = np.arange(8) % 2


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """The folder of all cross-encoders, and the peer's arrays by name."""
    folder = unpack(tmp_path_factory.mktemp("rerankers"), archive="rerankers")
    return folder, dict(np.load(folder / "scores.npz"))


def load(folder, **options):
    keras.utils.set_random_seed(0)
    return tfembloss.CrossEncoder.from_pretrained(folder, **options)


def score(model):
    return model.predict(COLUMNS, batch_size=5, verbose=0)


def train(model, epochs=2):
    model.compile(
        keras.optimizers.Adam(1e-3), keras.losses.BinaryCrossentropy(from_logits=True)
    )
    pairs = tuple(column[:8] for column in COLUMNS)
    return model.fit(pairs, LABELS, epochs=epochs, shuffle=False, verbose=0)


def test_each_head_is_tried():
    kinds = {"deberta-v2" if x == "deberta-v3" else x for x in FOLDERS}
    assert kinds == set(HEADS)


@pytest.mark.parametrize("name", FOLDERS)
def test_tokens_and_scores_are_the_peers(golden, name):
    folder, expected = golden
    # Its tokenizer takes apart Korean syllables, and SentencePiece joins them again.
    korean = name == "albert"
    rows = [i for i, pair in enumerate(PAIRS) if not (korean and "한국어" in str(pair))]
    model = load(folder / name)
    found = model.preprocessor(*COLUMNS)
    tokens = np.where(found["padding_mask"], found["token_ids"], -1)
    np.testing.assert_array_equal(tokens[rows], expected[f"{name}/tokens"][rows])
    np.testing.assert_allclose(
        score(model)[rows], expected[f"{name}/scores"][rows], atol=1e-5
    )


@pytest.mark.parametrize("name", ("albert", "distilbert", "deberta-v3", "roberta"))
def test_trained_it_is_the_same_in_every_form(golden, name, tmp_path):
    model = load(golden[0] / name, dropout=0.0)
    before = score(model)
    losses = train(model).history["loss"]
    assert losses[-1] < losses[0]
    expected = score(model)
    assert np.abs(expected - before).max() > 1e-3

    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(score(again), expected, atol=1e-5)

    model.save_pretrained(tmp_path / "folder")
    again = load(tmp_path / "folder")
    np.testing.assert_allclose(score(again), expected, atol=1e-5)

    tfembloss.export_encoder(model, tmp_path / "export")
    serve = tf.saved_model.load(tmp_path / "export").signatures["serving_default"]
    names = sorted(serve.structured_input_signature[1])
    columns = dict(zip(names, map(tf.constant, COLUMNS), strict=True))
    (found,) = serve(**columns).values()
    np.testing.assert_allclose(np.ravel(found), expected, atol=1e-5)


@pytest.mark.parametrize("name", ("bert", "roberta", "deberta-v3"))
def test_a_saved_folder_has_the_names_of_the_peers(golden, name, tmp_path):
    load(golden[0] / name).save_pretrained(tmp_path)
    ours, theirs = (
        safetensors.load_file(folder / "model.safetensors")
        for folder in (tmp_path, golden[0] / name)
    )
    assert set(theirs) - set(ours) <= {"deberta.embeddings.position_embeddings.weight"}
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name])


def test_an_encoder_gets_a_new_score(golden, tmp_path, capsys):
    unpack(tmp_path, "bert")
    model = load(tmp_path / "bert")
    assert "New: classifier" in capsys.readouterr().out
    assert score(model).shape == (len(PAIRS),)
    load(golden[0] / "bert")
    assert "New" not in capsys.readouterr().out


def test_token_types_are_of_the_second_text(golden):
    found = load(golden[0] / "bert").preprocessor(["free", ""], ["born free", "free"])
    sizes = found["padding_mask"].numpy().sum(axis=1)
    for types, size in zip(found["token_types"].numpy(), sizes, strict=True):
        second = types.argmax()
        assert types[:second].sum() == 0 and types[second:size].all()
        assert types[size:].sum() == 0


@pytest.mark.parametrize("padding", ("buckets", "longest", "max_length"))
def test_padding_changes_no_score(golden, padding):
    model = load(golden[0] / "bert")
    expected = score(model)
    settings = model.preprocessor.get_config() | {"padding": padding}
    model.preprocessor = type(model.preprocessor).from_config(settings)
    np.testing.assert_allclose(score(model), expected, atol=1e-5)


@pytest.mark.parametrize("how", ("eager", "graph", "xla"))
def test_it_trains_in_each_mode(golden, how):
    model = load(golden[0] / "bert", dropout=0.0)
    expected = train(model).history["loss"]
    model = load(golden[0] / "bert", dropout=0.0)
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.BinaryCrossentropy(from_logits=True),
        run_eagerly=how == "eager",
        jit_compile=how == "xla",
    )
    pairs = tuple(column[:8] for column in COLUMNS)
    found = model.fit(pairs, LABELS, epochs=2, shuffle=False, verbose=0).history["loss"]
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_what_is_no_cross_encoder_is_refused(golden, tmp_path):
    folder = tmp_path / "bert"
    with pytest.raises(ValueError, match=r"CrossEncoder\.from_pretrained"):
        tfembloss.EmbeddingModel.from_pretrained(golden[0] / "bert")
    with pytest.raises(ValueError, match="qwen3, which is not supported as a cross-enc"):
        load(unpack(tmp_path, "qwen3") / "qwen3")
    with pytest.raises(ValueError, match="Expected sequence_length >= 5"):
        load(golden[0] / "bert", sequence_length=4)
    with pytest.raises(ValueError, match="no more position embeddings"):
        load(golden[0] / "bert", sequence_length=65)
    with pytest.raises(ValueError, match="keras-hub"):
        load("bert_tiny_en_uncased")
    shutil.copytree(golden[0] / "bert", folder)
    weights = safetensors.load_file(folder / "model.safetensors")
    del weights["bert.pooler.dense.weight"]
    safetensors.save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"without \['pooler.dense.weight'\]"):
        load(folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "tanh"}))
    with pytest.raises(ValueError, match="Expected hidden_act to be gelu"):
        load(folder)


def test_several_labels(golden, tmp_path, capsys):
    folder, rng = tmp_path / "bert", np.random.default_rng(0)
    shutil.copytree(golden[0] / "bert", folder)
    weights = safetensors.load_file(folder / "model.safetensors")
    two = {
        "classifier.weight": rng.normal(size=[2, 16]).astype("float32"),
        "classifier.bias": np.array([1, 2], "float32"),
    }
    safetensors.save_file(weights | two, folder / "model.safetensors")
    model = load(folder)
    assert model.num_labels == 2
    np.testing.assert_array_equal(model.score.kernel, two["classifier.weight"].T)
    model.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    for one, other in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert capsys.readouterr().out == ""
    assert load(folder, num_labels=3).score.kernel.shape == (16, 3)
    assert "New: classifier" in capsys.readouterr().out


def test_types_are_given_where_the_tokenizer_gives_them(golden, tmp_path):
    folder = tmp_path / "bert"
    shutil.copytree(golden[0] / "bert", folder)
    path = folder / "tokenizer_config.json"
    names = {"model_input_names": ["input_ids", "attention_mask"]}
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | names), "utf-8")
    assert "token_types" not in load(folder).preprocessor(["a"], ["b"])
    assert "token_types" in load(golden[0] / "bert").preprocessor(["a"], ["b"])


def test_parts_of_an_embedding_model_are_refused(golden, tmp_path):
    unpack(tmp_path, "bert")
    encoder, tokenizer = tfembloss.pretrained.load(tmp_path / "bert")
    with pytest.raises(ValueError, match="Received a CheckpointTokenizer, of one text"):
        tfembloss.CrossEncoder(encoder, tokenizer)
    pairs = load(golden[0] / "bert").preprocessor
    model = tfembloss.CrossEncoder(encoder, pairs)
    with pytest.raises(ValueError, match=r"that CrossEncoder\.from_pretrained created"):
        model.save_pretrained(tmp_path / "new")


def test_columns_of_other_lengths_are_refused(golden):
    tokenize = load(golden[0] / "bert").preprocessor
    with pytest.raises(ValueError, match="equal numbers of first and second texts"):
        tokenize(TEXTS, TEXTS[:2])
