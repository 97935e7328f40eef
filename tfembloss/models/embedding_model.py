"""One encoder over one or several columns of inputs."""

import keras
import tensorflow as tf

from tfembloss import data, replicas
from tfembloss.losses.base import no_targets


@keras.saving.register_keras_serializable("tfembloss")
class EmbeddingModel(keras.Model):
    """Trains an encoder with any loss of `tfembloss.losses`.

    One column `x` gives embeddings `[B, D]`; a tuple of n columns (anchors, positives,
    negatives, ...) gives them stacked, `[B, n, D]`. Both are one tensor, so `compile`,
    validation and callbacks are Keras's own. `fit` needs no `y` where the loss needs none,
    though metrics given to `compile` do. Trains under any `tf.distribute` strategy: make it
    in the strategy's scope.

    To build another model on this one, replace `call` (columns in, embeddings out) or
    `compute_loss` (loss from embeddings).

    Args:
        encoder: Keras model or layer from one column's input (a tensor, or a dict of
            tensors) to embeddings `[rows, D]`.
        preprocessor: function from a batch of raw inputs of one column (strings, say) to
            the encoder's input. With it `fit`, `evaluate` and `predict` take raw inputs,
            as arrays, lists or a batched `tf.data.Dataset`, and it runs in tf.data. To
            be saved with the model it must be Keras-serialisable, as
            `tfembloss.text.TextPreprocessor` is.
        name, dtype: as in `keras.Model`.

    Raises:
        ValueError: `encoder` is no Keras layer or `preprocessor` cannot be called; in
            use, inputs that cannot be columns.

    Example:

    >>> import tfembloss
    >>> texts = ["a red apple", "a green pear", "the blue sky", "the grey sea"]
    >>> vocabulary = tfembloss.text.learn_vocabulary(texts, size=100)
    >>> model = EmbeddingModel(
    ...     tfembloss.text.TextEncoder(len(vocabulary), dim=8),
    ...     tfembloss.text.TextPreprocessor(vocabulary, sequence_length=16),
    ... )
    >>> model.compile("adam", loss=tfembloss.losses.MultipleNegativesRankingLoss())
    >>> history = model.fit((texts[:2], texts[2:]), epochs=2, verbose=0)
    >>> model.predict(texts, verbose=0).shape
    (4, 8)
    """

    def __init__(self, encoder, preprocessor=None, name=None, dtype=None):
        super().__init__(name=name, dtype=dtype)
        if not isinstance(encoder, keras.layers.Layer):
            raise ValueError(
                "`encoder` maps one column's input to embeddings [rows, D]: expected a "
                f"Keras model or layer. Received: encoder={encoder!r}"
            )
        if preprocessor is not None and not callable(preprocessor):
            raise ValueError(
                "`preprocessor` maps a batch of raw inputs to the encoder's input: "
                f"expected a function or None. Received: preprocessor={preprocessor!r}"
            )
        self.encoder = encoder
        self.preprocessor = preprocessor
        self.built = encoder.built

    # Columns in, embeddings out.

    def build(self, input_shape):
        """Builds the encoder from the shapes of the columns."""
        if not self.encoder.built:
            self.encoder.build(_column_shapes(input_shape)[0])
        self.built = True

    def call(self, x, training=None):
        """Embeddings `[B, D]` of one column, `[B, n, D]` of a tuple of n columns."""
        if any(tf.as_dtype(leaf.dtype) == tf.string for leaf in tf.nest.flatten(x)):
            raise ValueError(
                "Expected the encoder's inputs, received strings. Only fit, evaluate and "
                "predict take raw inputs, and only with a preprocessor."
            )
        if not isinstance(x, (tuple, list)):
            return self.encoder(x, training=training)
        if _alike(x):  # one call of the encoder for all columns
            rows = tf.nest.map_structure(lambda *column: tf.concat(column, axis=0), *x)
            embeddings = self.encoder(rows, training=training)  # [n * B, D]
            return tf.stack(tf.split(embeddings, len(x)), axis=1)
        return tf.stack([self.encoder(c, training=training) for c in x], axis=1)

    # Loss from embeddings.

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The compiled loss of the embeddings `y_pred`; `y` may be None."""
        y = no_targets(y_pred) if y is None else y
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    # Raw inputs, through the preprocessor.

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        *,
        sample_weight=None,
        validation_data=None,
        validation_split=0.0,
        shuffle=True,
        **kwargs,
    ):
        """`keras.Model.fit`, also on raw inputs and without `y`."""
        if self.preprocessor is None:
            kwargs.update(y=y, sample_weight=sample_weight, batch_size=batch_size)
            kwargs.update(validation_split=validation_split)
        else:
            if validation_split and validation_data is None:
                (x, y, sample_weight), validation_data = data.split_rows(
                    (x, y, sample_weight), validation_split
                )
            if validation_data is not None:
                raw = keras.utils.unpack_x_y_sample_weight(validation_data)
                size = kwargs.pop("validation_batch_size", None) or batch_size
                validation_data = self._preprocess(*raw, size)
            x = self._preprocess(x, y, sample_weight, batch_size, shuffle)
            shuffle = False
        return super().fit(x, validation_data=validation_data, shuffle=shuffle, **kwargs)

    def evaluate(self, x=None, y=None, batch_size=None, *, sample_weight=None, **kwargs):
        """`keras.Model.evaluate`, also on raw inputs and without `y`."""
        # `fit` calls this with the validation data that it was given: preprocessed.
        if self.preprocessor is None or kwargs.get("_use_cached_eval_dataset"):
            kwargs.update(y=y, sample_weight=sample_weight, batch_size=batch_size)
        else:
            x = self._preprocess(x, y, sample_weight, batch_size)
        return super().evaluate(x, **kwargs)

    def predict(self, x, batch_size=None, **kwargs):
        """`keras.Model.predict`, also on raw inputs: embeddings as a numpy array."""
        if self.preprocessor is not None:
            x, batch_size = self._preprocess(x, None, None, batch_size), None
        return super().predict(x, batch_size=batch_size, **kwargs)

    def _preprocess(self, x, y, sample_weight, batch_size, shuffle=False):
        """A dataset of batches for the encoder, from batches or arrays of raw inputs."""
        if isinstance(x, tf.data.Dataset):
            if y is not None or sample_weight is not None:
                raise ValueError(
                    "A dataset's elements carry y and sample_weight themselves: "
                    "(x, y, sample_weight). Expected no y beside it."
                )
            dataset = x
        else:
            dataset = data.from_arrays(x, y, sample_weight)
            if shuffle:
                dataset = dataset.shuffle(len(dataset))
            dataset = dataset.batch(batch_size or 32)

        def encoder_inputs(*element):
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
            if isinstance(x, tuple):
                x = tuple(self.preprocessor(column) for column in x)
            else:
                x = self.preprocessor(x)
            return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)

        return dataset.map(encoder_inputs, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    # Several workers.

    def train_step(self, data):
        """One step; its logs are those of all workers."""
        return replicas.worker_logs(super().train_step(data))

    def test_step(self, data):
        """One step of evaluation; its logs are those of all workers."""
        return replicas.worker_logs(super().test_step(data))

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras 3.15 averages the replicas' batches to learn their shapes, which fails
        # for several workers and for strings. One replica's batch has the same shapes.
        if iterator is not None and self._distribute_strategy is not None:
            _, _, batches = next(iter(iterator))
            with self.distribute_strategy.scope():
                iterator, data_batch = None, replicas.first_local(next(batches))
        super()._maybe_symbolic_build(iterator, data_batch)

    # Saving.

    def _seed_states(self):
        """Where the random layers, dropout say, stand in their sequences."""
        return [v for v in self.variables if "seed_generator" in v.path]

    def save_own_variables(self, store):
        """Also the states of random layers, which Keras leaves out (3.15)."""
        super().save_own_variables(store)
        for i, state in enumerate(self._seed_states()):
            store[f"seed_state_{i}"] = state

    def load_own_variables(self, store):
        """What `save_own_variables` saved, so that dropout goes on where it was.

        Also into a model with more or fewer random layers, or from a file without them.
        """
        names = set(store.keys())
        seeds = {name for name in names if name.startswith("seed_state_")}
        super().load_own_variables({name: store[name] for name in names - seeds})
        for i, state in enumerate(self._seed_states()):
            if f"seed_state_{i}" in seeds:
                state.assign(store[f"seed_state_{i}"])

    def get_config(self):
        """The arguments that make this model again."""
        return {
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "preprocessor": keras.saving.serialize_keras_object(self.preprocessor),
            "name": self.name,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config):
        """The model that `get_config` described."""
        parts = ("encoder", "preprocessor", "dtype")
        made = {part: keras.saving.deserialize_keras_object(config[part]) for part in parts}
        return cls(**{**config, **made})


def _column_shapes(shape):
    """Shapes of the columns: of a tuple of them, or of the one."""
    if isinstance(shape, (tuple, list)) and shape and not _is_dimension(shape[0]):
        return list(shape)
    return [shape]


def _is_dimension(value):
    return value is None or isinstance(value, int)


def _alike(columns):
    """Whether columns have the same structure, types and (known) shapes of rows."""
    first, *others = (
        tf.nest.map_structure(lambda x: (x.dtype, tuple(x.shape[1:])), column)
        for column in columns
    )
    known = all(tf.nest.map_structure(lambda x: x is not None, tf.nest.flatten(first)))
    return known and all(other == first for other in others)
