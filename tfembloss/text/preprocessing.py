"""From texts to token ids."""

import keras
import tensorflow as tf
import tensorflow_text

from tfembloss.checks import integer
from tfembloss.config import Configurable
from tfembloss.losses.inputs import require
from tfembloss.text.rows import batch_of_texts, valid_utf8
from tfembloss.text.vocabulary import UNKNOWN, vocabulary_entries, word_piece_tokenizer

_LONGEST_WORD = 100  # bytes; one unknown character makes a shorter word unknown


@keras.saving.register_keras_serializable("tfembloss")
class TextPreprocessor(Configurable):
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
        self.vocabulary = vocabulary_entries(vocabulary)
        self.sequence_length = integer("sequence_length", sequence_length, 1)
        if padding not in ("max_length", "longest"):
            raise ValueError(
                "Expected padding='max_length' or padding='longest'. "
                f"Received: padding={padding!r}"
            )
        self.padding = padding
        self._normalizer = tensorflow_text.FastBertNormalizer(
            lower_case_nfd_strip_accents=True
        )
        self._tokenizer = word_piece_tokenizer(self.vocabulary)
        self._unknown = self.vocabulary.index(UNKNOWN)
        # Characters that are found wherever they occur in a word, as in all words of them.
        entries = set(self.vocabulary)
        known = [x for x in self.vocabulary if len(x) == 1 and f"##{x}" in entries]
        known = "".join(f"\\x{{{ord(x):x}}}" for x in known)
        self._not_known = f"([^{known}]+)" if known else "((?s:.)+)"

    def __call__(self, texts):
        """Token ids `[rows, T]` of texts `[rows]`."""
        texts = self._normalizer.normalize(valid_utf8(batch_of_texts(texts)))
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


@keras.saving.register_keras_serializable("tfembloss")
class TextPairPreprocessor(Configurable):
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
        self.first_length = integer("first_length", first_length, 1)
        self.second_length = integer("second_length", second_length, 1)
        self.padding = padding
        self.first = TextPreprocessor(vocabulary, self.first_length)
        self.second = TextPreprocessor(self.vocabulary, self.second_length, padding)

    @property
    def vocabulary(self):
        """The entries, whose ids are their places."""
        return self.first.vocabulary

    def __call__(self, first, second):
        """Token ids `[rows, first_length + T]` of both texts."""
        first, second = batch_of_texts(first), batch_of_texts(second)
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
