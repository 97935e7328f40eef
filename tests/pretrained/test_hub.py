"""Text encoders of keras-hub: embeddings equal to its own, in every form."""

import io
import sys

import keras
import numpy as np
import processes
import pytest
import tensorflow as tf

import tfembloss

REASON = 'pip install ".[hub]"'
keras_hub = pytest.importorskip("keras_hub", reason=f"keras-hub is missing: {REASON}")
models = keras_hub.models

TEXTS = ["the quick brown fox", "Free and EQUAL, naïve cafés", "", "born " * 30, "fox"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "quick", "brown", "fox"]
WORDS += ["free", "and", "equal", "born", "##s", ",", "naive", "cafe", "e", "##qual"]
SIZE = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}


def spread(backbone):
    """Gives random weights a size at which texts differ by more than the tolerance."""
    rng = np.random.default_rng(0)
    for weight in backbone.weights:
        if len(weight.shape) > 1:
            weight.assign(rng.normal(0, 0.5, weight.shape))
    return backbone


def bert():
    size = {**SIZE, "max_sequence_length": 48, "dropout": 0.1}
    return spread(models.BertBackbone(len(WORDS), **size))


def bert_tokenizer():
    return models.BertTokenizer(WORDS, lowercase=True)


def bert_and_tokenizer():
    return bert(), bert_tokenizer()


def sentence_piece(**pieces):
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 3),
        model_writer=model,
        vocab_size=60,
        model_type="unigram",
        hard_vocab_limit=False,
        minloglevel=2,
        **pieces,
    )
    return model.getvalue()


def xlm_roberta():
    proto = sentence_piece(unk_id=0, bos_id=1, eos_id=2)
    tokenizer = models.XLMRobertaTokenizer(proto)
    size = tokenizer.vocabulary_size()
    backbone = models.XLMRobertaBackbone(size, **SIZE, max_sequence_length=48)
    return spread(backbone), tokenizer


def roberta():
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes as themselves
    bytes = [*map(chr, shown), *map(chr, range(256, 256 + 256 - len(shown)))]
    merges = ["f o", "fo x", "Ġ fox", "Ġ b", "o r", "or n", "Ġb orn"]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *bytes]
    pieces += [*(pair.replace(" ", "") for pair in merges), "<mask>"]
    ids = {piece: id for id, piece in enumerate(pieces)}
    backbone = models.RobertaBackbone(len(ids), **SIZE, max_sequence_length=48)
    return spread(backbone), models.RobertaTokenizer(ids, merges)


def embedder(**options):
    preprocessor = models.BertTextEmbedderPreprocessor(bert_tokenizer(), sequence_length=40)
    return models.BertTextEmbedder(bert(), preprocessor, **options)


def load(source, **options):
    return tfembloss.EmbeddingModel.from_pretrained(source, **options)


def means(backbone, tokenizer):
    """The means of token embeddings over the tokens, by keras-hub's own preprocessor."""
    kind = type(backbone).__name__.replace("Backbone", "TextClassifierPreprocessor")
    inputs = getattr(models, kind)(tokenizer, sequence_length=48)(tf.constant(TEXTS))
    x = backbone.predict(inputs, verbose=0)
    x = x["sequence_output"] if isinstance(x, dict) else x
    mask = np.asarray(inputs["padding_mask"], "float32")[:, :, None]
    return (x * mask).sum(1) / mask.sum(1)


@pytest.mark.parametrize("make", [bert_and_tokenizer, xlm_roberta])
def test_it_is_keras_hubs_in_every_form(make, tmp_path):
    backbone, tokenizer = make()
    backbone.save_to_preset(str(tmp_path / "preset"))
    tokenizer.save_to_preset(str(tmp_path / "preset"))
    model = load(tmp_path / "preset")
    expected = means(backbone, tokenizer)
    np.testing.assert_allclose(model.predict(TEXTS, verbose=0), expected, atol=1e-5)
    assert np.ptp(expected, axis=0).min() > 0.01  # texts differ

    model.compile("adam", loss=tfembloss.losses.MultipleNegativesRankingLoss())
    model.fit((TEXTS[:2], TEXTS[3:]), epochs=2, verbose=0)
    after = model.predict(TEXTS, verbose=0)
    assert np.abs(after - expected).max() > 1e-3
    check_forms(model, after, tmp_path, elsewhere=make is bert_and_tokenizer)


