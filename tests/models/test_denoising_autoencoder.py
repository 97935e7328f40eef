import keras
import numpy as np
import pytest
import tensorflow as tf

import tfembloss
from tfembloss.losses import DenoisingAutoEncoderLoss
from tfembloss.models import SentenceDecoder
from tfembloss.text import DeleteWords, TextEncoder, TextPreprocessor

LETTERS = "abcdefghijklmnop"
VOCABULARY = ["[PAD]", "[UNK]", *LETTERS]
TEXTS = ["a b c", "d e f g", "h i", "j", "k l m n o", ""]


# The loss.


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_padding_adds_nothing(dtype):
    rng = np.random.default_rng(0)
    logits, tokens = rng.normal(size=[3, 5, 7]), rng.integers(1, 7, size=[3, 5])
    tokens[0, 3:] = tokens[1] = 0
    loss = DenoisingAutoEncoderLoss(reduction=None, dtype="float64")
    values = loss(tokens.astype(dtype), logits)
    assert values[1] == 0
    moved = np.where((tokens == 0)[:, :, None], rng.normal(size=logits.shape), logits)
    np.testing.assert_array_equal(loss(tokens.astype(dtype), moved), values)
    # Another number as padding.
    nines = np.where(tokens == 0, 9, tokens)
    other = DenoisingAutoEncoderLoss(padding=9, reduction=None, dtype="float64")
    np.testing.assert_allclose(other(nines, logits), values, rtol=1e-12)
    assert float(loss(0 * tokens, logits)[0]) == 0


def test_nan_shows():
    logits = np.zeros([2, 3, 4])
    logits[1, 2, 0] = np.nan
    assert np.isnan(DenoisingAutoEncoderLoss()(np.array([[1, 2, 0]] * 2), logits))


@pytest.mark.parametrize(
    ("tokens", "logits"),
    [
        (None, np.zeros([2, 3, 4])),
        (np.zeros([2, 3]), np.zeros([2, 3, 4])),
        (np.zeros([2, 2], int), np.zeros([2, 3, 4])),
        (np.zeros([2], int), np.zeros([2, 4])),
    ],
)
def test_what_are_no_tokens_is_refused(tokens, logits):
    with pytest.raises(ValueError, match=r"logits y_pred of shape \[B, T, V\]"):
        DenoisingAutoEncoderLoss()(tokens, logits)


# The model.


def auto_encoder(optimizer="sgd", padding="max_length", in_graph=False, **options):
    keras.utils.set_random_seed(1)
    model = tfembloss.DenoisingAutoEncoder(
        TextEncoder(len(VOCABULARY), dim=8, dropout=0.0),
        TextPreprocessor(VOCABULARY, 6, padding),
        SentenceDecoder(dropout=0.0, sequence_length=6),
        **options,
    )
    # Making a graph takes longer than a few steps.
    model.compile(optimizer, DenoisingAutoEncoderLoss(), run_eagerly=not in_graph)
    return model


def logits(model, tokens, embeddings):
    return model.logits(tf.constant(tokens), tf.constant(embeddings, tf.float32)).numpy()


def test_a_token_is_told_from_those_before_it_and_the_embedding():
    model = auto_encoder()
    rng = np.random.default_rng(0)
    tokens, embeddings = rng.integers(1, 18, size=[2, 6]), rng.normal(size=[2, 8])
    before = logits(model, tokens, embeddings)
    for t in range(6):
        moved = tokens.copy()
        moved[:, t] = moved[:, t] % 17 + 1
        after = logits(model, moved, embeddings)
        np.testing.assert_array_equal(after[:, : t + 1], before[:, : t + 1])
        assert t == 5 or np.abs(after[:, t + 1 :] - before[:, t + 1 :]).min() > 0
    # Each position, the first one too, sees the embedding of its own text.
    after = logits(model, tokens, embeddings + np.array([[0.0], [1.0]]))
    np.testing.assert_array_equal(after[0], before[0])
    assert np.abs(after[1] - before[1]).max(axis=1).min() > 1e-3


class ForgetsTexts(keras.layers.Layer):
    """The same embedding of all texts."""

    def call(self, tokens):
        return tf.ones([tf.shape(tokens)[0], 8])


