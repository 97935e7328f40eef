"""Batches made for losses that compare rows."""

import collections
import hashlib
import itertools
import random

import numpy as np
import tensorflow as tf

from tfembloss.checks import check_count
from tfembloss.data.columns import as_columns, as_element, as_rows


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
        ValueError: P or K is too small or no whole number, there are fewer than P classes,
            x and y differ in length or are empty, labels are no vector of integers or
            strings, or the dataset's elements are not `(x, y)`, do not end or differ in
            shape.

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
    classes_per_batch = check_count(classes_per_batch, "classes_per_batch", 0)
    items_per_class = check_count(items_per_class, "items_per_class", 0)
    if classes_per_batch < 2 or items_per_class < 2:
        raise ValueError(
            "Expected at least 2 classes in a batch, or nothing is negative, and 2 items "
            "of each, or nothing is positive. Received: "
            f"classes_per_batch={classes_per_batch}, items_per_class={items_per_class}"
        )
    x, y = _as_tensors(x, y, of_a_row=_y_of_a_pair)
    y = _labels(y)
    names, classes, sizes = np.unique(y.numpy(), return_inverse=True, return_counts=True)
    if len(names) < classes_per_batch:
        raise ValueError(
            f"Expected at least classes_per_batch={classes_per_batch} classes. Received: "
            f"{len(names)} in {len(y)} labels. Give a smaller classes_per_batch."
        )
    groups = -(-sizes // items_per_class)
    num_batches = max(-(-groups.sum() // classes_per_batch), groups.max())

    def draw(rng):
        filled = _fill(groups, num_batches, classes_per_batch, rng)
        return _epoch(classes, filled, classes_per_batch, items_per_class, rng)

    rows = _slices(_epochs(draw, seed), [num_batches, classes_per_batch * items_per_class])
    return _gather((x, y), rows)


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


def batches_without_duplicates(x, y=None, *, batch_size, drop_remainder=False, seed=None):
    """Batches in which no text occurs twice, for losses whose negatives are the batch.

    Two rows with the same answer in a batch are negatives of each other, wrongly. Here the
    rows come in random order, and one that has a text of the batch waits for the next
    batch, ahead of the others; in which column a text stands makes no difference, and
    within a row it may repeat. Every row is used once in an epoch. A batch is smaller
    than asked for only where each row that is left has a text of it: at the end of an
    epoch, in many batches if one text is in more rows than there are batches. Each epoch
    is drawn anew: every iteration over the dataset is the next epoch, and another dataset
    with the same seed has the same epochs.

    Args:
        x: array or list of N rows, or a tuple or dict of columns; or a dataset of `(x,)`,
            `x` or `(x, y)`, batched or not, which is read once, here, and kept in memory.
            Texts compare exactly, what is no text (images, numbers) by its bytes.
        y: ids, scores or labels `[N, ...]`, which may repeat in a batch; None where x is a
            dataset.
        batch_size: rows in a batch, > 0.
        drop_remainder: leave out the smaller batches, and so their rows in this epoch, for
            static shapes.
        seed: an integer >= 0 that decides the epochs. By default it comes from Python's
            random numbers, which `keras.utils.set_random_seed` sets. With several workers
            give one, so that all draw the same epochs.

    Returns:
        A `tf.data.Dataset` of batches `(x, y)`, or `x` if there is no y, a tuple x as
        `(x,)`. How many they are may differ between epochs, so its cardinality is unknown;
        Keras's `fit` ends later epochs at the number of batches of the first.

    Raises:
        ValueError: batch_size is no whole number > 0, x and y differ in length or are
            empty, or a dataset's elements are none of these, do not end or differ in shape.

    Example:

    >>> questions = ["how old?", "what age?", "where?", "which colour?"]
    >>> answers = ["seven", "seven", "here", "red"]
    >>> for ((question, answer),) in batches_without_duplicates(
    ...     (questions, answers), batch_size=2, seed=0
    ... ):
    ...     print(answer.numpy())
    [b'seven' b'red']
    [b'seven' b'here']

    Relations:
        sentence-transformers' BatchSamplers.NO_DUPLICATES, the same rule.
    """
    batch_size = check_count(batch_size, "batch_size", 1)
    x, y = _as_tensors(x, y, of_a_row=_text_or_y)
    texts = _repeated_texts(tf.nest.flatten(x))

    def draw(rng):
        batches = _without_duplicates(rng.permutation(len(texts)), texts, batch_size)
        return (rows for rows in batches if not drop_remainder or len(rows) == batch_size)

    rows = tf.data.Dataset.from_generator(
        _epochs(draw, seed),
        output_signature=tf.TensorSpec([batch_size if drop_remainder else None], tf.int64),
    )
    return _gather(as_element(x, *([] if y is None else [y])), rows)


def _repeated_texts(columns):
    """For each row a tuple of numbers, of its texts that other rows may have as well."""
    numbers = {}
    of_row = np.stack(
        [
            [numbers.setdefault(text, len(numbers)) for text in texts]
            for column in columns
            for texts in _texts(column)
        ],
        axis=1,
    )  # [N, texts of a row]
    repeats = np.bincount(of_row.ravel())[of_row] > 1
    texts = [()] * len(of_row)
    for row in np.flatnonzero(repeats.any(axis=1)):
        texts[row] = tuple(of_row[row, repeats[row]].tolist())
    return texts


def _texts(column):
    """The texts of a column `[N, ...]`, as one or more lists of N; or digests of bytes."""
    rows = column.numpy()
    if column.dtype == tf.string:
        return rows.reshape(len(rows), -1).T.tolist()
    return [[hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]]


def _without_duplicates(order, texts, batch_size):
    """Lists of row numbers: every one of `order`, and no text twice in a list."""
    order = iter(order.tolist())
    waiting = {}  # rows by the text that kept them from a batch, the first ones first
    while True:
        batch, taken = [], set()
        for row in itertools.chain(_waiting_for_others(waiting, taken), order):
            met = next((text for text in texts[row] if text in taken), None)
            if met is not None:
                waiting.setdefault(met, collections.deque()).append(row)
                continue
            batch.append(row)
            taken.update(texts[row])
            if len(batch) == batch_size:
                break
        if not batch:
            return
        yield batch


def _waiting_for_others(waiting, taken):
    """Takes the rows out that wait for no text which is taken, while they are asked for.

    So a text that very many rows have costs one step in a batch, and not one for each.
    """
    for text in list(waiting):
        while text not in taken and text in waiting:
            row = waiting[text].popleft()
            if not waiting[text]:
                del waiting[text]
            yield row


def contrastive_tension_batches(
    texts, *, batch_size, pos_neg_ratio=8, drop_remainder=False, seed=None
):
    """Pairs of a text with itself and with others, for `ContrastiveTensionLoss`.

    Each text comes once in an epoch as the first of a pair. Every `pos_neg_ratio`-th pair
    is of the text and itself, the others are of it and another, drawn anew in each epoch:
    every iteration over the dataset is the next one, and another dataset with the same
    seed has the same epochs.

    Args:
        texts: array or list of N texts, N >= 2.
        batch_size: pairs in a batch, > 0.
        pos_neg_ratio: the number of pairs of which one is a text with itself, >= 2.
        drop_remainder: leave out the last batch if it is smaller.
        seed: an integer >= 0 that decides the epochs. By default it comes from Python's
            random numbers, which `keras.utils.set_random_seed` sets. With several workers
            give one, so that all draw the same epochs.

    Returns:
        A `tf.data.Dataset` of batches `((texts, others), labels)`: 1 where both are the
        same, also as copies, and 0 where not.

    Raises:
        ValueError: there are fewer than two texts, they are no strings, or a number is
            too small or no whole one.

    Example:

    >>> texts = ["one", "two", "three", "four"]
    >>> for (text, other), label in contrastive_tension_batches(
    ...     texts, batch_size=4, pos_neg_ratio=2, seed=0
    ... ):
    ...     print(text.numpy(), other.numpy(), label.numpy())
    [b'two' b'one' b'four' b'three'] [b'two' b'two' b'four' b'four'] [1 0 1 0]

    Reference:
        Carlsson et al., "Semantic Re-tuning with Contrastive Tension", 2021,
        https://openreview.net/forum?id=Ov_sMNau-PF

    Relations:
        sentence-transformers' ContrastiveTensionDataLoader takes a text once in an epoch,
        as the first or the second of a pair.
    """
    batch_size = check_count(batch_size, "batch_size", 1)
    pos_neg_ratio = check_count(pos_neg_ratio, "pos_neg_ratio", 2)
    texts = as_rows(texts)
    if texts.dtype != tf.string or texts.shape.rank != 1 or len(texts) < 2:
        raise ValueError(
            "Expected at least two texts, as strings of shape [N]. Received: "
            f"{texts.dtype.name} of shape {tuple(texts.shape)}"
        )

    def draw(rng):
        order = rng.permutation(len(texts))
        is_same = np.arange(len(texts)) % pos_neg_ratio == 0
        return np.stack([order, np.where(is_same, order, np.roll(order, 1))], axis=1)

    def pairs(rows):
        text, other = tf.unstack(tf.gather(texts, rows), 2, axis=1)
        return (text, other), tf.cast(text == other, tf.int32)

    rows = _slices(_epochs(draw, seed), [len(texts), 2])
    return rows.batch(batch_size, drop_remainder).map(pairs).prefetch(tf.data.AUTOTUNE)


def _slices(next_epoch, shape):
    """A dataset of the slices of `next_epoch()`, integers of this shape, in each epoch."""

    def slices(_):
        numbers = tf.numpy_function(next_epoch, [], tf.int64)
        return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(numbers, shape))

    epochs = tf.data.Dataset.from_tensors(0).flat_map(slices)
    return epochs.apply(tf.data.experimental.assert_cardinality(shape[0]))


def _epochs(draw, seed):
    """A function that gives `draw(rng)` of the next epoch."""
    seed = random.getrandbits(64) if seed is None else check_count(seed, "seed", 0)
    seeds = np.random.SeedSequence(seed)
    return lambda: draw(np.random.default_rng(seeds.spawn(1)[0]))


def _gather(parts, batches):
    """Batches of the parts' rows, from batches of their numbers."""
    return batches.map(
        lambda rows: tf.nest.map_structure(lambda part: tf.gather(part, rows), parts)
    ).prefetch(tf.data.AUTOTUNE)


def _as_tensors(x, y, of_a_row):
    """From x and y, or a dataset of them, tensors of equally many rows."""
    with tf.device("CPU"):  # where tf.data gathers them
        if isinstance(x, tf.data.Dataset):
            x, y = _read(x, y, of_a_row)
        else:
            x, y = as_columns(x), None if y is None else as_rows(y)
    lengths = [len(part) for part in tf.nest.flatten(x)]
    if len({*lengths, *([] if y is None else [len(y)])}) != 1 or not lengths:
        raise ValueError(
            "Expected at least one column, and the same number of rows in every column "
            f"and y. Received: {lengths} rows"
            + ("." if y is None else f", {len(y)} labels or scores in y.")
        )
    return x, y


def _read(dataset, y, of_a_row):
    """All of a dataset's elements, as tensors of rows: x, and y or None."""
    if y is not None:
        raise ValueError(
            "Expected a dataset whose elements are (x, y), and no y beside it. Received: "
            f"a dataset and y of type {type(y).__name__}"
        )
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("Expected a dataset that ends: .take(...) makes it do so.")
    is_batched = of_a_row(dataset.element_spec).shape.rank == 1
    try:
        batches = list(dataset if is_batched else dataset.batch(1024))
        if batches:
            rows = tf.nest.map_structure(lambda *parts: tf.concat(parts, 0), *batches)
            x, y = (*rows, None)[:2] if isinstance(rows, tuple) else (rows, None)
            return x, y
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            "Expected rows of one shape, to keep them in memory: pad them to it. "
            f"Received: {error.message}"
        ) from error
    raise ValueError("Expected a dataset with at least one element, received none.")


def _y_of_a_pair(spec):
    """The y of `(x, y)`: a scalar in a row, a vector in a batch."""
    is_pair = isinstance(spec, tuple) and len(spec) == 2
    if not is_pair or not isinstance(spec[1], tf.TensorSpec):
        raise ValueError(
            f"Expected a dataset whose elements are (x, y). Received: elements of {spec}"
        )
    return spec[1]


def _text_or_y(spec):
    """The first text of `x`, `(x,)` or `(x, y)`, or else y: a scalar in a row."""
    x, *y = spec if isinstance(spec, tuple) else (spec,)
    texts = [part for part in tf.nest.flatten(x) if part.dtype == tf.string]
    is_dense = all(isinstance(part, tf.TensorSpec) for part in (*tf.nest.flatten(x), *y))
    if len(y) > 1 or not is_dense or not (texts or y):
        raise ValueError(
            "Expected a dataset whose elements are x, (x,) or (x, y), dense tensors, and "
            "in x a text; without one a y, which tells rows from batches. "
            f"Received: elements of {spec}"
        )
    return (*texts, *y)[0]


def _labels(y):
    """y, a tensor `[N]` of class labels."""
    is_label = y is not None and (y.dtype.is_integer or y.dtype == tf.string)
    if not is_label or y.shape.rank != 1:
        raise ValueError(
            "Expected class labels y of shape [N], integers or strings; of one-hot rows "
            "take .argmax(axis=1). Received: "
            + ("None" if y is None else f"{y.dtype.name} of {tuple(y.shape)}")
        )
    return y
