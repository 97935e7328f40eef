"""Converts texts to token ids by a preprocessor of keras-hub, with little padding."""

import keras
import tensorflow as tf

from tfembloss.checks import one_of
from tfembloss.config import Configurable
from tfembloss.text.checkpoint_tokenizer import (
    PADDINGS,
    check_prompt,
    checked_prompts,
    padded_length,
)
from tfembloss.text.rows import batch_of_texts, valid_utf8


@keras.saving.register_keras_serializable("tfembloss")
class HubTokenizer(Configurable, keras.layers.Layer):
    """Converts texts to token ids as a keras-hub preprocessor does, with less padding.

    `tfembloss.EmbeddingModel.from_pretrained` makes it. It runs in the graph, so that it is
    exported with the model.

    Call arguments: texts `[rows]`, strings; `prompt`, the name of one or None; and `xla`,
    whether XLA compiles what follows. Returns a dict of what the encoder takes, int32
    `[rows, T]`.

    Args:
        preprocessor: a keras-hub preprocessor of texts, such as
            `keras_hub.models.BertTextClassifierPreprocessor`.
        inputs: list of the names of the encoder's inputs, such as `token_ids`.
        prompts: dict of a name to a text that is put before each text, or None.
        padding: as in `tfembloss.text.CheckpointTokenizer`.
        **kwargs: as in `keras.layers.Layer`, `name` and `dtype`.

    Raises:
        ValueError: when called, texts are not strings of shape `[rows]`, or there is no
            such prompt.
    """

    def __init__(self, preprocessor, inputs, prompts=None, padding="auto", **kwargs):
        super().__init__(**kwargs)
        self.built = True
        self._convert_input_args = False  # lists of strings
        self._allow_non_tensor_positional_args = True
        self.inputs = list(inputs)
        self.prompts = checked_prompts(prompts)
        self.padding = one_of("padding", padding, PADDINGS)
        # A layer, so that Keras saves its vocabulary. Past Keras's own tracking, as it is
        # built when it is first called, and a model counts as built only with its layers.
        object.__setattr__(self, "preprocessor", preprocessor)
        in_graph = tf.function(self._tokens, reduce_retracing=True)
        object.__setattr__(self, "_in_graph", in_graph)

    @property
    def sequence_length(self):
        """The maximum number of tokens of a text, start and end tokens included."""
        return self.preprocessor.sequence_length

    @property
    def vocabulary(self):
        """The list of entries; an entry's index is its id."""
        tokenizer = self.preprocessor.tokenizer
        try:
            entries = tokenizer.get_vocabulary()
        except ValueError:  # it is read after the layer is made from a file
            return []
        ids = tokenizer.token_to_id
        return entries if isinstance(entries, list) else sorted(entries, key=ids)

    def call(self, texts, prompt=None, xla=False):
        """Returns the encoder's inputs of texts `[rows]`."""
        texts = batch_of_texts(texts)
        if prompt is not None:
            check_prompt(prompt, self.prompts)
            texts = tf.strings.join([self.prompts[prompt], texts])
        # In a graph, as keras-hub has another tokenizer outside of it.
        return self._in_graph(valid_utf8(texts), bool(xla))

    def _tokens(self, texts, xla):
        if getattr(self.preprocessor, "image_converter_cls", None) is not None:
            texts = {"images": None, "prompts": texts}
        found = self.preprocessor(texts)
        if isinstance(found, tuple):  # and the next token of each, of a language model
            found, *_ = found
        mask = tf.cast(found["padding_mask"], tf.int32) if "padding_mask" in found else None
        length = self._length(found["token_ids"], mask, xla)
        return {name: tf.cast(found[name], tf.int32)[:, :length] for name in self.inputs}

    def _length(self, tokens, mask, xla):
        if mask is None or self.padding == "max_length":
            return tf.shape(tokens)[1]
        ends = tf.where(mask > 0, tf.range(1, tf.shape(mask)[1] + 1), 0)  # [rows, T]
        longest = tf.reduce_max(tf.concat([[1], tf.reshape(ends, [-1])], 0))
        return padded_length(longest, self.padding, self.sequence_length, xla)
