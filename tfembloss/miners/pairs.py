"""Miners that select positive and negative pairs of a batch."""

import dataclasses
import numbers
from collections.abc import Callable

import keras
import tensorflow as tf

from tfembloss import distances, masks
from tfembloss.checks import integer, non_negative, number, one_of
from tfembloss.kernels import random_bits
from tfembloss.miners.base import PairMiner, nearest, seed_of_batch


def _farthest(x, mask):
    return nearest(-x, mask)


@keras.saving.register_keras_serializable("tfembloss")
@dataclasses.dataclass(frozen=True)
class BatchHardMiner(PairMiner):
    r"""Selects each anchor's farthest positive and nearest negative.

    $$p(a) = \arg\max_{p} d(a, p) \qquad n(a) = \arg\min_{n} d(a, n)$$

    Only anchors that have both are used. If distances are equal, the first row is selected.

    Args:
        distance: see `tfembloss.distances`.

    Raises:
        ValueError: if `distance` is unknown.

    Example:

    >>> BatchHardMiner()([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], [0, 0, 1]).negative
    array([[0, 2], [1, 2]])

    Reference:
        Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification",
        2017, https://arxiv.org/abs/1703.07737

    Relations:
        Equal to pytorch-metric-learning's miner of the same name, and to
        `BatchEasyHardMiner("hard", "hard")`.
    """

    distance: str | Callable = "normalized_euclidean"

    def __post_init__(self):
        distances.get(self.distance)

    def select(self, candidates):
        """Returns the hardest pairs."""
        x, labels = candidates.distances, candidates.labels
        positive = _farthest(x, labels.positive)
        negative = nearest(x, labels.negative)
        both = masks.row_any(positive) & masks.row_any(negative)
        return masks.Pairs(positive & both[:, None], negative & both[:, None])


@keras.saving.register_keras_serializable("tfembloss")
@dataclasses.dataclass(frozen=True)
class BatchEasyHardMiner(PairMiner):
    """Selects positives and negatives of each anchor by one strategy for either.

    | strategy | positive | negative |
    |---|---|---|
    | `"hard"` | the farthest | the nearest |
    | `"easy"` | the nearest | the farthest |
    | `"semihard"` | the farthest that is nearer than the chosen negative | the nearest that is farther than the chosen positive |
    | `"all"` | every one | every one |

    Without `"all"`, only anchors that have both are used.

    Args:
        pos_strategy, neg_strategy: one of the above. `"semihard"` needs `"hard"` or
            `"easy"` on the other side.
        allowed_pos_range, allowed_neg_range: `(smallest, largest)` distance that may be
            selected, both inclusive; None for any.
        distance: see `tfembloss.distances`.

    Raises:
        ValueError: if an argument is invalid, or `"semihard"` is combined with
            `"semihard"` or `"all"`.

    Example:

    >>> line = [[0.0], [1.0], [3.0], [4.0]]
    >>> miner = BatchEasyHardMiner("easy", "semihard", distance="euclidean")
    >>> miner(line, [0, 0, 1, 1]).negative
    array([[0, 2], [1, 2], [2, 1], [3, 1]])

    Reference:
        Xuan et al., "Improved Embeddings with Easy Positive Triplet Mining", 2020,
        https://arxiv.org/abs/1904.04370

    Relations:
        Equal to pytorch-metric-learning's miner of the same name, in every combination.
    """  # noqa: E501

    pos_strategy: str = "easy"
    neg_strategy: str = "semihard"
    allowed_pos_range: tuple | None = None
    allowed_neg_range: tuple | None = None
    distance: str | Callable = "normalized_euclidean"

    def __post_init__(self):
        distances.get(self.distance)
        both = {"pos_strategy": self.pos_strategy, "neg_strategy": self.neg_strategy}
        for name, strategy in both.items():
            one_of(name, strategy, ("hard", "semihard", "easy", "all"))
        if "semihard" in both.values() and not {"hard", "easy"} & set(both.values()):
            raise ValueError(
                "Expected 'hard' or 'easy' as the strategy beside 'semihard'. Received: "
                f"pos_strategy={self.pos_strategy!r}, neg_strategy={self.neg_strategy!r}"
            )
        for name in ("allowed_pos_range", "allowed_neg_range"):
            object.__setattr__(self, name, _limits(name, getattr(self, name)))

    def select(self, candidates):
        """Returns the pairs of both strategies."""
        x, labels = candidates.distances, candidates.labels
        positive = labels.positive & _within(x, self.allowed_pos_range)
        negative = labels.negative & _within(x, self.allowed_neg_range)
        if self.pos_strategy == "semihard":
            negative = self._choose(self.neg_strategy, x, negative, nearest, _farthest)
            positive = _farthest(x, positive & (x < masks.row_max(x, negative)[:, None]))
        elif self.neg_strategy == "semihard":
            positive = self._choose(self.pos_strategy, x, positive, _farthest, nearest)
            negative = nearest(x, negative & (x > masks.row_max(x, positive)[:, None]))
        else:
            # As in the paper's code, a range limits all strategies except "all".
            if self.pos_strategy == "all":
                positive = labels.positive
            if self.neg_strategy == "all":
                negative = labels.negative
            positive = self._choose(self.pos_strategy, x, positive, _farthest, nearest)
            negative = self._choose(self.neg_strategy, x, negative, nearest, _farthest)
        if "all" not in (self.pos_strategy, self.neg_strategy):
            both = (masks.row_any(positive) & masks.row_any(negative))[:, None]
            positive, negative = positive & both, negative & both
        return masks.Pairs(positive, negative)

    @staticmethod
    def _choose(strategy, x, mask, hard, easy):
        return {"hard": hard, "easy": easy, "all": lambda _, mask: mask}[strategy](x, mask)


