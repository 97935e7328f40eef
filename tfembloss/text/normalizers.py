"""The normalizers of Hugging Face's tokenizer.json, in TensorFlow operations."""

import base64
import re

import tensorflow as tf
import tensorflow_text

# Of Rust's `char::is_whitespace`, which Hugging Face's tokenizers use; RE2's \s is ASCII.
WHITESPACE = (
    r"\t\n\x{b}\f\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}"
    r"\x{3000}"
)


def normalizer(spec):
    """Returns a function of texts `[rows]` from the value of `normalizer`, or of a part.

    Raises ValueError if a part of it is not known here.
    """
    if spec is None:
        return lambda texts: texts
    kind = spec["type"]
    if kind == "Sequence":
        return _in_turn([normalizer(part) for part in spec["normalizers"]])
    if kind not in _KINDS:
        raise ValueError(
            f"Expected a tokenizer with normalizers of {', '.join(sorted(_KINDS))}. "
            f"Received: {kind} in its tokenizer.json, which is not supported."
        )
    return _KINDS[kind](spec)


def precompiled_map(spec):
    """Returns SentencePiece's table of characters in a normalizer, or no bytes."""
    if spec is None:
        return b""
    parts = spec["normalizers"] if spec["type"] == "Sequence" else [spec]
    maps = [p["precompiled_charsmap"] for p in parts if p["type"] == "Precompiled"]
    return base64.b64decode(maps[0]) if maps and maps[0] else b""


def _in_turn(functions):
    def run(texts):
        for function in functions:
            texts = function(texts)
        return texts

    return run


def _unicode(form):
    return lambda spec: lambda texts: tensorflow_text.normalize_utf8(texts, form)


def _replaced(pattern, replacement):
    return lambda texts: tf.strings.regex_replace(texts, pattern, replacement)


def _replace(spec):
    (kind, pattern), replacement = next(iter(spec["pattern"].items())), spec["content"]
    if kind == "String":
        pattern = re.escape(pattern)
    pattern = pattern.replace(r"\s", f"[{WHITESPACE}]")
    return _replaced(pattern, replacement.replace("\\", "\\\\"))


def _strip(spec):
    left = f"^[{WHITESPACE}]+" if spec["strip_left"] else None
    right = f"[{WHITESPACE}]+$" if spec["strip_right"] else None
    return _replaced("|".join(filter(None, (left, right))) or "$^", "")


def _lower(spec):
    def run(texts):
        return with_zero_bytes(tf.strings.lower(without_zero_bytes(texts), "utf-8"))

    return run


def without_zero_bytes(texts):
    """Returns texts for an operation that would end them at a zero byte."""
    return tf.strings.regex_replace(texts, r"\x00", _ZERO)


def with_zero_bytes(texts):
    """Returns texts with the zero bytes that `without_zero_bytes` replaced."""
    return tf.strings.regex_replace(texts, _ZERO, "\x00")


_ZERO = "\U0010fffe"  # the last but one of all, and no character


def _bert(spec):
    """Of BERT: cleans texts, and lower-cases them and strips their accents."""
    parts = []
    if spec.get("clean_text", True):
        parts += [
            _replaced(r"[\t\n\r]", " "),
            # Control characters, and the replacement of bytes that are not UTF-8.
            _replaced(r"[\p{Cc}\p{Cf}\p{Co}\x{FFFD}]", ""),
        ]
    lower = spec.get("lowercase", True)
    strip = spec.get("strip_accents")
    if lower if strip is None else strip:
        parts += [_unicode("NFD")(spec), _replaced(r"\p{Mn}", "")]
    if lower:
        parts.append(_lower(spec))
    return _in_turn(parts)


_KINDS = {
    "BertNormalizer": _bert,
    "Lowercase": _lower,
    "NFC": _unicode("NFC"),
    "NFD": _unicode("NFD"),
    "NFKC": _unicode("NFKC"),
    "NFKD": _unicode("NFKD"),
    "Precompiled": lambda spec: lambda texts: texts,  # SentencePiece itself applies it
    "Prepend": lambda spec: lambda texts: tf.strings.join([spec["prepend"], texts]),
    "Replace": _replace,
    "Strip": _strip,
    "StripAccents": lambda spec: _replaced(r"\p{M}", ""),  # BERT's only \p{Mn}
}
