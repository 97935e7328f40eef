"""Several tasks that train one encoder, each with its own data and loss."""

import contextlib
import math

import keras

from tfembloss import replicas
from tfembloss.checks import non_negative
from tfembloss.models import task_data
from tfembloss.models.encoder_model import EncoderModel
from tfembloss.models.errors import explained
from tfembloss.models.inputs import weights_of_classes


@keras.saving.register_keras_serializable("tfembloss")
class MultiTaskModel(EncoderModel):
    r"""Trains one encoder on several tasks: each step takes a batch of one of them.

    $$L = \frac{1}{S} \sum_{s=1}^{S} w_{t(s)}\, loss_{t(s)}$$

    over the steps $s$ with tasks $t(s)$; the loss of a task's steps is their mean over
    rows. A task is a model of this package with the shared encoder: `EmbeddingModel` for
    pairs, triplets, scores or labels, `EmbeddingClassifier` for a head,
    `ContrastiveTensionModel` or `DenoisingAutoEncoder` for texts alone. Each keeps what it
    has alone: preprocessor and prompts, head, memory, mini-batches, a learned scale. One
    optimizer trains them all; a step updates the variables of its task only.

    `fit` takes a dict of each task's data, as the task itself would take it. The logs are
    `loss`, the mean $L$ over the steps so far; for each task its own logs, such as
    `{task}_loss`, without the weight, NaN before its first step; and `{task}_steps`, how
    many steps it has had in this epoch. Evaluators of `tfembloss.evaluation` are callbacks:
    give each a `name`.

    `predict`, `encoder`, `preprocessor`, `save_pretrained` and `export_encoder` are those
    of the first task; heads are left out. `tasks[name]` is a whole model too, but for the
    state of the optimizer if it is saved alone: a custom loop calls its `train_on_batch`.

    Args:
        tasks: dict of a name to a model of this package; the encoder is the same object in
            all of them.
        name: as in `keras.Model`.

    Raises:
        ValueError: if the tasks do not share an encoder; in `compile`, if a task has no
            loss, or a name is unknown; in `fit`, if a task has no data.

    Example:

    >>> import tfembloss
    >>> texts = ["a red apple", "a green pear", "the blue sky", "the grey sea"]
    >>> vocabulary = tfembloss.text.learn_vocabulary(texts, size=100)
    >>> encoder = tfembloss.text.TextEncoder(len(vocabulary), dim=8)
    >>> preprocessor = tfembloss.text.TextPreprocessor(vocabulary, sequence_length=16)
    >>> head = tfembloss.layers.CosineHead(2)
    >>> model = MultiTaskModel(
    ...     {
    ...         "pairs": tfembloss.EmbeddingModel(encoder, preprocessor),
    ...         "area": tfembloss.EmbeddingClassifier(encoder, head, preprocessor),
    ...     }
    ... )
    >>> model.compile(
    ...     "adam",
    ...     loss={
    ...         "pairs": tfembloss.losses.MultipleNegativesRankingLoss(),
    ...         "area": tfembloss.losses.ArcFaceLoss(),
    ...     },
    ...     loss_weights={"area": 0.1},
    ... )
    >>> history = model.fit(
    ...     {"pairs": (texts[:2], texts[2:]), "area": texts},
    ...     {"area": [0, 0, 1, 1]},
    ...     batch_size=2,
    ...     verbose=0,
    ... )
    >>> sorted(history.history)
    ['area_loss', 'area_steps', 'loss', 'pairs_loss', 'pairs_steps']

    Relations:
        sentence-transformers' trainer with a dict of datasets and a dict of losses, which
        has no weights of tasks, and whose heads live in the losses.
    """

    def __init__(self, tasks, name=None):
        first = _check_tasks(tasks)
        super().__init__(
            first.encoder, first.preprocessor, name=name, dtype=first.dtype_policy
        )
        self.tasks = tasks
        self._parts.trained, self._parts.evaluated = list(tasks), None
        self._parts.last_names = None  # of the logs of the last `evaluate`

    @classmethod
    def from_pretrained(cls, source, **arguments):
        """Raises ValueError: the tasks are created first, of one pretrained encoder."""
        raise ValueError(
            "Expected tasks that share an encoder: load one of them, base = EmbeddingModel"
            f".from_pretrained({source!r}), create the others of base.encoder and "
            'base.preprocessor, and MultiTaskModel({"first": base, ...}).'
        )

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        *,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        **kwargs,
    ):
        """`keras.Model.compile`, with a loss for each task.

        Args:
            optimizer: one for all tasks; see `keras.Model.compile`.
            loss: dict of a task's name to its loss.
            loss_weights: dict of a task's name to its weight $w_t$, >= 0; 1 for those that
                are left out. A task of weight 0 is not trained.
            metrics: dict of a task's name to its metrics, or None.
            weighted_metrics: the same of those weighted by `sample_weight`.
            **kwargs: see `keras.Model.compile`.
        """
        loss = task_data.by_name(self, "loss", loss)
        loss_weights = task_data.by_name(self, "loss_weights", loss_weights)
        metrics = task_data.by_name(self, "metrics", metrics)
        weighted_metrics = task_data.by_name(self, "weighted_metrics", weighted_metrics)
        if missing := [name for name in self.tasks if loss.get(name) is None]:
            raise ValueError(
                f"Expected a loss for each of the tasks {list(self.tasks)}. Received: none "
                f"for {missing[0]!r}."
            )
        weights = {
            name: non_negative("loss_weights", loss_weights.get(name, 1))
            for name in self.tasks
        }
        if not any(weights.values()):
            raise ValueError(
                "Expected at least one task with a weight above 0. Received: "
                f"loss_weights={loss_weights!r}"
            )
        keras.Model.compile(
            self, optimizer, loss, loss_weights, metrics, weighted_metrics, **kwargs
        )
        # The tasks compute the losses and the metrics.
        self._compile_loss = self._compile_metrics = None
        _check_no_accumulation(self.optimizer)
        for name, task in self.tasks.items():
            task.compile(
                self.optimizer,
                loss[name],
                metrics=metrics.get(name),
                weighted_metrics=weighted_metrics.get(name),
                run_eagerly=self.run_eagerly,
                jit_compile=self.jit_compile,
                auto_scale_loss=False,
            )
            task._shares_optimizer, task._loss_weight = True, weights[name]
            task._parts.build_optimizer = self._build_optimizer
        self._parts.trained = [name for name, weight in weights.items() if weight]
        self._parts.evaluated = None  # the names of the tasks, while some are evaluated
        self._parts.last_names = None
        with self.distribute_strategy.scope():
            self._parts.metrics = {
                name: keras.metrics.Sum(name=f"{name}_steps") for name in self.tasks
            }

    # Training and evaluation.

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
        mixing="proportional",
        **kwargs,
    ):
        """`keras.Model.fit` on several tasks.

        Args:
            x: dict of a task's name to its data: rows as its own `fit` takes them, or a
                `tf.data.Dataset` of batches.
            y: dict of a task's name to its y, for tasks given as rows; or None.
            batch_size: the number of rows of a batch, or a dict of a task's name to it.
            sample_weight: dict of a task's name to its weights of rows, likewise.
            validation_data: as x, or a tuple of as x, y and sample_weight, for some or all
                of the tasks.
            validation_split: see `keras.Model.fit`; for the tasks given as rows.
            shuffle: whether rows are shuffled.
            class_weight: dict of a task's name to its weights of classes, likewise.
            mixing: the share of each task in the steps of an epoch: the name of a strategy
                of `tfembloss.data.mix`, or a dict of the arguments of `mix`, such as
                `{"strategy": "temperature", "alpha": 0.3}` or `{"weights": {...}}`.
            **kwargs: see `keras.Model.fit`; with `steps_per_epoch`, an epoch begins in the
                mixture where the last one ended, and `validation_steps` is of each task.
        """
        self._assert_compile_called("fit")
        with self._naming_the_task(), explained(self):
            x, y, sample_weight = task_data.rows_of(self, x, y, sample_weight)
            for name, weight in task_data.by_name(
                self, "class_weight", class_weight
            ).items():
                sample_weight[name] = weights_of_classes(
                    weight, y.get(name), sample_weight.get(name)
                )
            if validation_split and validation_data is None:
                x, y, sample_weight, validation_data = task_data.split(
                    x, y, sample_weight, validation_split
                )
            size = kwargs.pop("validation_batch_size", None) or batch_size
            steps = kwargs.pop("validation_steps", None)
            if validation_data is not None:
                parts = keras.utils.unpack_x_y_sample_weight(validation_data)
                validation_data = task_data.evaluated(self, *parts, size, steps)
            batches = task_data.trained(
                self, x, y, sample_weight, batch_size, shuffle, mixing
            )
            batches.repeats = kwargs.get("steps_per_epoch") is not None
            return keras.Model.fit(
                self, batches, validation_data=validation_data, shuffle=False, **kwargs
            )

    def evaluate(self, x=None, y=None, batch_size=None, *, sample_weight=None, **kwargs):
        """`keras.Model.evaluate` on several tasks: x, y and sample_weight are as in `fit`.

        Some of the tasks are enough. `loss` is the mean over the steps, with the weights,
        and `steps` the number of each task.
        """
        self._assert_compile_called("evaluate")
        if kwargs.get("_use_cached_eval_dataset"):  # in `fit`
            with self._evaluating(list(x.by_task)):
                return keras.Model.evaluate(self, x, **kwargs)
        with self._naming_the_task(), explained(self):
            steps = kwargs.pop("steps", None)
            x = task_data.evaluated(self, x, y, sample_weight, batch_size, steps)
            with self._evaluating(list(x.by_task)):
                return keras.Model.evaluate(self, x, **kwargs)

    def train_on_batch(self, *args, **kwargs):
        """Raises ValueError: `tasks[name].train_on_batch` trains on a batch of a task."""
        raise ValueError(
            "A batch is of one task: call train_on_batch or test_on_batch of that task, as "
            f'in model.tasks["{next(iter(self.tasks))}"].train_on_batch(x, y).'
        )

    test_on_batch = train_on_batch

    # Steps.

    def train_step(self, data):
        """Runs a training step of the task whose batch it gets, `{name: batch}`."""
        ((name, batch),) = data.items()
        self.tasks[name].train_step(batch)
        return self._logs_after(name)

    def test_step(self, data):
        """Runs an evaluation step of the task whose batch it gets, `{name: batch}`."""
        ((name, batch),) = data.items()
        self.tasks[name].test_step(batch)
        return self._logs_after(name)

    def _logs_after(self, name):
        self._parts.metrics[name].update_state(1 / replicas.count())
        return replicas.worker_logs(self.get_metrics_result())

    def _make_function(self, step):
        """Returns a function of the iterator of `TaskBatches`, with a trace of each task.

        The task of a step is chosen by Python, outside of any graph, because collectives of
        replicas cannot be under a condition. So a step costs what its task costs alone.
        """

        def of_task(name):
            return self.tasks[name]._make_function(lambda batch: step({name: batch}))

        functions = {name: of_task(name) for name in self.tasks}

        def function(iterator):
            logs = None
            for _ in range(self.steps_per_execution):
                try:
                    name, batches = iterator.next_task()
                except StopIteration:
                    if logs is None:
                        raise
                    break
                self._parts.task = name
                logs = functions[name](batches)
                self._parts.task = None
            return logs

        return function

    @contextlib.contextmanager
    def _naming_the_task(self):
        """Raises an error of the data or of a step with the name of its task."""
        self._parts.task = None
        try:
            yield
        except ValueError as error:
            if self._parts.task is None:
                raise
            raise ValueError(f"Task {self._parts.task!r}: {error}") from error

    @contextlib.contextmanager
    def _evaluating(self, names):
        """Logs these tasks alone, and not the numbers of their steps."""
        if names != getattr(self, "_logged_in_evaluation", None):
            self.test_function = None  # it was traced for others
        self._logged_in_evaluation = self._parts.evaluated = names
        try:
            yield
            self._parts.last_names = self.metrics_names
        finally:
            self._parts.evaluated = None

    @property
    def metrics(self):
        """Those of all tasks, and the numbers of steps."""
        of_tasks = [metric for task in self.tasks.values() for metric in task.metrics]
        return [*self._parts.metrics.values(), *of_tasks]

    @property
    def metrics_names(self):
        """The names of what the last `evaluate` returned, or else of the logs of `fit`."""
        if self._parts.evaluated is None and self._parts.last_names is not None:
            return self._parts.last_names
        return list(self.get_metrics_result())

    def get_metrics_result(self):
        """Returns the logs: the loss, those of each task, and its number of steps."""
        evaluated = self._parts.evaluated
        total, num_steps, logs, steps = 0.0, 0.0, {}, {}
        for name in evaluated or self._parts.trained:
            task, count = self.tasks[name], self._parts.metrics[name].result()
            of_task = task.get_metrics_result()
            for key, value in of_task.items():
                _add_log(logs, f"{name}_{key}", keras.ops.where(count > 0, value, math.nan))
            steps[f"{name}_steps"] = count
            total += task._loss_weight * of_task["loss"] * count
            num_steps += count
        loss = keras.ops.divide_no_nan(total, num_steps)
        return {"loss": loss, **logs, **({} if evaluated else steps)}

    def _flatten_metrics_in_order(self, logs):
        return [logs[name] for name in self.metrics_names]

    # Building.

    def _layers_of_steps(self):
        return [layer for task in self.tasks.values() for layer in task._layers_of_steps()]

    def _build_known(self):
        for task in self.tasks.values():
            task._build_known()
        super()._build_known()

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        for name, batches in iterator._distributed_dataset.by_task.items():
            spec = replicas.first_local_spec(batches)
            self._parts.task = name
            self.tasks[name]._maybe_symbolic_build(data_batch=spec)
            self._parts.task = None
        self._build_known()

    def make_train_function(self, force=False):
        """Builds the optimizer for the variables of all tasks, before one is trained."""
        self._build_optimizer()
        return super().make_train_function(force)

    def _build_optimizer(self):
        if self.optimizer.built:
            return
        for task in self.tasks.values():
            task._build_known()
        unbuilt = [name for name in self._parts.trained if self.tasks[name]._unbuilt()]
        if unbuilt:
            raise ValueError(
                "Expected tasks that are built, as one optimizer trains all their "
                f"variables. Received: {unbuilt[0]!r}, with layers of unknown shape. Begin "
                "the encoder with keras.Input, or call `fit` of the MultiTaskModel first."
            )
        with self.distribute_strategy.scope():
            self.optimizer.build(self.trainable_variables)

    # Saving, with the encoder once.

    def save_pretrained(self, folder, metrics=None):
        """Writes the encoder as a folder that sentence-transformers loads.

        Args:
            folder: see `EmbeddingModel.save_pretrained`.
            metrics: see `EmbeddingModel.save_pretrained`.
        """
        self._trained_columns = next(iter(self.tasks.values()))._trained_columns
        super().save_pretrained(folder, metrics)

    def get_config(self):
        """Returns the constructor arguments."""
        config = super().get_config()
        config["encoder"] = keras.saving.serialize_keras_object(self.encoder)
        for task in config["tasks"].values():
            task.pop("compile_config", None)
            task["config"]["encoder"] = None
        return config

    @classmethod
    def from_config(cls, config):
        """Creates a model from the result of `get_config`."""
        config = dict(config)
        encoder = keras.saving.deserialize_keras_object(config.pop("encoder"))
        config["tasks"] = {
            name: {**task, "config": {**task["config"], "encoder": encoder}}
            for name, task in config["tasks"].items()
        }
        return super().from_config(config)