def _limits(name, limits):
    """Returns None, or two increasing numbers as a tuple."""
    if limits is None:
        return None
    are_two = isinstance(limits, list | tuple) and len(limits) == 2
    are_numbers = are_two and all(isinstance(x, numbers.Real) for x in limits)
    if are_numbers and limits[0] <= limits[1]:
        return tuple(limits)
    raise ValueError(
        f"`{name}` must be None or two increasing numbers. Received: {name}={limits!r}"
    )


def _within(x, limits):
    if limits is None:
        return tf.ones_like(x, tf.bool)
    return (x >= limits[0]) & (x <= limits[1])


@keras.saving.register_keras_serializable("tfembloss")
@dataclasses.dataclass(frozen=True)
class MultiSimilarityMiner(PairMiner):
    r"""Selects positives farther than the nearest negative and negatives nearer than the farthest positive, up to epsilon.

    $$d(a, p) + \epsilon > \min_n d(a, n) \qquad d(a, n) - \epsilon < \max_p d(a, p)$$

    Args:
        epsilon: slack, a distance, >= 0.
        distance: see `tfembloss.distances`.

    Raises:
        ValueError: if an argument is invalid.

    Example:

    >>> line = [[0.0], [1.0], [1.2], [9.0]]
    >>> MultiSimilarityMiner(epsilon=0.5, distance="euclidean")(line, [0, 0, 1, 1]).positive
    array([[0, 1], [1, 0], [2, 3], [3, 2]])

    Reference:
        Wang et al., "Multi-Similarity Loss with General Pair Weighting for Deep Metric
        Learning", 2019, https://arxiv.org/abs/1904.06627

    Relations:
        Equal to pytorch-metric-learning's miner of the same name.
    """  # noqa: E501

    epsilon: float = 0.1
    distance: str | Callable = "cosine"

    def __post_init__(self):
        distances.get(self.distance)
        non_negative("epsilon", self.epsilon)

    def select(self, candidates):
        """Returns the informative pairs."""
        x, labels = candidates.distances, candidates.labels
        nearest_negative = masks.row_min(x, labels.negative)[:, None]
        farthest_positive = masks.row_max(x, labels.positive)[:, None]
        return masks.Pairs(
            labels.positive & (x + self.epsilon > nearest_negative),
            labels.negative & (x - self.epsilon < farthest_positive),
        )


