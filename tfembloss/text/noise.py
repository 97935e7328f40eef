"""Noise on texts, for denoising autoencoders."""

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
    """Returns a seed as a scalar int64. Raises ValueError otherwise."""
    try:
        value = tf.convert_to_tensor(seed)
        if value.dtype.is_integer and value.shape.is_compatible_with([]):
            return tf.cast(value, tf.int64)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"Expected a seed, one 64-bit integer. Received: seed={seed!r:.80}")


@keras.saving.register_keras_serializable("tfembloss")
class DeleteWords(Configurable):
    """Deletes a random fraction of the words of texts, but keeps at least one word.

    Words are separated by whitespace, and each is deleted independently; if all would be
    deleted, one of them, chosen uniformly, is kept. The words kept are joined by single
    spaces. In scripts that are written without spaces (Chinese, Japanese, Thai, Lao, Khmer,
    Burmese, Tibetan ...) each character with its marks counts as a word, and is joined
    without a space.

    Call arguments: texts `[rows]`, strings; seed, an integer. What is deleted from a text
    depends on the text and the seed only, not on the batch, the replica or the order.
    Returns texts `[rows]`.

    Args:
        ratio: the probability that a word is deleted, 0 to 1.

    Example:

    >>> DeleteWords(ratio=0.6)(["to be or not to be", "be", ""], seed=3).numpy()
    array([b'be not', b'be', b''], dtype=object)

    Reference:
        Wang et al., "TSDAE: Using Transformer-based Sequential Denoising Auto-Encoder for
        Unsupervised Sentence Embedding Learning", 2021, https://arxiv.org/abs/2104.06979

    Relations:
        sentence-transformers deletes the tokens of nltk, punctuation included.
    """

    def __init__(self, ratio=0.6):
        self.ratio = fraction("ratio", ratio)

    def __call__(self, texts, seed):
        """Returns texts `[rows]` with words deleted."""
        # Flat instead of ragged tensors, whose graph would have ten times the nodes: the
        # words of all texts with their rows, and the pieces of all words with their words.
        texts = valid_utf8(batch_of_texts(texts))
        words = tf.strings.split(tf.strings.regex_replace(texts, r"[\s\p{Z}]+", " "))
        rows, words = words.value_rowids(), words.flat_values
        pieces = tf.strings.split(tf.strings.regex_replace(words, _APART, "\n\\1\n"))
        of_word, pieces = pieces.value_rowids(), pieces.flat_values
        of_row = tf.gather(rows, of_word)
        draws = self._draws(texts, of_row, seed)
        # If no piece of a text would be kept, the one with the largest number is.
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
        """Returns a number from 0 to 1 for each piece: a hash of text, place and seed."""
        places = tf.range(tf.size(rows)) - tf.searchsorted(rows, rows)
        texts = tf.gather(tf.strings.to_hash_bucket_fast(texts, 2**62), rows)
        seeds = tf.broadcast_to(_seed(seed), tf.shape(rows))
        parts = [tf.strings.as_string(x) for x in (texts, places, seeds)]
        named = tf.strings.join(parts, " ")
        return tf.cast(tf.strings.to_hash_bucket_fast(named, 2**24), tf.float32) / 2**24
