"""The subword models of Hugging Face's tokenizer.json, in TensorFlow operations.

Each is a function from texts `[n]` to a `tf.RaggedTensor` of token ids.
"""

import functools

import numpy as np
import tensorflow as tf
import tensorflow_text

from tfembloss.text.normalizers import (
    WHITESPACE,
    precompiled_map,
    with_zero_bytes,
    without_zero_bytes,
)


def subwords(tokenizer):
    """Returns the model of a parsed tokenizer.json.

    Raises ValueError if it, or the way it splits texts into words, is not known here.
    """
    model = tokenizer["model"]
    words = tokenizer["pre_tokenizer"]
    parts = words["pretokenizers"] if words and words["type"] == "Sequence" else [words]
    kinds = [part["type"] for part in parts if part]
    if model["type"] == "WordPiece" and kinds == ["BertPreTokenizer"]:
        return WordPieces(model)
    if model["type"] == "Unigram" and kinds in (
        ["WhitespaceSplit", "Metaspace"],
        ["Metaspace"],
    ):
        tokenize = _sentence_pieces(model, tokenizer["normalizer"], parts[-1])
        if kinds[0] == "Metaspace":
            return tokenize
        # The only whitespace that SentencePiece's own tables of characters leave.
        return lambda texts: tokenize(tf.strings.regex_replace(texts, r"\x{85}", " "))
    if model["type"] == "BPE" and kinds[-1:] == ["ByteLevel"]:
        return BytePairs(model, parts)
    if model["type"] == "BPE" and model.get("byte_fallback") and kinds in ([], ["Split"]):
        return _sentence_pieces(model, None, None)
    raise ValueError(
        "Expected a tokenizer of WordPiece (as BERT's), SentencePiece (as XLM-RoBERTa's, "
        "ALBERT's, DeBERTa-v3's and Gemma's) or byte-level BPE (as RoBERTa's and Qwen's). "
        f"Received: a tokenizer.json of {model['type']} on words of {kinds}, which is not "
        "supported."
    )


def regex_split(texts, pattern):
    """Splits texts into what matches a pattern and what is between; ragged strings."""
    parts = tensorflow_text.regex_split(without_zero_bytes(texts), pattern, pattern)
    return parts.with_values(with_zero_bytes(parts.values))


class WordPieces:
    """BERT's words and pieces of them."""

    def __init__(self, model):
        if model.get("continuing_subword_prefix", "##") != "##":
            raise ValueError(
                "Expected WordPiece entries that continue words with '##'. Received: "
                f"{model['continuing_subword_prefix']!r}"
            )
        ids = model["vocab"]
        vocabulary = sorted(ids, key=ids.get)
        if [ids[entry] for entry in vocabulary] != list(range(len(ids))):
            raise ValueError(
                f"Expected a vocabulary with the ids 0 to {len(ids) - 1}. Received: other "
                "ids."
            )
        self._unknown = next(x for x in _NOT_USED if x not in ids)
        longest = model.get("max_input_chars_per_word", 100)
        self._too_long = f"[^{_BETWEEN_WORDS}]{{{longest + 1},}}"
        self._tokenizer = tensorflow_text.FastBertTokenizer(
            vocabulary,
            token_out_type=tf.int32,
            max_bytes_per_word=4 * longest,
            unknown_token=model["unk_token"],
            lower_case_nfd_strip_accents=False,
        )

    def __call__(self, texts):
        """Returns the ids of normalized texts."""
        texts = tf.strings.regex_replace(texts, self._too_long, self._unknown)
        return self._tokenizer.tokenize(texts)


# Whitespace, punctuation and Chinese characters: all of \p{P} would be too large for RE2.
_BETWEEN_WORDS = (
    WHITESPACE
    + r"!-/:-@\[-`{-~\x{a1}\x{a7}\x{ab}\x{b6}\x{b7}\x{bb}\x{bf}\x{60c}\x{61b}\x{61f}"
    r"\x{964}\x{965}\x{2000}-\x{206f}\x{3000}-\x{303f}\x{3400}-\x{4dbf}\x{4e00}-\x{9fff}"
    r"\x{f900}-\x{faff}\x{ff00}-\x{ff20}\x{20000}-\x{2fa1f}"
)
_NOT_USED = "𐎀𐏈𐐀"  # Ugaritic, Old Persian, Deseret


