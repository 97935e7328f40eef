import collections
import itertools
import json
import pathlib
import unicodedata
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfembloss.layers import TokenPooling
from tfembloss.text import (
    RESERVED,
    DeleteWords,
    TextEncoder,
    TextPairPreprocessor,
    TextPreprocessor,
    learn_vocabulary,
)

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
        ((["[PAD]", "[UNK]"], 0), "`sequence_length` must be an integer >= 1"),
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


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_bag_is_what_its_layers_compute(jit_compile):
    encoder = TextEncoder(9, dim=4, sequence_length=5)
    rng = np.random.default_rng(0)
    for weight in encoder.trainable_weights:
        weight.assign(rng.normal(size=weight.shape))
    tokens = tf.constant([[3, 4, 3, 0, 0], [8, 0, 0, 0, 0], [0] * 5, [1, 2, 0, 3, 4]])
    upstream = tf.constant(rng.normal(size=[4, 4]), tf.float32)
    _, embed, _, pooling = encoder.layers

    def by_layers(tokens):
        return pooling(tokens, embed(tokens))

    found = []
    for call in (encoder, by_layers):

        @tf.function(jit_compile=jit_compile)
        def run(call=call):
            with tf.GradientTape() as tape:
                embeddings = call(tokens)
            gradients = tape.gradient(embeddings, encoder.trainable_weights, upstream)
            return [embeddings, *map(tf.convert_to_tensor, gradients)]

        found.append(run())
    for ours, expected in zip(*found, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found[0][0][2], 0)


def test_the_noise_in_training_has_the_variance_of_dropout():
    encoder = TextEncoder(9, dim=2000, dropout=0.3)
    tokens = np.array([[3, 4, 3, 8], [5, 0, 0, 0], [0, 0, 0, 0]])
    _, embed, dropout, pooling = encoder.layers
    plain = encoder(tokens).numpy()
    differences = [encoder(tokens, training=True) - plain for _ in range(20)]
    dropped = [pooling(tokens, dropout(embed(tokens), training=True)) for _ in range(20)]
    np.testing.assert_allclose(
        np.std(differences, axis=(0, 2)),
        np.std(np.subtract(dropped, plain), axis=(0, 2)),
        rtol=0.05,
    )
    assert np.std(differences[0][0]) > 0.01
    np.testing.assert_array_equal(differences[0][2], 0)  # a text without tokens
    assert np.any(differences[0][0] != differences[1][0])


def test_a_text_without_tokens_has_finite_gradients_in_training():
    encoder = TextEncoder(9, dim=4, dropout=0.5)
    with tf.GradientTape() as tape:
        embeddings = encoder(np.array([[3, 4], [0, 0]]), training=True)
        none = encoder(np.zeros([0, 2], int), training=True)  # of a replica without rows
        embeddings = tf.concat([embeddings, none], axis=0)
    for gradient in tape.gradient(embeddings, encoder.trainable_weights):
        assert np.isfinite(tf.convert_to_tensor(gradient)).all()


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


# Vocabularies of what users hold.


def merged_by_recounting(words, room):
    """Byte-pair merging as it is defined: all pairs are counted again for each merge."""
    words = {(word[0], *("##" + x for x in word[1:])): n for word, n in words.items()}
    entries = []
    while len(entries) < room:
        totals = collections.Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(word):
                totals[pair] += count
        if not totals or max(totals.values()) < 2:
            break
        pair = min(totals, key=lambda pair: (-totals[pair], pair))
        entry = pair[0] + pair[1][2:]
        if entry not in entries:
            entries.append(entry)
        joined = {}
        for word, count in words.items():
            spelling, rest = [], list(word)
            while rest:
                both = tuple(rest[:2]) == pair
                spelling.append(entry if both else rest[0])
                rest = rest[1 + both :]
            joined[tuple(spelling)] = count
        words = joined
    return entries