@keras.saving.register_keras_serializable("tfembloss")
@dataclasses.dataclass(frozen=True)
class PairMarginMiner(PairMiner):
    r"""Selects positives farther than one margin, and negatives nearer than another.

    $$d(a, p) > m_p \qquad d(a, n) < m_n$$

    Args:
        pos_margin, neg_margin: $m_p$ and $m_n$, distances.
        distance: see `tfembloss.distances`.

    Raises:
        ValueError: if an argument is invalid.

    Example:

    >>> line = [[0.0], [1.0], [1.5], [9.0]]
    >>> PairMarginMiner(distance="euclidean")(line, [0, 0, 1, 1]).negative
    array([[1, 2], [2, 1]])

    Relations:
        Equal to pytorch-metric-learning's miner of the same name; with its
        CosineSimilarity, a margin of s there is 1 - s here.
    """

    pos_margin: float = 0.2
    neg_margin: float = 0.8
    distance: str | Callable = "normalized_euclidean"

    def __post_init__(self):
        distances.get(self.distance)
        number("pos_margin", self.pos_margin)
        number("neg_margin", self.neg_margin)

    def select(self, candidates):
        """Returns the pairs on the wrong side of their margin."""
        x, labels = candidates.distances, candidates.labels
        return masks.Pairs(
            labels.positive & (x > self.pos_margin), labels.negative & (x < self.neg_margin)
        )


@keras.saving.register_keras_serializable("tfembloss")
@dataclasses.dataclass(frozen=True)
class HDCMiner(PairMiner):
    """Selects the hardest fraction of all positive and of all negative pairs of the batch.

    These are the ceil(filter_percentage * n) farthest of n positive pairs, and likewise the
    nearest of the negative pairs. If distances are equal, the first rows are selected.

    Args:
        filter_percentage: fraction of the pairs, in (0, 1].
        distance: see `tfembloss.distances`.

    Raises:
        ValueError: if an argument is invalid.

    Example:

    >>> line = [[0.0], [1.0], [3.0], [9.0]]
    >>> HDCMiner(distance="euclidean")(line, [0, 0, 1, 1]).positive
    array([[2, 3], [3, 2]])

    Reference:
        Yuan et al., "Hard-Aware Deeply Cascaded Embedding", 2017,
        https://arxiv.org/abs/1611.05720

    Relations:
        Equal to pytorch-metric-learning's miner of the same name, which does not specify
        which of equally hard pairs it selects.
    """

    filter_percentage: float = 0.5
    distance: str | Callable = "normalized_euclidean"
    needs_key_distances = True

    def __post_init__(self):
        distances.get(self.distance)
        number("filter_percentage", self.filter_percentage, "in (0, 1]", _is_fraction)

    def select(self, candidates):
        """Returns these rows' part of the hardest pairs of the whole batch."""
        x, everyone = candidates.key_distances, candidates.labels.all_rows()
        rows = candidates.labels.positions
        return masks.Pairs(
            tf.gather(
                _smallest_fraction(-x, everyone.positive, self.filter_percentage), rows
            ),
            tf.gather(
                _smallest_fraction(x, everyone.negative, self.filter_percentage), rows
            ),
        )


def _is_fraction(x):
    return 0 < x <= 1


def _smallest_fraction(x, mask, fraction):
    """Returns the ceil(fraction * n) smallest of n entries under the mask, as a mask."""
    count = tf.reduce_sum(tf.cast(mask, tf.int64))
    wanted = tf.cast(tf.math.ceil(fraction * tf.cast(count, tf.float64)), tf.int64)
    order = _ordered_bits(x)  # integers in the order of x
    limit = _smallest_reaching(order, mask, wanted)
    below = mask & (order < limit)
    equal = mask & (order == limit)
    missing = wanted - tf.reduce_sum(tf.cast(below, tf.int64))
    # Of equal entries the first, in the order of rows and columns.
    by_row = tf.reduce_sum(tf.cast(equal, tf.int64), axis=1)
    earlier = tf.cumsum(by_row, exclusive=True)[:, None]
    place = earlier + tf.cumsum(tf.cast(equal, tf.int64), axis=1, exclusive=True)
    return below | (equal & (place < missing))


def _ordered_bits(x):
    """Returns integers in the order of the floats."""
    kind = tf.int32 if x.dtype == tf.float32 else tf.int64
    bits = tf.bitcast(x + 0, kind)  # -0 + 0 = +0
    return tf.where(bits < 0, bits ^ kind.max, bits)


