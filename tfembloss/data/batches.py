"""Batches made for losses that compare rows."""

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
        y: class labels `[N]` or `[N, 1]`, integers or strings; None where x is a dataset.
        classes_per_batch: P, at least 2 and at most the number of classes.
        items_per_class: K, at least 2.
        seed: an integer >= 0 that decides the epochs. By default it comes from Python's
            random numbers, which `keras.utils.set_random_seed` sets. With several workers
            give one, so that all draw the same epochs.

    Returns:
        A `tf.data.Dataset` of T batches `(x, y)` of P K rows, the items of a class one
        after the other.

    Raises:
        ValueError: P or K is too small or not an integer, there are fewer than P classes,
            x and y differ in length or are empty, labels are no vector of integers or
            strings or one is missing, or the dataset's elements are not `(x, y)`, do not
            end or differ in shape.

    Warns:
        UserWarning: no class has K items, so that each group repeats some of its own.

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
    rows = _slices(
        lambda: draw(next(rngs)), [num_batches, classes_per_batch * items_per_class]
    )
    return _gather((x, y), rows)


def batches_without_duplicates(
    x, y=None, *, batch_size, drop_remainder=False, keep_small_batches=False, seed=None
):
    """Batches in which no text occurs twice, for losses whose negatives are the batch.

    Two rows with the same answer in a batch are negatives of each other, wrongly. Here
    they are in different batches; in which column a text stands makes no difference, and
    within a row it may repeat. An epoch uses every row once, in as many batches as
    without this rule, wherever they have places for all rows. A text in more rows than
    there are batches has no place for some: then an epoch has all full batches that can
    be had and leaves the other rows out, drawn anew in each epoch, and a warning counts
    them. Every iteration over the dataset is the next epoch, of as many batches, and
    another dataset with the same seed has the same epochs.

    Args:
        x: array or list of N rows, or a tuple or dict of columns; or a dataset of `(x,)`,
            `x` or `(x, y)`, batched or not, which is read once, here, and kept in memory.
            Texts compare exactly, what is no text (images, numbers) by its bytes.
        y: ids, scores or labels `[N, ...]`, which may repeat in a batch; None where x is a
            dataset.
        batch_size: rows in a batch, > 0.
        drop_remainder: leave out the last batch if it is smaller, for static shapes.
        keep_small_batches: have the rows that would be left out in further, smaller
            batches after the full ones: many of few rows if one text is in very many.
        seed: an integer >= 0 that decides the epochs. By default it comes from Python's
            random numbers, which `keras.utils.set_random_seed` sets. With several workers
            give one, so that all draw the same epochs.

    Returns:
        A `tf.data.Dataset` of batches `(x, y)`, or `x` if there is no y, a tuple x as
        `(x,)`. Its cardinality is the number of batches in an epoch.

    Raises:
        ValueError: batch_size is not an integer > 0 or no such batch can be had, x and y
            differ in length or are empty, or a dataset's elements are none of these, do
            not end or differ in shape.

    Warns:
        UserWarning: rows are left out of each epoch, more than `drop_remainder` asks for.

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
            "Expected drop_remainder=True, for batches of batch_size rows alone, or "
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
            f"{_most_frequent(texts, names)}. keep_small_batches=True has them in "
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
    """The text that most rows have, in words."""
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
    """For each row the numbers of its texts that are repeated, and the texts by number."""
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
    """The texts of a column `[N, ...]`, as one or more lists of N; or digests of bytes."""
    rows = column.numpy()
    if column.dtype == tf.string:
        return rows.reshape(len(rows), -1).T.tolist()
    return [[(hashlib.blake2b(row.tobytes(), digest_size=16).digest(),) for row in rows]]


def contrastive_tension_batches(
    texts, *, batch_size, pos_neg_ratio=8, drop_remainder=False, seed=None
):
    """Pairs of a text with itself and with others, for `ContrastiveTensionLoss`.

    Each text comes once in an epoch as the first of a pair. Every `pos_neg_ratio`-th pair
    is of the text and itself, the others are of it and another, drawn anew in each epoch:
    every iteration over the dataset is the next one, and another dataset with the same
    seed has the same epochs.

    Args:
        texts: array, list or dataset of N texts, N >= 2.
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
        ValueError: there are fewer than two texts, or no full batch of them where
            `drop_remainder` asks for it, they are no strings or one is missing, or a number
            is too small or not an integer.

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
            f"drop_remainder=True keeps. Received: {len(texts)}"
        )

    def draw(rng):
        order = rng.permutation(len(texts))
        is_same = np.arange(len(texts)) % pos_neg_ratio == 0
        return np.stack([order, np.where(is_same, order, np.roll(order, 1))], axis=1)

    def pairs(rows):
        text, other = tf.unstack(tf.gather(texts, rows), 2, axis=1)
        return (text, other), tf.cast(text == other, tf.int32)

    rows = _slices(lambda: draw(next(rngs)), [len(texts), 2])
    return rows.batch(batch_size, drop_remainder).map(pairs).prefetch(tf.data.AUTOTUNE)


def _slices(next_epoch, shape):
    """A dataset of the slices of `next_epoch()`, integers of this shape, in each epoch."""

    def slices(_):
        numbers = tf.numpy_function(next_epoch, [], tf.int64)
        return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(numbers, shape))

    epochs = tf.data.Dataset.from_tensors(0).flat_map(slices)
    return epochs.apply(tf.data.experimental.assert_cardinality(shape[0]))


def _rngs(seed):
    """The random numbers of one epoch after the other, without end."""
    seed = random.getrandbits(64) if seed is None else integer("seed", seed, 0)

    def of_epoch(number):
        return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))

    return map(of_epoch, itertools.count())  # which iterators in several threads share


def _gather(parts, batches):
    """Batches of the parts' rows, from batches of their numbers."""
    return batches.map(
        lambda rows: tf.nest.map_structure(lambda part: tf.gather(part, rows), parts)
    ).prefetch(tf.data.AUTOTUNE)
