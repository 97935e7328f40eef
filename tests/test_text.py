import keras
import numpy as np
import pytest
import tensorflow as tf

from tfembloss.layers import TokenPooling
from tfembloss.text import RESERVED, TextEncoder, TextPreprocessor, learn_vocabulary

TEXTS = ["low lower lowest", "low new newer newest", "Ünicode ünicode"]


@pytest.fixture(scope="module")
def vocabulary():
    return learn_vocabulary(TEXTS, size=60)


def test_vocabulary_covers_its_texts(vocabulary):
    assert tuple(vocabulary[:5]) == RESERVED
    assert len(set(vocabulary)) == len(vocabulary) <= 60
    assert "low" in vocabulary and "unicode" in vocabulary  # lower case, no accents
    tokens = TextPreprocessor(vocabulary, 40)(TEXTS).numpy()
    assert (tokens != RESERVED.index("[UNK]")).all()


def test_vocabulary_size_is_a_bound():
    words = [f"word{i} " * (i % 7 + 1) for i in range(300)]
    for size in (40, 100, 400):
        assert len(learn_vocabulary(words, size)) <= size


@pytest.mark.parametrize("texts", [[], [""], ["  ", "\n"]])
def test_texts_without_words_are_refused(texts):
    with pytest.raises(ValueError, match="at least one word"):
        learn_vocabulary(texts, 100)


def test_texts_that_are_no_strings_are_refused():
    with pytest.raises(ValueError, match="1 of type int"):
        learn_vocabulary(["a", 1], 100)


@pytest.mark.parametrize("num_layers", [0, 1])
def test_texts_longer_than_the_encoder_are_refused(num_layers):
    encoder = TextEncoder(9, dim=6, sequence_length=3, num_layers=num_layers)
    with pytest.raises(ValueError, match="sequence_length=3 tokens, received 4"):
        encoder(np.ones([2, 4], int))


def test_vocabulary_of_reserved_entries_only_is_refused():
    with pytest.raises(ValueError, match="size=5"):
        learn_vocabulary(TEXTS, 5)


def test_invalid_bytes_in_training_texts():
    assert "good" in learn_vocabulary([b"good \xff\xfe good"], 50)


def test_tokens(vocabulary):
    preprocess = TextPreprocessor(vocabulary, sequence_length=3)
    tokens = preprocess(
        ["LOW", "", "low low low low low", "\U0001f600", b"\xff\xfe low"]
    ).numpy()
    low, unknown = vocabulary.index("low"), RESERVED.index("[UNK]")
    assert tokens.dtype == np.int32
    assert tokens[:3].tolist() == [[low, 0, 0], [0, 0, 0], [low, low, low]]
    assert tokens[3].tolist() == [unknown, 0, 0]
    assert tokens[4, 0] == unknown and low in tokens[4]


def test_padding(vocabulary):
    longest = TextPreprocessor(vocabulary, 6, padding="longest")
    assert longest(["low", "low low"]).shape == (2, 2)
    assert longest(["low " * 10000]).shape == (1, 6)
    assert TextPreprocessor(vocabulary, 6)(["low"]).shape == (1, 6)


def test_preprocessor_serialises(vocabulary):
    preprocess = TextPreprocessor(vocabulary, 6, padding="longest")
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(preprocess)
    )
    assert again.get_config() == preprocess.get_config()
    np.testing.assert_array_equal(again(TEXTS), preprocess(TEXTS))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([], 4), "Received 0 entries"),
        ((["[UNK]", "[PAD]"], 4), r"begins with '\[PAD\]'"),
        ((["[PAD]", "a"], 4), r"'\[UNK\]'"),
        ((["[PAD]", "[UNK]", "a", "a"], 4), r"twice: \['a'\]"),
        ((["[PAD]", "[UNK]"], 0), "sequence_length > 0"),
        ((["[PAD]", "[UNK]"], 4, "shortest"), "'shortest'"),
    ],
)
def test_bad_preprocessors_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TextPreprocessor(*arguments)


