"""From text to token ids, and a small encoder for them."""

import collections
import itertools
import numbers
import os
import warnings
from collections.abc import Iterable, Mapping, Set

import keras
import numpy as np
import tensorflow as tf
import tensorflow_text
from keras import layers, ops
from tensorflow_text.python.ops.bert_tokenizer import BasicTokenizer
from tensorflow_text.tools.wordpiece_vocab import wordpiece_tokenizer_learner_lib

from tfembloss.layers import PositionEmbedding, TokenPooling
from tfembloss.losses.inputs import require

PADDING, UNKNOWN = "[PAD]", "[UNK]"
RESERVED = (PADDING, UNKNOWN, "[CLS]", "[SEP]", "[MASK]")

_LONGEST_ENTRY = 50  # characters
_PIECE = 8  # characters of a longer word that are learned from together
_LONGEST_WORD = 100  # bytes; one unknown character makes a shorter word unknown


def learn_vocabulary(texts, size):
    """Learns a WordPiece vocabulary from texts, in lower case and without accents.

    It takes tensorflow-text about a minute for 13,000 texts of 100 words: keep the result.

    Args:
        texts: strings: a list, an array, any iterable of them, a `tf.data.Dataset` of
            them, batched or not, or a dict with them as its values.
        size: the most entries to have, the five reserved ones included. The texts'
            characters come first, the most frequent ones where there is no room for all:
            each takes two entries, at the beginning of a word and within, or one if it is
            always a word of its own, as punctuation and Chinese characters are.

    Returns:
        List of strings. It begins with `RESERVED`, so that `"[PAD]"` has the id 0.

    Raises:
        ValueError: `texts` are not strings, one of them is missing, or they have no word;
            `size` is not an integer above 5.

    Warns:
        UserWarning: there are more characters than `size` has room for.

    Example:

    >>> learn_vocabulary(["low lower lowest", "low new newer"], size=30)[5:]
    ['e', 'l', ...]
    """
    if not _is_integer(size) or size <= len(RESERVED):
        raise ValueError(
            f"Expected a size above the {len(RESERVED)} reserved entries, an integer. "
            f"Received: size={size!r}"
        )
    words, num_texts, length = _count_words(_single_texts(texts))
    if not words:
        raise ValueError(
            "Expected texts with at least one word to learn a vocabulary from. "
            f"Received {num_texts} texts without any."
        )
    characters = collections.Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    entries = _character_entries(characters)
    needed = len(RESERVED) + sum(map(len, entries.values()))
    if needed > size:
        return [*RESERVED, *_most_frequent(characters, entries, size, needed)]
    pieces = collections.Counter()
    for word, count in words.items():
        long = len(word) > _LONGEST_ENTRY
        step = _PIECE if long else len(word)
        for start in range(0, len(word), step):
            pieces[word[start : start + step]] += count
    # The learner searches the least count that an entry must have. An entry that is seen
    # more often than characters / size times hardly needs to be searched for.
    vocabulary = wordpiece_tokenizer_learner_lib.learn(
        pieces,
        size,
        list(RESERVED),
        lower_thresh=2,
        upper_thresh=max(2, length // size),
        max_token_length=_LONGEST_ENTRY,
        max_unique_chars=len(characters),
    )
    # It may return more than it was asked for, the rarest last.
    room = max(0, len(vocabulary) - size)
    kept = {*RESERVED, *itertools.chain(*entries.values())}
    left_out = [entry for entry in reversed(vocabulary) if entry not in kept][:room]
    return [entry for entry in vocabulary if entry not in set(left_out)]


def _count_words(texts):
    """Words as the tokenizer splits them, each with its count; texts and their length."""
    tokenizer, texts = BasicTokenizer(lower_case=True), iter(texts)
    words, num_texts, length = collections.Counter(), 0, 0
    while batch := list(itertools.islice(texts, 1000)):
        num_texts += len(batch)
        length += sum(map(len, batch))
        # "surrogatepass" makes bytes of half a character that are no UTF-8.
        batch = [
            x.encode(errors="surrogatepass") if isinstance(x, str) else x for x in batch
        ]
        words.update(tokenizer.tokenize(_valid_utf8(batch)).flat_values.numpy().tolist())
    words = {word.decode(): count for word, count in words.items() if word}
    return words, num_texts, length


def _character_entries(characters):
    """The entries that each character needs, to be found wherever it occurs in a word."""
    characters = list(characters)
    splits = BasicTokenizer(lower_case=True).tokenize(["a" + x for x in characters])
    alone = splits.row_lengths().numpy() > 1
    return {
        x: (x,) if is_alone else (x, f"##{x}")
        for x, is_alone in zip(characters, alone, strict=True)
    }


def _most_frequent(characters, entries, size, needed):
    """Entries of the most frequent characters, with a warning of what is left out."""
    room, kept = size - len(RESERVED), []
    by_count = sorted(characters.items(), key=lambda item: (-item[1], item[0]))
    for character, _ in by_count:
        room -= len(entries[character])
        if room < 0:
            break
        kept.append(character)
    if not kept:
        raise ValueError(
            f"Expected a size with room for the texts' {len(characters)} characters, "
            f"{needed}. Received: size={size}"
        )
    share = sum(characters[x] for x in kept) / characters.total()
    warnings.warn(
        f"A vocabulary of size={size} has no room for the texts' {len(characters)} "
        f"characters: it holds the {len(kept)} most frequent, {share:.2%} of the text, and "
        "a word with another one becomes an unknown token. All of them take "
        f"size={needed}, and words and pieces of words more.",
        stacklevel=3,
    )
    kept = sorted(kept)
    return [*kept, *(entry for x in kept for entry in entries[x][1:])]


# Texts as users hold them.


def _single_texts(texts):
    """Texts one by one, strings or bytes, or a ValueError that says which is none."""
    advice = "a list, an iterable, a dataset, or a dict with them as its values"
    if isinstance(texts, str | bytes | os.PathLike) or not _holds_rows(texts):
        raise ValueError(
            f"Expected texts: {advice}. Received one {type(texts).__name__}: {texts!r:.80}"
            ". Put a text into a list; read a file before."
        )
    if isinstance(texts, Mapping):
        texts = texts.values()
    elif isinstance(texts, tf.data.Dataset):
        texts = _texts_of_dataset(texts)
    elif not isinstance(texts, list | tuple) and hasattr(texts, "__array__"):
        texts = _rows_of_array(np.asarray(texts))
    for row, text in enumerate(texts):
        if not isinstance(text, str | bytes):
            raise ValueError(
                f"Expected texts as strings: {advice}. Received: {_described(row, text)}"
            )
        yield text


def _holds_rows(texts):
    return isinstance(texts, Iterable) or hasattr(texts, "__array__")


def _described(row, text):
    """A row that is no text, and what to do about it."""
    if text is None or text != text or type(text).__name__ in ("NAType", "NaTType"):
        return f'row {row} is missing, {text!r}: leave it out, or make it "".'
    if isinstance(text, list | tuple | dict | set | np.ndarray) or tf.is_tensor(text):
        return (
            f"row {row} of type {type(text).__name__}: put the texts of all columns into "
            "one list."
        )
    return f"row {row} of type {type(text).__name__}: {text!r:.80}"


def _rows_of_array(rows):
    if rows.ndim == 2 and rows.shape[1] == 1:
        rows = rows[:, 0]
    if rows.ndim != 1:
        raise ValueError(
            "Expected texts of shape [rows], of one column. Received: "
            f"shape={rows.shape}, dtype={rows.dtype}"
        )
    return rows


def _texts_of_dataset(dataset):
    spec = dataset.element_spec
    if not isinstance(spec, tf.TensorSpec) or spec.dtype != tf.string:
        raise ValueError(
            "Expected a dataset of texts, strings, batched or not. Received elements of "
            f"{spec}. Of several columns take each: dataset.map(lambda a, b: a)."
        )
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "Expected a dataset with an end. Received one that repeats without end: give "
            "it before repeat(), or take(n) of it."
        )
    for element in dataset.as_numpy_iterator():
        yield from [element] if isinstance(element, bytes) else _rows_of_array(element)


