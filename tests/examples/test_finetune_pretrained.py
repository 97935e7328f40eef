import json
import math

import finetune_pretrained
import keras
import numpy as np
import pytest
import tensorflow as tf
from finetune_pretrained import (
    BertPreprocessor,
    load_encoder,
    read_settings,
    read_vocabulary,
)

import tfembloss

REASON = 'pip install ".[hub]"'
pytest.importorskip("keras_hub", reason=f"keras-hub is missing: {REASON}")
pytest.importorskip("safetensors", reason=f"safetensors is missing: {REASON}")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    "cafe",
    "Café",
    "str",
    "##aße",
    "zero",
    "##width",
    "中",
    "文",
    ".",
    "…",
    "[",
    "]",
    "mask",
]
DIM, HEADS, LAYERS, LONGEST = 8, 2, 2, 16
FILES = {
    "config.json": {
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.2,
        "hidden_size": DIM,
        "intermediate_size": 12,
        "max_position_embeddings": LONGEST,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "type_vocab_size": 1,
        "vocab_size": len(SPECIAL + WORDS),
    },
    "tokenizer_config.json": {"do_lower_case": True, "model_max_length": 512},
    "sentence_bert_config.json": {"max_seq_length": 9, "do_lower_case": False},
    "modules.json": [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ],
    "1_Pooling/config.json": {
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
    },
}


def random_weights():
    """A checkpoint's tensors, by Hugging Face's names, far from their initial values."""
    random = np.random.default_rng(0)

    def normal(*shape):
        return random.normal(size=shape).astype("float32")

    weights = {
        "embeddings.word_embeddings.weight": normal(len(SPECIAL + WORDS), DIM),
        "embeddings.position_embeddings.weight": normal(LONGEST, DIM),
        "embeddings.token_type_embeddings.weight": normal(1, DIM),
    }
    matrices = {"pooler.dense": (DIM, DIM)}
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        block = f"encoder.layer.{layer}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            matrices[f"{block}.attention.{name}"] = DIM, DIM
        matrices[f"{block}.intermediate.dense"] = 12, DIM
        matrices[f"{block}.output.dense"] = DIM, 12
        norms += [f"{block}.attention.output.LayerNorm", f"{block}.output.LayerNorm"]
    for name, shape in matrices.items():
        weights |= {f"{name}.weight": normal(*shape), f"{name}.bias": normal(shape[0])}
    for name in norms:
        weights |= {f"{name}.weight": normal(DIM), f"{name}.bias": normal(DIM)}
    return weights


def write_safetensors(path, weights):
    """The format: length of the header, the header as JSON, the numbers."""
    header, position = {}, 0
    for name, values in weights.items():
        end = position + values.nbytes
        offsets = {"data_offsets": [position, end]}
        header[name] = {"dtype": "F32", "shape": values.shape, **offsets}
        position = end
    text = json.dumps(header).encode()
    numbers = b"".join(values.tobytes() for values in weights.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + numbers)


def write_checkpoint(folder, changes=()):
    """A folder of random weights, with other settings where `changes` says so."""
    for name, settings in (FILES | dict(changes)).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(settings))
    (folder / "vocab.txt").write_text("\n".join(SPECIAL + WORDS) + "\n", "utf-8")
    write_safetensors(folder / "model.safetensors", random_weights())
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def model(folder):
    settings = read_settings(folder)
    return tfembloss.EmbeddingModel(
        load_encoder(folder, settings),
        BertPreprocessor(read_vocabulary(folder), settings["sequence_length"]),
    )


def bert(ids):
    """Mean-pooled, normalised states of one text, as the BERT paper writes them."""
    weights = random_weights()

    def dense(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name, x):
        x = (x - x.mean(axis=-1, keepdims=True)) / x.std(axis=-1, keepdims=True)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def heads(x):
        return x.reshape(len(ids), HEADS, -1).transpose(1, 0, 2)

    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm("embeddings.LayerNorm", x + weights["embeddings.token_type_embeddings.weight"])
    for layer in range(LAYERS):
        block = f"encoder.layer.{layer}"
        q, k, v = (
            heads(dense(f"{block}.attention.self.{name}", x))
            for name in ("query", "key", "value")
        )
        scores = np.exp(q @ k.transpose(0, 2, 1) / math.sqrt(DIM / HEADS))
        seen = scores / scores.sum(axis=-1, keepdims=True) @ v
        seen = seen.transpose(1, 0, 2).reshape(len(ids), DIM)
        y = dense(f"{block}.attention.output.dense", seen)
        x = norm(f"{block}.attention.output.LayerNorm", x + y)
        y = dense(f"{block}.intermediate.dense", x)
        y = y * (1 + np.vectorize(math.erf)(y / math.sqrt(2))) / 2  # gelu, exactly
        x = norm(f"{block}.output.LayerNorm", x + dense(f"{block}.output.dense", y))
    mean = x.mean(axis=0)
    return mean / np.linalg.norm(mean)


def test_the_encoder_is_the_checkpoint_mean_pooled(model):
    tokens = np.array([[2, 5, 7, 8, 3], [2, 3, 0, 0, 0], [2, 1, 3, 0, 0]])
    expected = [bert(row[row != 0]) for row in tokens]
    np.testing.assert_allclose(model.encoder(tokens), expected, atol=1e-5)


