"""Converts texts to token ids."""

import keras
import tensorflow as tf
import tensorflow_text

from tfembloss.checks import integer
from tfembloss.config import Configurable
from tfembloss.text.rows import batch_of_texts, two_batches_of_texts, valid_utf8
from tfembloss.text.vocabulary import UNKNOWN, vocabulary_entries, word_piece_tokenizer

_LONGEST_WORD = 100  # bytes; one unknown character makes a shorter word unknown


@keras.saving.register_keras_serializable("tfembloss")
class TextPreprocessor(Configurable):
    """Converts texts to token ids, with tensorflow-text's WordPiece tokenizer.

    Texts are lower-cased, stripped of accents and truncated; there are no start or end
    tokens. Bytes that are not UTF-8 become unknown tokens. A word with an unknown character
    is one unknown token; in a word above 100 bytes, such as a clause in a language without
    spaces, only that character is. The vocabulary is saved in the model's file.

    Call arguments: texts `[rows]`, strings, or a column `[rows, 1]` of them. Returns token
    ids `[rows, T]`, int32, padded with 0.

    Args:
        vocabulary: list of entries, `"[PAD]"` first and `"[UNK]"` among them, such as
            `learn_vocabulary` returns, or a BERT checkpoint's vocab.txt contains.
        sequence_length: the maximum number of tokens of a text, > 0.
        padding: `"max_length"`: T is always `sequence_length`, which suits XLA and TPUs.
            `"longest"`: T is the length of the batch's longest text, which is faster on
            CPUs if texts are short.

    Raises:
        ValueError: the vocabulary is not a list of strings, lacks `"[PAD]"` or `"[UNK]"`,
            or has duplicates; when called, texts are not strings of shape `[rows]`.

    Example:

    >>> preprocess = TextPreprocessor(["[PAD]", "[UNK]", "new", "##er"], 4)
    >>> preprocess(["Newer!", ""]).numpy().tolist()
    [[2, 3, 1, 0], [0, 0, 0, 0]]

    Relations:
        Equal to BERT's uncased tokenizers without the start and end tokens, except for
        words above 100 characters, which are one unknown token there.
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
        # Characters with an entry both at the beginning of a word and within it.
        entries = set(self.vocabulary)
        known = [x for x in self.vocabulary if len(x) == 1 and f"##{x}" in entries]
        known = "".join(f"\\x{{{ord(x):x}}}" for x in known)
        self._not_known = f"([^{known}]+)" if known else "((?s:.)+)"

    def __call__(self, texts):
        """Returns token ids `[rows, T]` of texts `[rows]`."""
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
        """Splits long unknown words at their unknown characters; token ids, row splits."""
        at = tf.where(long)[:, 0]
        rows = tf.searchsorted(row_splits, at, side="right") - 1
        words = tf.strings.substr(
            tf.gather(texts, rows), tf.gather(starts, at), tf.gather(lengths, at)
        )
        words = tf.strings.regex_replace(words, self._not_known, r" \1 ")
        pieces = self._tokenizer.tokenize(words)
        # Each token takes one place, and each of those words one for each of its pieces.
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
    """Converts pairs of texts to concatenated token ids, for `tfembloss.CrossEncoder`.

    The second text always begins at the same position, so that an encoder with position
    embeddings can distinguish the two: no separator is needed.

    Call arguments: first texts `[rows]` and second texts `[rows]`, strings. Returns token
    ids `[rows, first_length + T]`, int32, padded with 0; those of the second text begin at
    `first_length`.

    Args:
        vocabulary: see `TextPreprocessor`.
        first_length: the maximum number of tokens of a first text, > 0.
        second_length: the maximum number of tokens of a second text, > 0.
        padding: `"max_length"`: T is `second_length`. `"longest"`: T is the length of the
            batch's longest second text.

    Raises:
        ValueError: as in `TextPreprocessor`; when called, the numbers of texts differ.

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
        """The list of entries; an entry's index is its id."""
        return self.first.vocabulary

    def __call__(self, first, second):
        """Returns token ids `[rows, first_length + T]` of both texts."""
        first, second = two_batches_of_texts(first, second)
        return tf.concat([self.first(first), self.second(second)], axis=1)
