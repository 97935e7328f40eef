"""Batches of several tasks, each of one task, under any strategy."""

import itertools

import tensorflow as tf
from keras.src.trainers.data_adapters.data_adapter import DataAdapter


class TaskBatches(DataAdapter, tf.distribute.DistributedDataset):
    """Datasets of several tasks in the order in which `fit` takes their batches.

    The elements of tasks differ in structure, so they are no single `tf.data.Dataset`. To
    Keras, this is its own adapter of a distributed dataset.

    Args:
        datasets: dict of a task's name to its `tf.data.Dataset` of batches.
        order: list of names of tasks, one for each step of an epoch.
        strategy: the `tf.distribute` strategy that distributes each batch.
    """

    def __init__(self, datasets, order, strategy):
        distribute = strategy.experimental_distribute_dataset
        self.by_task = {name: distribute(dataset) for name, dataset in datasets.items()}
        self.order = order
        self.repeats = False  # whether the order begins again at its end

    def __iter__(self):
        return TaskIterator(self)

    @property
    def element_spec(self):
        """Dict of a task's name to the spec of its batches."""
        return {name: dataset.element_spec for name, dataset in self.by_task.items()}

    # What Keras asks an adapter.

    def get_tf_dataset(self):
        """Returns itself, which is distributed already."""
        return self

    @property
    def num_batches(self):
        """The number of steps of an epoch; None if the order repeats."""
        return None if self.repeats else len(self.order)

    batch_size = has_partial_batch = partial_batch_size = None


class TaskIterator:
    """One pass over `TaskBatches`, without end if their order repeats."""

    def __init__(self, batches):
        cycle = itertools.cycle if batches.repeats else iter
        self._names = cycle(batches.order)
        self._iterators = {name: iter(d) for name, d in batches.by_task.items()}

    def __iter__(self):
        return self

    def next_task(self):
        """Returns the name of the next step's task, and the iterator of its batches."""
        name = next(self._names)
        return name, self._iterators[name]

    def __next__(self):
        """Returns the next batch, in a dict by the name of its task."""
        name, batches = self.next_task()
        return {name: next(batches)}