def test_settings(folder, tmp_path):
    assert read_settings(folder) == {
        "activation": "gelu",
        "dropout": 0.2,
        "num_segments": 1,
        "sequence_length": 9,
        "lower_case": True,
        "normalize": True,
    }
    newer = {"1_Pooling/config.json": {"pooling_mode": "mean", "include_prompt": True}}
    assert read_settings(write_checkpoint(tmp_path, newer))["normalize"]
    plain = {"sentence_bert_config.json": {}, "modules.json": []}
    settings = read_settings(write_checkpoint(tmp_path, plain))
    assert settings["sequence_length"] == LONGEST and not settings["normalize"]
    lengths = np.linalg.norm(load_encoder(tmp_path, settings)(np.array([[2, 3]])), axis=1)
    assert abs(lengths - 1) > 0.1


def entries(preprocess, texts):
    return [
        [preprocess.vocabulary[token] for token in row if token]
        for row in preprocess(texts).numpy()
    ]


def test_tokens(folder):
    preprocess = BertPreprocessor(read_vocabulary(folder), sequence_length=6)
    texts = [
        "CAFÉ.",
        "",
        "Straße",
        "zero\u200bwid\x00th",
        "中文",
        "…",
        "[MASK]",
        "cafe " * 9,
    ]
    assert entries(preprocess, texts) == [
        ["[CLS]", *words, "[SEP]"]
        for words in (
            ["cafe", "."],
            [],
            ["str", "##aße"],
            ["zero", "##width"],
            ["中", "文"],
            ["…"],
            ["[", "mask", "]"],
            ["cafe"] * 4,
        )
    ]
    assert entries(preprocess, [b"cafe\xff", "cafe\t.\ncafe"]) == [
        ["[CLS]", "cafe", "[SEP]"],
        ["[CLS]", "cafe", ".", "cafe", "[SEP]"],
    ]
    assert preprocess(tf.constant([], tf.string)).shape[0] == 0


def test_tokens_in_their_case(folder):
    preprocess = BertPreprocessor(read_vocabulary(folder), 6, lower_case=False)
    expected = [["[CLS]", word, "[SEP]"] for word in ("Café", "cafe", "[UNK]")]
    assert entries(preprocess, ["Café", "cafe", "CAFE"]) == expected


def test_vocabulary_of_a_tokenizer_json(tmp_path):
    ids = {entry: id for id, entry in enumerate(SPECIAL + WORDS)}
    shuffled = dict(sorted(ids.items()))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": shuffled}}))
    assert read_vocabulary(tmp_path) == SPECIAL + WORDS


def test_other_vocabularies_are_refused():
    with pytest.raises(ValueError, match=r"without \['\[CLS\]'\]"):
        BertPreprocessor(["[PAD]", "[UNK]", "[SEP]", "a"], 6)


def test_trains_saves_and_exports(model, tmp_path):
    texts = ["café", "zero", "中文 " * 9, ""]
    loss = tfembloss.losses.MultipleNegativesRankingLoss()
    model.compile("adam", loss=loss, run_eagerly=True)  # a graph of it takes 10 seconds
    before = model.predict(texts, verbose=0)
    model.fit((texts[:2], texts[2:]), verbose=0)
    after = model.predict(texts, verbose=0)
    assert np.abs(after - before).max() > 1e-4

    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(texts, verbose=0), after, atol=1e-6)

    tfembloss.export_encoder(model, tmp_path / "exported")
    serve = tf.saved_model.load(str(tmp_path / "exported")).signatures["serving_default"]
    np.testing.assert_allclose(
        serve(text=tf.constant(texts))["embedding"], after, atol=1e-6
    )


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("config.json", {"model_type": "roberta"}, "model_type='roberta'"),
        ("config.json", {"hidden_act": "gelu_new"}, "hidden_act to be gelu or relu"),
        ("config.json", {"layer_norm_eps": 1e-5}, "layer_norm_eps"),
        ("tokenizer_config.json", {"tokenizer_class": "XLMRobertaTokenizer"}, "XLMRoberta"),
        ("tokenizer_config.json", {"strip_accents": False}, "strip_accents"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True}, "cls and mean"),
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "Received: lasttoken"),
    ],
)
def test_other_checkpoints_are_refused(tmp_path, name, change, message):
    write_checkpoint(tmp_path, {name: FILES[name] | change})
    with pytest.raises(ValueError, match=message):
        read_settings(tmp_path)


def test_a_module_of_another_kind_is_refused(tmp_path):
    dense = {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    write_checkpoint(tmp_path, {"modules.json": [*FILES["modules.json"][:2], dense]})
    with pytest.raises(ValueError, match=r"modules to be .* Received: .*'Dense'"):
        read_settings(tmp_path)


def test_weights_without_a_pooler_are_refused(tmp_path):
    settings = read_settings(write_checkpoint(tmp_path))
    weights = {k: v for k, v in random_weights().items() if "pooler" not in k}
    write_safetensors(tmp_path / "model.safetensors", weights)
    with pytest.raises(ValueError, match=r"pooler included\. Received: .*pooler\.dense"):
        load_encoder(tmp_path, settings)


def test_a_folder_of_something_else_is_refused(tmp_path):
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(ValueError, match=r"with none of these, model_type=None"):
            read_settings(folder)
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"with config.json and vocab.txt of .*'bert'"):
        read_settings(tmp_path)


def test_a_difference_to_sentence_transformers_ends_the_run(model, folder, monkeypatch):
    texts = ["café", "zero", "[MASK]"]
    peer = model.predict(texts[:2], verbose=0)  # the last is left out
    monkeypatch.setattr(finetune_pretrained, "peer_embeddings", lambda *_: peer)
    finetune_pretrained.compare(model, folder, texts, "python")
    peer[1] += 1e-3
    with pytest.raises(SystemExit, match="Too much, in the text 'zero'"):
        finetune_pretrained.compare(model, folder, texts, "python")