def test_entries_are_those_of_byte_pair_merging():
    rng = np.random.default_rng(0)
    shares = np.array([5, 3, 2, 1]) / 11
    lengths = rng.integers(1, 9, 400)
    texts = ["".join(rng.choice(list("aabc"), n, p=shares)) for n in lengths]
    words = collections.Counter(texts)
    for room in (1, 10, 1000):
        vocabulary = learn_vocabulary(texts, 5 + 6 + room)
        assert vocabulary[5:11] == ["a", "b", "c", "##a", "##b", "##c"]
        assert vocabulary[11:] == merged_by_recounting(words, room)


def chinese_texts(num_characters=3000, num_texts=1500):
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, num_characters + 1)
    characters = [chr(0x4E00 + i) for i in range(num_characters)]
    drawn = rng.choice(characters, [num_texts, 20], p=shares / shares.sum())
    return ["".join(text) for text in drawn]


def test_all_characters_are_entries():
    texts = chinese_texts()
    characters = set("".join(texts))
    vocabulary = learn_vocabulary(texts, size=len(characters) + 200)
    assert characters <= set(vocabulary) and len(vocabulary) <= len(characters) + 200
    assert (TextPreprocessor(vocabulary, 20)(texts).numpy() > 1).all()


def test_the_most_frequent_characters_are_entries_where_room_is_short():
    texts = chinese_texts()
    counts = collections.Counter("".join(texts))
    with pytest.warns(
        UserWarning, match=rf"no room for .* {len(counts)} characters.*size="
    ):
        vocabulary = learn_vocabulary(texts, size=1200)
    assert len(vocabulary) == 1200 and tuple(vocabulary[:5]) == RESERVED
    least = min(counts[character] for character in vocabulary[5:])
    assert least >= max(counts[x] for x in counts if x not in set(vocabulary))
    # Letters take two entries: at the beginning of a word, and within.
    texts = [f"{a}{b} word" for a in "abcdefghijklmnopqrstuvwxyz" for b in "0123456789"]
    with pytest.warns(UserWarning, match="36 characters.*the 22 most.*size=77"):
        vocabulary = learn_vocabulary(texts, size=50)
    assert len(vocabulary) == 49 and {"w", "##w", "0", "##0"} < set(vocabulary)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(learn_vocabulary(texts, size=77)) == 77
    with pytest.raises(ValueError, match=r"36 characters, 77\. Received: size=6"):
        learn_vocabulary(texts, size=6)


def test_rare_letters_stay_where_the_learner_gives_too_much():
    words = [f"word{i} " * (i % 7 + 1) for i in range(300)] + ["z"]
    vocabulary = learn_vocabulary(words, 60)
    assert {"z", "##z"} < set(vocabulary) and len(vocabulary) <= 60
    assert (TextPreprocessor(vocabulary, 4)(["zoz rwz"]).numpy() != 1).all()


@pytest.mark.parametrize(
    "text",
    [
        "0123456789abcdef" * 8,
        "วันนี้เราจะไปเดินเล่นที่สวนสาธารณะใกล้บ้านของเรา" * 2,
        "안녕하세요세계" * 9,
        "今日はカレーを食べました" * 9,
        "https://a.example/" + "path" * 40 + "?q=1",
    ],
)
def test_long_words_are_learned_from_and_read(text):
    vocabulary = learn_vocabulary([text] * 3, size=120)
    preprocess = TextPreprocessor(vocabulary, 400, "longest")
    tokens = preprocess([text, text[:-1], "short " + text]).numpy()
    assert (tokens[:2, :5] > 1).all() and not (tokens[:2] == 1).any()
    entries = [vocabulary[i].removeprefix("##") for i in tokens[0] if i]
    plain = unicodedata.normalize("NFD", text)
    plain = "".join(x for x in plain if unicodedata.category(x) != "Mn")
    assert "".join(entries) == "".join(plain.split())


