"""What users give `fit`, `evaluate` and `predict`, as batches that a step takes."""

import inspect
import numbers

import keras
import numpy as np
import tensorflow as tf

from tfembloss import data, masks
from tfembloss.checks import check_count
from tfembloss.data.columns import as_rows, short

# Preprocessors.


def preprocess(preprocessor, x, training, columns=False):
    """What a preprocessor makes of x, in training or not.

    A preprocessor with an argument `training` gets it, a Keras layer or a function; one
    without it runs inside of a layer's call, where the random layers that it uses find it.
    With `columns` x is a tuple, of an argument each.
    """
    arguments = {"training": training} if takes_training(preprocessor) else {}

    def function(x):
        return preprocessor(*(x if columns else (x,)), **arguments)

    return _Caller()(x, function=function, training=training)


def takes_training(preprocessor):
    """Whether a preprocessor has an argument `training`."""
    is_layer = isinstance(preprocessor, keras.layers.Layer)
    try:
        signature = inspect.signature(preprocessor.call if is_layer else preprocessor)
    except (TypeError, ValueError):  # a function without a Python signature
        return False
    return "training" in signature.parameters


class _Caller(keras.layers.Layer):
    """Calls a function as Keras calls a layer, which tells layers in it of training."""

    def __init__(self):
        super().__init__(autocast=False, name="preprocess")
        self.built = True

    def call(self, x, function, training=None):
        return function(x)


# Arrays and lists.


def arrays(x, y, sample_weight, encoder=None):
    """Arrays as Keras takes them: lists as arrays, as rows or as columns."""
    _check_are_rows(x)
    y = targets_as_array(y)
    num_rows = None if y is None or not hasattr(y, "__len__") else len(y)
    x = _as_arrays(x, num_rows, _input_rank(encoder))
    return x, y, weights_as_array(sample_weight)


def _check_are_rows(x):
    if x is None or isinstance(x, set | frozenset | str | bytes | numbers.Number):
        raise ValueError(
            "Expected an array or list of rows, a tuple of columns, or a dataset of "
            f"batches as x. Received: x={x!r}"
        )


def check_some_rows(x):
    """That arrays have rows."""
    if any(
        hasattr(part, "shape") and part.shape[:1] == (0,) for part in tf.nest.flatten(x)
    ):
        raise ValueError("Expected at least one row. Received: x of 0 rows.")


def _input_rank(encoder):
    shape = getattr(encoder, "input_shape", None) if encoder is not None else None
    is_shape = isinstance(shape, tuple) and (not shape or not isinstance(shape[0], tuple))
    return len(shape) if is_shape else None


def _as_arrays(x, num_rows, rank):
    if isinstance(x, tuple):
        return tuple(_as_arrays(column, num_rows, rank) for column in x)
    if isinstance(x, dict):
        return {name: _as_arrays(column, num_rows, None) for name, column in x.items()}
    if isinstance(x, list) and _are_columns(x, num_rows, rank):
        return tuple(_as_arrays(column, num_rows, rank) for column in x)
    if isinstance(x, list):
        x = as_rows(x).numpy()
    if getattr(x, "dtype", None) is not None and not hasattr(x, "__next__"):
        _check_no_texts(x)
    return x


def _are_columns(x, num_rows, rank):
    """Whether a list holds arrays of rows, as Keras's models of several inputs have it."""
    ranks = {len(part.shape) if hasattr(part, "shape") else None for part in x}
    if None in ranks or 0 in ranks or not x:
        return False
    if rank is not None:
        return ranks == {rank}
    return num_rows is None or len(x) != num_rows


def _check_no_texts(x):
    is_text = x.dtype == tf.string or getattr(x.dtype, "kind", None) in ("U", "S", "O")
    if is_text:
        raise ValueError(
            "Expected the encoder's inputs, numbers. Received: texts (or other objects), "
            f"of dtype {x.dtype}, and no preprocessor. Give the model one that makes the "
            "encoder's inputs of them, as "
            "EmbeddingModel(encoder, tfembloss.text.TextPreprocessor(vocabulary, 128))."
        )


