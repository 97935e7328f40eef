"""What the models have in common: columns of inputs in, one tensor of embeddings out."""

import functools
import inspect

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend import compute_output_spec

from tfembloss import data, losses, replicas
from tfembloss.data.columns import as_columns
from tfembloss.losses.base import EmbeddingLoss, no_targets
from tfembloss.losses.classification import ClassLoss
from tfembloss.models import grad_cache, inputs
from tfembloss.models.errors import explained


class ColumnModel(keras.Model):
    """Base of the models: trains under any strategy, on raw inputs, and resumes exactly.

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
        self._was_traced = False  # to build what only a call builds

    # Loss from embeddings.

    loss_sees_scores = False  # those of a head, instead of embeddings

    def compile(self, optimizer="rmsprop", loss=None, *args, **kwargs):
        """`keras.Model.compile`, with one loss: an instance, or its class's name."""
        super().compile(optimizer, self._checked_loss(loss), *args, **kwargs)

    def compile_from_config(self, config):
        """Compiles as `get_compile_config` says; Keras asks for it beside `compile`."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self._build_known()
        if self.built and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)

    def _checked_loss(self, loss):
        if isinstance(loss, list | tuple) and len(loss) == 1:
            loss = loss[0]
        if isinstance(loss, list | tuple | dict):
            raise ValueError(
                f"{type(self).__name__} gives one tensor: expected one loss. Received: "
                f"loss={loss!r}. For a sum of losses write a keras.losses.Loss whose "
                "`call` adds them."
            )
        if isinstance(loss, str):
            loss = getattr(losses, loss, loss)
        if inspect.isclass(loss) and issubclass(loss, keras.losses.Loss):
            loss = loss()
        if isinstance(loss, ClassLoss) and not self.loss_sees_scores:
            raise ValueError(
                f"{type(loss).__name__} takes scores of classes, [B, C]: expected a model "
                f"with a head that gives them. Received: {type(self).__name__}, which "
                "gives embeddings. Use tfembloss.EmbeddingClassifier(encoder, "
                "tfembloss.layers.CosineHead(num_classes)), or PairHead for SoftmaxLoss."
            )
        return loss

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The compiled loss of the embeddings `y_pred`; `y` may be None."""
        y = no_targets(y_pred) if y is None else y
        if isinstance(self.loss, EmbeddingLoss) or replicas.count() == 1:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        # Keras's own losses: a mean of the replicas' means, which is not that of the rows
        # where replicas hold different numbers of them.
        loss = self._compile_loss(y, y_pred, sample_weight)
        if getattr(self.loss, "reduction", "mean") not in ("sum", "none", None):
            loss *= replicas.share_of_rows(y_pred, loss.dtype)
        return sum(map(self._aggregate_additional_loss, self.losses), loss)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """The compiled metrics, which compare `y_pred` with y."""
        no_y = y is None or (hasattr(y, "shape") and tuple(y.shape)[1:] == (0,))
        if self._compile_metrics is not None and no_y:
            raise ValueError(
                "`metrics` in `compile` compare the predictions with y: expected y. "
                "Received: y=None. Leave `metrics` out, or measure embeddings by a "
                "callback, as tfembloss.evaluation.RetrievalEvaluator."
            )
        return super().compute_metrics(x, y, y_pred, sample_weight)

    # Raw inputs.

    takes_raw_inputs = False

    def encoder_inputs(self, x, training=False):
        """What `call` takes, from a batch of raw inputs; in tf.data."""
        raise NotImplementedError

    def step_batches(self, batches, training):
        """What the steps of `fit` and `evaluate` take, from a dataset of raw batches."""
        prepare = functools.partial(self.encoder_inputs, training=training)
        return inputs.map_inputs(prepare, batches)

    def step_batch(self, x, y=None, sample_weight=None, training=False):
        """What a step takes, from one batch."""
        if self.takes_raw_inputs:
            x = self.encoder_inputs(as_columns(x), training)
        return x, self._targets(inputs.targets_as_array(y)), sample_weight

    def _targets(self, y):
        return inputs.hashed_targets(y, self.loss if self.compiled else None)

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
        class_weight=None,
        **kwargs,
    ):
        """`keras.Model.fit`, also on raw inputs and without `y`."""
        rows_given = not inputs.is_batches(x)
        with explained(self):
            if class_weight is not None and rows_given:
                sample_weight = inputs.weights_of_classes(class_weight, y, sample_weight)
            elif class_weight is not None:
                kwargs["class_weight"] = class_weight
            if validation_split and validation_data is None and rows_given:
                (x, y, sample_weight), validation_data = data.split_rows(
                    (x, y, sample_weight), validation_split
                )
            elif validation_split and validation_data is None:
                kwargs["validation_split"] = validation_split  # Keras says that it cannot
            if validation_data is not None:
                size = kwargs.pop("validation_batch_size", None) or batch_size
                validation_data = self._validation_batches(validation_data, size)
            given = self._batches(x, y, sample_weight, batch_size, shuffle, training=True)
            if self.takes_raw_inputs and rows_given:
                shuffle = False  # they are already
            return super().fit(
                **given, validation_data=validation_data, shuffle=shuffle, **kwargs
            )

    def evaluate(self, x=None, y=None, batch_size=None, *, sample_weight=None, **kwargs):
        """`keras.Model.evaluate`, also on raw inputs and without `y`."""
        # `fit` calls this with the validation data that it was given: preprocessed.
        if kwargs.get("_use_cached_eval_dataset"):
            return super().evaluate(x, y, batch_size, sample_weight=sample_weight, **kwargs)
        with explained(self):
            given = self._batches(x, y, sample_weight, batch_size)
            return super().evaluate(**given, **kwargs)

    def predict(self, x, batch_size=None, **kwargs):
        """`keras.Model.predict`, also on raw inputs: embeddings as a numpy array."""
        batch_size = inputs.check_batch_size(batch_size)
        self._build_in_scope()
        with explained(self):
            if isinstance(x, keras.utils.PyDataset) and self.takes_raw_inputs:
                x = inputs.MappedPyDataset(x, self._prediction_batch)
            elif self.takes_raw_inputs:
                if not isinstance(x, tf.data.Dataset):
                    x, batch_size = inputs.raw_batches(x, None, None, batch_size), None
                x = inputs.map_inputs(self.encoder_inputs, x).prefetch(tf.data.AUTOTUNE)
            elif not inputs.is_batches(x):
                x, _, _ = inputs.arrays(x, None, None, getattr(self, "encoder", None))
            return super().predict(x, batch_size=batch_size, **kwargs)

    def _prediction_batch(self, x, y=None, sample_weight=None):
        return self.encoder_inputs(as_columns(x)), None, None

    def train_on_batch(
        self, x, y=None, sample_weight=None, class_weight=None, return_dict=False
    ):
        """`keras.Model.train_on_batch`, also on raw inputs and without `y`."""
        if class_weight is not None:
            sample_weight = inputs.weights_of_classes(class_weight, y, sample_weight)
        batch = self._one_batch(x, y, sample_weight, training=True)
        with explained(self):
            return super().train_on_batch(*batch, return_dict=return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """`keras.Model.test_on_batch`, also on raw inputs and without `y`."""
        batch = self._one_batch(x, y, sample_weight, training=False)
        with explained(self):
            return super().test_on_batch(*batch, return_dict=return_dict)

    def predict_on_batch(self, x):
        """`keras.Model.predict_on_batch`, also on raw inputs."""
        if self.takes_raw_inputs:
            x = self.encoder_inputs(as_columns(x))
        else:
            x, _, _ = inputs.arrays(x, None, None, getattr(self, "encoder", None))
        with explained(self):
            return super().predict_on_batch(x)

    def _one_batch(self, x, y, sample_weight, training):
        if not self.takes_raw_inputs:
            encoder = getattr(self, "encoder", None)
            x, y, sample_weight = inputs.arrays(x, y, sample_weight, encoder)
        elif inputs.are_tokens(x, getattr(self, "preprocessor", None)):
            return x, y, sample_weight  # as a step takes them
        return self.step_batch(x, y, sample_weight, training)

    def _batches(
        self, x, y=None, sample_weight=None, batch_size=None, shuffle=False, training=False
    ):
        """Arguments of Keras's `fit` and `evaluate`, by name."""
        batch_size = inputs.check_batch_size(batch_size)
        if inputs.is_batches(x):
            inputs.check_nothing_beside(x, y, sample_weight)
        if isinstance(x, keras.utils.PyDataset):
            step_batch = functools.partial(self.step_batch, training=training)
            return {"x": inputs.MappedPyDataset(x, step_batch)}
        if self.takes_raw_inputs and not isinstance(x, tf.data.Dataset):
            x = inputs.raw_batches(x, y, sample_weight, batch_size, shuffle)
        if isinstance(x, tf.data.Dataset):
            prepared = self.step_batches(x, training) if self.takes_raw_inputs else x
            return {"x": self._with_targets(prepared).prefetch(tf.data.AUTOTUNE)}
        if inputs.is_batches(x):
            return {"x": x}
        encoder = getattr(self, "encoder", None)
        x, y, sample_weight = inputs.arrays(x, y, sample_weight, encoder)
        given = {"x": x, "y": self._targets(y), "sample_weight": sample_weight}
        return {**given, "batch_size": batch_size}

    def _with_targets(self, batches):
        """The same batches with integers in the place of ids that are strings."""
        _, y, _ = keras.utils.unpack_x_y_sample_weight(batches.element_spec)
        if not (isinstance(y, tf.TensorSpec) and y.dtype == tf.string):
            return batches

        def changed(*element):
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
            return keras.utils.pack_x_y_sample_weight(x, self._targets(y), sample_weight)

        return batches.map(changed, tf.data.AUTOTUNE)

    def _validation_batches(self, validation_data, batch_size):
        """Validation data as Keras takes it: a dataset, or (x, y, sample_weight)."""
        if isinstance(validation_data, list) and self.takes_raw_inputs:
            validation_data = (validation_data,)  # rows, not (x, y)
        if inputs.is_batches(validation_data):
            return self._batches(validation_data)["x"]
        given = self._batches(
            *keras.utils.unpack_x_y_sample_weight(validation_data), batch_size
        )
        if "y" not in given:
            return given["x"]
        return given["x"], given["y"], given["sample_weight"]

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
        of_steps = {id(layer) for layer in self._layers_of_steps()}
        layers = self._flatten_layers(include_self=False)
        return [layer for layer in layers if id(layer) not in of_steps]

    # Building: all that the model owns, before its first step is traced.

    def _known_inputs(self):
        """Symbolic inputs of `call` where they are known without data, else None."""
        return None

    def _known_outputs(self, x):
        """What `call` gives of symbolic inputs where that is known without a call."""
        return None

    def _build_parts(self, shape):
        """Builds what the loss uses and `call` does not, for embeddings of this shape."""

    def _layers_of_steps(self):
        """Layers that are built for the embeddings of a step, not of `predict`."""
        return []

    def _build_known(self):
        """Builds the model where its inputs are known without data."""
        x = None if self._is_complete() else self._known_inputs()
        if x is not None:
            self._build_all(x)

    def _build_in_scope(self):
        with self.distribute_strategy.scope():
            self._build_known()

    def _is_complete(self):
        return (
            (self._was_traced or not self._unbuilt())
            and getattr(getattr(self, "_compile_metrics", None), "built", True)
            and (self._optimizer_in_use() is None or self.optimizer.built)
        )

    def _optimizer_in_use(self):
        return getattr(self, "optimizer", None)  # a model is not compiled at first

    def _unbuilt(self):
        of_steps = {id(layer) for layer in self._layers_of_steps()}
        return [
            layer.name
            for layer in self._flatten_layers()
            if not layer.built and id(layer) not in of_steps
        ]

    def _build_all(self, x, y=None, sample_weight=None):
        """Builds all that is used; returns symbolic embeddings of the symbolic inputs."""
        y_pred = self._known_outputs(x)
        if y_pred is not None and not self.built:
            self.build(tf.nest.map_structure(lambda x: tuple(x.shape), x))
        if y_pred is not None:
            self._build_parts(y_pred.shape)
        if y_pred is None or (self._unbuilt() and not self._was_traced):
            y_pred = compute_output_spec(self, x, training=False)
            self._build_parts(y_pred.shape)
            self._was_traced = True
        metrics = getattr(self, "_compile_metrics", None)
        if metrics is not None and not metrics.built and y is not None:
            compute_output_spec(
                self.compute_metrics, x, y, y_pred, sample_weight=sample_weight
            )
        if self._optimizer_in_use() is not None and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        return y_pred

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras 3.15 draws a batch under a strategy, to learn its shapes: what is drawn anew
        # in each iteration would begin with its second one. And without a strategy it
        # makes variables in the first trace, which are lost where that fails.
        of_steps = [layer for layer in self._layers_of_steps() if not layer.built]
        if self._is_complete() and not of_steps:
            return
        if data_batch is None:
            data_batch = replicas.first_local_spec(iterator._distributed_dataset)
        batch = keras.utils.unpack_x_y_sample_weight(data_batch)
        x, y, sample_weight = (tf.nest.map_structure(_symbolic, part) for part in batch)
        if any(part is None for part in tf.nest.flatten(x)):
            return  # of unknown rank: the trace builds
        with self.distribute_strategy.scope():
            y_pred = self._build_all(x, y, sample_weight)
            for layer in of_steps:
                layer.build(tuple(y_pred.shape))

    # Saving.

    def save(self, *args, **kwargs):
        """`keras.Model.save`, also of a model that is not called but known."""
        self._build_in_scope()
        super().save(*args, **kwargs)

    def save_weights(self, *args, **kwargs):
        """`keras.Model.save_weights`, also of a model that is not called but known."""
        self._build_in_scope()
        super().save_weights(*args, **kwargs)

    def load_weights(self, filepath, *args, **kwargs):
        """`keras.Model.load_weights`, of all that the model owns."""
        self._build_in_scope()
        with self.distribute_strategy.scope():  # a memory is built from what was saved
            if self.built and self._unbuilt():
                raise ValueError(
                    "Expected a model that is built, all parts of it, to load weights "
                    f"into. Received: {self.name}, whose layers {self._unbuilt()} have no "
                    "weights yet. Call the model on a batch first, as in model(x[:2])."
                )
            super().load_weights(filepath, *args, **kwargs)

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


def _symbolic(x):
    """A symbolic tensor like x; None where x is none or its rank is unknown."""
    if x is None or not hasattr(x, "shape") or not hasattr(x, "dtype"):
        return None
    shape = tf.TensorShape(x.shape)
    if shape.rank is None or not isinstance(x, tf.TensorSpec | tf.Tensor | np.ndarray):
        return None
    dtype = keras.backend.standardize_dtype(x.dtype)
    return keras.KerasTensor((None, *shape[1:].as_list()), dtype)


def one_tensor(embeddings, rank):
    """An encoder's output, one tensor of this rank, or a ValueError that says how."""
    is_tensor = tf.is_tensor(embeddings) or isinstance(embeddings, keras.KerasTensor)
    if is_tensor and embeddings.shape.rank in (rank, None):
        return embeddings
    if is_tensor:
        received = f"a tensor of shape {tuple(embeddings.shape)}"
        mend = "Pool what it gives of tokens or pixels, or add keras.layers.Flatten()."
    else:
        parts = embeddings if isinstance(embeddings, dict) else range(len(embeddings))
        received = f"{type(embeddings).__name__} of {list(parts)}"
        mend = (
            "Take one of them: keras.Model(encoder.inputs, "
            f"encoder.output[{next(iter(parts), 0)!r}])."
        )
    raise ValueError(
        "Expected an encoder that gives one tensor, with one embedding for each row, "
        f"[rows, D]. Received: {received}. {mend}"
    )


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
