"""Datasets in the shapes that the models and losses take."""

import random

import numpy as np
import tensorflow as tf


def columns(*columns, y=None, sample_weight=None):
    """A dataset whose x is a tuple of columns: anchors, positives, negatives, ...

    Keras reads a dataset's `(anchor, positive)` as `(x, y)`. This one yields
    `((anchor, positive),)`, or `((anchor, positive), y)`, or
    `((anchor, positive), y, sample_weight)`, which is what `EmbeddingModel.fit` takes.

    Args:
        *columns: arrays or lists with equal numbers of rows, one for each column; or a
            dataset for each column; or one dataset whose elements are tuples of columns,
            all of them columns: ids and scores go into y.
            Datasets may be batched or not, and stay so.
        y: ids, scores or teacher values of the rows, for losses that need them: an array
            or list, or a dataset where the columns are datasets.
        sample_weight: weights of the rows, likewise; between datasets it needs a `y`.

    Returns:
        A `tf.data.Dataset`. From arrays and lists it yields single rows: go on with
        `.shuffle(...).batch(...)`.

    Raises:
        ValueError: there are no columns, their lengths differ, arrays and datasets are
            mixed, or the one dataset's elements are no tuples.

    Example:

    >>> pairs = columns(["a?", "b?"], ["a!", "b!"], y=[7, 8])
    >>> for (anchor, positive), label in pairs.batch(2):
    ...     print(anchor.numpy(), positive.numpy(), label.numpy())
    [b'a?' b'b?'] [b'a!' b'b!'] [7 8]
    """
    parts = [*columns, *(part for part in (y, sample_weight) if part is not None)]
    are_datasets = {isinstance(part, tf.data.Dataset) for part in parts}
    if not columns or len(are_datasets) != 1:
        raise ValueError(
            "Expected at least one column, and columns, y and sample_weight all as arrays "
            "and lists or all as datasets. Received: "
            f"{', '.join(type(part).__name__ for part in parts) or 'nothing'}"
        )
    if are_datasets == {False}:
        return from_arrays(columns, y, sample_weight)

    if sample_weight is not None and y is None:
        raise ValueError(
            "Keras takes a dataset's weights as the third part of an element, after y: "
            "expected a dataset y beside sample_weight, received y=None."
        )
    x = columns[0] if len(columns) == 1 else tf.data.Dataset.zip(tuple(columns))
    spec = x.element_spec
    if not isinstance(spec, tuple) or any(isinstance(part, tuple) for part in spec):
        raise ValueError(
            "Expected a dataset whose elements are tuples of columns, "
            f"(anchor, positive, ...). Received elements of {spec}"
        )
    lengths = {int(part.cardinality()) for part in parts} - {-1, -2}  # infinite, unknown
    if len(lengths) > 1:
        raise ValueError(
            f"Expected datasets of equal length. Received: {sorted(lengths)} elements."
        )
    if y is None:
        return x.map(lambda *x: (x,))
    return tf.data.Dataset.zip((x, *parts[len(columns) :]))


def from_arrays(x, y=None, sample_weight=None):
    """A dataset of single rows as Keras reads them: x, then y, then sample_weight.

    Args:
        x: array or list of rows, or a tuple or dict of columns.
        y: array or list, or None.
        sample_weight: array or list, or None.

    Returns:
        A `tf.data.Dataset` of `x`, `(x, y)` or `(x, y, sample_weight)`; a tuple x alone
        is yielded as `(x,)`.

    Raises:
        ValueError: x is no array or list of rows, or the numbers of rows differ.

    Example:

    >>> from_arrays((["a?", "b?"], ["a!", "b!"])).element_spec
    ((TensorSpec(shape=(), dtype=tf.string, name=None),
      TensorSpec(shape=(), dtype=tf.string, name=None)),)
    """
    x = _columns(x)
    targets = [_rows(part) for part in (y, sample_weight) if part is not None]
    lengths = [len(part) for part in tf.nest.flatten((x, targets))]
    if len(set(lengths)) != 1:
        raise ValueError(
            "Expected the same number of rows in every column, y and sample_weight. "
            f"Received: {lengths}"
        )
    if sample_weight is not None and y is None:
        targets.insert(0, tf.zeros([lengths[0], 0]))  # which the losses read as none
    if targets or isinstance(x, tuple):
        x = (x, *targets)
    return tf.data.Dataset.from_tensor_slices(x)