def test_an_unknown_character_of_a_long_word_is_one_unknown_token():
    letters = "abcdefgh"
    vocabulary = [*RESERVED[:2], *letters, *("##" + x for x in letters), "##ab"]
    preprocess = TextPreprocessor(vocabulary, 300, "longest")
    word = "abcdefgh" * 13  # of more than 100 bytes
    tokens = preprocess(
        [f"a {word}é\u4e00!\U0001f600\U0001f600{word} b", "a", f"{word}z{word}"]
    )
    names = [[vocabulary[i] for i in row if i] for row in tokens.numpy()]
    pieces = [
        "a",
        *("##" + x for x in "bcdefgh"),
        *["##ab", *("##" + x for x in "cdefgh")] * 12,
    ]
    assert names[0][:1] + names[0][-1:] == ["a", "b"] and names[1] == ["a"]
    assert names[0].count("[UNK]") == 3 and names[0].count("##ab") == 24
    assert names[2] == [*pieces, "[UNK]", *pieces]
    # A shorter word is unknown as a whole, as in BERT; in a graph the same.
    assert preprocess(["abz"]).numpy().tolist() == [[1]]
    batches = tf.data.Dataset.from_tensors([f"{word}z{word}"]).map(preprocess)
    assert [[vocabulary[i] for i in row] for row in next(iter(batches)).numpy()] == names[
        2:
    ]


def test_words_of_100_bytes_are_read_as_before():
    vocabulary = ["[PAD]", "[UNK]", "a", "##a", "b"]
    for length in (99, 100, 101, 1000):
        tokens = TextPreprocessor(vocabulary, 2000, "longest")(["a" * length]).numpy()
        assert tokens.tolist() == [[2] + [3] * (length - 1)]
    tokens = TextPreprocessor(vocabulary, 2000, "longest")(["a" * 99 + "z"]).numpy()
    assert tokens.tolist() == [[1]]


class Column:
    """As pandas's Series is."""

    def __init__(self, rows):
        self.rows = np.array(rows, object)

    def __array__(self, dtype=None, copy=None):
        return self.rows


class Table(Column):
    """As pandas's DataFrame is: an iterable of the columns' names."""

    def __iter__(self):
        return iter(["question"])


def test_texts_are_taken_from_what_users_hold_them_in():
    dataset = tf.data.Dataset.from_tensor_slices(TEXTS)
    expected = learn_vocabulary(TEXTS, 60)
    for texts in (
        tuple(TEXTS),
        set(TEXTS),
        dict(zip("abc", TEXTS, strict=True)),
        (text for text in TEXTS),
        np.array(TEXTS),
        np.array(TEXTS)[:, None],
        [text.encode() for text in TEXTS],
        tf.constant(TEXTS),
        Column(TEXTS),
        Table([[text] for text in TEXTS]),
        dataset,
        dataset.batch(2),
        dataset.batch(1).batch(2),
    ):
        assert learn_vocabulary(texts, 60) == expected


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("texts.txt", "one str: 'texts.txt'"),
        (pathlib.Path("texts.txt"), "read a file first"),
        (None, "one NoneType"),
        (["a", None], "row 1 is missing, None"),
        (np.array(["a", "b", np.nan], object), "row 2 is missing, nan"),
        (Column(["a", float("nan")]), "row 1 is missing, nan"),
        ({"d0": "a", "d1": ["b"]}, "row 1 of type list"),
        ((TEXTS, TEXTS), "texts of all columns into one list"),
        (np.array([TEXTS, TEXTS]), r"shape=\(2, 3\)"),
        (tf.constant([TEXTS, TEXTS]), r"shape=\(2, 3\)"),
        (Table([["a", "b"]]), r"shape=\(1, 2\)"),
        (tf.ragged.constant([["a"], ["b", "c"]]), "one RaggedTensor"),
        (tf.data.Dataset.from_tensors("a").repeat(), "a finite dataset"),
        (tf.data.Dataset.from_tensors(("a", "b")), "a dataset of texts"),
        (["\u200b", "\x00"], "at least one word"),
    ],
)
def test_what_are_no_texts_to_learn_from_is_refused(texts, message):
    with pytest.raises(ValueError, match=message):
        learn_vocabulary(texts, 60)