def test_nothing_of_the_damaged_text_but_its_embedding_comes_through():
    model = auto_encoder()
    model.encoder = ForgetsTexts()
    whole = tf.constant([[2, 3, 4, 0, 0, 0]])
    losses = [
        model.test_on_batch(tf.constant([damaged]), whole)
        for damaged in ([2, 0, 0, 0, 0, 0], [9, 8, 7, 6, 5, 4])
    ]
    assert losses[0] == losses[1]


def test_padding_of_a_batch_changes_nothing():
    losses = [
        auto_encoder(padding=padding).fit(TEXTS, epochs=2, verbose=0).history["loss"]
        for padding in ("max_length", "longest")
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_overfits_64_sentences():
    """Each word is of one sentence, so any that is left tells which."""
    words = [f"w{i}" for i in range(256)]
    texts = [" ".join(words[4 * i : 4 * i + 4]) for i in range(64)]
    keras.utils.set_random_seed(0)
    vocabulary = ["[PAD]", "[UNK]", *words]
    model = tfembloss.DenoisingAutoEncoder(
        TextEncoder(len(vocabulary), dim=64, dropout=0.0),
        TextPreprocessor(vocabulary, 4),
        SentenceDecoder(dropout=0.0, sequence_length=4),
    )
    model.compile(keras.optimizers.Adam(0.01), DenoisingAutoEncoderLoss())
    dataset = tfembloss.data.from_arrays(texts).batch(64).repeat()
    history = model.fit(dataset, epochs=2, steps_per_epoch=40, verbose=0).history["loss"]
    assert history[0] > 1 and history[-1] < 0.1
    assert model.evaluate(texts, verbose=0) < 0.02


def damaged(model, dataset, epochs=2, training=True):
    """What the encoder gets of each text in each of some epochs."""
    batches = model.step_batches(dataset, training)
    return [
        {tuple(text.numpy()): tuple(x.numpy()) for xs, ys in batches
         for x, text in zip(xs, ys, strict=True)}
        for _ in range(epochs)
    ]  # fmt: skip


def test_noise_is_fresh_in_each_epoch_and_follows_from_the_seed():
    texts = [" ".join(np.roll(list(LETTERS), i)[:6]) for i in range(16)]
    dataset = tfembloss.data.from_arrays(texts)
    model = auto_encoder()
    keras.utils.set_random_seed(5)
    first, second = damaged(model, dataset.batch(4))
    assert len(first) == 16 and first != second
    # Whatever the batches are: so several replicas have the noise of one.
    keras.utils.set_random_seed(5)
    assert damaged(model, dataset.shuffle(16).batch(3)) == [first, second]
    keras.utils.set_random_seed(6)
    assert damaged(model, dataset.batch(4))[0] != first
    # Without an end there are no epochs: in each batch.
    batches = model.step_batches(dataset.batch(16).repeat(), training=True)
    (one, _), (other, _) = batches.take(2)
    assert np.any(one != other)
    # In evaluation it is the same each time, whatever the seed.
    first, second = damaged(model, dataset.batch(4), training=False)
    assert first == second == damaged(model, dataset.batch(4), training=False)[0]


def test_words_are_deleted():
    texts = [f"{i} a b c d e f g h i j" for i in range(5000)]
    kept = [text.decode().split() for text in DeleteWords(0.6)(texts, 1).numpy()]
    letters = [[word for word in words if word in LETTERS] for words in kept]
    assert all(words == sorted(set(words)) for words in letters)  # in their order
    # Each by itself: the number of those that stay is binomial.
    sizes = np.array(list(map(len, letters)))
    np.testing.assert_allclose(sizes.mean(), 4, rtol=0.03)
    np.testing.assert_allclose(sizes.var(), 2.4, rtol=0.1)
    # One always stays, and each is it as often.
    words, counts = np.unique(DeleteWords(1.0)(texts, 1).numpy(), return_counts=True)
    assert counts.sum() == 5000 and len(words) > 11
    assert np.ptp(counts[-10:]) < 0.35 * counts[-10:].mean()
    few = DeleteWords(1.0)(["", "  ", "one"], 0)
    assert few.numpy().tolist() == [b"", b"", b"one"]
    spaces = DeleteWords(0.0)([" a  b\n", "\xfc\u2003\xfc"], 0)
    assert [text.decode() for text in spaces.numpy()] == ["a b", "\xfc \xfc"]
    with pytest.raises(ValueError, match="from 0 to 1"):
        DeleteWords(1.1)


def test_the_token_embeddings_are_the_encoders():
    model = auto_encoder()
    model.fit(TEXTS, verbose=0)
    shapes = [v.shape for v in model.trainable_variables]
    assert shapes.count((18, 8)) == 1

    def shapes_with(encoder, preprocessor):
        model = tfembloss.DenoisingAutoEncoder(encoder, preprocessor)
        return [v.shape for v in model.trainable_variables]

    preprocessor, tokens = (
        TextPreprocessor(VOCABULARY, 6),
        keras.Input([None], dtype="int32"),
    )
    # A layer in it shows them, as keras-hub's backbones do.
    inside = keras.Sequential([tokens, TextEncoder(18, dim=8)])
    assert shapes_with(inside, preprocessor).count((18, 8)) == 1
    # None does: the decoder has its own.
    hidden = keras.layers.Embedding(18, 8)(tokens)
    hidden = keras.Model(tokens, keras.layers.GlobalAveragePooling1D()(hidden))
    assert shapes_with(hidden, preprocessor).count((18, 8)) == 2
    with pytest.raises(ValueError, match="attribute `token_embedding`"):
        tfembloss.DenoisingAutoEncoder(keras.layers.Identity(), lambda texts: texts)
    with pytest.raises(ValueError, match=r"18 entries.*of 9"):
        tfembloss.DenoisingAutoEncoder(TextEncoder(9, dim=8), preprocessor)


def test_weights_are_saved_with_the_decoders(tmp_path):
    model, fresh = auto_encoder(), auto_encoder()
    model.fit(TEXTS, epochs=3, verbose=0)
    model.save_weights(tmp_path / "x.weights.h5")
    fresh.load_weights(tmp_path / "x.weights.h5")
    assert fresh.evaluate(TEXTS, verbose=0) == model.evaluate(TEXTS, verbose=0)


def test_datasets_of_unknown_length():
    batches = tfembloss.data.from_arrays(TEXTS).filter(lambda _: True).batch(3)
    model = auto_encoder(in_graph=True)
    history = model.fit(batches, validation_data=TEXTS, epochs=2, verbose=0).history
    np.testing.assert_allclose(
        history["val_loss"][-1], model.evaluate(TEXTS, verbose=0), rtol=1e-6
    )


def test_saved_and_loaded_it_goes_on(tmp_path):
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model = auto_encoder(optimizer, noise=DeleteWords(0.4))
    model.fit(TEXTS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.noise.ratio == 0.4 and loaded.decoder.sequence_length == 6
    assert loaded.token_embedding is loaded.encoder.token_embedding
    histories = []
    for one in (model, loaded):
        keras.utils.set_random_seed(2)
        histories.append(one.fit(TEXTS, epochs=2, verbose=0).history["loss"])
    np.testing.assert_allclose(*histories, rtol=1e-6)
    np.testing.assert_allclose(
        loaded.predict(TEXTS, verbose=0), model.predict(TEXTS, verbose=0), rtol=1e-5
    )


def test_what_is_predicted_and_exported_is_the_encoder(tmp_path):
    model = auto_encoder()
    model.fit(TEXTS, validation_split=0.4, verbose=0)
    plain = tfembloss.EmbeddingModel(model.encoder, model.preprocessor)
    embeddings = model.predict(TEXTS, verbose=0)
    np.testing.assert_array_equal(embeddings, plain.predict(TEXTS, verbose=0))
    tfembloss.export_encoder(model, tmp_path / "encoder", normalize=False)
    exported = tf.saved_model.load(tmp_path / "encoder")
    embed = exported.signatures["serving_default"]
    np.testing.assert_allclose(
        embed(text=tf.constant(TEXTS))["embedding"], embeddings, rtol=1e-6
    )
    variables = tf.train.list_variables(str(tmp_path / "encoder" / "variables/variables"))
    assert not [name for name, _ in variables if "decoder" in name]


def test_weights_metrics_and_mini_batches():
    model = auto_encoder(mini_batch_size=2)
    model.compile(
        "sgd",
        DenoisingAutoEncoderLoss(),
        metrics=[keras.metrics.SparseCategoricalCrossentropy(from_logits=True)],
        run_eagerly=True,
    )
    whole = auto_encoder()
    weights, histories = np.array([1.0, 2.0, 0.0, 1.0, 1.0, 1.0]), []
    for one in (model, whole):
        keras.utils.set_random_seed(2)
        batches = tfembloss.data.from_arrays(TEXTS, sample_weight=weights).batch(6)
        histories.append(one.fit(batches, epochs=2, verbose=0).history)
    np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"], rtol=1e-5)
    # Padding counts in that metric, which is not ours.
    assert np.isfinite(histories[0]["sparse_categorical_crossentropy"]).all()


@pytest.mark.parametrize(
    ("x", "y", "advice"),
    [
        ((TEXTS, TEXTS), None, "learns from texts alone.*into one list"),
        (TEXTS, [1] * 6, "learns from texts alone.*Leave out y"),
        ([1] * 6, None, "learns from texts alone.*the texts themselves"),
        (tf.data.Dataset.from_tensor_slices(TEXTS), None, r"single rows.*batch\(32\)"),
    ],
)
def test_what_are_no_texts_alone_is_refused(x, y, advice):
    with pytest.raises(ValueError, match=advice):
        auto_encoder().fit(x, y, verbose=0)


def test_a_loss_on_embeddings_is_refused():
    model = auto_encoder()
    model.compile("sgd", tfembloss.losses.MultipleNegativesRankingLoss())
    with pytest.raises(ValueError, match="gives its loss logits"):
        model.fit(TEXTS, verbose=0)


def test_parts_of_another_kind_are_refused():
    encoder, preprocessor = TextEncoder(18, dim=8), TextPreprocessor(VOCABULARY, 6)
    with pytest.raises(ValueError, match="Expected a preprocessor"):
        tfembloss.DenoisingAutoEncoder(encoder, None)
    for noise in (3, lambda texts: texts, lambda: "a"):
        with pytest.raises(ValueError, match="function of two arguments"):
            tfembloss.DenoisingAutoEncoder(encoder, preprocessor, noise=noise)
    lossy = tfembloss.DenoisingAutoEncoder(
        encoder, preprocessor, noise=lambda texts, seed: texts[:1]
    )
    lossy.compile("sgd", DenoisingAutoEncoderLoss())
    with pytest.raises(ValueError, match="a damaged text of each text"):
        lossy.fit(TEXTS, verbose=0)
    with pytest.raises(ValueError, match=r"padding=0\.5"):
        DenoisingAutoEncoderLoss(padding=0.5)
    with pytest.raises(ValueError, match="decoder=3"):
        tfembloss.DenoisingAutoEncoder(encoder, preprocessor, 3)
    heads = SentenceDecoder(num_heads=9)
    with pytest.raises(ValueError, match="num_heads=9"):
        heads(np.zeros([1, 2, 8]), np.zeros([1, 8]))
    short = tfembloss.DenoisingAutoEncoder(
        encoder, preprocessor, SentenceDecoder(sequence_length=5)
    )
    short.compile("adam", DenoisingAutoEncoderLoss())
    with pytest.raises(ValueError, match="sequence_length=5 tokens, received 6"):
        short.fit(TEXTS, verbose=0)


def test_eager_graph_and_xla_train_alike():
    losses = []
    for options in ({"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}):
        model = auto_encoder(noise=lambda texts, _: DeleteWords()(texts, 3))
        model.compile("sgd", DenoisingAutoEncoderLoss(), **options)
        losses.append(model.fit(TEXTS, epochs=2, verbose=0, shuffle=False).history["loss"])
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-5)


def test_half_precision_learns():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = auto_encoder()
        history = model.fit(TEXTS, epochs=3, verbose=0).history["loss"]
        exact = DenoisingAutoEncoderLoss()(np.zeros([1, 1], int) + 2, np.zeros([1, 1, 18]))
        assert model.decoder.compute_dtype == "float16"
        assert np.isfinite(history).all() and abs(history[0] - float(exact)) < 1
        assert history[-1] < history[0]
    finally:
        keras.config.set_dtype_policy("float32")