def _batch_of_texts(texts):
    """Texts `[rows]`, or a ValueError that says how."""
    if isinstance(texts, list | tuple) and not texts:
        return tf.constant([], tf.string)
    try:
        texts = tf.convert_to_tensor(texts)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{_A_BATCH} Received: {_not_a_batch(texts)}") from error
    shape = texts.shape
    if shape.rank == 1 and texts.dtype == tf.string:
        return texts
    if texts.dtype != tf.string or not shape.is_compatible_with([None, 1]):
        shape = "unknown" if shape.rank is None else tuple(shape)
        raise ValueError(f"{_A_BATCH} Received: shape={shape}, dtype={texts.dtype.name}")
    if shape.rank is None or shape[1] is None:  # seen only as the texts come
        sizes = tf.shape(texts)
        is_column = (tf.size(sizes) == 1) | (
            (tf.size(sizes) == 2) & (tf.reduce_prod(sizes[1:]) == 1)
        )
        texts = require(is_column, texts, f"{_A_BATCH} Received another shape.")
    return tf.reshape(texts, [-1])


_A_BATCH = (
    "Expected a batch of texts, strings of shape [rows]: several columns go into a tuple, "
    "and a dataset of single texts needs .batch(...)."
)


def _not_a_batch(texts):
    """What came in the place of a batch of texts, in words."""
    rows = texts if isinstance(texts, list | tuple) else ()
    if (
        not rows
        and hasattr(texts, "__array__")
        and not isinstance(texts, keras.KerasTensor)
    ):
        rows = np.asarray(texts)
        rows = rows if rows.ndim == 1 else ()
    for row, text in enumerate(rows):
        if not isinstance(text, str | bytes):
            return _described(row, text)
        if isinstance(text, str) and any("\ud800" <= x <= "\udfff" for x in text):
            return f"row {row} is no valid Unicode, it has half a character: {text!r:.80}"
    return f"{type(texts).__name__}, {texts!r:.80}"