def _smallest_reaching(order, mask, wanted):
    """Returns the smallest integer that at least `wanted` entries do not exceed.

    By bisection, with a pass over the entries per bit: XLA on CPU sorts far more slowly.
    """

    def body(low, high):  # the answer is in [low, high]
        middle = (low & high) + tf.bitwise.right_shift(low ^ high, 1)  # cannot overflow
        reached = tf.reduce_sum(tf.cast(mask & (order <= middle), tf.int64)) >= wanted
        return tf.where(reached, low, middle + 1), tf.where(reached, middle, high)

    limits = (
        tf.constant(order.dtype.min, order.dtype),
        tf.constant(order.dtype.max, order.dtype),
    )
    return tf.while_loop(lambda low, high: low < high, body, limits)[0]


@keras.saving.register_keras_serializable("tfembloss")
@dataclasses.dataclass(frozen=True)
class UniformHistogramMiner(PairMiner):
    """Selects pairs uniformly over distances: random ones from each bin of a histogram.

    The range of distances of all positive pairs of the batch is divided into bins of equal
    width, and `pos_per_bin` pairs are drawn from each bin, or all if it has fewer. The same
    is done with the negative pairs.

    Args:
        num_bins: number of bins, at least 1.
        pos_per_bin, neg_per_bin: pairs drawn from each bin, at least 1.
        seed: a non-negative integer; another seed draws other pairs.
        distance: see `tfembloss.distances`.

    Raises:
        ValueError: if an argument is invalid.

    Example:

    >>> line = [[0.0], [1.0], [3.0], [9.0]]
    >>> miner = UniformHistogramMiner(2, 1, 1, distance="euclidean")
    >>> len(miner(line, [0, 0, 1, 1]).positive)   # one with distance 1, one with 6
    2

    Reference:
        Wu et al., "Sampling Matters in Deep Embedding Learning", 2017,
        https://arxiv.org/abs/1706.07567, on why to sample uniformly over distances.

    Relations:
        The bins are those of pytorch-metric-learning's miner of the same name, which draws
        with replacement, so that a pair may be selected twice there.
    """

    num_bins: int = 100
    pos_per_bin: int = 10
    neg_per_bin: int = 10
    seed: int = 0
    distance: str | Callable = "normalized_euclidean"
    needs_key_distances = True

    def __post_init__(self):
        distances.get(self.distance)
        for name in ("num_bins", "pos_per_bin", "neg_per_bin"):
            integer(name, getattr(self, name), 1)
        integer("seed", self.seed, 0, 2**63 - 1)

    def select(self, candidates):
        """Returns these rows' part of the pairs drawn from the whole batch."""
        x, everyone = candidates.key_distances, candidates.labels.all_rows()
        bits = random_bits(tf.shape(x), seed_of_batch(self.seed, everyone))
        rows = candidates.labels.positions
        return masks.Pairs(
            tf.gather(self._draw(x, everyone.positive, bits, self.pos_per_bin), rows),
            tf.gather(self._draw(x, everyone.negative, bits, self.neg_per_bin), rows),
        )

    def bins(self, x, mask):
        """Returns the bin of each entry under the mask, from 0; `num_bins` elsewhere."""
        smallest = tf.reduce_min(tf.where(mask, x, x.dtype.max))
        largest = tf.reduce_max(tf.where(mask, x, x.dtype.min))
        width = tf.where(mask, largest - smallest, 1) / self.num_bins
        place = tf.where(mask, tf.math.divide_no_nan(x - smallest, width), 0)
        place = tf.clip_by_value(tf.cast(place, tf.int32), 0, self.num_bins - 1)
        return tf.where(mask, place, self.num_bins)

    def _draw(self, x, mask, bits, per_bin):
        place = self.bins(x, mask)
        # Sorted by bin, and randomly within a bin: the last drawn entry is the limit.
        keys = tf.bitwise.left_shift(tf.cast(place, tf.int64), 32) + tf.cast(bits, tf.int64)
        in_order = tf.sort(tf.reshape(keys, [-1]))
        in_order = tf.concat([in_order, [tf.int64.max]], axis=0)  # not empty
        each = tf.range(self.num_bins + 1)
        sizes = tf.raw_ops.DenseBincount(
            input=tf.reshape(place, [-1]),
            size=self.num_bins + 1,
            weights=tf.constant([], tf.int32),
        )
        last = tf.cumsum(sizes, exclusive=True) + tf.minimum(sizes, per_bin) - 1
        limits = tf.gather(in_order, tf.maximum(last, 0))
        limits = tf.where(each < self.num_bins, limits, tf.int64.min)
        return mask & (keys <= tf.gather(limits, place))