def check_forms(model, expected, folder, elsewhere=False):
    """Asserts equal embeddings of the model, saved and exported, also in a new process."""
    model.save(folder / "model.keras")
    tfembloss.export_encoder(model, folder / "export", normalize=False)
    np.save(folder / "texts.npy", np.array(TEXTS))
    (folder / "script.py").write_text(SCRIPT)
    if elsewhere:
        process = processes.start(folder / "script.py", [folder], folder / "log")
        process.join()
        assert process.exitcode == 0, (folder / "log").read_text()
    else:
        exec(SCRIPT, {"folder": folder})
    for form in ("served", "loaded"):
        found = np.load(folder / f"{form}.npy")
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=form)


SCRIPT = """
import pathlib, sys
import keras, numpy as np, tensorflow as tf, tensorflow_text, tfembloss
if "folder" not in globals():
    folder = pathlib.Path(sys.argv[1])
    assert "keras_hub" not in sys.modules
texts = np.load(folder / "texts.npy")
serve = tf.saved_model.load(folder / "export").signatures["serving_default"]
np.save(folder / "served.npy", serve(text=tf.constant(texts))["embedding"])
model = keras.saving.load_model(folder / "model.keras")
np.save(folder / "loaded.npy", model.predict(texts, verbose=0))
"""


def test_an_embedder_is_taken_as_it_is(tmp_path):
    theirs = embedder(pooling_mode="max", normalize=True)
    model = tfembloss.EmbeddingModel(theirs)
    expected = theirs.predict(TEXTS, verbose=0)
    np.testing.assert_allclose(model.predict(TEXTS, verbose=0), expected, atol=1e-5)
    inputs = model.preprocessor(["fox"], xla=True)
    assert inputs.keys() == theirs.input.keys()
    assert {x.shape[1] for x in inputs.values()} == {16}
    assert theirs.preprocessor.sequence_length == 40

    model.compile("adam", loss=tfembloss.losses.SupConLoss())
    model.fit(TEXTS, [0, 1, 0, 1, 0], verbose=0)
    after = model.predict(TEXTS, verbose=0)
    assert np.abs(after - expected).max() > 1e-3
    np.testing.assert_allclose(theirs.predict(TEXTS, verbose=0), after, atol=1e-5)
    check_forms(model, after, tmp_path)

    theirs.save_to_preset(str(tmp_path / "preset"))
    again = load(tmp_path / "preset", dimensions=3).predict(TEXTS, verbose=0)
    cut = after[:, :3] / np.linalg.norm(after[:, :3], axis=1, keepdims=True)
    np.testing.assert_allclose(again, cut, atol=1e-5)


