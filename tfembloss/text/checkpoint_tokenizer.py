"""Converts texts to the token ids of a pretrained checkpoint's own tokenizer."""

import json
import re

import keras
import tensorflow as tf

from tfembloss.checks import integer, one_of
from tfembloss.config import Configurable
from tfembloss.text.normalizers import normalizer
from tfembloss.text.rows import batch_of_texts, valid_utf8
from tfembloss.text.subwords import regex_split, subwords

PADDINGS = ["auto", "buckets", "longest", "max_length"]
BUCKETS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192)


@keras.saving.register_keras_serializable("tfembloss")
class CheckpointTokenizer(Configurable):
    """Converts texts to token ids as a Hugging Face checkpoint's tokenizer does.

    It runs in the graph, so that it is exported with the model. Special tokens that are
    written out in a text, such as `"[SEP]"`, are that token, as they are there.

    Call arguments: texts `[rows]`, strings; `prompt`, the name of one or None for the
    default; and `xla`, whether XLA compiles what follows. Returns a dict of `token_ids`
    `[rows, T]`, int32, and `padding_mask` `[rows, T]`, int32, 1 where there is a token and
    0 where there is padding.

    Args:
        tokenizer: the text of the checkpoint's tokenizer.json.
        sequence_length: the maximum number of tokens of a text, start and end tokens
            included; longer texts are truncated.
        prompts: dict of a name to a text that is put before each text, such as
            `{"query": "query: "}`, or None.
        default_prompt: name of the prompt that is used if no other is named, or None.
        padding: `"longest"`: T is the length of the batch's longest text. `"buckets"`: T
            is the smallest of a few lengths (16, 32, 64, 96, 128, ...) that this text fits
            into, so that XLA compiles a few shapes. `"auto"`: the latter where XLA compiles
            the model (`jit_compile`, on GPUs by default), else the former. `"max_length"`:
            T is `sequence_length`.
        padding_id: the token id of padding.
        tokenizer_config: the text of the checkpoint's tokenizer_config.json, which is
            saved with it again.

    Raises:
        ValueError: the tokenizer is of a kind that is not supported, and says which; when
            called, texts are not strings of shape `[rows]`, or there is no such prompt.

    Example:

    >>> import json
    >>> ids = {"[UNK]": 0, "new": 1, "##er": 2}
    >>> tokenizer = {
    ...     "added_tokens": [],
    ...     "normalizer": {"type": "BertNormalizer"},
    ...     "pre_tokenizer": {"type": "BertPreTokenizer"},
    ...     "post_processor": None,
    ...     "model": {"type": "WordPiece", "vocab": ids, "unk_token": "[UNK]"},
    ... }
    >>> tokenize = CheckpointTokenizer(json.dumps(tokenizer), 8, padding="longest")
    >>> tokenize(["Newer new", ""])["token_ids"].numpy().tolist()
    [[1, 2, 1], [0, 0, 0]]

    Relations:
        Equal to `transformers`' fast tokenizers, with truncation and padding.
    """

    def __init__(
        self,
        tokenizer,
        sequence_length,
        prompts=None,
        default_prompt=None,
        padding="auto",
        padding_id=0,
        tokenizer_config="{}",
    ):
        self.tokenizer = tokenizer
        self.sequence_length = integer("sequence_length", sequence_length, 1)
        self.prompts = checked_prompts(prompts)
        self.default_prompt = default_prompt
        if default_prompt is not None:
            one_of("default_prompt", default_prompt, list(self.prompts))
        self.padding = one_of("padding", padding, PADDINGS)
        self.padding_id = integer("padding_id", padding_id, 0)
        self.tokenizer_config = tokenizer_config
        parsed = json.loads(tokenizer)
        self._start, self._end = _start_and_end(parsed.get("post_processor"))
        room = len(self._start) + len(self._end) + 1
        if self.sequence_length < room:
            raise ValueError(
                f"Expected sequence_length >= {room}, for the start and end tokens and "
                f"one of the text. Received: sequence_length={sequence_length}"
            )
        self._normalize = normalizer(parsed.get("normalizer"))
        self._subwords = subwords(parsed)
        special = {token["content"]: token for token in parsed.get("added_tokens", ())}
        # The longest first, as one may begin with another.
        self._special = "|".join(
            map(_pattern, sorted(special.values(), key=lambda t: -len(t["content"])))
        )
        self._special_ids = special and tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(list(special), tf.string),
                tf.constant([token["id"] for token in special.values()], tf.int32),
            ),
            default_value=-1,
        )

    def __call__(self, texts, prompt=None, xla=False):
        """Returns token ids and their mask, `[rows, T]`, of texts `[rows]`."""
        texts = batch_of_texts(texts)
        before = self.prompt(prompt)
        texts = tf.strings.join([before, texts]) if before else texts
        room = self.sequence_length - len(self._start) - len(self._end)
        tokens = self.tokens(texts)[:, :room]
        rows = tf.shape(texts)[0]
        start, end = (same_in_each_row(ids, rows) for ids in (self._start, self._end))
        return self.padded(tf.concat([start, tokens, end], axis=1), xla)

    @property
    def vocabulary(self):
        """The list of entries; an entry's index is its id."""
        parsed = json.loads(self.tokenizer)
        entries = parsed["model"]["vocab"]
        if isinstance(entries, list):  # with the scores of a Unigram model
            entries = {entry: id for id, (entry, _) in enumerate(entries)}
        ids = entries | {x["content"]: x["id"] for x in parsed.get("added_tokens", ())}
        return sorted(ids, key=ids.get)

    def prompt(self, name):
        """Returns the text of a prompt. Raises ValueError if there is none of this name."""
        name = self.default_prompt if name is None else name
        if name is None:
            return ""
        check_prompt(name, self.prompts)
        return self.prompts[name]

    def tokens(self, texts):
        """Returns the ids of texts, without start and end tokens; ragged `[rows, None]`."""
        texts = valid_utf8(texts)
        if not self._special:
            return self._subwords(self._normalize(texts))
        parts = regex_split(texts, self._special)
        special = self._special_ids.lookup(tf.strings.strip(parts.values))
        is_special = special >= 0
        ordinary = self._normalize(tf.where(is_special, "", parts.values))
        ids = tf.concat(
            [
                tf.RaggedTensor.from_row_lengths(
                    tf.boolean_mask(special, is_special), tf.cast(is_special, tf.int64)
                ),
                self._subwords(ordinary).with_row_splits_dtype(tf.int64),
            ],
            axis=1,
        )
        return tf.RaggedTensor.from_row_splits(
            ids.values, tf.gather(ids.row_splits, parts.row_splits), validate=False
        )

    def padded(self, tokens, xla=False):
        """Returns `token_ids` and `padding_mask` `[rows, T]` of ragged `[rows, None]`."""
        longest = tf.reduce_max(tf.concat([[1], tokens.row_lengths()], 0))
        longest = tf.cast(longest, tf.int32)
        length = padded_length(longest, self.padding, self.sequence_length, xla)
        mask = tf.sequence_mask(tokens.row_lengths(), length, dtype=tf.int32)
        ids = tokens.to_tensor(self.padding_id)
        missing = length - tf.shape(ids)[1]
        ids = tf.pad(ids, [[0, 0], [0, missing]], constant_values=self.padding_id)
        known = length if self.padding == "max_length" else None
        ids, mask = (tf.ensure_shape(x, [None, known]) for x in (ids, mask))
        return {"token_ids": ids, "padding_mask": mask}


