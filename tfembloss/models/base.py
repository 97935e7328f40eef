"""What the models have in common: from columns of inputs to a tensor of embeddings."""

import functools
import types

import keras
import tensorflow as tf

from tfembloss import data, replicas
from tfembloss.checks import integer
from tfembloss.config import Configurable
from tfembloss.data.column_datasets import as_columns
from tfembloss.losses import drawing
from tfembloss.losses.base import EmbeddingLoss
from tfembloss.losses.distillation import refuse_one_column
from tfembloss.losses.inputs import no_targets
from tfembloss.losses.names import one_of_ours
from tfembloss.losses.wrappers import WeightedSum, single_losses, takes_layers
from tfembloss.models import first_batch, grad_cache, inputs
from tfembloss.models.batches import (
    MappedPyDataset,
    check_batch_size,
    check_nothing_beside,
    is_batches,
    map_inputs,
    mapped_batches,
    of_batches,
    raw_batches,
)
from tfembloss.models.building import WholeModel
from tfembloss.models.errors import explained


class ColumnModel(Configurable, WholeModel):
    """Base of the models: trains under any strategy, on raw inputs, and resumes exactly.

    A subclass defines `build` and `call`, from columns to embeddings `[B, D]` or
    `[B, n, D]`, and, if it takes raw inputs, `takes_raw_inputs` and `encoder_inputs`.

    Args:
        mini_batch_size: rows of a batch that go through `call` at once, in training and in
            evaluation; None for all.
        name, dtype: as in `keras.Model`.
    """

    def __init__(self, mini_batch_size=None, name=None, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self._parts = types.SimpleNamespace(metrics={})  # which Keras does not track
        self.mini_batch_size = mini_batch_size
        if mini_batch_size is not None:
            hint = ", how many rows of a batch go through the encoder at once, or None"
            self.mini_batch_size = integer("mini_batch_size", mini_batch_size, 1, hint=hint)

    # Loss from embeddings.

    loss_sees_scores = False  # whether the loss gets a head's scores, not embeddings
    shows_layers = False  # whether it may get the embeddings of all layers

    def compile(self, optimizer="rmsprop", loss=None, *args, **kwargs):
        """`keras.Model.compile`, with one loss: an instance, or the name of its class."""
        loss_weights = args[0] if args else kwargs.get("loss_weights")
        if loss_weights is not None:
            raise ValueError(
                "Expected no loss_weights, as there is one loss: WeightedSum has weights. "
                f"Received: loss_weights={loss_weights!r}"
            )
        self._shares_optimizer, self._loss_weight = False, 1
        super().compile(optimizer, self._checked_loss(loss), *args, **kwargs)
        names = self.loss.counted if isinstance(self.loss, WeightedSum) else ()
        with self.distribute_strategy.scope():
            self._parts.metrics = {
                name: keras.metrics.Mean(name=f"{name}_loss") for name in names
            }

    @property
    def metrics(self):
        """Those of Keras, and the means of the parts of a `WeightedSum`."""
        return [*super().metrics, *self._parts.metrics.values()]

    def _checked_loss(self, loss):
        if isinstance(loss, list | tuple) and len(loss) == 1:
            loss = loss[0]
        if isinstance(loss, list | tuple | dict):
            raise ValueError(
                f"{type(self).__name__} returns one tensor: expected one loss. Received: "
                f"loss={loss!r}. tfembloss.losses.WeightedSum adds losses."
            )
        loss = one_of_ours(loss)
        takes_scores = isinstance(loss, EmbeddingLoss) and loss.takes_scores
        if takes_scores and not self.loss_sees_scores:
            raise ValueError(
                f"{type(loss).__name__} takes class scores [B, C], or scores of lists of "
                f"documents [B, L]. Received: {type(self).__name__}, which returns "
                "embeddings. Expected a model that returns scores: of classes, "
                "tfembloss.EmbeddingClassifier(encoder, tfembloss.layers.CosineHead("
                "num_classes)), with PairHead for SoftmaxLoss; of documents, "
                "tfembloss.CrossEncoder(encoder, preprocessor)."
            )
        if takes_layers(loss) and not self.shows_layers:
            raise ValueError(
                f"{type(loss).__name__} takes the embeddings of all layers: expected an "
                f"EmbeddingModel. Received: {type(self).__name__}, which gives the last."
            )
        for single in single_losses(loss):
            self._check_parts_for(single)
        return loss

    def _check_parts_for(self, loss):
        """Raises ValueError if a single loss needs a part that this model lacks."""
        head = getattr(self, "head", None)
        of_loss, of_head = (getattr(x, "num_betas", None) for x in (loss, head))
        if of_head != of_loss:
            of_model = "no head" if head is None else f"{of_head} in {type(head).__name__}"
            raise ValueError(
                "Expected a MarginLoss of as many learned boundaries as the head has, in a "
                "tfembloss.EmbeddingClassifier(encoder, tfembloss.layers.MarginHead("
                f"num_betas)). Received: num_betas={of_loss} in {type(loss).__name__}, and "
                f"{of_model}."
            )
        needs_predictor = getattr(loss, "needs_predictor", False)
        if needs_predictor and getattr(self, "predictor", None) is None:
            raise ValueError(
                f"{type(loss).__name__} has no negatives, and without a predictor all "
                "embeddings become equal: expected tfembloss.MomentumModel(encoder, "
                "predictor=...), with momentum=0 for SimSiam. Received: "
                f"{type(self).__name__} without a predictor."
            )

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Computes the compiled loss of the embeddings `y_pred`; `y` may be None."""
        y = no_targets(y_pred) if y is None else y
        if not self.loss_sees_scores:
            for loss in single_losses(self.loss):
                refuse_one_column(loss, y_pred)
        if isinstance(self.loss, WeightedSum):
            return self._with_added_losses(self._loss_of(y, y_pred, sample_weight))
        if isinstance(self.loss, EmbeddingLoss) or replicas.count() == 1:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        # Keras's losses return a mean of the replicas' means, which is not the mean over
        # rows if replicas hold different numbers of them.
        loss = self._compile_loss(y, y_pred, sample_weight)
        if getattr(self.loss, "reduction", "mean") != "sum":
            loss *= replicas.share(tf.cast(tf.shape(y_pred)[0], loss.dtype))
        return self._with_added_losses(replicas.alike(loss))

    _loss_weight = 1  # of a task of a MultiTaskModel

    def _compute_loss(self, *args, **kwargs):
        """Computes the loss for a step: the weight of a task is in its gradient only."""
        optimizer = self.optimizer if kwargs.get("training", True) else None
        with drawing.at_step(getattr(optimizer, "iterations", None)):
            loss = super()._compute_loss(*args, **kwargs)
        if self._loss_weight == 1:
            return loss
        weighted = self._loss_weight * loss
        return weighted + tf.stop_gradient(loss - weighted)

    @property
    def _loss_in_steps(self):
        return self.loss

    def _loss_of(self, y, y_pred, sample_weight, memory=None):
        """Computes a loss of this package, and records the parts of a sum."""
        loss = self._loss_in_steps
        if not isinstance(loss, WeightedSum):
            return loss(y, y_pred, sample_weight, memory=memory)
        parts = loss.reduced_parts(y, y_pred, sample_weight, memory)
        num_rows = tf.shape(y_pred)[0]
        for name, part in parts.items():
            # As Keras records the loss: undoing its division by the number of replicas.
            part = tf.reduce_sum(tf.stop_gradient(part)) * replicas.count()
            self._parts.metrics[name].update_state(part, sample_weight=num_rows)
        return loss.total(parts)

    def _with_added_losses(self, loss):
        """Returns the loss with those that layers added."""
        return sum(map(self._aggregate_additional_loss, self.losses), loss)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Computes the compiled metrics, which compare `y_pred` with y."""
        shape = () if y is None else getattr(y, "shape", ())
        is_known = getattr(shape, "rank", 0) is not None
        no_y = y is None or (is_known and tuple(shape)[1:] == (0,))
        if self._compile_metrics is not None and no_y:
            raise ValueError(
                "`metrics` in `compile` compare the predictions with y: expected y. "
                "Received: y=None. Leave `metrics` out, or measure embeddings by a "
                "callback, such as tfembloss.evaluation.RetrievalEvaluator."
            )
        return super().compute_metrics(x, y, y_pred, sample_weight)

    # Raw inputs.

    takes_raw_inputs = False

    def encoder_inputs(self, x, training=False):
        """Returns what `call` takes from a batch of raw inputs; runs in tf.data."""
        raise NotImplementedError

    def step_batches(self, batches, training):
        """Returns what steps of `fit` and `evaluate` take from a dataset of raw batches."""
        prepare = functools.partial(self.encoder_inputs, training=training)
        return map_inputs(prepare, batches)

    def step_batch(self, x, y=None, sample_weight=None, training=False):
        """Returns what a step takes from one batch."""
        if self.takes_raw_inputs:
            x = self.encoder_inputs(as_columns(x), training)
            y = inputs.targets_as_array(y)
            sample_weight = inputs.weights_as_array(sample_weight)
        else:
            x, y, sample_weight = self._arrays(x, y, sample_weight)
        return x, self._targets(y), sample_weight

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
        rows_given = not is_batches(x)
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
                kwargs["validation_split"] = validation_split  # Keras raises the error
            if validation_data is not None:
                size = kwargs.pop("validation_batch_size", None) or batch_size
                validation_data = self._validation_batches(validation_data, size)
            given = self._batches(x, y, sample_weight, batch_size, shuffle, training=True)
            given = first_batch.watched(self, given, shuffle)
            if self.takes_raw_inputs and rows_given:
                shuffle = False  # it is shuffled already
            return super().fit(
                **given, validation_data=validation_data, shuffle=shuffle, **kwargs
            )

    def evaluate(self, x=None, y=None, batch_size=None, *, sample_weight=None, **kwargs):
        """`keras.Model.evaluate`, also on raw inputs and without `y`."""
        # `fit` calls this with validation data that is preprocessed already.
        if kwargs.get("_use_cached_eval_dataset"):
            return super().evaluate(x, y, batch_size, sample_weight=sample_weight, **kwargs)
        with explained(self):
            given = self._batches(x, y, sample_weight, batch_size)
            return super().evaluate(**given, **kwargs)

    def predict(self, x, batch_size=None, *, prompt=None, **kwargs):
        """`keras.Model.predict`, also on raw inputs: embeddings as a numpy array."""
        options = {} if prompt is None else {"prompt": prompt}
        prepare = functools.partial(self.encoder_inputs, **options)
        batch_size = check_batch_size(batch_size)
        self._build_known()
        with explained(self):
            if isinstance(x, keras.utils.PyDataset) and self.takes_raw_inputs:
                x = MappedPyDataset(x, self._prediction_batch)
            elif self.takes_raw_inputs:
                if isinstance(x, tf.data.Dataset):
                    x = of_batches(x)
                else:
                    x, batch_size = raw_batches(x, None, None, batch_size), None
                x = map_inputs(prepare, x).prefetch(tf.data.AUTOTUNE)
            elif not is_batches(x):
                x, _, _ = self._arrays(x)
            return super().predict(x, batch_size=batch_size, **kwargs)

    def _prediction_batch(self, x, y=None, sample_weight=None):
        if self.takes_raw_inputs:
            return self.encoder_inputs(as_columns(x)), None, None
        return self._arrays(x)

    def train_on_batch(
        self, x, y=None, sample_weight=None, class_weight=None, return_dict=False
    ):
        """`keras.Model.train_on_batch`, also on raw inputs and without `y`."""
        if class_weight is not None:
            sample_weight = inputs.weights_of_classes(class_weight, y, sample_weight)
        with explained(self):
            batch = self._one_batch(x, y, sample_weight, training=True)
            first_batch.check(self, *batch[:2])
            return super().train_on_batch(*batch, return_dict=return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """`keras.Model.test_on_batch`, also on raw inputs and without `y`."""
        with explained(self):
            batch = self._one_batch(x, y, sample_weight, training=False)
            return super().test_on_batch(*batch, return_dict=return_dict)

    def predict_on_batch(self, x):
        """`keras.Model.predict_on_batch`, also on raw inputs."""
        with explained(self):
            x, _, _ = self._prediction_batch(x)
            return super().predict_on_batch(x)

    def _arrays(self, x, y=None, sample_weight=None):
        return inputs.arrays(x, y, sample_weight, getattr(self, "encoder", None))

    def _one_batch(self, x, y, sample_weight, training):
        preprocessor = getattr(self, "preprocessor", None)
        if self.takes_raw_inputs and inputs.are_tokens(x, preprocessor):
            return x, y, sample_weight  # as a step takes them
        return self.step_batch(x, y, sample_weight, training)

    def _batches(
        self, x, y=None, sample_weight=None, batch_size=None, shuffle=False, training=False
    ):
        """Returns arguments of Keras's `fit` and `evaluate`, by name."""
        batch_size = check_batch_size(batch_size)
        if is_batches(x):
            check_nothing_beside(x, y, sample_weight)
        if isinstance(x, keras.utils.PyDataset) or hasattr(x, "__next__"):
            step_batch = functools.partial(self.step_batch, training=training)
            return {"x": mapped_batches(x, step_batch)}
        if self.takes_raw_inputs and not isinstance(x, tf.data.Dataset):
            x = raw_batches(x, y, sample_weight, batch_size, shuffle)
        if isinstance(x, tf.data.Dataset):
            raw = self.takes_raw_inputs  # which may have another rank than the encoder's
            x = of_batches(x, None if raw else getattr(self, "encoder", None))
            prepared = self.step_batches(x, training) if self.takes_raw_inputs else x
            return {"x": self._with_targets(prepared).prefetch(tf.data.AUTOTUNE)}
        if is_batches(x):
            return {"x": x}
        x, y, sample_weight = self._arrays(x, y, sample_weight)
        inputs.check_some_rows(x)
        given = {"x": x, "y": self._targets(y), "sample_weight": sample_weight}
        return {**given, "batch_size": batch_size}

    def _with_targets(self, batches):
        """Returns the batches with integers in place of string ids."""
        _, y, _ = keras.utils.unpack_x_y_sample_weight(batches.element_spec)
        specs = tf.nest.flatten(y)
        if not any(isinstance(s, tf.TensorSpec) and s.dtype == tf.string for s in specs):
            return batches

        def changed(*element):
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
            return keras.utils.pack_x_y_sample_weight(x, self._targets(y), sample_weight)

        return batches.map(changed, tf.data.AUTOTUNE)

    def _validation_batches(self, validation_data, batch_size):
        """Returns validation data for Keras: a dataset, or (x, y, sample_weight)."""
        if isinstance(validation_data, list) and self.takes_raw_inputs:
            validation_data = (validation_data,)  # rows, not (x, y)
        if is_batches(validation_data):
            return self._batches(validation_data)["x"]
        given = self._batches(
            *keras.utils.unpack_x_y_sample_weight(validation_data), batch_size
        )
        if "y" not in given:
            return given["x"]
        return given["x"], given["y"], given["sample_weight"]

    # Steps: by mini-batches, and of several workers.

    def make_train_function(self, force=False):
        """Builds the optimizer first if other tasks of a MultiTaskModel have it, too."""
        if self._shares_optimizer:
            self._parts.build_optimizer()
        return super().make_train_function(force)

    def train_step(self, data):
        """Runs a training step; its logs are those of all workers."""
        if self.mini_batch_size is None:
            return replicas.worker_logs(super().train_step(data))
        return replicas.worker_logs(grad_cache.train_step(self, data))

    def test_step(self, data):
        """Runs an evaluation step; its logs are those of all workers."""
        if self.mini_batch_size is None:
            return replicas.worker_logs(super().test_step(data))
        return replicas.worker_logs(grad_cache.test_step(self, data))

    def _encoder_layers(self):
        """Returns the layers that `call` uses."""
        of_steps = {id(layer) for layer in self._layers_of_steps()}
        layers = self._flatten_layers(include_self=False)
        return [layer for layer in layers if id(layer) not in of_steps]


def one_tensor(embeddings, rank):
    """Returns an encoder's output, one tensor of this rank. Raises ValueError otherwise."""
    is_tensor = tf.is_tensor(embeddings) or isinstance(embeddings, keras.KerasTensor)
    if is_tensor and embeddings.shape.rank in (rank, None):
        return embeddings
    if is_tensor:
        received = f"a tensor of shape {tuple(embeddings.shape)}"
        mend = "Pool its output over tokens or pixels, or add keras.layers.Flatten()."
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
    """Raises ValueError if texts were not preprocessed to the encoder's inputs."""
    if any(tf.as_dtype(leaf.dtype) == tf.string for leaf in tf.nest.flatten(x)):
        raise ValueError(
            "Expected the encoder's inputs, received strings. Only fit, evaluate and "
            "predict take raw inputs, and only with a preprocessor."
        )


def column_shapes(shape):
    """Returns the shapes of the columns: of a tuple of them, or of a single one."""
    if isinstance(shape, (tuple, list)) and shape and not _is_dimension(shape[0]):
        return list(shape)
    return [shape]


def _is_dimension(value):
    return value is None or isinstance(value, int)