@pytest.mark.parametrize("size", [50.0, "50", None, True, -1])
def test_sizes_that_are_no_integers_are_refused(size):
    with pytest.raises(ValueError, match=f"integer >= 6.*size={size!r}"):
        learn_vocabulary(TEXTS, size)


def test_half_characters_are_learned_from_as_invalid():
    assert "good" in learn_vocabulary(["good \ud800 good"], 50)


# The preprocessors.

ENTRIES = ["[PAD]", "[UNK]", "a", "b", "##a", "##b"]


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ("vocab.txt", "Read the file"),
        (pathlib.Path("vocab.txt"), "Read the file"),
        ({entry: i for i, entry in enumerate(ENTRIES)}, "in the order of their ids"),
        (set(ENTRIES), "as a list"),
        (None, "NoneType"),
        ([f"{entry}\n" for entry in ENTRIES], "line ends"),
        ([*ENTRIES, None], "entry 6 of type NoneType"),
        ([ENTRIES], "entry 0 of type list"),
        (ENTRIES[:2], "at least one entry that is not reserved"),
        ([*ENTRIES, "x" * 300], "256 bytes at most"),
        ([*ENTRIES, "\x00"], "printable"),
        ([*ENTRIES, "\ud800"], "printable"),
        ([*(entry.encode() for entry in ENTRIES), b"\xff"], "printable"),
    ],
)
def test_what_is_no_vocabulary_is_refused(vocabulary, message):
    with pytest.raises(ValueError, match=message):
        TextPreprocessor(vocabulary, 4)


def test_vocabularies_of_other_kinds():
    expected = [[2, 5, 2, 0]]
    for vocabulary in (
        tuple(ENTRIES),
        iter(ENTRIES),
        np.array(ENTRIES),
        [entry.encode() for entry in ENTRIES],
        tf.constant(ENTRIES),
        Column(ENTRIES),
    ):
        preprocess = TextPreprocessor(vocabulary, np.int64(4))
        assert preprocess(["ab a"]).numpy().tolist() == expected
        assert json.loads(json.dumps(preprocess.get_config()))["vocabulary"] == ENTRIES


@pytest.mark.parametrize("length", [0, -1, 2.5, "4", None, True])
def test_lengths_that_are_no_integers_are_refused(length):
    with pytest.raises(ValueError, match="`sequence_length` must be an integer >= 1"):
        TextPreprocessor(ENTRIES, length)
    with pytest.raises(ValueError, match="`second_length` must be an integer >= 1"):
        TextPairPreprocessor(ENTRIES, 2, length)


NO_BATCHES = [
    ("a", r"shape=\(\)"),
    ([["a", "b"]], r"shape=\(1, 2\)"),
    ([[["a"]]], r"shape=\(1, 1, 1\)"),
    ([0.5], "dtype=float32"),
    (None, "NoneType"),
    (["a", None], "row 1 is missing, None"),
    (np.array(["a", np.nan], object), "row 1 is missing, nan"),
    (["a", ["b"]], "row 1 of type list"),
    (["a", "\ud800"], "row 1 is not valid Unicode"),
    ({"a": "b"}, "dict"),
    (tf.ragged.constant([["a"], ["b", "a"]]), "RaggedTensor"),
    (tf.data.Dataset.from_tensors("a"), "Dataset"),
]


@pytest.mark.parametrize(("texts", "message"), NO_BATCHES)
def test_what_is_no_batch_is_refused_by_all(texts, message):
    pair = TextPairPreprocessor(ENTRIES, 2, 2)
    for call in (
        TextPreprocessor(ENTRIES, 4),
        lambda texts: pair(texts, ["a"]),
        lambda texts: pair(["a"], texts),
        lambda texts: DeleteWords()(texts, 0),
    ):
        with pytest.raises(ValueError, match=f"(?s)batch of texts.*Received: .*{message}"):
            call(texts)


