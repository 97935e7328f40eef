"""A model that builds all its parts before its first step is traced."""

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend import compute_output_spec

from tfembloss import replicas


class WholeModel(keras.Model):
    """Base of models with parts that `call` does not use, such as a head or a memory.

    Keras considers a model built when `call` is; weights of its other parts would then be
    loaded before these are built, and silently left out.

    Args:
        name, dtype: as in `keras.Model`.
    """

    _shares_optimizer = False  # with the other tasks of a MultiTaskModel, which builds it

    def __init__(self, name=None, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self._was_traced = False  # to build parts that only a call builds

    def _known_inputs(self):
        """Returns symbolic inputs of `call` if they are known without data, or None."""
        return None

    def _known_outputs(self, x):
        """Returns symbolic outputs of `call` if they are known without a call, or None."""
        return None

    def _build_parts(self, shape):
        """Builds parts that only the loss uses, for embeddings of this shape."""

    def _layers_of_steps(self):
        """Returns layers that are built for embeddings of a step, not of `predict`."""
        return []

    def _build_of_step(self, layer, y, y_pred):
        """Builds one of them for symbolic targets and embeddings."""
        layer.build(tuple(y_pred.shape))

    def _build_known(self):
        """Builds the model if its inputs are known without data."""
        x = None if self._is_complete() else self._known_inputs()
        if x is not None:
            with self.distribute_strategy.scope():
                self._build_all(x)

    def _is_complete(self):
        if self._unbuilt() and not self._was_traced:
            return False
        if not self.compiled:
            return True
        metrics, optimizer = self._compile_metrics, self._own_optimizer()
        return all(part is None or part.built for part in (metrics, optimizer))

    def _own_optimizer(self):
        return None if self._shares_optimizer else self.optimizer

    def _unbuilt(self):
        of_steps = {id(layer) for layer in self._layers_of_steps()}
        return [
            layer.name
            for layer in self._flatten_layers()
            if not layer.built and id(layer) not in of_steps
        ]

    def _build_all(self, x, y=None, sample_weight=None):
        """Builds all used parts; returns symbolic embeddings of the symbolic inputs."""
        y_pred = self._known_outputs(x)
        if y_pred is not None and not self.built:
            self.build(tf.nest.map_structure(lambda x: tuple(x.shape), x))
        if y_pred is not None:
            self._build_parts(y_pred.shape)
        if y_pred is None or (self._unbuilt() and not self._was_traced):
            y_pred = compute_output_spec(self, x, training=False)
            self._build_parts(y_pred.shape)
            self._was_traced = True
        if self.compiled:
            self._build_compiled(x, y, sample_weight, y_pred)
        return y_pred

    def _build_compiled(self, x, y, sample_weight, y_pred):
        metrics = self._compile_metrics
        if metrics is not None and not metrics.built and y is not None:
            compute_output_spec(
                self.compute_metrics, x, y, y_pred, sample_weight=sample_weight
            )
        optimizer = self._own_optimizer()
        if optimizer is not None and not optimizer.built:
            optimizer.build(self.trainable_variables)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras 3.15 draws a batch under a strategy to infer shapes, so that data resampled
        # in each iteration would start with its second one. Without a strategy, it creates
        # variables in the first trace, which are lost if that fails.
        of_steps = [layer for layer in self._layers_of_steps() if not layer.built]
        if self._is_complete() and not of_steps:
            return
        if data_batch is None:
            data_batch = replicas.first_local_spec(iterator._distributed_dataset)
        batch = keras.utils.unpack_x_y_sample_weight(data_batch)
        x, y, sample_weight = (tf.nest.map_structure(_symbolic, part) for part in batch)
        if any(part is None for part in tf.nest.flatten(x)):
            return  # of unknown rank: built by the trace
        with self.distribute_strategy.scope():
            y_pred = self._build_all(x, y, sample_weight)
            for layer in of_steps:
                self._build_of_step(layer, y, y_pred)

    def compile_from_config(self, config):
        """Compiles from the result of `get_compile_config`, as Keras requires it."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self._build_known()
        if self.built and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)

    # Saving.

    def save(self, *args, **kwargs):
        """`keras.Model.save`, also before a call if the inputs are known."""
        self._build_known()
        super().save(*args, **kwargs)

    def save_weights(self, *args, **kwargs):
        """`keras.Model.save_weights`, also before a call if the inputs are known."""
        self._build_known()
        super().save_weights(*args, **kwargs)

    def load_weights(self, filepath, *args, **kwargs):
        """`keras.Model.load_weights`, for all parts of the model."""
        self._build_known()
        with self.distribute_strategy.scope():  # a memory is built from the file
            if self.built and self._unbuilt():
                raise ValueError(
                    "Expected a model that is built, all parts of it, to load weights "
                    f"into. Received: {self.name}, whose layers {self._unbuilt()} have no "
                    "weights yet. Call the model on a batch first, as in model(x[:2])."
                )
            super().load_weights(filepath, *args, **kwargs)

    def _seed_states(self):
        """Returns the seed states of random layers, such as dropout."""
        return [v for v in self.variables if "seed_generator" in v.path]

    def save_own_variables(self, store):
        """Saves also the states of random layers, which Keras (3.15) leaves out."""
        super().save_own_variables(store)
        for i, state in enumerate(self._seed_states()):
            store[f"seed_state_{i}"] = state

    def load_own_variables(self, store):
        """Loads what `save_own_variables` saved, so that dropout resumes where it was.

        The numbers of random layers in the model and in the file may differ.
        """
        names = set(store.keys())
        seeds = {name for name in names if name.startswith("seed_state_")}
        super().load_own_variables({name: store[name] for name in names - seeds})
        for i, state in enumerate(self._seed_states()):
            if f"seed_state_{i}" in seeds:
                state.assign(store[f"seed_state_{i}"])


def _symbolic(x):
    """Returns a symbolic tensor like x; None if x is not a tensor of known rank."""
    if x is None or not hasattr(x, "shape") or not hasattr(x, "dtype"):
        return None
    shape = tf.TensorShape(x.shape)
    if shape.rank is None or not isinstance(x, tf.TensorSpec | tf.Tensor | np.ndarray):
        return None
    dtype = keras.backend.standardize_dtype(x.dtype)
    return keras.KerasTensor((None, *shape[1:].as_list()), dtype)
