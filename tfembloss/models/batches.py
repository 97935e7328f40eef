"""Converts datasets and other batches of users to what a step takes."""

import keras
import tensorflow as tf

from tfembloss import data
from tfembloss.checks import integer
from tfembloss.data.column_datasets import short
from tfembloss.models.inputs import ids_of_texts, input_rank, targets_as_array


def is_batches(x):
    """Whether x yields batches, including y and weights, instead of rows."""
    datasets = tf.data.Dataset | keras.utils.PyDataset
    is_distributed = isinstance(x, tf.distribute.DistributedDataset)
    return isinstance(x, datasets) or is_distributed or hasattr(x, "__next__")


def of_batches(dataset, encoder=None):
    """Returns the dataset with known ranks. Raises ValueError if it has no batches."""
    if dataset.cardinality() == 0:
        raise ValueError("Expected at least one batch. Received: a dataset without any.")
    dataset = _with_known_ranks(dataset)
    x, _, _ = keras.utils.unpack_x_y_sample_weight(dataset.element_spec)
    ranks = {getattr(part.shape, "rank", 1) for part in tf.nest.flatten(x)}
    are_texts = any(getattr(part, "dtype", 0) == tf.string for part in tf.nest.flatten(x))
    rank = None if are_texts else input_rank(encoder)  # the encoder refuses them itself
    if rank is not None and encoder.input_shape[-1] == 1:
        rank = None  # Keras adds the last axis to batches [B]
    if ranks == {0} or (rank is not None and ranks == {rank - 1}):
        raise ValueError(
            "Expected a dataset of batches. Received: a dataset of single rows, "
            f"{dataset.element_spec}. Batch it, as dataset.batch(32) does."
        )
    return dataset


def _with_known_ranks(dataset):
    """Returns the dataset with the first batch's ranks if its own are unknown.

    They are for from_generator(output_types=...) and numpy_function. The first batch is
    read for this: a generator function must restart at every call, as in each epoch.
    """

    def is_unknown(spec):
        return isinstance(spec, tf.TensorSpec) and spec.shape.rank is None

    if not any(map(is_unknown, tf.nest.flatten(dataset.element_spec))):
        return dataset
    first = next(iter(dataset.take(1)), None)
    if first is None:
        raise ValueError("Expected at least one batch. Received: a dataset without any.")
    shapes = [getattr(x, "shape", ()) for x in tf.nest.flatten(first)]
    is_tuple = isinstance(dataset.element_spec, tuple)

    def known(*element):
        leaves = zip(tf.nest.flatten(element), shapes, strict=True)
        ensured = [
            tf.ensure_shape(x, [None] * len(shape)) if isinstance(x, tf.Tensor) else x
            for x, shape in leaves
        ]
        element = tf.nest.pack_sequence_as(element, ensured)
        return element if is_tuple else element[0]

    return dataset.map(known, tf.data.AUTOTUNE)


def check_nothing_beside(x, y, sample_weight):
    """Raises ValueError if y or weights are given in addition to batches."""
    if y is None and sample_weight is None:
        return
    raise ValueError(
        "A dataset's elements carry y and sample_weight themselves: "
        "(x, y, sample_weight). Expected no y beside it. Received: "
        f"x of {type(x).__name__}, with y or sample_weight."
    )


def raw_batches(x, y, sample_weight, batch_size, shuffle=False):
    """Returns a dataset of batches of raw inputs from arrays."""
    if hasattr(x, "__next__"):
        raise ValueError(
            "Expected arrays, lists or a dataset of raw inputs. Received: "
            f"{type(x).__name__}. A generator goes into tf.data.Dataset.from_generator, "
            "then .batch(...)."
        )
    dataset = data.from_arrays(x, targets_as_array(y), sample_weight)
    if shuffle:
        dataset = dataset.shuffle(len(dataset))
    return dataset.batch(batch_size or 32)


def check_batch_size(batch_size):
    """Returns None, or an integer >= 1."""
    if batch_size is None:
        return None
    return integer("batch_size", batch_size, 1)


def map_inputs(function, batches):
    """Returns the batches with `function(x)` in place of x."""

    def changed(*element):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
        return keras.utils.pack_x_y_sample_weight(function(x), y, sample_weight)

    return batches.map(changed, tf.data.AUTOTUNE)


def with_ids_of_texts(batches):
    """Returns the batches of raw texts with hashes of these as y."""

    def changed(*element):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
        y = ids_of_texts(x, y)
        return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)

    return batches.map(changed, tf.data.AUTOTUNE)


def mapped_batches(batches, function):
    """Maps batches of a PyDataset or generator by a function of x, y, sample_weight."""
    if isinstance(batches, keras.utils.PyDataset):
        return MappedPyDataset(batches, function)
    return (_mapped(_checked_batch(batch), function) for batch in batches)


def _checked_batch(batch):
    if isinstance(batch, str | bytes):
        raise ValueError(
            "Expected a generator of batches, of lists of rows or (x, y). Received: one "
            f"text, {short(batch)}. A generator of rows goes into "
            "tf.data.Dataset.from_generator, then .batch(...)."
        )
    are_texts = isinstance(batch, list) and all(isinstance(x, str | bytes) for x in batch)
    return (batch,) if are_texts else batch  # Keras would read a list as (x, y, ...)


def _mapped(batch, function):
    x, y, sample_weight = function(*keras.utils.unpack_x_y_sample_weight(batch))
    if y is None and sample_weight is None:
        return (x,)
    return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)


class MappedPyDataset(keras.utils.PyDataset):
    """A PyDataset whose batches are mapped by a function of x, y and sample_weight."""

    def __init__(self, source, function):
        super().__init__(
            workers=source.workers, use_multiprocessing=False,
            max_queue_size=source.max_queue_size,
        )  # fmt: skip
        self.source, self.function = source, function

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        return _mapped(self.source[i], self.function)

    @property
    def num_batches(self):
        """The number of batches of the source."""
        return self.source.num_batches

    def on_epoch_begin(self):
        """Notifies the source."""
        self.source.on_epoch_begin()

    def on_epoch_end(self):
        """Notifies the source."""
        self.source.on_epoch_end()