def _sentence_pieces(model, normalizer, metaspace):
    """Returns SentencePiece's tokenizer with the ids of a Unigram or BPE model."""
    from sentencepiece import sentencepiece_model_pb2 as proto

    piece = proto.ModelProto.SentencePiece
    spec = proto.ModelProto()
    spec.trainer_spec.byte_fallback = bool(model.get("byte_fallback"))
    if model["type"] == "Unigram":
        entries = [(entry, score) for entry, score in model["vocab"]]
        unknown = model["unk_id"]
        spec.trainer_spec.model_type = proto.TrainerSpec.UNIGRAM
    else:
        ids = model["vocab"]
        ranks = {}
        for rank, pair in enumerate(model["merges"]):
            pair = pair.split(" ") if isinstance(pair, str) else pair
            ranks.setdefault("".join(pair), rank)
        entries = [(x, -float(ranks.get(x, 2**24))) for x in sorted(ids, key=ids.get)]
        unknown = ids[model["unk_token"]]
        spec.trainer_spec.model_type = proto.TrainerSpec.BPE
    spec.trainer_spec.unk_id = unknown
    spec.trainer_spec.bos_id = spec.trainer_spec.eos_id = spec.trainer_spec.pad_id = -1
    for i, (entry, score) in enumerate(entries):
        kind = piece.NORMAL
        if i == unknown:
            kind = piece.UNKNOWN
        elif entry.startswith("<0x") and model.get("byte_fallback"):
            kind = piece.BYTE
        elif not entry:
            entry, kind = f"<empty {i}>", piece.UNUSED
        spec.pieces.add(piece=entry, score=score, type=kind)
    spec.normalizer_spec.precompiled_charsmap = precompiled_map(normalizer)
    words = metaspace is not None
    spec.normalizer_spec.add_dummy_prefix = words
    spec.normalizer_spec.remove_extra_whitespaces = words
    spec.normalizer_spec.escape_whitespaces = True
    serialized = spec.SerializeToString()

    @functools.partial(tf.function, autograph=False, reduce_retracing=True)
    def tokenize(texts):
        # Made in the graph: outside of one, TensorFlow forgets it when a seed is set.
        tokenizer = tensorflow_text.SentencepieceTokenizer(serialized, out_type=tf.int32)
        return tokenizer.tokenize(texts)

    return tokenize


