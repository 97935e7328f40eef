"""What users give `fit`, `evaluate` and `predict`, as batches that a step takes."""

import inspect

import keras
import numpy as np
import tensorflow as tf

from tfembloss import data, masks
from tfembloss.checks import check_count
from tfembloss.data.columns import as_rows

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
    num_rows = None if y is None or not hasattr(y, "__len__") else len(y)
    weights = sample_weight
    if isinstance(weights, list):
        weights = np.asarray(weights, "float32")
    return _as_arrays(x, num_rows, _input_rank(encoder)), targets_as_array(y), weights


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
    is_text = x.dtype == tf.string or getattr(x.dtype, "kind", "") in "USO"
    if is_text:
        raise ValueError(
            "Expected the encoder's inputs, numbers. Received: texts (or other objects), "
            f"of dtype {x.dtype}, and no preprocessor. Give the model one that makes the "
            "encoder's inputs of them, as "
            "EmbeddingModel(encoder, tfembloss.text.TextPreprocessor(vocabulary, 128))."
        )


def targets_as_array(y):
    """Targets as an array: of lists, and of objects that are numbers or strings."""
    is_array = isinstance(y, np.ndarray) or not hasattr(y, "dtype")
    if y is None or isinstance(y, tuple | dict) or not is_array:
        return y
    if isinstance(y, list) or (isinstance(y, np.ndarray) and y.dtype == object):
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
    return y


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
        element = keras.utils.unpack_x_y_sample_weight(self.source[i])
        x, y, sample_weight = self.function(*element)
        if y is None and sample_weight is None:
            return (x,)
        return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)

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
    are_numbers = all(
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
