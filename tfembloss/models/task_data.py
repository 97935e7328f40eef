"""The data of several tasks: from what users give to the batches of steps."""

import inspect

import keras

from tfembloss import data
from tfembloss.data import mixing as mixing_of_data
from tfembloss.models import first_batch
from tfembloss.models.batches import check_batch_size, is_batches, raw_batches
from tfembloss.models.task_batches import TaskBatches


def by_name(model, what, given):
    """Returns a dict by names of tasks. Raises ValueError for any other."""
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise ValueError(
            f"Expected {what} as a dict by the names of the tasks, {list(model.tasks)}. "
            f"Received: {type(given).__name__}."
        )
    if unknown := [name for name in given if name not in model.tasks]:
        raise ValueError(
            f"Expected names of the tasks, {list(model.tasks)}, in {what}. Received: "
            f"{unknown[0]!r}."
        )
    return given


def rows_of(model, x, y, sample_weight):
    """Returns new dicts of the data of tasks, by their names."""
    x = by_name(model, "x", x)
    if not x:
        raise ValueError(
            "Expected x as a dict of data by the names of the tasks, "
            f"{list(model.tasks)}. Received: x={x!r}"
        )
    y = by_name(model, "y", y)
    sample_weight = by_name(model, "sample_weight", sample_weight)
    if unused := [name for name in [*y, *sample_weight] if name not in x]:
        raise ValueError(
            f"Expected x for each task with y or sample_weight. Received: none for "
            f"{unused[0]!r}."
        )
    return dict(x), dict(y), dict(sample_weight)


def trained(model, x, y, sample_weight, batch_size, shuffle, mixing):
    """Returns batches of the tasks that are trained, in the order of an epoch."""
    names = model._parts.trained
    for name in names:
        if model.tasks[name].optimizer is not model.optimizer:
            raise ValueError(
                "Expected tasks as `compile` of this model left them. Received: "
                f"{name!r}, compiled by itself since. Call compile of this model again."
            )
    if missing := [name for name in names if name not in x]:
        raise ValueError(
            f"Expected data for each task, {names}. Received: none for {missing[0]!r}. "
            "A task of weight 0, loss_weights={name: 0}, needs none."
        )
    datasets = {
        name: _dataset(
            model, name, x[name], y.get(name), sample_weight.get(name), batch_size, shuffle,
            training=True,
        )
        for name in names
    }  # fmt: skip
    order = mixing_of_data.order_of_batches(datasets, **_options(mixing))
    datasets = {name: dataset.repeat() for name, dataset in datasets.items()}
    return TaskBatches(datasets, order, model.distribute_strategy)


def evaluated(model, x, y=None, sample_weight=None, batch_size=None, steps=None):
    """Returns batches of the tasks, one after the other, `steps` of each or all."""
    x, y, sample_weight = rows_of(model, x, y, sample_weight)
    datasets = {
        name: _dataset(
            model, name, x[name], y.get(name), sample_weight.get(name), batch_size
        )
        for name in x
    }
    order = []
    for name, dataset in datasets.items():
        num_batches = mixing_of_data.num_batches(name, dataset)
        order += [name] * min(num_batches, steps or num_batches)
    return TaskBatches(datasets, order, model.distribute_strategy)


def _dataset(model, name, x, y, sample_weight, batch_size, shuffle=False, training=False):
    """Returns a task's dataset of batches, as its steps take them."""
    model._parts.task = name
    task = model.tasks[name]
    if isinstance(batch_size, dict):
        batch_size = by_name(model, "batch_size", batch_size).get(name)
    if isinstance(x, keras.utils.PyDataset) or hasattr(x, "__next__"):
        raise ValueError(
            f"Expected rows or a tf.data.Dataset of batches for {name!r}. Received: "
            f"{type(x).__name__}. tf.data.Dataset.from_generator makes a dataset of it."
        )
    if not is_batches(x):
        if not task.takes_raw_inputs:
            x, y, sample_weight = task._arrays(x, y, sample_weight)
        x, y, sample_weight = (
            raw_batches(x, y, sample_weight, check_batch_size(batch_size), shuffle),
            None, None,
        )  # fmt: skip
    given = task._batches(x, y, sample_weight, training=training)
    given = first_batch.watched(task, given, shuffle) if training else given
    model._parts.task = None
    return given["x"]


def _options(mixing):
    """Returns the arguments of `mix`. Raises ValueError for unknown ones."""
    options = {"strategy": mixing} if isinstance(mixing, str) else mixing
    known = list(inspect.signature(mixing_of_data.mix).parameters)[1:]
    if not isinstance(options, dict) or set(options) - set(known):
        raise ValueError(
            "Expected mixing as a strategy of tfembloss.data.mix or a dict of its "
            f"arguments, {known}. Received: mixing={mixing!r}"
        )
    return options


def split(x, y, sample_weight, fraction):
    """Returns rows for training, by name, and (x, y, sample_weight) for validation."""
    validation = {}, {}, {}
    for name in [name for name in x if not is_batches(x[name])]:
        rows = x[name], y.get(name), sample_weight.get(name)
        parts = data.split_rows(rows, fraction)
        for both in zip((x, y, sample_weight), validation, *parts, strict=True):
            of_training, of_validation, first, last = both
            if first is not None:
                of_training[name], of_validation[name] = first, last
    if not validation[0]:
        raise ValueError(
            "Expected a task given as rows, to split them. Received: "
            f"validation_split={fraction!r}, and datasets. Give validation_data."
        )
    return x, y, sample_weight, validation
