import keras
import numpy as np
import pytest

import tfembloss

VOCABULARY = ["[PAD]", "[UNK]", *"abcdefghijklmnop"]
QUERIES = [letter for letter in "abcdefgh" for _ in range(2)]
TEXTS = [text for letter in "abcdefgh" for text in (f"{letter} o p", "o i p")]
LABELS = [1, 0] * 8


def cross_encoder(
    loss=None, padding="max_length", optimizer="adam", in_graph=False, **options
):
    keras.utils.set_random_seed(0)
    encoder = tfembloss.text.TextEncoder(
        len(VOCABULARY), dim=16, sequence_length=7, num_layers=1, num_heads=2, dropout=0.0
    )
    preprocessor = tfembloss.text.TextPairPreprocessor(VOCABULARY, 3, 4, padding)
    model = tfembloss.CrossEncoder(encoder, preprocessor, **options)
    loss = keras.losses.BinaryCrossentropy(from_logits=True) if loss is None else loss
    model.compile(optimizer, loss, run_eagerly=not in_graph)
    model.optimizer.learning_rate = 0.01
    return model


def fit(model, labels, steps):
    """Steps on all pairs, in one epoch: each takes longer to begin than many steps."""
    batches = tfembloss.data.from_arrays((QUERIES, TEXTS), labels).batch(16).repeat()
    return model.fit(batches, steps_per_epoch=steps, verbose=0)


def test_learns_which_texts_belong_together_by_cross_entropy(tmp_path):
    model = cross_encoder(in_graph=True)
    fit(model, LABELS, steps=40)
    scores = model.predict((QUERIES, TEXTS), verbose=0)
    assert scores.shape == (16,) and np.array_equal(scores > 0, np.array(LABELS) == 1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = loaded.predict((QUERIES, TEXTS), verbose=0)
    np.testing.assert_allclose(again, scores, rtol=1e-6)


def test_learns_a_teachers_scores_by_mse():
    model = cross_encoder("mse", in_graph=True)
    scores = np.random.default_rng(0).normal(size=16)
    fit(model, scores, steps=100)
    errors = model.predict((QUERIES, TEXTS), verbose=0) - scores
    # Half of the pairs differ in the query alone, and so do their scores.
    assert np.mean(errors**2) < 0.1 * np.mean(scores**2)


def test_each_text_has_its_places():
    preprocess = tfembloss.text.TextPairPreprocessor(VOCABULARY, 3, 4, "longest")
    tokens = preprocess(["a b c d", "a"], ["e f", ""]).numpy()
    assert tokens.tolist() == [[2, 3, 4, 6, 7], [2, 0, 0, 0, 0]]
    model = cross_encoder(padding="longest")
    one, other = (model.predict(([a], [b]), verbose=0) for a, b in [("a", "b"), ("b", "a")])
    assert np.abs(one - other).max() > 1e-6


def test_mini_batches_are_the_batch():
    runs = [
        cross_encoder(optimizer="sgd", mini_batch_size=size).fit(
            tfembloss.data.from_arrays((QUERIES, TEXTS), LABELS).batch(16),
            epochs=2,
            verbose=0,
        )
        for size in (None, 5)
    ]
    whole, parts = (run.history["loss"] for run in runs)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_states_of_tokens_are_taken_of_the_first():
    encoder = keras.Sequential([keras.layers.Embedding(9, 4)])
    model = tfembloss.CrossEncoder(encoder)
    tokens = np.array([[1, 2], [1, 3], [4, 2]])
    first, same, other = model.predict(tokens, verbose=0)
    assert first == same != other


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (QUERIES, "one column"),
        ((QUERIES, TEXTS, TEXTS), "3 columns"),
    ],
)
def test_what_are_no_pairs_is_refused(x, message):
    with pytest.raises(ValueError, match=f"tuple of two columns.*Received: {message}"):
        cross_encoder().fit(x, LABELS, verbose=0)


@pytest.mark.parametrize(
    "y", [None, np.eye(2)[LABELS], ["yes", "no"] * 8], ids=["none", "one-hot", "texts"]
)
def test_what_are_no_labels_is_refused(y):
    with pytest.raises(ValueError, match="one label or score for each pair"):
        cross_encoder("mse").fit((QUERIES, TEXTS), y, verbose=0)


def test_scores_are_float32_under_half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = cross_encoder()
        model.fit((QUERIES, TEXTS), LABELS, verbose=0)
        assert model.predict((QUERIES, TEXTS), verbose=0).dtype == "float32"
    finally:
        keras.config.set_dtype_policy("float32")


def test_parts_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="TextPairPreprocessor"):
        tfembloss.CrossEncoder(
            keras.layers.Identity(), tfembloss.text.TextPreprocessor(VOCABULARY, 3)
        )
    several = tfembloss.CrossEncoder(keras.layers.Lambda(lambda x: {"states": x}))
    with pytest.raises(ValueError, match="gives one tensor"):
        several(np.ones([1, 2]))
    with pytest.raises(ValueError, match=r"Keras model or layer\. Received: encoder=None"):
        tfembloss.CrossEncoder(None)
    with pytest.raises(ValueError, match=r"two batches of texts.*preprocessor=3"):
        tfembloss.CrossEncoder(keras.layers.Identity(), 3)
