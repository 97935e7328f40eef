"""Batches for losses that compare rows."""

import hashlib
import itertools
import random
import warnings

import numpy as np
import tensorflow as tf

from tfembloss.checks import flag, integer
from tfembloss.data import dealing
from tfembloss.data.column_datasets import as_element, short
from tfembloss.data.in_memory import labeled_rows, rows_with_texts


def balanced_batches(x, y=None, *, classes_per_batch, items_per_class=4, seed=None):
    r"""Returns batches of K items from each of P classes, for losses on labels.

    In a batch sampled at random from many classes, hardly any two items have the same
    label; here each item has K - 1 positives and (P - 1) K negatives. An epoch uses every
    item, and repeats items only as far as the shape of the batches requires: a class of n
    items has $g = \lceil n / K \rceil$ groups of K, and an epoch has

    $$T = \max(\lceil \sum g / P \rceil, \; \max g)$$

    batches. If there are too few groups to fill them, all classes contribute more groups,
    evenly. The items of a class are used equally often, give or take one, and no item
    occurs twice in a group, unless its class has fewer than K. The batches are resampled
    in each epoch: every iteration over the dataset is the next epoch, and another dataset
    with the same seed has the same epochs.

    Args:
        x: the items: array or list of N rows, or a tuple or dict of columns; or a dataset
            of `(x, y)`, batched or not, which is read once, here, and kept in memory.
        y: class labels `[N]` or `[N, 1]`, integers or strings; None if x is a dataset.
        classes_per_batch: P, at least 2 and at most the number of classes.
        items_per_class: K, at least 2.
        seed: an integer >= 0 that determines the epochs. By default it comes from Python's
            random generator, which `keras.utils.set_random_seed` seeds. With several
            workers pass one, so that all of them sample the same epochs.

    Returns:
        A `tf.data.Dataset` of T batches `(x, y)` of P K rows, sorted by class.

    Raises:
        ValueError: there are fewer than P classes, a label is missing, or the dataset is
            infinite or its elements are not `(x, y)` or differ in shape.

    Warns:
        UserWarning: no class has K items, so that every group repeats some of its own.

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
        Finetuner's class sampler and pytorch-metric-learning's MPerClassSampler; those
        leave it to chance how often an item is used.
    """
    classes_per_batch = integer("classes_per_batch", classes_per_batch, 0)
    items_per_class = integer("items_per_class", items_per_class, 0)
    if classes_per_batch < 2 or items_per_class < 2:
        raise ValueError(
            "Expected at least 2 classes in a batch, or nothing is negative, and 2 items "
            "of each, or nothing is positive. Received: "
            f"classes_per_batch={classes_per_batch}, items_per_class={items_per_class}"
        )
    x, y = labeled_rows(x, y)
    names, classes, sizes = np.unique(y.numpy(), return_inverse=True, return_counts=True)
    if len(names) < classes_per_batch:
        raise ValueError(
            f"Expected at least classes_per_batch={classes_per_batch} classes. Received: "
            f"{len(names)} in {len(y)} labels. Give a smaller classes_per_batch."
        )
    if sizes.max() < items_per_class:
        warnings.warn(
            f"No class has items_per_class={items_per_class} rows, the largest one has "
            f"{sizes.max()}: in every batch the items of a class are repeated, and are "
            "positives of themselves. Give a smaller items_per_class, or other labels.",
            stacklevel=2,
        )
    groups = -(-sizes // items_per_class)
    num_batches = max(-(-groups.sum() // classes_per_batch), groups.max())

    def draw(rng):
        filled = dealing.fill(groups, num_batches, classes_per_batch, rng)
        return dealing.balanced_epoch(
            classes, filled, classes_per_batch, items_per_class, rng
        )

    rngs = _rngs(seed)
    rows = slices(
        lambda: draw(next(rngs)), [num_batches, classes_per_batch * items_per_class]
    )
    return _gather((x, y), rows)


def batches_without_duplicates(
    x, y=None, *, batch_size, drop_remainder=False, keep_small_batches=False, seed=None
):
    """Returns batches in which no text occurs twice, for losses with in-batch negatives.

    Two rows with the same answer in one batch would be false negatives of each other. Here
    they are in different batches; it does not matter in which column a text occurs, and
    within a row it may repeat. An epoch uses every row once, in as many batches as without
    this rule, if that is possible. If a text occurs in more rows than there are batches,
    it is not: then an epoch has as many full batches as possible and leaves out the other
    rows, which are resampled in each epoch, and a warning says how many they are. Every
    iteration over the dataset is the next epoch, with the same number of batches, and
    another dataset with the same seed has the same epochs.

    Args:
        x: array or list of N rows, or a tuple or dict of columns; or a dataset of `(x,)`,
            `x` or `(x, y)`, batched or not, which is read once, here, and kept in memory.
            Texts are compared exactly, anything else (images, numbers) by its bytes.
        y: ids, scores or labels `[N, ...]`, which may repeat in a batch; None if x is a
            dataset.
        batch_size: rows in a batch, > 0.
        drop_remainder: whether to leave out the last batch if it is smaller, for static
            shapes.
        keep_small_batches: whether to put the rows that would be left out into additional,
            smaller batches after the full ones. If one text occurs in very many rows,
            these are many batches of few rows.
        seed: an integer >= 0 that determines the epochs. By default it comes from Python's
            random generator, which `keras.utils.set_random_seed` seeds. With several
            workers pass one, so that all of them sample the same epochs.

    Returns:
        A `tf.data.Dataset` of batches `(x, y)`, or `x` if there is no y; a tuple x alone is
        yielded as `(x,)`. Its cardinality is the number of batches in an epoch.

    Raises:
        ValueError: no batch of `batch_size` rows without duplicates exists, or the dataset
            is infinite or its elements are of another form or differ in shape.

    Warns:
        UserWarning: rows are left out of each epoch, more than `drop_remainder` implies.

    Example:

    >>> questions = ["how old?", "what age?", "where?", "which color?"]
    >>> answers = ["seven", "seven", "here", "red"]
    >>> for ((question, answer),) in batches_without_duplicates(
    ...     (questions, answers), batch_size=2, seed=0
    ... ):
    ...     print(answer.numpy())
    [b'red' b'seven']
    [b'seven' b'here']

    Relations:
        sentence-transformers' BatchSamplers.NO_DUPLICATES has the same rule, and ends its
        epochs with smaller batches, as `keep_small_batches=True` does.
    """
    batch_size = integer("batch_size", batch_size, 1)
    flag("drop_remainder", drop_remainder)
    flag("keep_small_batches", keep_small_batches)
    if drop_remainder and keep_small_batches:
        raise ValueError(
            "Expected drop_remainder=True, for batches of batch_size rows only, or "
            "keep_small_batches=True. Received: both."
        )
    rngs = _rngs(seed)
    x, y = rows_with_texts(x, y)
    texts, names = _repeated_texts(tf.nest.flatten(x))
    epochs = dealing.WithoutDuplicates(
        texts, batch_size, not drop_remainder, keep_small_batches, next(rngs)
    )
    if not epochs.first:
        raise ValueError(
            f"Expected rows for a batch of batch_size={batch_size} without "
            f"duplicates. Received: {len(texts)} rows"
            f"{_most_frequent(texts, names)}. Give a smaller batch_size, or "
            "keep_small_batches=True."
        )
    num_left = len(texts) - epochs.num_rows
    if num_left > (len(texts) % batch_size if drop_remainder else 0):
        warnings.warn(
            f"{num_left} of {len(texts)} rows are left out of each epoch, which has "
            f"{len(epochs.first)} batches of {len(epochs.first[0])} rows without duplicates"
            f"{_most_frequent(texts, names)}. keep_small_batches=True puts them into "
            "smaller batches.",
            stacklevel=2,
        )

    first = iter([epochs.first])
    rows = tf.data.Dataset.from_generator(
        lambda: next(first, None) or epochs.epoch(next(rngs)),
        output_signature=tf.TensorSpec([batch_size if drop_remainder else None], tf.int64),
    ).apply(tf.data.experimental.assert_cardinality(len(epochs.first)))
    return _gather(as_element(x, *([] if y is None else [y])), rows)


def _most_frequent(texts, names):
    """Describes the text that occurs in most rows."""
    counts = np.bincount([text for of_row in texts for text in of_row], minlength=1)
    most = int(counts.argmax())
    if not counts[most]:
        return ""
    name = names[most]
    what = (
        short(name.decode("utf-8", "replace")) if isinstance(name, bytes) else "one value"
    )
    return f"; {what} is in {counts[most]} rows"


def _repeated_texts(columns):
    """Returns for each row the numbers of its repeated texts, and the texts by number."""
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
        texts[row] = tuple(set(of_row[row, repeats[row]].tolist()))
    return texts, list(numbers)


def _texts(column):
    """Returns a column `[N, ...]` as one or more lists of N texts, or digests of bytes."""
    rows = column.numpy()
    if column.dtype == tf.string:
        return rows.reshape(len(rows), -1).T.tolist()
    return [[(hashlib.blake2b(row.tobytes(), digest_size=16).digest(),) for row in rows]]


def contrastive_tension_batches(
    texts, *, batch_size, pos_neg_ratio=8, drop_remainder=False, seed=None
):
    """Returns pairs of a text with itself or another one, for `ContrastiveTensionLoss`.

    Each text is the first of exactly one pair in an epoch. Every `pos_neg_ratio`-th pair
    is a text with itself, the others are a text with another one, resampled in each epoch:
    every iteration over the dataset is the next epoch, and another dataset with the same
    seed has the same epochs.

    Args:
        texts: array, list or dataset of N texts, N >= 2.
        batch_size: pairs in a batch, > 0.
        pos_neg_ratio: one of this many pairs is a text with itself, >= 2.
        drop_remainder: whether to leave out the last batch if it is smaller.
        seed: an integer >= 0 that determines the epochs. By default it comes from Python's
            random generator, which `keras.utils.set_random_seed` seeds. With several
            workers pass one, so that all of them sample the same epochs.

    Returns:
        A `tf.data.Dataset` of batches `((texts, others), labels)`. A label is 1 if the two
        texts are equal, even if they come from different rows, and 0 otherwise.

    Raises:
        ValueError: there are fewer than two texts, fewer than `batch_size` with
            `drop_remainder=True`, or one is missing or not a string.

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
        sentence-transformers' ContrastiveTensionDataLoader uses a text once in an epoch,
        as the first or the second of a pair.
    """
    batch_size = integer("batch_size", batch_size, 1)
    pos_neg_ratio = integer("pos_neg_ratio", pos_neg_ratio, 2)
    flag("drop_remainder", drop_remainder)
    rngs = _rngs(seed)
    texts, y = rows_with_texts(texts)
    if y is not None or not tf.is_tensor(texts):
        raise ValueError(
            "Expected one column of texts, without y: pairs and labels are made here. "
            f"Received: {'(x, y)' if y is not None else 'several columns'}"
        )
    if texts.shape.rank == 2 and texts.shape[1] == 1:
        texts = texts[:, 0]
    if texts.dtype != tf.string or texts.shape.rank != 1 or len(texts) < 2:
        raise ValueError(
            "Expected at least two texts, as strings of shape [N]. Received: "
            f"{texts.dtype.name} of shape {tuple(texts.shape)}"
        )
    if drop_remainder and len(texts) < batch_size:
        raise ValueError(
            f"Expected at least batch_size={batch_size} texts for a full batch, as "
            f"drop_remainder=True keeps no other. Received: {len(texts)}"
        )

    def draw(rng):
        order = rng.permutation(len(texts))
        is_same = np.arange(len(texts)) % pos_neg_ratio == 0
        return np.stack([order, np.where(is_same, order, np.roll(order, 1))], axis=1)

    def pairs(rows):
        text, other = tf.unstack(tf.gather(texts, rows), 2, axis=1)
        return (text, other), tf.cast(text == other, tf.int32)

    rows = slices(lambda: draw(next(rngs)), [len(texts), 2])
    return rows.batch(batch_size, drop_remainder).map(pairs).prefetch(tf.data.AUTOTUNE)


def slices(next_epoch, shape):
    """Returns a dataset of the slices of `next_epoch()`, integers of the given shape."""

    def of_epoch(_):
        numbers = tf.numpy_function(next_epoch, [], tf.int64)
        return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(numbers, shape))

    epochs = tf.data.Dataset.from_tensors(0).flat_map(of_epoch)
    return epochs.apply(tf.data.experimental.assert_cardinality(shape[0]))


def _rngs(seed):
    """Yields a random generator for each epoch, without end."""
    seed = random.getrandbits(64) if seed is None else integer("seed", seed, 0)

    def of_epoch(number):
        return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))

    return map(of_epoch, itertools.count())  # safe with iterators in several threads


def _gather(parts, batches):
    """Turns batches of row numbers into batches of the parts' rows."""
    return batches.map(
        lambda rows: tf.nest.map_structure(lambda part: tf.gather(part, rows), parts)
    ).prefetch(tf.data.AUTOTUNE)
