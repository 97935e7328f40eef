"""One stream of batches from several datasets."""

import numpy as np
import tensorflow as tf

from tfembloss.checks import integer, non_negative, one_of

STRATEGIES = ["proportional", "temperature", "round_robin"]
STOPS = ["all_exhausted", "first_exhausted"]


def mix(
    datasets,
    strategy="proportional",
    *,
    weights=None,
    alpha=0.5,
    stop="all_exhausted",
    seed=0,
):
    r"""Mixes datasets of batches into one: each batch is of one of them, whole.

    With the numbers of batches $n_i$, dataset i has a share $p_i$ of an epoch's batches:

    | strategy | $p_i$ is proportional to | order |
    |---|---|---|
    | `"proportional"` | $n_i$ | random |
    | `"temperature"` | $n_i^{alpha}$, which favors small datasets | random |
    | `"round_robin"` | 1 | in turn |

    An epoch ends when the first dataset has no more batches, or when all of them have been
    used, those that are smaller for their share several times. In-batch negatives are then
    of the same dataset as the anchor, so that the source does not give them away.

    The order is the same in every epoch, and under any strategy of `tf.distribute`; batches
    of a dataset come in its own order, so shuffle it before.

    Args:
        datasets: dict of name to a `tf.data.Dataset` of batches, all of the same structure,
            such as those of `columns(...).batch(...)`.
        strategy: `"proportional"`, `"temperature"` or `"round_robin"`; not used if weights
            are given.
        weights: dict of name to the share of the batches, numbers >= 0 that need not sum to
            1; None for the strategy. The order is random.
        alpha: exponent of `"temperature"`, >= 0: 1 is proportional, 0 is equal shares.
        stop: `"all_exhausted"` or `"first_exhausted"`, where an epoch ends.
        seed: an integer >= 0 that determines the order.

    Returns:
        A `tf.data.Dataset` of batches, of known length.

    Raises:
        ValueError: an argument is invalid, a dataset has no batches or an unknown number,
            or their elements differ in structure, dtypes or ranks.

    Example:

    >>> small, large = (tf.data.Dataset.range(n).batch(2) for n in (4, 8))
    >>> batches = mix({"small": small, "large": large}, "round_robin")
    >>> [batch.tolist() for batch in batches.as_numpy_iterator()]
    [[0, 1], [0, 1], [2, 3], [2, 3], [0, 1], [4, 5], [2, 3], [6, 7]]
    >>> len(mix({"small": small, "large": large}, weights={"small": 1, "large": 2}))
    6

    Relations:
        `"proportional"` and `"round_robin"` with `stop="first_exhausted"` are
        sentence-transformers' MultiDatasetBatchSamplers; its round robin cannot go on after
        the first has ended.
    """
    _check_datasets(datasets)
    _check_alike(datasets)
    order = order_of_batches(
        datasets, strategy, weights=weights, alpha=alpha, stop=stop, seed=seed
    )
    numbers = [list(datasets).index(name) for name in order]
    mixed = tf.data.Dataset.choose_from_datasets(
        [dataset.repeat() for dataset in datasets.values()],
        tf.data.Dataset.from_tensor_slices(np.array(numbers, "int64")),
        stop_on_empty_dataset=False,
    )
    return mixed.apply(tf.data.experimental.assert_cardinality(len(order)))


def order_of_batches(
    datasets,
    strategy="proportional",
    *,
    weights=None,
    alpha=0.5,
    stop="all_exhausted",
    seed=0,
):
    """Returns the names of the datasets in the order of an epoch's batches; see `mix`."""
    one_of("strategy", strategy, STRATEGIES)
    one_of("stop", stop, STOPS)
    integer("seed", seed, 0)
    names = list(datasets)
    sizes = np.array([num_batches(name, datasets[name]) for name in names])
    shares = _shares(names, sizes, strategy, weights, non_negative("alpha", alpha))
    used = shares > 0
    limit = np.max if stop == "all_exhausted" else np.min
    length = limit(sizes[used] / shares[used])
    # The error of a division must not cost a batch.
    counts = np.floor(length * shares + 1e-6).astype(int)
    if stop == "all_exhausted":
        counts = np.where(used, np.maximum(counts, 1), 0)
    if weights is None and strategy == "round_robin":
        order = np.tile(np.arange(len(names)), counts.max())
    else:
        order = np.repeat(np.arange(len(names)), counts)
        np.random.default_rng(seed).shuffle(order)
    return [names[number] for number in order]


def _check_datasets(datasets):
    if not isinstance(datasets, dict) or not datasets:
        raise ValueError(
            "Expected datasets as a dict of name to a tf.data.Dataset of batches. "
            f"Received: {type(datasets).__name__}."
        )
    for name, dataset in datasets.items():
        if not isinstance(dataset, tf.data.Dataset):
            raise ValueError(
                "Expected datasets as tf.data.Dataset of batches: make them by "
                "tfembloss.data.columns(...).batch(...). Received: "
                f"{type(dataset).__name__} as {name!r}."
            )


def _check_alike(datasets):
    (first, expected), *others = (
        (name, dataset.element_spec) for name, dataset in datasets.items()
    )
    for name, spec in others:
        if _kind(spec) != _kind(expected):
            raise ValueError(
                "Expected datasets whose batches have the same columns, dtypes and ranks. "
                f"Received: {first!r} of {expected}, and {name!r} of {spec}."
            )


def _kind(spec):
    """Returns what must agree: structure, dtypes, ranks, and known last dimensions."""
    return tf.nest.map_structure(
        lambda part: (type(part).__name__, part.dtype, tuple(part.shape[1:])), spec
    )


def num_batches(name, dataset):
    """Returns a dataset's number of batches. Raises ValueError if it is 0 or unknown."""
    size = int(dataset.cardinality())
    if size > 0:
        return size
    if size == 0:
        raise ValueError(f"Expected batches in each dataset. Received: none in {name!r}.")
    known = "infinite: remove repeat()"
    if size == tf.data.UNKNOWN_CARDINALITY:
        known = "unknown: add .apply(tf.data.experimental.assert_cardinality(batches))"
    raise ValueError(
        f"Expected datasets with a known number of batches. Received: that of {name!r} is "
        f"{known}."
    )


def _shares(names, sizes, strategy, weights, alpha):
    """Returns the share of each dataset, which sum to 1."""
    if weights is None:
        exponent = {"proportional": 1, "temperature": alpha, "round_robin": 0}[strategy]
        rates = sizes.astype("float64") ** exponent
    elif not isinstance(weights, dict) or set(weights) != set(names):
        raise ValueError(
            f"Expected weights as a dict with a number for each of {names}. Received: "
            f"weights={weights!r}"
        )
    else:
        rates = np.array([non_negative("weights", weights[name]) for name in names])
    if not rates.any():
        raise ValueError(f"Expected a weight above 0. Received: weights={weights!r}")
    return rates / rates.sum()
