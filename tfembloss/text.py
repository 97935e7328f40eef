"""From text to token ids, and a small encoder for them."""

import keras
import tensorflow as tf
import tensorflow_text
from keras import layers, ops
from tensorflow_text.tools.wordpiece_vocab import bert_vocab_from_dataset

from tfembloss.layers import PositionEmbedding, TokenPooling

PADDING, UNKNOWN = "[PAD]", "[UNK]"
RESERVED = (PADDING, UNKNOWN, "[CLS]", "[SEP]", "[MASK]")


def learn_vocabulary(texts, size):
    """Learns a WordPiece vocabulary from texts, in lower case and without accents.

    It takes tensorflow-text about a minute for 13,000 texts of 100 words: keep the result.

    Args:
        texts: strings, any iterable of them.
        size: the most entries to have, the five reserved ones included. Every character
            of the texts is an entry, also where that makes more than `size`.

    Returns:
        List of strings. It begins with `RESERVED`, so that `"[PAD]"` has the id 0.

    Raises:
        ValueError: there is no word in the texts, or `size` is not above 5.

    Example:

    >>> learn_vocabulary(["low lower lowest", "low new newer"], size=30)[5:]
    ['e', 'l', ...]
    """
    if size <= len(RESERVED):
        raise ValueError(
            f"Expected a size above the {len(RESERVED)} reserved entries. "
            f"Received: size={size}"
        )
    texts = [texts] if isinstance(texts, str | bytes) else list(texts)
    wrong = [type(text).__name__ for text in texts if not isinstance(text, str | bytes)]
    if wrong:
        raise ValueError(
            f"Expected texts as strings. Received {len(wrong)} of type {wrong[0]}; of a "
            "dataset or tensor give .as_numpy_iterator() or .numpy()."
        )
    if not any(text.strip() for text in texts):
        raise ValueError(
            "Expected texts with at least one word to learn a vocabulary from. "
            f"Received {len(texts)} texts without any."
        )
    # The learner searches the least count that an entry must have. An entry that is seen
    # more often than characters / size times hardly needs to be searched for.
    characters = sum(map(len, texts))
    vocabulary = bert_vocab_from_dataset.bert_vocab_from_dataset(
        tf.data.Dataset.from_tensor_slices(texts).batch(1000).map(_valid_utf8),
        vocab_size=size,
        reserved_tokens=list(RESERVED),
        bert_tokenizer_params={"lower_case": True},
        learn_params={"lower_thresh": 2, "upper_thresh": max(2, characters // size)},
    )
    # It may return more than it was asked for: reserved entries, then characters, then
    # words and pieces, the rarest last.
    num_characters = sum(len(entry.removeprefix("##")) == 1 for entry in vocabulary)
    return vocabulary[: max(size, len(RESERVED) + num_characters)]


def _batch_of_texts(texts):
    """Texts `[rows]`, or a ValueError that says how."""
    texts = tf.convert_to_tensor(texts)
    if texts.shape.rank is None:
        texts = tf.ensure_shape(texts, [None])
    if texts.dtype != tf.string or texts.shape.rank != 1:
        raise ValueError(
            "Expected a batch of texts, strings of shape [rows]: several columns go "
            "into a tuple, and a dataset of single texts needs .batch(...). Received: "
            f"shape={tuple(texts.shape)}, dtype={texts.dtype.name}"
        )
    return texts


def _valid_utf8(texts):
    return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")


@keras.saving.register_keras_serializable("tfembloss")
class TextPreprocessor:
    """Texts to token ids, with tensorflow-text's WordPiece tokenizer.

    Lower case, without accents; no start or end tokens; longer texts are cut. Bytes that
    are no UTF-8 become unknown tokens. The vocabulary travels in a saved model's file.

    Call arguments: texts `[rows]`, strings. Returns token ids `[rows, T]`, int32, padded
    with 0.

    Args:
        vocabulary: list of entries, `"[PAD]"` first and `"[UNK]"` among them;
            `learn_vocabulary` makes one, and a BERT checkpoint's vocab.txt is one.
        sequence_length: the most tokens of a text, > 0.
        padding: `"max_length"`: T is always `sequence_length`, as XLA and TPUs like it.
            `"longest"`: T is the length of the batch's longest text, which is faster on
            CPUs where texts are short.

    Raises:
        ValueError: the vocabulary is empty, lacks a reserved entry or repeats one, or an
            option is unknown; in use, texts are no vector of strings.

    Example:

    >>> preprocess = TextPreprocessor(["[PAD]", "[UNK]", "new", "##er"], 4)
    >>> preprocess(["Newer!", ""]).numpy().tolist()
    [[2, 3, 1, 0], [0, 0, 0, 0]]
    """

    def __init__(self, vocabulary, sequence_length, padding="max_length"):
        vocabulary = list(vocabulary)
        if not vocabulary or vocabulary[0] != PADDING or UNKNOWN not in vocabulary:
            raise ValueError(
                f"Expected a vocabulary that begins with {PADDING!r} and has {UNKNOWN!r}, "
                "as tfembloss.text.learn_vocabulary makes it. Received "
                f"{len(vocabulary)} entries, the first of them {vocabulary[:3]}"
            )
        if len(set(vocabulary)) < len(vocabulary):
            seen = set()
            twice = [entry for entry in vocabulary if entry in seen or seen.add(entry)]
            raise ValueError(
                f"Expected each vocabulary entry once. Received twice: {twice[:5]}"
            )
        if sequence_length < 1:
            raise ValueError(f"Expected sequence_length > 0. Received: {sequence_length}")
        if padding not in ("max_length", "longest"):
            raise ValueError(
                "Expected padding='max_length' or padding='longest'. "
                f"Received: padding={padding!r}"
            )
        self.vocabulary = vocabulary
        self.sequence_length = sequence_length
        self.padding = padding
        self._tokenizer = tensorflow_text.FastBertTokenizer(
            vocabulary, token_out_type=tf.int32, lower_case_nfd_strip_accents=True
        )

    def __call__(self, texts):
        """Token ids `[rows, T]` of texts `[rows]`."""
        texts = _batch_of_texts(texts)
        tokens = self._tokenizer.tokenize(_valid_utf8(texts))[:, : self.sequence_length]
        length = self.sequence_length if self.padding == "max_length" else None
        return tokens.to_tensor(default_value=0, shape=[None, length])

    def get_config(self):
        """The arguments that make this preprocessor again."""
        return {
            "vocabulary": self.vocabulary,
            "sequence_length": self.sequence_length,
            "padding": self.padding,
        }

    @classmethod
    def from_config(cls, config):
        """The preprocessor that `get_config` described."""
        return cls(**config)


@keras.saving.register_keras_serializable("tfembloss")
class TextPairPreprocessor:
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
        ValueError: as `TextPreprocessor`.

    Example:

    >>> preprocess = TextPairPreprocessor(["[PAD]", "[UNK]", "new", "##er"], 2, 3)
    >>> preprocess(["new"], ["Newer!"]).numpy().tolist()
    [[2, 0, 2, 3, 1]]
    """

    def __init__(self, vocabulary, first_length, second_length, padding="max_length"):
        self.first = TextPreprocessor(vocabulary, first_length)
        self.second = TextPreprocessor(vocabulary, second_length, padding)

    def __call__(self, first, second):
        """Token ids `[rows, first_length + T]` of both texts."""
        return tf.concat([self.first(first), self.second(second)], axis=1)

    def get_config(self):
        """The arguments that make this preprocessor again."""
        return {
            "vocabulary": self.first.vocabulary,
            "first_length": self.first.sequence_length,
            "second_length": self.second.sequence_length,
            "padding": self.second.padding,
        }

    @classmethod
    def from_config(cls, config):
        """The preprocessor that `get_config` described."""
        return cls(**config)


@keras.saving.register_keras_serializable("tfembloss")
class DeleteWords:
    """Noise: texts without a random share of their words, one word at least left.

    Each word, what stands between white space, is deleted or not by itself; if all would
    be, one of them, drawn evenly, stays. Words that stay are joined by single spaces.

    Call arguments: texts `[rows]`, strings; seed, an integer. What is deleted of a text
    follows from the text and the seed: not from the batch, the replica or the order that
    it comes in. Returns texts `[rows]`.

    Args:
        ratio: the probability that a word is deleted, 0 to 1.

    Raises:
        ValueError: `ratio` is out of range.

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
        if not 0 <= ratio <= 1:
            raise ValueError(f"Expected a ratio from 0 to 1. Received: ratio={ratio!r}")
        self.ratio = float(ratio)

    def __call__(self, texts, seed):
        """Texts `[rows]` with words deleted."""
        # Flat: the words of all texts, and the row of each. The graph of ragged tensors
        # would have ten times the nodes.
        texts = _valid_utf8(_batch_of_texts(texts))
        words = tf.strings.split(tf.strings.regex_replace(texts, r"[\s\p{Z}]+", " "))
        rows, words = words.value_rowids(), words.flat_values
        draws = self._draws(texts, rows, seed)
        # Of a text of which no word is to stay, the one that came nearest to it does.
        largest = tf.math.unsorted_segment_max(draws, rows, tf.size(texts))
        stays = (draws >= self.ratio) | (draws == tf.gather(largest, rows))
        return tf.strings.unsorted_segment_join(
            words[stays], rows[stays], tf.size(texts), separator=" "
        )

    def _draws(self, texts, rows, seed):
        """A number from 0 to 1 for each word: a hash of its text, place and seed."""
        places = tf.range(tf.size(rows)) - tf.searchsorted(rows, rows)
        texts = tf.gather(tf.strings.to_hash_bucket_fast(texts, 2**62), rows)
        seeds = tf.broadcast_to(tf.cast(seed, tf.int64), tf.shape(rows))
        parts = [tf.strings.as_string(x) for x in (texts, places, seeds)]
        named = tf.strings.join(parts, " ")
        return tf.cast(tf.strings.to_hash_bucket_fast(named, 2**24), tf.float32) / 2**24

    def get_config(self):
        """The arguments that make this noise again."""
        return {"ratio": self.ratio}

    @classmethod
    def from_config(cls, config):
        """The noise that `get_config` described."""
        return cls(**config)


@keras.saving.register_keras_serializable("tfembloss")
class TextEncoder(keras.Model):
    """A small text encoder that trains well from scratch on a CPU.

    Token embeddings, transformer blocks if asked for, and `TokenPooling`. Without blocks
    it is a bag of words that learns which words matter: hard to beat where there are
    thousands of training pairs and not millions.

    Call arguments: token ids `[rows, T]`, 0 is padding. Returns `[rows, dim]`.

    Args:
        vocabulary_size: number of token ids.
        dim: length of the embeddings.
        sequence_length: the largest T.
        num_layers: number of transformer blocks.
        num_heads: attention heads of a block; divides `dim`.
        dropout: share of the embeddings' entries dropped in training, 0 to 1.
        name, dtype: as in `keras.Model`.

    Raises:
        ValueError: `num_heads` does not divide `dim`.

    Example:

    >>> import numpy as np
    >>> encoder = TextEncoder(vocabulary_size=100, dim=8, num_layers=1, num_heads=2)
    >>> encoder(np.array([[5, 6, 0], [7, 0, 0]])).shape
    TensorShape([2, 8])
    """

    def __init__(
        self,
        vocabulary_size,
        dim=384,
        sequence_length=256,
        num_layers=0,
        num_heads=6,
        dropout=0.1,
        name=None,
        dtype=None,
    ):
        if num_layers and dim % num_heads:
            raise ValueError(
                "Expected num_heads to divide dim. "
                f"Received: dim={dim}, num_heads={num_heads}"
            )
        dtype = keras.dtype_policies.get(dtype)  # None is the global policy
        tokens = keras.Input([None], dtype="int32", name="tokens")
        embed = layers.Embedding(
            vocabulary_size, dim, keras.initializers.RandomNormal(stddev=0.05), dtype=dtype
        )
        x = embed(tokens)
        if num_layers:
            x = PositionEmbedding(sequence_length, dtype=dtype)(x)
        x = layers.Dropout(dropout, dtype=dtype)(x)
        for _ in range(num_layers):
            x = _transformer_block(x, tokens, dim, num_heads, dropout, dtype)
        pooling = TokenPooling(vocabulary_size, sequence_length, dtype=dtype)
        super().__init__(tokens, pooling(tokens, x), name=name)
        self._config = {
            "dtype": dtype.name,
            "vocabulary_size": vocabulary_size,
            "dim": dim,
            "sequence_length": sequence_length,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "dropout": dropout,
        }

    @property
    def token_embedding(self):
        """The layer of the token embeddings, as keras-hub's backbones name it."""
        return next(x for x in self.layers if isinstance(x, layers.Embedding))

    def get_config(self):
        """The arguments that make this encoder again, and which layers are frozen."""
        trainable = [layer.trainable for layer in self.layers]
        return {**self._config, "name": self.name, "trainable": trainable}

    @classmethod
    def from_config(cls, config):
        """The encoder that `get_config` described."""
        trainable = config.pop("trainable", [])
        encoder = cls(**config)
        for layer, value in zip(encoder.layers, trainable, strict=False):
            layer.trainable = value
        return encoder


def _transformer_block(x, tokens, dim, num_heads, dropout, dtype):
    """Attention and a feed-forward layer, each normalised first and added to its input."""
    seen = ops.expand_dims(ops.not_equal(tokens, 0), axis=1)  # [B, 1, T]
    y = layers.LayerNormalization(dtype=dtype)(x)
    attention = layers.MultiHeadAttention(
        num_heads, dim // num_heads, dropout=dropout, dtype=dtype
    )
    x = x + attention(y, y, attention_mask=seen)
    y = layers.LayerNormalization(dtype=dtype)(x)
    y = layers.Dense(4 * dim, activation="gelu", dtype=dtype)(y)
    return x + layers.Dropout(dropout, dtype=dtype)(layers.Dense(dim, dtype=dtype)(y))