def test_an_embedder_trains_and_exports_by_itself(tmp_path):
    keras.utils.set_random_seed(0)
    theirs = embedder()
    before = theirs.predict(TEXTS, verbose=0)
    theirs.compile("adam", loss=tfembloss.losses.SupConLoss())
    losses = theirs.fit(TEXTS, [0, 1, 0, 1, 0], epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    after = theirs.predict(TEXTS, verbose=0)
    assert np.abs(after - before).max() > 1e-3
    tfembloss.export_encoder(theirs, tmp_path / "export", normalize=False)
    serve = tf.saved_model.load(tmp_path / "export").signatures["serving_default"]
    served = serve(text=tf.constant(TEXTS))["embedding"]
    np.testing.assert_allclose(served, after, atol=1e-5)


def test_an_embedder_without_a_preprocessor(tmp_path):
    with_texts = embedder()
    inputs = with_texts.preprocessor(tf.constant(TEXTS))
    theirs = models.BertTextEmbedder(with_texts.backbone)
    model = tfembloss.EmbeddingModel(theirs)
    expected = with_texts.predict(TEXTS, verbose=0)
    found = model.predict({name: np.array(x) for name, x in inputs.items()}, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(ValueError, match="and no preprocessor"):
        model.predict(TEXTS, verbose=0)
    model = tfembloss.EmbeddingModel(theirs, with_texts.preprocessor)
    np.testing.assert_allclose(model.predict(TEXTS, verbose=0), expected, atol=1e-5)


def test_objects_and_options(tmp_path):
    backbone, tokenizer = bert(), bert_tokenizer()
    expected = means(backbone, tokenizer)
    packer = models.BertTextClassifierPreprocessor(tokenizer, sequence_length=20)
    task = models.BertTextClassifier(backbone, num_classes=2, preprocessor=packer)
    short = load(task).predict(TEXTS, verbose=0)
    assert np.abs(short - expected)[3].max() > 1e-3  # is truncated
    np.testing.assert_allclose(short[:3], expected[:3], atol=1e-5)
    model = load(task, sequence_length=48)
    np.testing.assert_allclose(model.predict(TEXTS, verbose=0), expected, atol=1e-5)
    assert packer.sequence_length == 20

    model = load(backbone, preprocessor=tokenizer, dimensions=3, prompts={"query": "fox "})
    found = model.predict(TEXTS, batch_size=2, verbose=0)
    np.testing.assert_allclose(found, expected[:, :3], atol=1e-5)
    np.testing.assert_allclose(
        model.predict(["free"], prompt="query", verbose=0),
        model.predict(["fox free"], verbose=0),
        atol=1e-6,
    )
    lengths = {
        model.preprocessor(["fox " * n], xla=True)["token_ids"].shape[1] for n in range(60)
    }
    assert lengths == {16, 32, 48}
    inputs = model.preprocessor(["fox"], xla=True)
    first = backbone(inputs)["sequence_output"][:, 0]
    cls = load(backbone, preprocessor=tokenizer, pooling="cls")
    np.testing.assert_allclose(cls.predict(["fox"], verbose=0), first, atol=1e-5)

    def own(texts):
        return {name: x[:, :20] for name, x in packer(texts).items()}

    plain = load(backbone, preprocessor=own)
    np.testing.assert_allclose(
        plain.predict(["fox"], verbose=0)[:, :3],
        model.predict(["fox"], verbose=0),
        atol=1e-5,
    )


def test_the_tokenizer_of_another_task_is_taken():
    backbone, tokenizer = bert_and_tokenizer()
    masking = models.BertMaskedLMPreprocessor(tokenizer, sequence_length=20)
    found = load(backbone, preprocessor=masking).preprocessor(TEXTS)
    expected = load(backbone, preprocessor=tokenizer, sequence_length=20)
    expected = expected.preprocessor(TEXTS)
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name])


def test_dropout_and_dtype_of_a_preset(tmp_path):
    theirs = embedder()
    theirs.save_to_preset(str(tmp_path))
    expected = theirs.predict(TEXTS, verbose=0)
    model = load(str(tmp_path), dropout=0.5)
    np.testing.assert_allclose(model.predict(TEXTS, verbose=0), expected, atol=1e-5)
    rates = {x.rate for x in model._flatten_layers() if isinstance(x, keras.layers.Dropout)}
    assert rates == {0.5}
    low = load(tmp_path, dtype="mixed_bfloat16")
    (inside,) = (x for x in low.encoder.layers if isinstance(x, models.Backbone))
    assert inside.dropout == 0.1 and inside.compute_dtype == "bfloat16"
    found = low.predict(TEXTS, verbose=0).astype("float32")
    assert 1e-5 < np.abs(found - expected).max() < 0.05


def test_a_byte_pair_tokenizer_is_exported(tmp_path):
    backbone, tokenizer = roberta()
    model = load(backbone, preprocessor=tokenizer)
    expected = means(backbone, tokenizer)
    found = model.encoder(model.preprocessor(TEXTS))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    tfembloss.export_encoder(model, tmp_path / "export", normalize=False)
    serve = tf.saved_model.load(tmp_path / "export").signatures["serving_default"]
    served = serve(text=tf.constant(TEXTS))["embedding"]
    np.testing.assert_allclose(served, expected, atol=1e-5)


def test_the_last_token_of_a_language_model():
    ids = {"<|endoftext|>": 0, "f": 1, "o": 2, "x": 3, "fo": 4, "fox": 5}
    tokenizer = models.GPT2Tokenizer(ids, ["f o", "fo x"])
    backbone = spread(models.GPT2Backbone(6, **SIZE, max_sequence_length=20))
    model = load(backbone, preprocessor=tokenizer, pooling="lasttoken")
    inputs = model.preprocessor(["fox", "foxfoxfoxfox"])
    lengths = tf.reduce_sum(inputs["padding_mask"], axis=1)
    assert lengths.numpy().tolist() == [3, 6]  # with start and end tokens
    x = backbone(inputs)
    np.testing.assert_allclose(model.encoder(inputs), [x[0, 2], x[1, 5]], atol=1e-5)