def _valid_utf8(texts):
    return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")


def _is_integer(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _count(name, value, hint="", at_least=1):
    if _is_integer(value) and value >= at_least:
        return int(value)
    bound = "> 0" if at_least == 1 else f">= {at_least}"
    raise ValueError(
        f"Expected {name} {bound}, an integer{hint}. Received: {name}={value!r:.80}"
    )


def _share(name, value):
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise ValueError(f"Expected a {name} from 0 to 1. Received: {name}={value!r}")


@keras.saving.register_keras_serializable("tfembloss")
class TextPreprocessor:
    """Texts to token ids, with tensorflow-text's WordPiece tokenizer.

    Lower case, without accents; no start or end tokens; longer texts are cut. Bytes that
    are no UTF-8 become unknown tokens. A word with an unknown character is one unknown
    token; above 100 bytes, as a clause of a language without spaces, that character alone
    is. The vocabulary travels in a saved model's file.

    Call arguments: texts `[rows]`, strings, or a column `[rows, 1]` of them. Returns token
    ids `[rows, T]`, int32, padded with 0.

    Args:
        vocabulary: list of entries, `"[PAD]"` first and `"[UNK]"` among them;
            `learn_vocabulary` makes one, and a BERT checkpoint's vocab.txt is one.
        sequence_length: the most tokens of a text, > 0.
        padding: `"max_length"`: T is always `sequence_length`, as XLA and TPUs like it.
            `"longest"`: T is the length of the batch's longest text, which is faster on
            CPUs where texts are short.

    Raises:
        ValueError: the vocabulary is not a list of strings, is empty, lacks a reserved
            entry or repeats one, or an option is unknown; in use, texts are not strings of
            shape `[rows]`.

    Example:

    >>> preprocess = TextPreprocessor(["[PAD]", "[UNK]", "new", "##er"], 4)
    >>> preprocess(["Newer!", ""]).numpy().tolist()
    [[2, 3, 1, 0], [0, 0, 0, 0]]

    Relations:
        The tokens of BERT's uncased tokenizers, without their start and end, but for words
        above 100 characters, which are one unknown token there.
    """

    def __init__(self, vocabulary, sequence_length, padding="max_length"):
        self.vocabulary = _entries(vocabulary)
        self.sequence_length = _count("sequence_length", sequence_length)
        if padding not in ("max_length", "longest"):
            raise ValueError(
                "Expected padding='max_length' or padding='longest'. "
                f"Received: padding={padding!r}"
            )
        self.padding = padding
        self._normalizer = tensorflow_text.FastBertNormalizer(
            lower_case_nfd_strip_accents=True
        )
        self._tokenizer = _word_piece_tokenizer(self.vocabulary)
        self._unknown = self.vocabulary.index(UNKNOWN)
        # Characters that are found wherever they occur in a word, as in all words of them.
        entries = set(self.vocabulary)
        known = [x for x in self.vocabulary if len(x) == 1 and f"##{x}" in entries]
        known = "".join(f"\\x{{{ord(x):x}}}" for x in known)
        self._not_known = f"([^{known}]+)" if known else "((?s:.)+)"

    def __call__(self, texts):
        """Token ids `[rows, T]` of texts `[rows]`."""
        texts = self._normalizer.normalize(_valid_utf8(_batch_of_texts(texts)))
        tokens, starts, ends = self._tokenizer.tokenize_with_offsets(texts)
        ids, row_splits, starts = tokens.flat_values, tokens.row_splits, starts.flat_values
        lengths = ends.flat_values - starts  # in bytes
        long = (ids == self._unknown) & (lengths > _LONGEST_WORD)
        ids, row_splits = tf.cond(
            tf.reduce_any(long),
            lambda: self._in_pieces(texts, ids, row_splits, starts, lengths, long),
            lambda: (ids, row_splits),
        )
        tokens = tf.RaggedTensor.from_row_splits(ids, row_splits, validate=False)
        length = self.sequence_length if self.padding == "max_length" else None
        return tokens[:, : self.sequence_length].to_tensor(0, shape=[None, length])

    def _in_pieces(self, texts, ids, row_splits, starts, lengths, long):
        """Token ids and row splits, long unknown words without what is unknown in them."""
        at = tf.where(long)[:, 0]
        rows = tf.searchsorted(row_splits, at, side="right") - 1
        words = tf.strings.substr(
            tf.gather(texts, rows), tf.gather(starts, at), tf.gather(lengths, at)
        )
        words = tf.strings.regex_replace(words, self._not_known, r" \1 ")
        pieces = self._tokenizer.tokenize(words)
        # Each token takes one place, and each of those words as many as it has pieces.
        places = tf.tensor_scatter_nd_update(
            tf.ones_like(ids, tf.int64), at[:, None], pieces.row_lengths()
        )
        ends = tf.cumsum(places)
        token = tf.searchsorted(ends, tf.range(ends[-1]), side="right")
        ids = tf.tensor_scatter_nd_update(
            tf.gather(ids, token), tf.where(tf.gather(long, token)), pieces.flat_values
        )
        return ids, tf.gather(tf.concat([[0], ends], axis=0), row_splits)

    def get_config(self):
        """The arguments that make this preprocessor again."""
        return {
            "vocabulary": self.vocabulary,
            "sequence_length": self.sequence_length,
            "padding": self.padding,
        }

    @classmethod
    def from_config(cls, config):
        """The preprocessor that `get_config` described."""
        return cls(**config)


def _entries(vocabulary):
    """A vocabulary as a list, or a ValueError that says what is wrong with it."""
    no_list = isinstance(vocabulary, str | bytes | os.PathLike | Mapping | Set)
    if no_list or not _holds_rows(vocabulary):
        advice = ""
        if isinstance(vocabulary, str | bytes | os.PathLike):
            advice = ' Read the file: [x.rstrip("\\n") for x in open(path)].'
        elif isinstance(vocabulary, Mapping):
            advice = " Give its entries in the order of their ids."
        raise ValueError(
            "Expected a vocabulary as a list of entries, whose ids are their places. "
            f"Received: {type(vocabulary).__name__}, {vocabulary!r:.80}.{advice}"
        )
    entries = np.asarray(vocabulary) if hasattr(vocabulary, "__array__") else vocabulary
    entries = [
        x.decode(errors="surrogateescape") if isinstance(x, bytes) else x for x in entries
    ]
    for place, entry in enumerate(entries):
        if not isinstance(entry, str):
            raise ValueError(
                "Expected strings as entries of the vocabulary. Received: entry "
                f"{place} of type {type(entry).__name__}, {entry!r:.80}"
            )
    entries = list(map(str, entries))  # of numpy's kind they are no JSON
    if not entries or entries[0] != PADDING or UNKNOWN not in entries:
        line_ends = any(x != x.rstrip("\r\n") for x in entries[:2])
        raise ValueError(
            f"Expected a vocabulary that begins with {PADDING!r} and has {UNKNOWN!r}, "
            "as tfembloss.text.learn_vocabulary makes it. Received "
            f"{len(entries)} entries, the first of them {entries[:3]}"
            + ('. Leave out the line ends: entry.rstrip("\\r\\n").' * line_ends)
        )
    if len(set(entries)) < len(entries):
        twice = [x for x, count in collections.Counter(entries).items() if count > 1]
        raise ValueError(
            f"Expected each vocabulary entry once. Received twice: {twice[:5]}"
        )
    return entries


def _word_piece_tokenizer(vocabulary):
    """The tokenizer, of words of any length."""
    try:
        return tensorflow_text.FastWordpieceTokenizer(
            vocabulary, max_bytes_per_word=2**31 - 1, token_out_type=tf.int32
        )
    except (RuntimeError, TypeError) as error:
        odd = [
            x
            for x in vocabulary
            if not x.isprintable() or len(x.encode(errors="replace")) > 256
        ]
        received = f"among them {odd[:3]!r:.80}" if odd else f"{vocabulary[:5]}"
        raise ValueError(
            "Expected a vocabulary with at least one entry that is not reserved, and "
            "entries of printable characters, 256 bytes at most. Received "
            f"{len(vocabulary)} entries, {received}"
        ) from error


@keras.saving.register_keras_serializable("tfembloss")
class TextPairPreprocessor:
    """Pairs of texts to token ids, one after the other, for `tfembloss.CrossEncoder`.

    Each of the two has places of its own, so that an encoder with positions knows which
    token is whose: no separator is needed.

    Call arguments: texts `[rows]` and texts `[rows]`, strings. Returns token ids
    `[rows, first_length + T]`, int32, those of the second text from `first_length` on;
    padded with 0.

    Args:
        vocabulary: see `TextPreprocessor`.
        first_length: the most tokens of a first text, > 0.
        second_length: the most tokens of a second text, > 0.
        padding: `"max_length"`: T is `second_length`. `"longest"`: T is the length of the
            batch's longest second text.

    Raises:
        ValueError: as `TextPreprocessor`; in use, the numbers of texts differ.

    Example:

    >>> preprocess = TextPairPreprocessor(["[PAD]", "[UNK]", "new", "##er"], 2, 3)
    >>> preprocess(["new"], ["Newer!"]).numpy().tolist()
    [[2, 0, 2, 3, 1]]
    """

    def __init__(self, vocabulary, first_length, second_length, padding="max_length"):
        first_length = _count("first_length", first_length)
        second_length = _count("second_length", second_length)
        self.first = TextPreprocessor(vocabulary, first_length)
        self.second = TextPreprocessor(self.first.vocabulary, second_length, padding)

    @property
    def vocabulary(self):
        """The entries, whose ids are their places."""
        return self.first.vocabulary

    def __call__(self, first, second):
        """Token ids `[rows, first_length + T]` of both texts."""
        first, second = _batch_of_texts(first), _batch_of_texts(second)
        if not first.shape.is_compatible_with(second.shape):
            raise ValueError(
                "Expected as many first texts as second ones. Received: "
                f"{first.shape[0]} and {second.shape[0]}"
            )
        first = require(
            tf.size(first) == tf.size(second),
            first,
            "Expected as many first texts as second ones. Received other numbers.",
        )
        return tf.concat([self.first(first), self.second(second)], axis=1)

    def get_config(self):
        """The arguments that make this preprocessor again."""
        return {
            "vocabulary": self.first.vocabulary,
            "first_length": self.first.sequence_length,
            "second_length": self.second.sequence_length,
            "padding": self.second.padding,
        }

    @classmethod
    def from_config(cls, config):
        """The preprocessor that `get_config` described."""
        return cls(**config)


# A character, with its marks, of a script that is written without spaces.
_SCRIPTS = (
    "Han Hiragana Katakana Bopomofo Yi Thai Lao Khmer Myanmar Tibetan Tai_Le New_Tai_Lue "
    "Tai_Tham Javanese Balinese"
)
_APART = "".join(rf"\p{{{script}}}" for script in _SCRIPTS.split())
_APART = rf"([{_APART}][\p{{M}}\x{{30fc}}]*)"  # and the mark of a long vowel


def _seed(seed):
    """A seed as a scalar int64, or a ValueError."""
    try:
        value = tf.convert_to_tensor(seed)
        if value.dtype.is_integer and value.shape.is_compatible_with([]):
            return tf.cast(value, tf.int64)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(
        f"Expected a seed, one integer of 64 bits. Received: seed={seed!r:.80}"
    )


@keras.saving.register_keras_serializable("tfembloss")
class DeleteWords:
    """Noise: texts without a random share of their words, one word at least left.

    Each word, what stands between white space, is deleted or not by itself; if all would
    be, one of them, drawn evenly, stays. Words that stay are joined by single spaces. In
    scripts that are written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese,
    Tibetan ...) each character with its marks counts as a word, and is joined without one.

    Call arguments: texts `[rows]`, strings; seed, an integer. What is deleted of a text
    follows from the text and the seed: not from the batch, the replica or the order that
    it comes in. Returns texts `[rows]`.

    Args:
        ratio: the probability that a word is deleted, 0 to 1.

    Raises:
        ValueError: `ratio` is not a number in that range; in use, texts are not strings of
            shape `[rows]`, or the seed is not an integer.

    Example:

    >>> DeleteWords(ratio=0.6)(["to be or not to be", "be", ""], seed=3).numpy()
    array([b'be not', b'be', b''], dtype=object)

    Reference:
        Wang et al., "TSDAE: Using Transformer-based Sequential Denoising Auto-Encoder for
        Unsupervised Sentence Embedding Learning", 2021, https://arxiv.org/abs/2104.06979

    Relations:
        sentence-transformers deletes what nltk takes for words, punctuation included.
    """

    def __init__(self, ratio=0.6):
        self.ratio = _share("ratio", ratio)

    def __call__(self, texts, seed):
        """Texts `[rows]` with words deleted."""
        # Flat: the words of all texts, and the row of each; the pieces of all words, and
        # the word of each. The graph of ragged tensors would have ten times the nodes.
        texts = _valid_utf8(_batch_of_texts(texts))
        words = tf.strings.split(tf.strings.regex_replace(texts, r"[\s\p{Z}]+", " "))
        rows, words = words.value_rowids(), words.flat_values
        pieces = tf.strings.split(tf.strings.regex_replace(words, _APART, "\n\\1\n"))
        of_word, pieces = pieces.value_rowids(), pieces.flat_values
        of_row = tf.gather(rows, of_word)
        draws = self._draws(texts, of_row, seed)
        # Of a text of which no piece is to stay, the one that came nearest to it does.
        largest = tf.math.unsorted_segment_max(draws, of_row, tf.size(texts))
        stays = (draws >= self.ratio) | (draws == tf.gather(largest, of_row))
        words = tf.strings.unsorted_segment_join(
            pieces[stays], of_word[stays], tf.size(words)
        )
        left = words != ""
        return tf.strings.unsorted_segment_join(
            words[left], rows[left], tf.size(texts), separator=" "
        )

    def _draws(self, texts, rows, seed):
        """A number from 0 to 1 for each piece: a hash of its text, place and seed."""
        places = tf.range(tf.size(rows)) - tf.searchsorted(rows, rows)
        texts = tf.gather(tf.strings.to_hash_bucket_fast(texts, 2**62), rows)
        seeds = tf.broadcast_to(_seed(seed), tf.shape(rows))
        parts = [tf.strings.as_string(x) for x in (texts, places, seeds)]
        named = tf.strings.join(parts, " ")
        return tf.cast(tf.strings.to_hash_bucket_fast(named, 2**24), tf.float32) / 2**24

    def get_config(self):
        """The arguments that make this noise again."""
        return {"ratio": self.ratio}

    @classmethod
    def from_config(cls, config):
        """The noise that `get_config` described."""
        return cls(**config)


@keras.saving.register_keras_serializable("tfembloss")
class TextEncoder(keras.Model):
    """A small text encoder that trains well from scratch on a CPU.

    Token embeddings, transformer blocks if asked for, and `TokenPooling`. Without blocks
    it is a bag of words that learns which words matter: hard to beat where there are
    thousands of training pairs and not millions.

    Call arguments: token ids `[rows, T]`, 0 is padding. Returns `[rows, dim]`.

    Args:
        vocabulary_size: number of token ids, `len(vocabulary)` of the preprocessor's.
        dim: length of the embeddings.
        sequence_length: the largest T.
        num_layers: number of transformer blocks, >= 0.
        num_heads: attention heads of a block; divides `dim`. By default the most that do,
            up to 6.
        dropout: share of the embeddings' entries dropped in training, 0 to 1.
        name, dtype: as in `keras.Model`.

    Raises:
        ValueError: an argument is not of the kind, or `num_heads` does not divide `dim`; in
            use, token ids that are not below `vocabulary_size`. XLA cannot raise errors:
            the embeddings of their texts are NaN there.

    Example:

    >>> import numpy as np
    >>> encoder = TextEncoder(vocabulary_size=100, dim=8, num_layers=1, num_heads=2)
    >>> encoder(np.array([[5, 6, 0], [7, 0, 0]])).shape
    TensorShape([2, 8])
    """

    def __init__(
        self,
        vocabulary_size=None,
        dim=384,
        sequence_length=256,
        num_layers=0,
        num_heads=None,
        dropout=0.1,
        name=None,
        dtype=None,
    ):
        hint = ": vocabulary_size=len(vocabulary), of the preprocessor's vocabulary"
        vocabulary_size = _count("vocabulary_size", vocabulary_size, hint)
        dim = _count("dim", dim)
        sequence_length = _count("sequence_length", sequence_length)
        num_layers = _count("num_layers", num_layers, at_least=0)
        if num_heads is None:
            num_heads = next(heads for heads in range(6, 0, -1) if dim % heads == 0)
        num_heads = _count("num_heads", num_heads)
        dropout = _share("dropout", dropout)
        if num_layers and dim % num_heads:
            raise ValueError(
                "Expected num_heads to divide dim. "
                f"Received: dim={dim}, num_heads={num_heads}"
            )
        dtype = keras.dtype_policies.get(dtype)  # None is the global policy
        tokens = keras.Input([None], dtype="int32", name="tokens")
        embed = layers.Embedding(
            vocabulary_size, dim, keras.initializers.RandomNormal(stddev=0.05), dtype=dtype
        )
        x = embed(tokens)
        if num_layers:
            x = PositionEmbedding(sequence_length, dtype=dtype)(x)
        x = layers.Dropout(dropout, dtype=dtype)(x)
        for _ in range(num_layers):
            x = _transformer_block(x, tokens, dim, num_heads, dropout, dtype)
        pooling = TokenPooling(vocabulary_size, sequence_length, dtype=dtype)
        super().__init__(tokens, pooling(tokens, x), name=name)
        self._config = {
            "dtype": dtype.name,
            "vocabulary_size": vocabulary_size,
            "dim": dim,
            "sequence_length": sequence_length,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "dropout": dropout,
        }

    def call(self, inputs, training=None, mask=None):
        """Embeddings `[rows, dim]` of token ids `[rows, T]`."""
        tokens = next(iter(inputs.values()), None) if isinstance(inputs, dict) else inputs
        if (
            isinstance(tokens, list | tuple)
            and len(tokens) == 1
            and tf.is_tensor(tokens[0])
        ):
            tokens = tokens[0]
        size = self._config["vocabulary_size"]
        tokens = _token_ids(tokens)
        wide = tf.cast(tokens, tf.int64)
        unknown = (wide < 0) | (wide >= size)
        tokens = require(
            ~tf.reduce_any(unknown),
            tokens,
            f"Expected token ids from 0 to {size - 1}, as vocabulary_size={size} says. "
            "Received others. Give the encoder vocabulary_size=len(vocabulary), of the "
            "preprocessor's vocabulary.",
        )
        embeddings = super().call(tokens, training=training, mask=mask)
        # XLA leaves assertions out, and takes another token's embedding.
        unknown = tf.reduce_any(unknown, axis=1, keepdims=True)
        return tf.where(unknown, tf.cast(float("nan"), embeddings.dtype), embeddings)

    @property
    def token_embedding(self):
        """The layer of the token embeddings, as keras-hub's backbones name it."""
        return next(x for x in self.layers if isinstance(x, layers.Embedding))

    def get_config(self):
        """The arguments that make this encoder again, and which layers are frozen."""
        trainable = [layer.trainable for layer in self.layers]
        return {**self._config, "name": self.name, "trainable": trainable}

    @classmethod
    def from_config(cls, config):
        """The encoder that `get_config` described."""
        trainable = config.pop("trainable", [])
        encoder = cls(**config)
        for layer, value in zip(encoder.layers, trainable, strict=False):
            layer.trainable = value
        return encoder


def _token_ids(tokens):
    """Token ids `[rows, T]` as a tensor, or a ValueError that says how."""
    try:
        tokens = tf.convert_to_tensor(tokens)
    except (TypeError, ValueError):
        received = f"{type(tokens).__name__}, {tokens!r:.80}"
    else:
        if tokens.dtype != tf.string and tokens.shape.rank in (2, None):
            return tokens
        shape = "unknown" if tokens.shape.rank is None else tuple(tokens.shape)
        received = f"shape={shape}, dtype={tokens.dtype.name}"
    raise ValueError(
        "Expected token ids, integers of shape [rows, T], as TextPreprocessor makes them "
        f"of texts. Received: {received}"
    )


def _transformer_block(x, tokens, dim, num_heads, dropout, dtype):
    """Attention and a feed-forward layer, each normalised first and added to its input."""
    seen = ops.expand_dims(ops.not_equal(tokens, 0), axis=1)  # [B, 1, T]
    y = layers.LayerNormalization(dtype=dtype)(x)
    attention = layers.MultiHeadAttention(
        num_heads, dim // num_heads, dropout=dropout, dtype=dtype
    )
    x = x + attention(y, y, attention_mask=seen)
    y = layers.LayerNormalization(dtype=dtype)(x)
    y = layers.Dense(4 * dim, activation="gelu", dtype=dtype)(y)
    return x + layers.Dropout(dropout, dtype=dtype)(layers.Dense(dim, dtype=dtype)(y))