def targets_as_array(y):
    """Targets as an array: of lists, and of objects that are numbers or strings."""
    if y is None or tf.is_tensor(y) or isinstance(y, keras.KerasTensor):
        return y
    if hasattr(y, "__array__"):  # also of a data frame's, whose items are its columns
        y = np.asarray(y)
    if isinstance(y, dict | set | frozenset | str | bytes) or not hasattr(y, "__len__"):
        raise ValueError(
            "Expected y as an array or a list, one value for each row. Received: "
            f"y={short(y)}"
        )
    if isinstance(y, tuple) and any(np.ndim(part) for part in y):
        return y  # of several tensors
    if isinstance(y, np.ndarray) and y.dtype != object:
        return y
    missing = [i for i, value in enumerate(y) if value is None or value is np.nan]
    if missing:
        raise ValueError(
            f"Expected one value of y for each row. Received: {y[missing[0]]} in row "
            f"{missing[0]}, and {len(missing)} such values. Leave those rows out."
        )
    try:
        return np.asarray(list(y))
    except ValueError as error:
        raise ValueError(
            "Expected y as an array or a list of numbers or strings, all of one shape. "
            f"Received: y of {len(y)} rows ({error})"
        ) from error


def weights_as_array(sample_weight):
    """Weights of rows as an array of numbers, or as the tensor that they are."""
    if sample_weight is None or tf.is_tensor(sample_weight):
        return sample_weight
    is_float = getattr(getattr(sample_weight, "dtype", None), "kind", None) == "f"
    try:
        weights = np.asarray(sample_weight, None if is_float else "float32")
    except (TypeError, ValueError):
        weights = np.array(np.nan)
    if weights.ndim == 0 or np.isnan(weights).any():
        raise ValueError(
            "Expected sample_weight as an array or a list of numbers, one for each row. "
            f"Received: sample_weight={short(sample_weight)}"
        )
    return weights


def hashed_targets(y, loss):
    """Ids that are strings as integers; other targets as they are.

    XLA has no strings, and Keras compiles the step by itself on a GPU.
    """
    if y is None or isinstance(y, tuple | dict | list) or not hasattr(y, "dtype"):
        return y
    if not (y.dtype == tf.string or getattr(y.dtype, "kind", "") in ("U", "S")):
        return y
    if not getattr(loss, "targets_are_ids", False):
        return tf.convert_to_tensor(y)  # whose dtype the loss's error names
    ids = masks.integer_ids(tf.convert_to_tensor(y))
    return ids.numpy() if isinstance(y, np.ndarray) else ids


def weights_of_classes(class_weight, y, sample_weight):
    """Weights of rows `[rows]` from those of their classes."""
    if sample_weight is not None:
        raise ValueError(
            "Expected `class_weight` or `sample_weight`, received both: multiply them "
            "into one `sample_weight`."
        )
    if y is None:
        raise ValueError(
            "`class_weight` weighs rows by their labels: expected y, the labels. Received: "
            "y=None. For columns without labels there is `sample_weight`."
        )
    if not isinstance(class_weight, dict):
        raise ValueError(
            "Expected `class_weight` as a dict from a label to its weight, {0: 1.0, 1: "
            f"2.0}}. Received: class_weight={class_weight!r}"
        )
    y = np.asarray(targets_as_array(y))
    labels = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if labels.ndim != 1:
        raise ValueError(
            "`class_weight` weighs rows by their labels: expected y of shape [rows]. "
            f"Received: y.shape={y.shape}. Give `sample_weight` instead."
        )
    return np.array([class_weight.get(v, 1.0) for v in labels.tolist()], "float32")


# Datasets.