def test_batches_of_other_kinds():
    preprocess = TextPreprocessor(ENTRIES, 2)
    for texts in (
        [["a"], ["b"]],
        np.array([["a"], ["b"]]),
        np.array(["a", "b"], object),
        Column(["a", "b"]),
        ("a", b"b"),
        tf.Variable(["a", "b"]),
    ):
        assert preprocess(texts).numpy().tolist() == [[2, 0], [3, 0]]
    for texts in ([], (), np.array([], str)):
        assert preprocess(texts).shape == (0, 2)
        assert DeleteWords()(texts, 0).shape == (0,)


@pytest.mark.parametrize("shape", [None, [None, None]])
def test_shapes_that_only_a_graph_run_knows(shape):
    preprocess = TextPreprocessor(ENTRIES, 2)
    run = tf.function(preprocess, [tf.TensorSpec(shape, tf.string)], autograph=False)
    assert run(tf.constant([["a"], ["b"]])).numpy().tolist() == [[2, 0], [3, 0]]
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected a batch of texts"):
        run(tf.constant([["a", "b"]]))
    if shape is None:
        assert run(tf.constant(["a"])).numpy().tolist() == [[2, 0]]
        with pytest.raises(tf.errors.InvalidArgumentError, match="Expected a batch of"):
            run(tf.constant("a"))


def test_pairs_of_unequal_number_are_refused():
    pair = TextPairPreprocessor(ENTRIES, 2, 2)
    assert pair.vocabulary == ENTRIES
    with pytest.raises(ValueError, match="Received: 1 and 2"):
        pair(["a"], ["b", "a"])
    run = tf.function(pair, [tf.TensorSpec([None], tf.string)] * 2, autograph=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match="equal numbers of first"):
        run(tf.constant(["a"]), tf.constant(["b", "a"]))


# The encoder.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 32, "num_layers": 1}, r"vocabulary_size=len\(vocabulary\)"),
        ({"vocabulary_size": ENTRIES}, r"vocabulary_size=len\(vocabulary\)"),
        ({"vocabulary_size": 9.0}, "Received: vocabulary_size=9.0"),
        ({"vocabulary_size": 9, "dim": 0}, "`dim` must be an integer >= 1"),
        ({"vocabulary_size": 9, "dim": 8.0}, "`dim` must be an integer >= 1"),
        (
            {"vocabulary_size": 9, "sequence_length": "8"},
            "`sequence_length`.* integer >= 1",
        ),
        ({"vocabulary_size": 9, "num_layers": -1}, "`num_layers` must be an integer >= 0"),
        ({"vocabulary_size": 9, "num_layers": None}, "`num_layers`.* integer >= 0"),
        ({"vocabulary_size": 9, "num_heads": 0}, "`num_heads` must be an integer >= 1"),
        ({"vocabulary_size": 9, "dropout": 1.5}, "`dropout` must be a number from 0 to 1"),
        ({"vocabulary_size": 9, "dropout": None}, "`dropout` must be a number from 0 to 1"),
    ],
)
def test_bad_encoders_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TextEncoder(**options)


@pytest.mark.parametrize(("dim", "num_heads"), [(384, 6), (32, 4), (10, 5), (7, 1)])
def test_heads_divide_dim_by_default(dim, num_heads):
    encoder = TextEncoder(9, dim=dim, num_layers=1)
    assert encoder.get_config()["num_heads"] == num_heads


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[9, 1]], "token ids from 0 to 8.*vocabulary_size=len"),
        ([[-1, 1]], "token ids from 0 to 8"),
        ([[2**40, 1]], "token ids from 0 to 8"),
        (np.array([[200]], "uint8"), "token ids from 0 to 8"),
        ([1, 2], r"integers of shape \[rows, T\].*shape=\(2,\)"),
        ([["a"]], "as TextPreprocessor returns them.*dtype=string"),
    ],
)
def test_what_are_no_token_ids_is_refused(tokens, message):
    encoder = TextEncoder(9, dim=4)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        encoder(np.array(tokens))
    with pytest.raises(
        (ValueError, tf.errors.InvalidArgumentError), match=f"(?s){message}"
    ):
        tf.function(encoder)(tf.constant(tokens))


