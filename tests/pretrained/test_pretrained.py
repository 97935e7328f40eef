"""Checkpoint folders in and out: embeddings equal to sentence-transformers'."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from pretrained import TEXTS

import tfembloss
from tfembloss.pretrained.bert import HEADS

REASON = 'pip install ".[hub]"'
safetensors = pytest.importorskip("safetensors.numpy", reason=f"no safetensors: {REASON}")
pytest.importorskip("sentencepiece", reason=f"no sentencepiece: {REASON}")

FOLDERS = (
    "albert",
    "bert",
    "bert-cased-cls",
    "camembert",
    "deberta-v3",
    "distilbert",
    "electra",
    "gemma3",
    "gemma3-causal",
    "mpnet",
    "qwen3",
    "roberta",
    "xlm-roberta",
)
# Its tokenizer takes apart Korean syllables, and SentencePiece puts them together again.
KOREAN = {"albert": [i for i, text in enumerate(TEXTS) if "한국어" in text]}


def load(folder, **options):
    return tfembloss.EmbeddingModel.from_pretrained(folder, **options)


@pytest.mark.parametrize("name", FOLDERS)
def test_tokens_and_embeddings_are_the_peers(golden, name):
    folder, expected = golden
    rows = [i for i in range(len(TEXTS)) if i not in KOREAN.get(name, ())]
    model = load(folder / name)
    keras.utils.set_random_seed(0)  # which empties caches of TensorFlow
    without_prompt = model.preprocessor.get_config() | {"default_prompt": None}
    found = tfembloss.text.CheckpointTokenizer.from_config(without_prompt)(TEXTS)
    tokens = np.where(found["padding_mask"], found["token_ids"], -1)
    peers = expected[f"{name}/tokens"]
    np.testing.assert_array_equal(tokens[rows, : peers.shape[1]], peers[rows])
    assert (tokens[rows, peers.shape[1] :] == -1).all()
    for prompt in (None, "query", "document"):
        embeddings = model.predict(TEXTS, batch_size=5, verbose=0, prompt=prompt)
        np.testing.assert_allclose(
            embeddings[rows], expected[f"{name}/{prompt or ''}"][rows], atol=1e-5
        )


@pytest.mark.parametrize(
    "name, text, same",
    [
        ("albert", "मनुष्यों को", "मनषय क"),  # without all marks, those with width too
        ("bert-cased-cls", "free\ufffe", "free\ufff0"),  # no zero byte, which is cleaned
        ("camembert", "libre\x85et", "libre et"),
        ("xlm-roberta", "free\x85and", "free and"),
    ],
)
def test_rare_characters_are_as_the_peers_have_them(golden, name, text, same):
    tokenizer = load(golden[0] / name).preprocessor
    first, second = tokenizer([text, same])["token_ids"].numpy()
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, tokenizer(["free"])["token_ids"][0])


@pytest.mark.parametrize("name", FOLDERS)
def test_saved_weights_have_the_names_of_the_checkpoint(golden, tmp_path, name):
    load(golden[0] / name).save_pretrained(tmp_path / name)
    before, after = (
        safetensors.load_file(folder / name / "model.safetensors")
        for folder in (golden[0], tmp_path)
    )
    assert all(x.startswith(HEADS) for x in before.keys() - after.keys())
    for x, values in after.items():
        np.testing.assert_array_equal(values, before[x])


@pytest.mark.parametrize("name", ["bert", "bert-cased-cls"])
def test_a_vocabulary_without_a_tokenizer_is_enough(golden, tmp_path, name):
    folder = shutil.copytree(golden[0] / name, tmp_path / name)
    ids = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    entries = "".join(f"{entry}\n" for entry in sorted(ids, key=ids.get))
    (folder / "vocab.txt").write_text(entries, "utf-8")
    (folder / "tokenizer.json").unlink()
    found = load(folder).preprocessor(TEXTS)
    tokens = np.where(found["padding_mask"], found["token_ids"], -1)
    np.testing.assert_array_equal(tokens, golden[1][f"{name}/tokens"])


@pytest.mark.parametrize("name", ["albert", "deberta-v3", "distilbert", "gemma3", "mpnet"])
def test_fine_tuned_it_is_the_same_in_every_form(golden, name, tmp_path):
    model = load(golden[0] / name, dimensions=6)
    before = model.predict(TEXTS, verbose=0)
    model.compile("adam", loss=tfembloss.losses.MultipleNegativesRankingLoss())
    model.fit((TEXTS[:4], TEXTS[4:8]), verbose=0)
    after = model.predict(TEXTS, verbose=0)
    assert after.shape == (len(TEXTS), 6) and np.abs(after - before).max() > 1e-3

    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(TEXTS, verbose=0), after, atol=1e-6)

    model.save_pretrained(tmp_path / "folder")
    model.save_pretrained(tmp_path / "folder")  # replaces it
    again = load(tmp_path / "folder").predict(TEXTS, verbose=0)
    np.testing.assert_allclose(again, after, atol=1e-6)

    tfembloss.export_encoder(model, tmp_path / "export", normalize=False)
    serve = tf.saved_model.load(tmp_path / "export").signatures["serving_default"]
    served = serve(text=tf.constant(TEXTS))["embedding"]
    np.testing.assert_allclose(served, after, atol=1e-5)


def test_prompts_of_columns(golden):
    prompts = {"document": "passage: ", "query": "query: "}
    model = load(golden[0] / "bert", prompts=prompts)
    columns = model.encoder_inputs((tf.constant(["free"]), tf.constant(["free"])))
    for column, text in zip(columns, ("query: free", "passage: free"), strict=True):
        with_prompt = model.preprocessor([text])["token_ids"]
        np.testing.assert_array_equal(column["token_ids"], with_prompt)
    np.testing.assert_array_equal(
        model.predict(["free"], prompt="query", verbose=0),
        model.predict(["query: free"], verbose=0),
    )
    with pytest.raises(ValueError, match=r"of \['document', 'query'\]. Received"):
        model.predict(["free"], prompt="passage", verbose=0)


def test_lengths_come_from_buckets(golden):
    tokenize = load(golden[0] / "bert").preprocessor
    texts = [["free " * n] for n in range(60)]
    assert {tokenize(x, xla=True)["token_ids"].shape[1] for x in texts} == {16, 32, 48}


def test_what_lora_has_added_is_saved(golden, tmp_path):
    model = load(golden[0] / "bert")
    dense = model.encoder.get_layer("block_0").query
    dense.enable_lora(rank=2)
    dense.lora_kernel_b.assign(np.ones(dense.lora_kernel_b.shape))
    merged = model.predict(TEXTS, verbose=0)
    model.save_pretrained(tmp_path / "folder")
    again = load(tmp_path / "folder").predict(TEXTS, verbose=0)
    np.testing.assert_allclose(again, merged, atol=1e-5)
    assert np.abs(load(golden[0] / "bert").predict(TEXTS, verbose=0) - merged).max() > 1e-3


def test_texts_of_other_lengths_and_kinds_come_back_in_their_order(golden):
    model = load(golden[0] / "bert")
    texts = ["free", b"free and equal", "born " * 30, ""]
    alone = [model.predict([text], verbose=0)[0] for text in texts]
    for given in (texts, np.array(texts, object)):
        np.testing.assert_allclose(
            model.predict(given, batch_size=2, verbose=0), alone, atol=1e-5
        )
    assert model.predict(texts, batch_size=2, steps=1, verbose=0).shape[0] == 2


def change(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def remove(name):
    return lambda folder: (folder / name).unlink()


def reshape(folder):
    weights = safetensors.load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"] = np.ones([2, 3], "float32")
    safetensors.save_file(weights, folder / "model.safetensors")


def lose(folder):
    weights = safetensors.load_file(folder / "model.safetensors")
    del weights["encoder.layer.0.output.dense.bias"]
    assert any(name.startswith(HEADS) for name in weights)  # which need not be there
    safetensors.save_file(weights, folder / "model.safetensors")


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    "damage, message",
    [
        (remove("config.json"), "config.json that names its model_type"),
        (remove("model.safetensors"), "weights in model.safetensors"),
        (remove("tokenizer.json"), "a tokenizer.json, or the vocab.txt"),
        (lambda f: (f / "config.json").write_text("{"), "Expected a JSON file"),
        (lambda f: change(f, "config.json", model_type="t5"), "a t5, which is not"),
        (lambda f: change(f, "config.json", hidden_act="mish"), "hidden_act='mish'"),
        (lambda f: change(f, "config.json", num_hidden_layers=3), "without .*layer.2"),
        (lambda f: change(f, "config.json", num_hidden_layers=1), "with .*layer.1"),
        (lambda f: change(f, "1_Pooling/config.json", pooling_mode="sum"), "'sum'"),
        (truncate, "complete safetensors file"),
        (reshape, r"word_embeddings.weight of shape \(\d+, 16\)"),
        (lose, r"without \['encoder.layer.0.output.dense.bias'\]"),
    ],
)
def test_damaged_folders_are_refused(golden, tmp_path, damage, message):
    shutil.copytree(golden[0] / "bert", tmp_path / "bert")
    damage(tmp_path / "bert")
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "bert")


def test_what_cannot_be_saved_is_refused(golden, tmp_path):
    model = load(golden[0] / "bert")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        model.save_pretrained(tmp_path)
    other = tfembloss.EmbeddingModel(keras.Sequential([keras.layers.Dense(2)]))
    with pytest.raises(ValueError, match="that from_pretrained created"):
        other.save_pretrained(tmp_path / "new")