class BytePairs:
    """Byte-level BPE, as GPT-2's: of each word the pair with the lowest rank, in turn."""

    def __init__(self, model, parts):
        *splits, bytes_of = parts
        self._prefix = bytes_of.get("add_prefix_space", False)
        patterns = [part["pattern"].get("Regex") for part in splits]
        if not splits and bytes_of.get("use_regex", True):
            patterns = [_GPT2]
        if len(patterns) != 1 or any(p["behavior"] != "Isolated" for p in splits):
            raise ValueError(
                "Expected a byte-level tokenizer that splits texts once by a pattern. "
                f"Received: pre_tokenizer={parts!r:.300}"
            )
        self._pattern, self._last_space = _without_lookahead(patterns[0])
        ids = model["vocab"]
        characters = _characters_of_bytes()
        self._bytes = tf.constant([ids[c] for c in characters], tf.int64)
        pairs, merged = [], []
        for pair in model["merges"]:
            first, second = pair.split(" ") if isinstance(pair, str) else pair
            pairs.append(ids[first] * _MOST + ids[second])
            merged.append(ids[first + second])
        self._ids = tf.constant(merged, tf.int64)
        self._none = len(pairs)
        self._ranks = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                np.array(pairs, "int64"), np.arange(len(pairs), dtype="int64")
            ),
            default_value=self._none,
        )

    def __call__(self, texts):
        """Returns the ids of normalized texts."""
        if self._prefix:
            space = tf.strings.regex_full_match(texts, rf"(?s)[{WHITESPACE}].*|")
            texts = tf.where(space, texts, tf.strings.join([" ", texts]))
        # The last space before a word is its own, so those before it are a word.
        texts = tf.strings.regex_replace(texts, self._last_space, "\\1\U0010ffff\\2")
        words = regex_split(texts, self._pattern)
        flat = tf.strings.regex_replace(words.values, "\U0010ffff", "")
        unique, index = tf.unique(flat)
        merged = tf.gather(self._merged(unique), index)
        return tf.RaggedTensor.from_row_splits(
            tf.cast(merged.values, tf.int32), tf.gather(merged.row_splits, words.row_splits)
        )

    def _merged(self, words):
        """Returns the ids of words, by merging the first pair of the lowest rank."""
        codes = tf.RaggedTensor.from_row_lengths(
            tf.io.decode_raw(tf.strings.reduce_join(words), tf.uint8),
            tf.strings.length(words),
            validate=False,
        )
        tokens = tf.gather(self._bytes, tf.cast(codes.to_tensor(0), tf.int32))
        lengths = tf.strings.length(words)
        places = tf.range(tf.shape(tokens)[1])[None]
        tokens = tf.where(places < lengths[:, None], tokens, -1)  # [W, L]

        def ranks_of(tokens):
            first, second = tokens[:, :-1], tokens[:, 1:]
            ranks = self._ranks.lookup(first * _MOST + second)
            return tf.where((first >= 0) & (second >= 0), ranks, self._none)

        def merge(tokens, ranks):
            best = tf.reduce_min(ranks, axis=1, keepdims=True)  # [W, 1]
            at = tf.argmin(ranks, axis=1, output_type=tf.int32)[:, None]
            some = best < self._none
            places = tf.range(tf.shape(tokens)[1])[None]
            new = tf.gather(self._ids, tf.where(some, best, 0))
            shifted = tf.concat([tokens[:, 1:], -tf.ones_like(tokens[:, :1])], axis=1)
            after = tf.where(places > at, shifted, tf.where(places == at, new, tokens))
            tokens = tf.where(some, after, tokens)
            longest = tf.reduce_max(tf.reduce_sum(tf.cast(tokens >= 0, tf.int32), axis=1))
            tokens = tokens[:, :longest]
            return tokens, ranks_of(tokens)

        some_words = tf.shape(tokens)[1] > 1
        tokens, _ = tf.while_loop(
            lambda tokens, ranks: some_words & tf.reduce_any(ranks < self._none),
            merge,
            (tokens, ranks_of(tokens)),
            shape_invariants=(tf.TensorShape([None, None]), tf.TensorShape([None, None])),
        )
        return tf.RaggedTensor.from_tensor(tokens, padding=-1)


_MOST = 2**31  # token ids are below
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_NO_LINE_END = WHITESPACE.replace(r"\n", "").replace(r"\r", "")
_LOOKAHEAD = r"|\s+(?!\S)|\s+"


def _without_lookahead(pattern):
    """Returns a pattern for RE2, which has no lookahead, and one for where it would act."""
    if not pattern or not pattern.endswith(_LOOKAHEAD) or "(?!" in pattern[:-16]:
        raise ValueError(
            "Expected a byte-level tokenizer with a pattern as GPT-2's or Qwen's, which "
            rf"ends with {_LOOKAHEAD!r}. Received: {pattern!r}"
        )
    space = f"[{WHITESPACE}]"
    start = pattern.removesuffix(_LOOKAHEAD)
    # The mark that stands between two spaces belongs to no other group of characters.
    start = start.replace(r"[^\s", rf"[^\x{{10ffff}}{WHITESPACE}")
    start = start.replace(r"[^\r\n", r"[^\x{10ffff}\r\n").replace(r"\s", space)
    last = f"[{_NO_LINE_END}]" if r"[\r\n]+" in pattern else space
    return rf"{start}|{space}+", rf"({space})({last}[^{WHITESPACE}])"


def _characters_of_bytes():
    """Returns the character that stands for each byte in the entries."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = (chr(256 + i) for i in range(256))
    return [chr(b) if b in shown else next(hidden) for b in range(256)]
