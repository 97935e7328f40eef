"""What the models have in common: columns of inputs in, one tensor of embeddings out."""

import keras
import tensorflow as tf

from tfembloss import data, replicas
from tfembloss.losses.base import no_targets
from tfembloss.models import grad_cache


class ColumnModel(keras.Model):
    """Base of the models: trains under any strategy, on raw inputs, and goes on exactly.

    A subclass writes `build` and `call`, columns in, embeddings `[B, D]` or `[B, n, D]`
    out; and, if it takes raw inputs, `takes_raw_inputs` and `encoder_inputs`.

    Args:
        mini_batch_size: rows of a batch that go through `call` at once, in training and in
            evaluation; None for all.
        name, dtype: as in `keras.Model`.
    """

    def __init__(self, mini_batch_size=None, name=None, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.mini_batch_size = grad_cache.check_size(mini_batch_size)

    # Loss from embeddings.

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The compiled loss of the embeddings `y_pred`; `y` may be None."""
        y = no_targets(y_pred) if y is None else y
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    # Raw inputs.

    takes_raw_inputs = False

    def encoder_inputs(self, x):
        """What `call` takes, from a batch of raw inputs; in tf.data."""
        raise NotImplementedError

    def step_batches(self, batches, training):
        """What the steps of `fit` and `evaluate` take, from a dataset of raw batches."""
        return map_inputs(self.encoder_inputs, batches)

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
        if not self.takes_raw_inputs:
            kwargs.update(y=y, sample_weight=sample_weight, batch_size=batch_size)
            kwargs.update(validation_split=validation_split)
        else:
            if validation_split and validation_data is None:
                (x, y, sample_weight), validation_data = data.split_rows(
                    (x, y, sample_weight), validation_split
                )
            if validation_data is not None:
                if isinstance(validation_data, list):  # rows, not (x, y)
                    validation_data = (validation_data,)
                raw = keras.utils.unpack_x_y_sample_weight(validation_data)
                size = kwargs.pop("validation_batch_size", None) or batch_size
                validation_data = self._batches_for_steps(*raw, size)
            x = self._batches_for_steps(
                x, y, sample_weight, batch_size, shuffle, training=True
            )
            shuffle = False
        return super().fit(x, validation_data=validation_data, shuffle=shuffle, **kwargs)

    def evaluate(self, x=None, y=None, batch_size=None, *, sample_weight=None, **kwargs):
        """`keras.Model.evaluate`, also on raw inputs and without `y`."""
        # `fit` calls this with the validation data that it was given: preprocessed.
        if not self.takes_raw_inputs or kwargs.get("_use_cached_eval_dataset"):
            kwargs.update(y=y, sample_weight=sample_weight, batch_size=batch_size)
        else:
            x = self._batches_for_steps(x, y, sample_weight, batch_size)
        return super().evaluate(x, **kwargs)

    def predict(self, x, batch_size=None, **kwargs):
        """`keras.Model.predict`, also on raw inputs: embeddings as a numpy array."""
        if self.takes_raw_inputs:
            batches = _raw_batches(x, None, None, batch_size)
            x = map_inputs(self.encoder_inputs, batches).prefetch(tf.data.AUTOTUNE)
            batch_size = None
        return super().predict(x, batch_size=batch_size, **kwargs)

    def _batches_for_steps(
        self, x, y, sample_weight, batch_size, shuffle=False, training=False
    ):
        batches = _raw_batches(x, y, sample_weight, batch_size, shuffle)
        return self.step_batches(batches, training).prefetch(tf.data.AUTOTUNE)

    # Steps: by mini-batches, and of several workers.

    def train_step(self, data):
        """One step; its logs are those of all workers."""
        if self.mini_batch_size is None:
            return replicas.worker_logs(super().train_step(data))
        return replicas.worker_logs(grad_cache.train_step(self, data))

    def test_step(self, data):
        """One step of evaluation; its logs are those of all workers."""
        if self.mini_batch_size is None:
            return replicas.worker_logs(super().test_step(data))
        return replicas.worker_logs(grad_cache.test_step(self, data))

    def _encoder_layers(self):
        """The layers that `call` uses."""
        return self._flatten_layers(include_self=False)

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

    @classmethod
    def from_config(cls, config):
        """The model that `get_config` described; its parts are Keras-serialisable."""
        deserialize = keras.saving.deserialize_keras_object
        return cls(
            **{
                name: deserialize(value) if isinstance(value, dict) else value
                for name, value in config.items()
            }
        )


def _raw_batches(x, y, sample_weight, batch_size, shuffle=False):
    """A dataset of batches of raw inputs, from arrays of them or as it is."""
    if not isinstance(x, tf.data.Dataset):
        dataset = data.from_arrays(x, y, sample_weight)
        if shuffle:
            dataset = dataset.shuffle(len(dataset))
        return dataset.batch(batch_size or 32)
    if y is None and sample_weight is None:
        return x
    raise ValueError(
        "A dataset's elements carry y and sample_weight themselves: "
        "(x, y, sample_weight). Expected no y beside it."
    )


def map_inputs(function, batches):
    """The same batches with `function(x)` in the place of their x."""

    def changed(*element):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
        return keras.utils.pack_x_y_sample_weight(function(x), y, sample_weight)

    return batches.map(changed, tf.data.AUTOTUNE)


def check_no_strings(x):
    """The encoder's inputs are no texts: a ValueError where a text came so far."""
    if any(tf.as_dtype(leaf.dtype) == tf.string for leaf in tf.nest.flatten(x)):
        raise ValueError(
            "Expected the encoder's inputs, received strings. Only fit, evaluate and "
            "predict take raw inputs, and only with a preprocessor."
        )


def column_shapes(shape):
    """Shapes of the columns: of a tuple of them, or of the one."""
    if isinstance(shape, (tuple, list)) and shape and not _is_dimension(shape[0]):
        return list(shape)
    return [shape]


def _is_dimension(value):
    return value is None or isinstance(value, int)