@pytest.mark.parametrize("texts", ["one text", [["a", "b"]], [1, 2]])
def test_what_is_no_batch_of_texts_is_refused(vocabulary, texts):
    with pytest.raises(ValueError, match="batch of texts"):
        TextPreprocessor(vocabulary, 4)(texts)


def test_pooling_is_the_weighted_mean_of_what_is_not_padding():
    pooling = TokenPooling(vocabulary_size=5, sequence_length=4)
    tokens = np.array([[3, 4, 0], [0, 0, 0]])
    x = np.random.default_rng(0).normal(size=[2, 3, 6]).astype("float32")
    np.testing.assert_allclose(pooling(tokens, x)[0], x[0, :2].mean(0), rtol=1e-5)
    pooling.token_weights.assign([0, 0, 0, 0.3, -0.2])
    positions = np.zeros([3, 4], "float32")  # by length: 1, 2 to 3, 4 tokens
    positions[1, 0], positions[2, 0] = 0.1, 9
    pooling.position_weights.assign(positions)
    weights = np.exp([2 * 0.3 + 5 * 0.1, 2 * -0.2])
    expected = (weights[:, None] * x[0, :2]).sum(0) / weights.sum()
    pooled = pooling(tokens, x)
    np.testing.assert_allclose(pooled[0], expected, rtol=1e-5)
    np.testing.assert_array_equal(pooled[1], 0)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_position_weights_are_those_of_the_length(jit_compile):
    pooling = TokenPooling(vocabulary_size=2, sequence_length=16)
    x = np.zeros([16, 16, 1], "float32")
    x[:, 0] = 1  # so the pooled value is the weight of the first position
    tokens = np.tril(np.ones([16, 16], int))  # of lengths 1 to 16
    pooling(tokens, x)
    by_length = np.zeros([5, 16], "float32")
    by_length[:, 0] = np.log([1, 2, 3, 4, 5]) / 5
    pooling.position_weights.assign(by_length)
    pooled = tf.function(pooling, jit_compile=jit_compile)(
        tf.constant(tokens), tf.constant(x)
    )
    for length in range(1, 17):
        first = length.bit_length()  # 1 for one token, 2 for two to three, ...
        expected = first / (first + length - 1)
        np.testing.assert_allclose(pooled[length - 1], [expected], rtol=1e-5)


@pytest.mark.parametrize("num_layers", [0, 2])
def test_padding_does_not_change_an_embedding(num_layers):
    encoder = TextEncoder(
        50, dim=12, sequence_length=10, num_layers=num_layers, num_heads=3
    )
    tokens = np.random.default_rng(0).integers(1, 50, size=[4, 6])
    padded = np.pad(tokens, [(0, 0), (0, 4)])
    np.testing.assert_allclose(encoder(tokens), encoder(padded), atol=1e-5)
    assert np.isfinite(encoder(np.zeros([2, 5], int))).all()


def test_dtype_and_serialisation():
    encoder = TextEncoder(50, dim=12, num_layers=1, num_heads=3, dtype="mixed_bfloat16")
    assert encoder(np.ones([2, 3], int)).dtype == "bfloat16"
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(encoder)
    )
    assert again.get_config() == encoder.get_config()
    assert again(np.ones([2, 3], int)).dtype == "bfloat16"


def test_frozen_layers_and_the_global_policy_are_kept():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        encoder = TextEncoder(50, dim=12)
    finally:
        keras.config.set_dtype_policy("float32")
    encoder.layers[1].trainable = False
    again = TextEncoder.from_config(encoder.get_config())
    assert again(np.ones([2, 3], int)).dtype == "bfloat16"
    num_trainable = len(again.trainable_weights)
    assert num_trainable == len(encoder.trainable_weights) < len(encoder.weights)


def test_heads_must_divide_dim():
    with pytest.raises(ValueError, match="dim=10, num_heads=3"):
        TextEncoder(50, dim=10, num_layers=1, num_heads=3)