def test_an_encoder_without_a_mask_gets_all_padding():
    pieces = {"bos_piece": "[CLS]", "eos_piece": "[SEP]", "pad_id": 3}
    proto = sentence_piece(**pieces, control_symbols=["[MASK]"])
    tokenizer = models.FNetTokenizer(proto)
    size = tokenizer.vocabulary_size()
    backbone = spread(models.FNetBackbone(size, 1, 8, 16, max_sequence_length=20))
    model = load(backbone, preprocessor=tokenizer)
    inputs = model.preprocessor(["fox"], xla=True)
    assert inputs["token_ids"].shape == (1, 20)
    count = tf.reduce_sum(tf.cast(inputs["token_ids"] != tokenizer.pad_token_id, tf.int32))
    expected = tf.reduce_mean(backbone(inputs)["sequence_output"][:, :count], axis=1)
    np.testing.assert_allclose(model.predict(["fox"], verbose=0), expected, atol=1e-5)


def test_weights_are_loaded_before_the_first_call(tmp_path):
    backbone, tokenizer = bert(), bert_tokenizer()
    model = load(backbone, preprocessor=tokenizer)
    model.save_weights(tmp_path / "x.weights.h5")
    expected = model.predict(TEXTS, verbose=0)
    other = load(
        models.BertBackbone(len(WORDS), **SIZE, max_sequence_length=48),
        preprocessor=bert_tokenizer(),
    )
    other.load_weights(tmp_path / "x.weights.h5")
    np.testing.assert_allclose(other.predict(TEXTS, verbose=0), expected, atol=1e-6)


@pytest.mark.parametrize(
    "source, options, message",
    [
        ("no-tokenizer", {}, "`tokenizer.json` doesn't exist.*save_to_preset, or given"),
        ("no-tokenizer", {"dropout": 2}, "dropout"),
        (
            "bert_tiny_en_uncasd",
            {},
            "which is no folder, and of which keras-hub says: Unkn",
        ),
        (None, {}, "a keras-hub preset, or a backbone or task"),
        (keras.Sequential, {}, "a keras-hub preset, or a backbone or task"),
        (bert, {"dropout": 0.1}, "dropout=None for a BertBackbone"),
        (bert, {"prompts": {"query": "x"}}, "prompts=None without a tokenizer"),
        (bert, {"tower": "text"}, "tower=None"),
        (bert, {"preprocessor": keras_hub.layers.ImageConverter}, "with a tokenizer"),
        (lambda: models.T5Backbone(9, 1, 2, 8, 16, key_value_dim=4), {}, "T5Backbone with"),
        (bert, {"preprocessor": bert_tokenizer, "sequence_length": 99}, "from 3 to 48"),
        (embedder, {"pooling": "cls"}, "a BertTextEmbedder returns pooled"),
    ],
)
def test_mistakes(tmp_path, source, options, message):
    if source == "no-tokenizer":
        source = tmp_path / source
        bert().save_to_preset(str(source))
    source = source() if callable(source) else source
    options = {name: x() if callable(x) else x for name, x in options.items()}
    with pytest.raises(ValueError, match=message):
        load(source, **options)


def test_a_vocabulary_larger_than_the_backbones_is_refused():
    small = models.BertBackbone(9, **SIZE)
    with pytest.raises(ValueError, match=r"19 entries.*of 9"):
        load(small, preprocessor=bert_tokenizer())


def test_images_instead_of_texts_are_refused():
    model = load(bert(), preprocessor=bert_tokenizer())
    with pytest.raises(ValueError, match="Expected a batch of texts"):
        model.predict(np.zeros([2, 8, 8, 3]), verbose=0)


def test_without_keras_hub(monkeypatch, tmp_path):
    bert().save_to_preset(str(tmp_path))
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    for source in (tmp_path, "bert_tiny_en_uncased"):
        with pytest.raises(ValueError, match=r'pip install "tfembloss\[hub\]"'):
            load(source)