def is_batches(x):
    """Whether x gives batches, with y and weights in them, instead of rows."""
    datasets = tf.data.Dataset | keras.utils.PyDataset
    is_distributed = isinstance(x, tf.distribute.DistributedDataset)
    return isinstance(x, datasets) or is_distributed or hasattr(x, "__next__")


def of_batches(dataset, encoder=None):
    """The dataset, its ranks known; a ValueError where it has no batches of rows."""
    if dataset.cardinality() == 0:
        raise ValueError("Expected at least one batch. Received: a dataset without any.")
    dataset = _with_known_ranks(dataset)
    x, _, _ = keras.utils.unpack_x_y_sample_weight(dataset.element_spec)
    ranks = {getattr(part.shape, "rank", 1) for part in tf.nest.flatten(x)}
    rank = _input_rank(encoder)
    if rank is not None and encoder.input_shape[-1] == 1:
        rank = None  # Keras gives batches [B] their last axis
    if ranks == {0} or (rank is not None and ranks == {rank - 1}):
        raise ValueError(
            "Expected a dataset of batches. Received: a dataset of single rows, "
            f"{dataset.element_spec}. Batch it, as dataset.batch(32) does."
        )
    return dataset


def _with_known_ranks(dataset):
    """The same with the first batch's ranks, where it does not know its own.

    As of from_generator(output_types=...) and numpy_function. That batch is read for it: a
    generator function has to begin anew each time that it is called, as in each epoch.
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
    """That y and weights are not given beside batches that carry them."""
    if y is None and sample_weight is None:
        return
    raise ValueError(
        "A dataset's elements carry y and sample_weight themselves: "
        "(x, y, sample_weight). Expected no y beside it. Received: "
        f"x of {type(x).__name__}, with y or sample_weight."
    )


def raw_batches(x, y, sample_weight, batch_size, shuffle=False):
    """A dataset of batches of raw inputs, from arrays of them."""
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
    """None, or a number of rows >= 1."""
    if batch_size is None:
        return None
    return check_count(batch_size, "batch_size", 1)


def map_inputs(function, batches):
    """The same batches with `function(x)` in the place of their x."""

    def changed(*element):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
        return keras.utils.pack_x_y_sample_weight(function(x), y, sample_weight)

    return batches.map(changed, tf.data.AUTOTUNE)


def mapped_batches(batches, function):
    """Batches of a PyDataset or generator through a function of x, y, sample_weight."""
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
    return (batch,) if are_texts else batch  # which Keras would take for (x, y, ...)


def _mapped(batch, function):
    x, y, sample_weight = function(*keras.utils.unpack_x_y_sample_weight(batch))
    if y is None and sample_weight is None:
        return (x,)
    return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)


class MappedPyDataset(keras.utils.PyDataset):
    """A PyDataset whose batches go through a function of x, y and sample_weight."""

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
        """The source's."""
        return self.source.num_batches

    def on_epoch_begin(self):
        """Tells the source."""
        self.source.on_epoch_begin()

    def on_epoch_end(self):
        """Tells the source."""
        self.source.on_epoch_end()


def are_tokens(x, preprocessor):
    """Whether x are tensors of token ids already, which a preprocessor of texts makes."""
    parts = tf.nest.flatten(x)
    are_numbers = bool(parts) and all(
        hasattr(part, "dtype") and getattr(part.dtype, "kind", "i") not in "USO"
        and part.dtype != tf.string for part in parts
    )  # fmt: skip
    return hasattr(preprocessor, "vocabulary") and are_numbers


def check_columns_are_no_dict(x, preprocessor):
    """A dict's columns have no order in tf.data, which sorts its names."""
    if isinstance(x, dict) and hasattr(preprocessor, "vocabulary"):
        raise ValueError(
            "Expected columns of texts as one tuple, x=(anchors, positives, ...). "
            f"Received: a dict of {sorted(x)}. A dict has no order of columns: give "
            f"x=({', '.join(f'data[{name!r}]' for name in x)})."
        )
