"""Noise on texts, for the denoising auto-encoder."""

import keras
import tensorflow as tf

from tfembloss.checks import fraction
from tfembloss.config import Configurable
from tfembloss.text.rows import batch_of_texts, valid_utf8

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
class DeleteWords(Configurable):
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
        self.ratio = fraction("ratio", ratio)

    def __call__(self, texts, seed):
        """Texts `[rows]` with words deleted."""
        # Flat: the words of all texts, and the row of each; the pieces of all words, and
        # the word of each. The graph of ragged tensors would have ten times the nodes.
        texts = valid_utf8(batch_of_texts(texts))
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