def _check_tasks(tasks):
    """Returns the first task. Raises ValueError unless all share its encoder."""
    if not isinstance(tasks, dict) or not tasks:
        raise ValueError(
            'Expected tasks as a dict of name to model, such as {"pairs": EmbeddingModel('
            f"encoder, preprocessor)}}. Received: {tasks!r}"
        )
    for name, task in tasks.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"Expected names of tasks as texts. Received: {name!r}.")
        if not isinstance(task, EncoderModel) or isinstance(task, MultiTaskModel):
            raise ValueError(
                "Expected tasks as models with one encoder, such as EmbeddingModel or "
                f"EmbeddingClassifier. Received: {type(task).__name__} as {name!r}."
            )
        if getattr(getattr(task, "head", None), "shard", False):
            raise ValueError(
                "One optimizer trains all tasks, and a head with shard=True needs one of "
                f"its own: expected heads without. Received: shard=True in {name!r}."
            )
    (name_of_first, first), *others = tasks.items()
    names = {}
    for name, task in tasks.items():
        if (other := names.setdefault(id(task), name)) != name:
            raise ValueError(
                "Expected a model for each task, as each has its own loss. Received: the "
                f"same one as {other!r} and as {name!r}. Create another of its encoder."
            )
    for name, task in others:
        if task.encoder is not first.encoder:
            raise ValueError(
                "Expected tasks with one encoder, the same object in all of them. "
                f"Received: another one in {name!r} than in {name_of_first!r}. Create the "
                "encoder once, and give it to each model."
            )
        if task.distribute_strategy is not first.distribute_strategy:
            raise ValueError(
                "Expected tasks created in one strategy's scope. Received: "
                f"{name!r} of another strategy than {name_of_first!r}."
            )
    return first


def _add_log(logs, name, value):
    if name in logs:
        raise ValueError(
            f"Expected tasks whose logs have different names. Received: two of {name!r}. "
            "Name a task, or a part of a WeightedSum, in another way."
        )
    logs[name] = value


def _check_no_accumulation(optimizer):
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    for part in getattr(inner, "parts", [inner]):  # of a MultiOptimizer
        if steps := part.gradient_accumulation_steps:
            raise ValueError(
                "Expected an optimizer without gradient_accumulation_steps: Keras would "
                f"drop the gradients of other tasks' heads. Received: {steps}. Give the "
                "tasks larger batches, and `mini_batch_size` to bound their memory."
            )
