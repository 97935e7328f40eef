"""Converts pairs of texts to the token ids of a pretrained checkpoint's own tokenizer."""

import json

import keras
import tensorflow as tf

from tfembloss.text.checkpoint_tokenizer import (
    CheckpointTokenizer,
    same_in_each_row,
    template,
)
from tfembloss.text.rows import two_batches_of_texts


@keras.saving.register_keras_serializable("tfembloss")
class CheckpointPairTokenizer(CheckpointTokenizer):
    """Converts pairs of texts to token ids as a Hugging Face checkpoint's tokenizer does.

    It is the preprocessor of `tfembloss.CrossEncoder.from_pretrained`.

    Call arguments: first texts `[rows]` and second texts `[rows]`, strings; and `xla`,
    whether XLA compiles what follows. Returns a dict of `token_ids`, `padding_mask` and, if
    it has them, `token_types`, each `[rows, T]`, int32; a type is 1 at a second text's.

    Args:
        tokenizer: the text of the checkpoint's tokenizer.json.
        sequence_length: the maximum number of tokens of both texts and those between them.
            Of a longer pair, the longer text is truncated, down to the length of the other,
            then both.
        has_types: whether the types of tokens are returned.
        padding, padding_id, tokenizer_config: see `CheckpointTokenizer`.

    Raises:
        ValueError: as in `CheckpointTokenizer`; when called, the numbers of texts differ.

    Example:

    >>> import json
    >>> ids = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "new": 3, "##er": 4}
    >>> tokenizer = {
    ...     "added_tokens": [],
    ...     "normalizer": {"type": "BertNormalizer"},
    ...     "pre_tokenizer": {"type": "BertPreTokenizer"},
    ...     "post_processor": {
    ...         "type": "BertProcessing", "cls": ["[CLS]", 1], "sep": ["[SEP]", 2]
    ...     },
    ...     "model": {"type": "WordPiece", "vocab": ids, "unk_token": "[UNK]"},
    ... }
    >>> tokenize = CheckpointPairTokenizer(json.dumps(tokenizer), 8)
    >>> found = tokenize(["new"], ["newer"])
    >>> found["token_ids"].numpy().tolist()
    [[1, 3, 2, 3, 4, 2]]
    >>> found["token_types"].numpy().tolist()
    [[0, 0, 0, 1, 1, 1]]

    Relations:
        Equal to `transformers`' fast tokenizers of pairs, with truncation and padding.
    """

    def __init__(
        self,
        tokenizer,
        sequence_length,
        has_types=True,
        padding="auto",
        padding_id=0,
        tokenizer_config="{}",
    ):
        super().__init__(
            tokenizer,
            sequence_length,
            padding=padding,
            padding_id=padding_id,
            tokenizer_config=tokenizer_config,
        )
        self.has_types = has_types
        parsed = json.loads(tokenizer)
        self._template = template(parsed.get("post_processor"), "pair")
        self._room = self.sequence_length - (len(self._template) - 2)
        if self._room < 2:
            least = len(self._template)
            raise ValueError(
                f"Expected sequence_length >= {least}, for the start and end tokens and "
                f"one of each text. Received: sequence_length={sequence_length}"
            )

    def __call__(self, first, second, xla=False):
        """Returns token ids, their mask and types, `[rows, T]`, of two texts `[rows]`."""
        first, second = two_batches_of_texts(first, second)
        texts = dict(zip("AB", self._truncated(first, second), strict=True))
        rows = tf.shape(first)[0]
        tokens, types = [], []
        for part, type_id in self._template:
            ids = texts[part] if part in texts else same_in_each_row([part], rows)
            tokens.append(ids)
            types.append(tf.ones_like(ids) * type_id)
        tokens, types = (tf.concat(x, axis=1) for x in (tokens, types))
        found = self.padded(tokens, xla)
        if not self.has_types:
            return found
        types = types.to_tensor(0, shape=[None, None])
        missing = tf.shape(found["token_ids"])[1] - tf.shape(types)[1]
        types = tf.pad(types, [[0, 0], [0, missing]])
        types = tf.ensure_shape(types, found["token_ids"].shape)
        return found | {"token_types": types}

    def _truncated(self, first, second):
        """Returns the ids of both texts, ragged, that have room together."""
        first, second = self.tokens(first), self.tokens(second)
        a, b = first.row_lengths(), second.row_lengths()
        shorter = tf.minimum(tf.minimum(a, b), self._room // 2)
        longer = tf.minimum(tf.maximum(a, b), self._room - shorter)
        return (
            _beginnings(first, tf.where(a > b, longer, shorter)),
            _beginnings(second, tf.where(a > b, shorter, longer)),
        )


def _beginnings(ragged, lengths):
    """Returns the first items of each row, as many as `lengths` `[rows]` says."""
    places = tf.ragged.range(ragged.row_lengths()).values
    keep = places < tf.repeat(lengths, ragged.row_lengths())
    kept = tf.boolean_mask(ragged.values, keep)
    return tf.RaggedTensor.from_row_lengths(kept, lengths, validate=False)