def same_in_each_row(ids, rows):
    """Returns int32 `[rows, len(ids)]` of a list of ids."""
    return tf.tile(tf.constant(ids, tf.int32, [1, len(ids)]), [rows, 1])


def padded_length(longest, padding, sequence_length, xla=False):
    """Returns T of a batch whose longest text is an int32 scalar; 1 to `sequence_length`.

    Args: see `CheckpointTokenizer`.
    """
    if padding == "max_length":
        return sequence_length
    if padding == "longest" or (padding == "auto" and not xla):
        return longest
    buckets = [n for n in BUCKETS if n < sequence_length] + [sequence_length]
    buckets = tf.constant(buckets)
    return buckets[tf.searchsorted(buckets, longest[None])[0]]


def checked_prompts(prompts):
    """Returns prompts as a dict of strings. Raises ValueError if they are none."""
    if prompts is None:
        return {}
    if not isinstance(prompts, dict) or not all(
        isinstance(x, str) for pair in prompts.items() for x in pair
    ):
        raise ValueError(
            'Expected prompts as a dict of names to texts, {"query": "query: ", '
            f'"document": "passage: "}}. Received: prompts={prompts!r:.200}'
        )
    return dict(prompts)


def check_prompt(name, prompts):
    """Raises ValueError if there is no prompt of this name."""
    if name not in prompts:
        raise ValueError(
            f"Expected the name of a prompt, of {list(prompts)}. Received: "
            f"prompt={name!r}. Prompts are an argument of from_pretrained."
        )


def _pattern(token):
    content = re.escape(token["content"])
    before = r"\s*" if token.get("lstrip") else ""
    after = r"\s*" if token.get("rstrip") else ""
    return before + content + after


def _start_and_end(processor):
    """Returns the ids that a post-processor puts before and after a single text."""
    parts = [id for id, _ in template(processor, "single")]
    at = parts.index("A")
    return parts[:at], parts[at + 1 :]


def template(processor, name):
    """Returns what a tokenizer's post-processor makes of a text, or of a pair of texts.

    Args:
        processor: dict of tokenizer.json's post_processor, or None.
        name: `"single"` or `"pair"`.

    Returns list of a token's id, or `"A"` or `"B"` for the ids of a text, and their type.
    """
    plain = {"single": [("A", 0)], "pair": [("A", 0), ("B", 1)]}[name]
    kind = processor["type"] if processor else "ByteLevel"
    if kind == "ByteLevel":
        return plain
    if kind == "Sequence":
        return max((template(x, name) for x in processor["processors"]), key=len)
    if kind in ("RobertaProcessing", "BertProcessing"):
        start, end = ((processor[x][1], 0) for x in ("cls", "sep"))
        if name == "single":
            return [start, ("A", 0), end]
        if kind == "RobertaProcessing":
            return [start, ("A", 0), end, end, ("B", 0), end]
        return [start, ("A", 0), end, ("B", 1), (end[0], 1)]
    if kind == "TemplateProcessing":
        return [x for part in processor[name] for x in _ids(part, processor)]
    raise ValueError(
        "Expected a tokenizer with a post-processor of TemplateProcessing, "
        f"RobertaProcessing, BertProcessing or ByteLevel. Received: {kind}, which is not "
        "supported."
    )


def _ids(part, processor):
    """Returns ids and types of a part of a TemplateProcessing's list."""
    ((kind, fields),) = part.items()
    name, type_id = fields["id"], fields["type_id"]
    ids = [name] if kind == "Sequence" else processor["special_tokens"][name]["ids"]
    return [(id, type_id) for id in ids]