def balanced_batches(x, y=None, *, classes_per_batch, items_per_class=4, seed=None):
    r"""Batches of exactly K items of each of P classes, for losses that compare labels.

    In a batch drawn at random from many classes hardly two items share a label; here each
    has K - 1 positives and (P - 1) K negatives. An epoch uses every item, and repeats only
    what the batches' shape asks for: a class of n items has $g = \lceil n / K \rceil$
    groups of K, and an epoch

    $$T = \max(\lceil \sum g / P \rceil, \; \max g)$$

    batches; where groups are missing to fill them, all classes give more groups, evenly.
    The items of a class are used equally often, give or take one, and none twice in a
    group, unless it has fewer than K. Each epoch is drawn anew: every iteration over the
    dataset is the next epoch, and another dataset with the same seed has the same epochs.

    Args:
        x: the items: array or list of N rows, or a tuple or dict of columns; or a dataset
            of `(x, y)`, batched or not, which is read once, here, and kept in memory.
        y: class labels `[N]`, integers or strings; None where x is a dataset.
        classes_per_batch: P, at least 2 and at most the number of classes.
        items_per_class: K, at least 2.
        seed: an integer >= 0 that decides the epochs. By default it comes from Python's
            random numbers, which `keras.utils.set_random_seed` sets. With several workers
            give one, so that all draw the same epochs.

    Returns:
        A `tf.data.Dataset` of T batches `(x, y)` of P K rows, the items of a class one
        after the other.

    Raises:
        ValueError: P or K is too small, there are fewer than P classes, x and y differ in
            length or are empty, labels are no vector of integers or strings, or the
            dataset's elements are not `(x, y)`, do not end or differ in shape.

    Example:

    >>> texts = ["red", "blue", "dog", "cat", "cow", "one"]
    >>> labels = ["colour", "colour", "animal", "animal", "animal", "number"]
    >>> batches = balanced_batches(
    ...     texts, labels, classes_per_batch=2, items_per_class=2, seed=0
    ... )
    >>> for x, y in batches:  # all six, the one number twice
    ...     print(x.numpy(), y.numpy())
    [b'cow' b'dog' b'one' b'one'] [b'animal' b'animal' b'number' b'number']
    [b'cow' b'cat' b'red' b'blue'] [b'animal' b'animal' b'colour' b'colour']

    Relations:
        Finetuner's class sampler, pytorch-metric-learning's MPerClassSampler; those leave
        it to chance how often an item is used.
    """
    if classes_per_batch < 2 or items_per_class < 2:
        raise ValueError(
            "Expected at least 2 classes in a batch, or nothing is negative, and 2 items "
            "of each, or nothing is positive. Received: "
            f"classes_per_batch={classes_per_batch}, items_per_class={items_per_class}"
        )
    with tf.device("CPU"):  # where tf.data gathers them
        x, y = _read(x, y) if isinstance(x, tf.data.Dataset) else (_columns(x), _labels(y))
    lengths = [part.shape[0] for part in tf.nest.flatten((x, y))]
    if len(set(lengths)) != 1 or len(lengths) < 2:
        raise ValueError(
            "Expected one label for each row, and the same number of rows in every "
            f"column. Received: {lengths[:-1]} rows, {lengths[-1]} labels."
        )
    names, classes, sizes = np.unique(y.numpy(), return_inverse=True, return_counts=True)
    if len(names) < classes_per_batch:
        raise ValueError(
            f"Expected at least classes_per_batch={classes_per_batch} classes. Received: "
            f"{len(names)} in {len(y)} labels. Give a smaller classes_per_batch."
        )
    groups = -(-sizes // items_per_class)
    num_batches = max(-(-groups.sum() // classes_per_batch), groups.max())
    seeds = np.random.SeedSequence(random.getrandbits(64) if seed is None else seed)

    def next_epoch():
        rng = np.random.default_rng(seeds.spawn(1)[0])
        filled = _fill(groups, num_batches, classes_per_batch, rng)
        return _epoch(classes, filled, classes_per_batch, items_per_class, rng)

    def batches_of_rows(_):
        rows = tf.numpy_function(next_epoch, [], tf.int64)
        rows.set_shape([num_batches, classes_per_batch * items_per_class])
        return tf.data.Dataset.from_tensor_slices(rows)

    return (
        tf.data.Dataset.from_tensors(0)
        .flat_map(batches_of_rows)
        .map(lambda rows: tf.nest.map_structure(lambda part: tf.gather(part, rows), (x, y)))
        .apply(tf.data.experimental.assert_cardinality(num_batches))
        .prefetch(tf.data.AUTOTUNE)
    )


def _fill(groups, num_batches, classes_per_batch, rng):
    """More groups, evenly, until they fill the batches; of no class more than batches."""
    groups = groups.copy()
    while missing := num_batches * classes_per_batch - groups.sum():
        (has_room,) = np.nonzero(groups < num_batches)
        chosen = rng.permutation(has_room)[:missing]
        more = max(1, missing // len(has_room))
        groups[chosen] = np.minimum(groups[chosen] + more, num_batches)
    return groups


def _epoch(classes, groups, classes_per_batch, items_per_class, rng):
    """Row numbers `[T, P K]` of an epoch's batches."""
    class_of, group = _deal(groups, classes_per_batch, rng)  # [T, P]
    shuffled = rng.permutation(len(classes))
    members = shuffled[np.argsort(classes[shuffled], kind="stable")]  # class by class
    sizes = np.bincount(classes)
    first = np.cumsum(sizes) - sizes

    # A class has g K places for its n items: place i takes item floor(i n / (g K)), so all
    # are used, and equally often. A group's places are g apart, and so its items n / K.
    n, g = sizes[class_of][..., None], groups[class_of][..., None]  # [T, P, 1]
    places = np.arange(items_per_class) * g + group[..., None]  # [T, P, K]
    rows = members[first[class_of][..., None] + places * n // (g * items_per_class)]
    return rows.reshape(len(rows), -1)


def _deal(groups, classes_per_batch, rng):
    """The class, and which of its groups, for each place `[T, P]` of an epoch.

    All groups, class by class, are laid out in P lanes of T, and each lane is shuffled.
    A class of at most T groups lies in one lane, or at the end of one and the beginning
    of the next: there its groups go to batches where the lane before does not have it.
    """
    order = rng.permutation(len(groups))
    class_of = np.repeat(order, groups[order])
    first = np.cumsum(groups[order]) - groups[order]
    group = np.arange(len(class_of)) - np.repeat(first, groups[order])
    lanes = np.stack([class_of, group]).reshape(2, classes_per_batch, -1)
    for lane in range(classes_per_batch):
        batches = rng.permutation(lanes.shape[2])  # where the lane's groups go
        if lane:
            head = lanes[0, lane, 0]
            taken = lanes[0, lane - 1, batches] == head
            batches = np.concatenate([batches[~taken], batches[taken]])
            size = np.sum(lanes[0, lane] == head)
            batches[size:] = rng.permutation(batches[size:])
        lanes[:, lane, batches] = lanes[:, lane].copy()
    return lanes.transpose(0, 2, 1)


def _read(dataset, y):
    """All of a dataset's elements `(x, y)`, as tensors of rows."""
    spec = dataset.element_spec
    is_pair = isinstance(spec, tuple) and len(spec) == 2
    if y is not None or not is_pair or not isinstance(spec[1], tf.TensorSpec):
        raise ValueError(
            "Expected a dataset whose elements are (x, y), and no y beside it. Received: "
            f"elements of {spec}; y of type {type(y).__name__}"
        )
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("Expected a dataset that ends: .take(...) makes it do so.")
    try:
        batches = list(dataset if spec[1].shape.rank == 1 else dataset.batch(1024))
        if batches:
            x, y = tf.nest.map_structure(lambda *parts: tf.concat(parts, 0), *batches)
            return x, _labels(y)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            "Expected rows of one shape, to keep them in memory: pad them to it. "
            f"Received: {error.message}"
        ) from error
    raise ValueError("Expected a dataset with at least one element, received none.")


def split_rows(parts, fraction):
    """Parts without their last rows, and the last rows: Keras's `validation_split`.

    Args:
        parts: x, y, sample_weight: arrays, lists, tuples of them, or None.
        fraction: the share of the rows that goes to the end, between 0 and 1.

    Raises:
        ValueError: a part is no array or list, or one side would have no row.

    Example:

    >>> head, tail = split_rows((["a", "b", "c", "d"], None, None), 0.25)
    >>> head[0].numpy().tolist(), tail[0].numpy().tolist()
    ([b'a', b'b', b'c'], [b'd'])
    """

    def take(part, head):
        if part is None:
            return None
        if isinstance(part, tuple):
            return tuple(take(column, head) for column in part)
        rows = _rows(part)
        cut = int(len(rows) * (1 - fraction))
        if not 0 < cut < len(rows):
            raise ValueError(
                "Expected a fraction that leaves rows on both sides. "
                f"Received: validation_split={fraction} of {len(rows)} rows."
            )
        return rows[:cut] if head else rows[cut:]

    return tuple(tuple(take(part, head) for part in parts) for head in (True, False))


def _columns(x):
    """Rows as tensors: of the one column, or of each in a tuple or dict."""
    if isinstance(x, tuple):
        return tuple(map(_columns, x))
    if isinstance(x, dict):
        return {name: _columns(column) for name, column in x.items()}
    return _rows(x)


def _labels(y):
    """Class labels as a tensor `[N]`."""
    labels = None if y is None else _rows(y)
    is_label = labels is not None and (labels.dtype.is_integer or labels.dtype == tf.string)
    if not is_label or labels.shape.rank != 1:
        raise ValueError(
            "Expected class labels y of shape [N], integers or strings; of one-hot rows "
            "take .argmax(axis=1). Received: "
            + ("None" if y is None else f"{labels.dtype.name} of {tuple(labels.shape)}")
        )
    return labels


def _rows(values):
    """Rows as a tensor `[rows, ...]`."""
    if isinstance(values, str | bytes):
        raise ValueError(
            f"Expected a list or array of rows, received one string: {values!r}. "
            "Put rows into a list; a tuple holds columns."
        )
    try:
        rows = tf.convert_to_tensor(values)
    except (ValueError, TypeError) as error:
        raise ValueError(
            "Expected a list or array of rows, all of one type and shape; several "
            "columns go into a tuple. A generator goes into "
            f"tf.data.Dataset.from_generator. Received: {type(values).__name__} ({error})"
        ) from error
    if rows.shape.rank == 0 or len(rows) == 0:
        raise ValueError(f"Expected at least one row. Received: {values!r}")
    return rows
