"""Learns and checks WordPiece vocabularies."""

import collections
import itertools
import os
import warnings
from collections.abc import Mapping, Set

import numpy as np
import tensorflow as tf
import tensorflow_text
from tensorflow_text.python.ops.bert_tokenizer import BasicTokenizer

from tfembloss.checks import integer
from tfembloss.text.merging import merged_entries
from tfembloss.text.rows import holds_rows, single_texts, valid_utf8

PADDING, UNKNOWN = "[PAD]", "[UNK]"
RESERVED = (PADDING, UNKNOWN, "[CLS]", "[SEP]", "[MASK]")
_LONGEST_ENTRY = 50  # characters
_PIECE = 8  # characters of the pieces into which a longer word is split
_MOST_BYTES = 2**24  # of texts whose parts between spaces are counted at a time


def learn_vocabulary(texts, size):
    """Learns a WordPiece vocabulary from texts, in lower case and without accents.

    Entries are made by merging the most frequent pair of neighboring entries, again and
    again. The result does not depend on the order of the texts. 12,000 texts of 130 words
    take three seconds.

    Args:
        texts: strings: a list, an array, any iterable of them, a `tf.data.Dataset` of
            them, batched or not, or a dict with them as its values.
        size: the maximum number of entries, including the five reserved ones. The texts'
            characters come first, the most frequent ones if there is no room for all. Each
            takes two entries, one for the beginning of a word and one for within; or one
            entry if it is always a word by itself, like punctuation and Chinese characters.

    Returns:
        List of strings. It begins with `RESERVED`, so that `"[PAD]"` has the id 0. Then
        come the characters, and the merged entries, each of which occurs at least twice.

    Raises:
        ValueError: a text is missing or not a string, there are no words, or `size` is not
            an integer above 5.

    Warns:
        UserWarning: `size` does not have room for all characters.

    Example:

    >>> learn_vocabulary(["low lower lowest", "low new newer"], size=30)[5:]
    ['e', 'l', ...]
    """
    hint = f", above the {len(RESERVED)} reserved entries"
    size = integer("size", size, len(RESERVED) + 1, hint=hint)
    words, num_texts = _count_words(single_texts(texts))
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
    spellings = collections.Counter()
    for word, count in words.items():
        spelling = (word[0], *(f"##{character}" for character in word[1:]))
        step = _PIECE if len(word) > _LONGEST_ENTRY else len(word)
        for start in range(0, len(word), step):
            spellings[spelling[start : start + step]] += count
    of_characters = sorted(itertools.chain(*entries.values()), key=lambda x: (len(x), x))
    return [*RESERVED, *of_characters, *merged_entries(spellings, size - needed)]


def _count_words(texts):
    """Returns the tokenizer's words with their counts, and the number of texts."""
    words, parts = collections.Counter(), collections.Counter()
    num_texts = num_bytes = 0
    for text in texts:
        # "surrogatepass" encodes half a character as bytes that are not UTF-8.
        text = text.encode(errors="surrogatepass") if isinstance(text, str) else text
        parts.update(text.split())
        num_texts += 1
        num_bytes += len(text)
        if num_bytes > _MOST_BYTES:
            words.update(_words_of(parts))
            parts.clear()
            num_bytes = 0
    words.update(_words_of(parts))
    return words, num_texts


def _words_of(parts):
    """Returns the words of parts between spaces, with their counts."""
    words = BasicTokenizer(lower_case=True).tokenize(
        valid_utf8(tf.constant(list(parts), tf.string))
    )
    counts = np.repeat(list(parts.values()), words.row_lengths()).tolist()
    found = collections.Counter()
    for word, count in zip(words.flat_values.numpy(), counts, strict=True):
        if word:
            found[word.decode()] += count
    return found


def _character_entries(characters):
    """Returns the entries that each character needs to be known anywhere in a word."""
    characters = list(characters)
    splits = BasicTokenizer(lower_case=True).tokenize(["a" + x for x in characters])
    alone = splits.row_lengths().numpy() > 1
    return {
        x: (x,) if is_alone else (x, f"##{x}")
        for x, is_alone in zip(characters, alone, strict=True)
    }


def _most_frequent(characters, entries, size, needed):
    """Returns entries of the most frequent characters, and warns about those left out."""
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
        "a word with another one becomes an unknown token. All of them need "
        f"size={needed}, and words and pieces of words need more.",
        stacklevel=3,
    )
    kept = sorted(kept)
    return [*kept, *(entry for x in kept for entry in entries[x][1:])]


def vocabulary_entries(vocabulary):
    """Returns a vocabulary as a list. Raises ValueError if something is wrong with it."""
    no_list = isinstance(vocabulary, str | bytes | os.PathLike | Mapping | Set)
    if no_list or not holds_rows(vocabulary):
        advice = ""
        if isinstance(vocabulary, str | bytes | os.PathLike):
            advice = ' Read the file: [x.rstrip("\\n") for x in open(path)].'
        elif isinstance(vocabulary, Mapping):
            advice = " Pass its entries in the order of their ids."
        raise ValueError(
            "Expected a vocabulary as a list of entries, whose ids are their indices. "
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
    entries = list(map(str, entries))  # np.str_ is not JSON serializable
    if not entries or entries[0] != PADDING or UNKNOWN not in entries:
        line_ends = any(x != x.rstrip("\r\n") for x in entries[:2])
        raise ValueError(
            f"Expected a vocabulary that begins with {PADDING!r} and has {UNKNOWN!r}, "
            "as tfembloss.text.learn_vocabulary returns it. Received "
            f"{len(entries)} entries, the first of them {entries[:3]}"
            + ('. Strip the line ends: entry.rstrip("\\r\\n").' * line_ends)
        )
    if len(set(entries)) < len(entries):
        twice = [x for x, count in collections.Counter(entries).items() if count > 1]
        raise ValueError(
            f"Expected each vocabulary entry once. Received twice: {twice[:5]}"
        )
    return entries


def word_piece_tokenizer(vocabulary):
    """Returns the tokenizer, without a limit to the length of words."""
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
