"""Converts pairs of texts to the token ids of a pretrained checkpoint's own tokenizer."""

import json

import keras
import tensorflow as tf

from tfembloss.config import Configurable
from tfembloss.losses.inputs import require
from tfembloss.text.checkpoint_tokenizer import CheckpointTokenizer
from tfembloss.text.rows import batch_of_texts, valid_utf8


@keras.saving.register_keras_serializable("tfembloss")
class CheckpointPairTokenizer(Configurable):
    """Converts pairs of texts to joined token ids as a checkpoint's tokenizer does.

    For `tfembloss.CrossEncoder`: `[CLS] first [SEP] second [SEP]` in a BERT. Where both
    texts are too long together, the longer one is truncated, and then both equally.

    Call arguments: first texts `[rows]` and second texts `[rows]`, strings, and `xla`, see
    `CheckpointTokenizer`. Returns a dict of `token_ids`, `padding_mask` and `token_types`,
    each `[rows, T]`, int32. The types are 0 for the first text and, in a BERT, 1 for the
    second.

    Args:
        tokenizer, padding, padding_id, tokenizer_config: see `CheckpointTokenizer`.
        sequence_length: the maximum number of tokens of a pair, with those between.

    Raises:
        ValueError: as in `CheckpointTokenizer`; when called, the numbers of texts differ.

    Relations:
        Equal to `transformers`' fast tokenizers of two texts, with
        `truncation="longest_first"`.
    """

    def __init__(
        self,
        tokenizer,
        sequence_length,
        padding="auto",
        padding_id=0,
        tokenizer_config="{}",
    ):
        self.tokenizer = tokenizer
        self.single = CheckpointTokenizer(
            tokenizer,
            sequence_length,
            padding=padding,
            padding_id=padding_id,
            tokenizer_config=tokenizer_config,
        )
        self.sequence_length = self.single.sequence_length
        self.padding = padding
        self.padding_id = padding_id
        self.tokenizer_config = tokenizer_config
        self._template = _pair_template(json.loads(tokenizer).get("post_processor"))
        room = sum(len(part) for part, _ in self._template if isinstance(part, list)) + 2
        if self.sequence_length < room:
            raise ValueError(
                f"Expected sequence_length >= {room}, for the tokens around both texts and "
                f"one of each. Received: sequence_length={sequence_length}"
            )
        self._room = self.sequence_length - room + 2

    @property
    def vocabulary(self):
        """The list of entries; an entry's index is its id."""
        return self.single.vocabulary

    def __call__(self, first, second, xla=False):
        """Returns token ids, mask and types, `[rows, T]`, of both texts."""
        first, second = (valid_utf8(batch_of_texts(texts)) for texts in (first, second))
        first = require(
            tf.size(first) == tf.size(second),
            first,
            "Expected equal numbers of first and second texts. Received different ones.",
        )
        rows = tf.shape(first)[0]
        texts = _truncated(map(self.single.tokens, (first, second)), self._room)
        parts, types = [], []
        for part, kind in self._template:
            is_text = isinstance(part, int)
            ids = texts[part] if is_text else _repeated(part, rows)
            parts.append(ids)
            types.append(tf.fill(tf.shape(ids.flat_values), kind))
            types[-1] = ids.with_flat_values(types[-1])
        found = self.single.padded(tf.concat(parts, axis=1), xla)
        types = tf.concat(types, axis=1).to_tensor(0)
        missing = tf.shape(found["token_ids"])[1] - tf.shape(types)[1]
        types = tf.pad(types, [[0, 0], [0, missing]])
        return {**found, "token_types": types}


def _repeated(ids, rows):
    """Returns the same ids in each row, int32, ragged."""
    return tf.RaggedTensor.from_tensor(tf.tile(tf.constant([ids], tf.int32), [rows, 1]))


def _truncated(texts, room):
    """Returns the token ids of both texts, the longer ones cut so that they fit."""
    first, second = (tf.cast(x, tf.int32).with_row_splits_dtype(tf.int64) for x in texts)
    short = tf.minimum(first.row_lengths(), second.row_lengths())
    # Either the longer one has what the shorter one leaves, or both have half.
    both_cut = 2 * short > room
    of_short = tf.where(both_cut, room // 2, short)
    of_long = tf.where(both_cut, room - room // 2, room - short)
    is_swapped = first.row_lengths() > second.row_lengths()
    too_long = first.row_lengths() + second.row_lengths() > room
    lengths = (
        tf.where(is_swapped, of_long, of_short),
        tf.where(is_swapped, of_short, of_long),
    )
    return [
        _cut(x, tf.where(too_long, length, x.row_lengths()))
        for x, length in zip((first, second), lengths, strict=True)
    ]


def _cut(texts, lengths):
    """Returns the first tokens of each text, so many of it."""
    places = tf.ragged.range(texts.row_lengths()).values
    kept = places < tf.repeat(lengths, texts.row_lengths())
    return tf.RaggedTensor.from_row_lengths(
        tf.boolean_mask(texts.values, kept), tf.minimum(lengths, texts.row_lengths())
    )


def _pair_template(processor):
    """Returns what stands for a pair: 0 or 1 for a text or a list of ids, and its type."""
    kind = None if processor is None else processor["type"]
    if kind == "Sequence":
        templates = [_pair_template(x) for x in processor["processors"]]
        return next((x for x in templates if len(x) > 2), templates[-1])
    if kind == "RobertaProcessing":
        start, end = [processor["cls"][1]], [processor["sep"][1]]
        return [(start, 0), (0, 0), (end * 2, 0), (1, 0), (end, 0)]
    if kind == "BertProcessing":
        start, end = [processor["cls"][1]], [processor["sep"][1]]
        return [(start, 0), (0, 0), (end, 0), (1, 1), (end, 1)]
    if kind == "TemplateProcessing":
        found = []
        for part in processor["pair"]:
            ((what, options),) = part.items()
            if what == "Sequence":
                found.append(("AB".index(options["id"]), options["type_id"]))
            else:
                ids = processor["special_tokens"][options["id"]]["ids"]
                found.append((list(ids), options["type_id"]))
        return found
    return [(0, 0), (1, 0)]  # nothing between