@pytest.mark.parametrize("num_layers", [0, 1])
def test_token_ids_out_of_range_give_nan_under_xla(num_layers):
    encoder = TextEncoder(9, dim=4, num_layers=num_layers)
    tokens = tf.constant([[1, 8, 0], [1, 9, 0], [-1, 2, 0]])
    embeddings = tf.function(encoder, jit_compile=True)(tokens)
    assert np.isnan(embeddings[1:]).all()
    np.testing.assert_allclose(embeddings[:1], encoder(tokens[:1]), atol=1e-6)


def test_an_encoder_in_a_functional_model_checks_its_tokens():
    tokens = keras.Input([None], dtype="int32")
    model = keras.Model(tokens, TextEncoder(9, dim=4)(tokens))
    assert model(np.array([[8, 1]])).shape == (1, 4)
    with pytest.raises(ValueError, match="token ids from 0 to 8"):
        model(np.array([[9, 1]]))


# Noise in languages without spaces.


@pytest.mark.parametrize(
    "text",
    ["我们今天去公园散步", "今日はカレーを食べました", "วันนี้เราจะไปเดินเล่น", "ພາສາລາວພາສາລາວ",
     "ខ្ញុំស្រលាញ់ភាសាខ្មែរ", "မြန်မာဘာသာစကား", "བོད་སྐད་བོད་སྐད་"],
)  # fmt: skip
def test_characters_are_deleted_where_there_are_no_spaces(text):
    noise, ends = DeleteWords(0.6), [f" {i}" for i in range(500)]
    kept = noise([text + end for end in ends], 1).numpy()
    kept = [one.decode().removesuffix(end) for one, end in zip(kept, ends, strict=True)]
    kept = [one for one in kept if one not in ends and not one.isdigit()]
    assert DeleteWords(0.0)([text], 0).numpy()[0].decode() == text and len(set(kept)) > 50
    np.testing.assert_allclose(np.mean([len(x) for x in kept]) / len(text), 0.4, atol=0.06)
    for one in kept:  # in their order, and no mark without its character
        assert " " not in one and unicodedata.category(one[0])[0] != "M"
        rest = iter(text)
        assert all(character in rest for character in one)
    assert noise([text, "a b c"], 3).numpy()[0] == noise(["b", text], 3).numpy()[1]


def test_words_and_characters_side_by_side():
    noise = DeleteWords(0.5)
    texts = [f"use iPhone15在北京 today {i}" for i in range(300)]
    kept = [text.decode() for text in noise(texts, 1).numpy()]
    words = {word for text in kept for word in text.split(" ")}
    assert {"use", "today", "iPhone15", "在北", "iPhone15京", "iPhone15在北京"} < words
    assert not any("usei" in text or "京today" in text for text in kept)


def test_words_between_spaces_are_deleted_as_ever():
    # What it gave before it knew of other scripts.
    texts = [
        "to be or not to be",
        "Straße naïve  CAFÉ\tok\n",
        "한국어 문장 은 그대로",
        "нет да и нет",
    ]
    assert DeleteWords(0.6)(texts, 3).numpy().tolist() == [
        b"be not",
        "Straße ok".encode(),
        "한국어".encode(),
        "да".encode(),
    ]


@pytest.mark.parametrize("ratio", [-0.1, 1.1, "0.6", None, True, float("nan")])
def test_ratios_out_of_range_are_refused(ratio):
    with pytest.raises(ValueError, match="`ratio` must be a number from 0 to 1"):
        DeleteWords(ratio)


@pytest.mark.parametrize("seed", [0.5, "a", None, [1, 2], True, 2**64])
def test_seeds_that_are_no_integers_are_refused(seed):
    with pytest.raises(ValueError, match="a seed, one 64-bit integer"):
        DeleteWords()(["a b"], seed)
