"""Miners: which pairs or triplets of a batch a loss looks at.

A miner is given to a loss, `TripletMarginLoss(miner=BatchHardMiner())`, and selects among
the rows of all replicas. Called by itself on embeddings and ids it shows what it selects:

>>> import tensorflow as tf
>>> embeddings = tf.constant([[0.0, 1.0], [0.6, 0.8], [0.8, 0.6], [1.0, 0.0]])
>>> BatchHardMiner()(embeddings, [0, 0, 1, 1])
SelectedPairs(positive=array([[0, 1], [1, 0], [2, 3], [3, 2]]),
              negative=array([[0, 2], [1, 2], [2, 1], [3, 1]]))

Two kinds. A `PairMiner` selects positive and negative pairs; a triplet loss then takes
every triplet whose two pairs are selected. A `TripletMiner` selects triplets; a pair
loss then takes each pair as often as it stands in them. Miners of both kinds are masks of
static shape, so they compile under XLA, and their choice has no gradient.

Options are compared and saved with the loss. A miner measures distances by itself:
smaller is nearer, and every margin is a distance, for `"cosine"` 1 - cos. Random miners
draw from `seed`, the ids of the batch and the positions of the rows, and from nothing
else: the same batch gives the same choice, on any number of replicas.
"""

import dataclasses
import math
from collections.abc import Callable

import keras
import tensorflow as tf

from tfembloss import distances, masks
from tfembloss.kernels import random_bits, uniform
from tfembloss.mining import PairMiner, TripletMiner


def _nearest(x, mask):
    """Where each row's smallest entry under the mask is: mask `[B, N]` with one or none."""
    x_in_mask = tf.where(mask, x, float("inf"))
    # One column more, as nothing is the smallest of no columns.
    x_in_mask = tf.pad(x_in_mask, [[0, 0], [0, 1]], constant_values=float("inf"))
    column = tf.argmin(x_in_mask, axis=1, output_type=tf.int32)
    return masks.own_rows(column, tf.shape(x)[1]) & mask


def _farthest(x, mask):
    return _nearest(-x, mask)


def _first(mask):
    """The first entry of each row that is under the mask: mask `[B, N]`."""
    return _nearest(tf.zeros_like(mask, tf.float32), mask)


def _is_one(strategy):
    return strategy in ("hard", "easy")


def _is_range(limits):
    return len(limits) == 2 and limits[0] <= limits[1]


def _is_seed(seed):
    return seed == int(seed) and 0 <= seed < 2**63


def _seed_of_batch(seed, labels, number=0):
    """A seed `[2]` for this batch: of the miner's seed, the ids, and a number."""
    odd = 2 * tf.range(tf.size(labels.key_ids, tf.int64), dtype=tf.int64) + 1
    mixed = (
        tf.cast(labels.key_ids, tf.int64) * 0x5851F42D4C957F2D + odd * 0x14057B7EF767814F
    )
    digest = tf.reduce_sum(odd * (mixed ^ tf.bitwise.right_shift(mixed, 29)))
    return tf.stack(
        [tf.constant(seed, tf.int64) + tf.cast(number, tf.int64) * 7919, digest]
    )


@keras.saving.register_keras_serializable("tfembloss")
@dataclasses.dataclass(frozen=True)
class BatchHardMiner(PairMiner):
    r"""Each anchor's farthest positive and nearest negative.

    $$p(a) = \arg\max_{p} d(a, p) \qquad n(a) = \arg\min_{n} d(a, n)$$

    Anchors that have both; of equal distances the first row.

    Args:
        distance: see `tfembloss.distances`.

    Raises:
        ValueError: `distance` is unknown.

    Example:

    >>> BatchHardMiner()([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], [0, 0, 1]).negative
    array([[0, 2], [1, 2]])

    Reference:
        Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification",
        2017, https://arxiv.org/abs/1703.07737

    Relations:
        Equal to pytorch-metric-learning's. `BatchEasyHardMiner("hard", "hard")`.
    """

    distance: str | Callable = "normalized_euclidean"

    def __post_init__(self):
        distances.get(self.distance)

    def select(self, candidates):
        """The hardest pairs."""
        x, labels = candidates.distances, candidates.labels
        positive = _farthest(x, labels.positive)
        negative = _nearest(x, labels.negative)
        both = masks.row_any(positive) & masks.row_any(negative)
        return masks.Pairs(positive & both[:, None], negative & both[:, None])


@keras.saving.register_keras_serializable("tfembloss")
@dataclasses.dataclass(frozen=True)
class BatchEasyHardMiner(PairMiner):
    """One positive and one negative for each anchor, by a strategy for each.

    | strategy | positive | negative |
    |---|---|---|
    | `"hard"` | the farthest | the nearest |
    | `"easy"` | the nearest | the farthest |
    | `"semihard"` | the farthest that is nearer than the chosen negative | the nearest that is farther than the chosen positive |
    | `"all"` | every one | every one |

    Without `"all"`, only anchors that have both.

    Args:
        pos_strategy, neg_strategy: one of the above. `"semihard"` needs `"hard"` or
            `"easy"` on the other side.
        allowed_pos_range, allowed_neg_range: `(smallest, largest)` distance that is
            chosen, both included; None for any.
        distance: see `tfembloss.distances`.

    Raises:
        ValueError: an unknown strategy, `"semihard"` with `"semihard"` or `"all"`, or a
            range that is not two increasing numbers.

    Example:

    >>> line = [[0.0], [1.0], [3.0], [4.0]]
    >>> miner = BatchEasyHardMiner("easy", "semihard", distance="euclidean")
    >>> miner(line, [0, 0, 1, 1]).negative
    array([[0, 2], [1, 2], [2, 1], [3, 1]])

    Reference:
        Xuan et al., "Improved Embeddings with Easy Positive Triplet Mining", 2020,
        https://arxiv.org/abs/1904.04370

    Relations:
        Equal to pytorch-metric-learning's, in every combination.
    """  # noqa: E501

    pos_strategy: str = "easy"
    neg_strategy: str = "semihard"
    allowed_pos_range: tuple | None = None
    allowed_neg_range: tuple | None = None
    distance: str | Callable = "normalized_euclidean"

    def __post_init__(self):
        distances.get(self.distance)
        strategies = ("hard", "semihard", "easy", "all")
        for name in ("pos_strategy", "neg_strategy"):
            self._check(name, lambda x: x in strategies, f"one of {strategies}")
        if self.pos_strategy == "semihard":
            self._check("neg_strategy", _is_one, "'hard' or 'easy' beside 'semihard'")
        if self.neg_strategy == "semihard":
            self._check("pos_strategy", _is_one, "'hard' or 'easy' beside 'semihard'")
        for name in ("allowed_pos_range", "allowed_neg_range"):
            limits = getattr(self, name)
            if limits is not None:
                self._check(name, _is_range, "None or two increasing numbers")
                object.__setattr__(self, name, tuple(limits))  # of a list

    def select(self, candidates):
        """The pairs of both strategies."""
        x, labels = candidates.distances, candidates.labels
        positive = labels.positive & _within(x, self.allowed_pos_range)
        negative = labels.negative & _within(x, self.allowed_neg_range)
        if self.pos_strategy == "semihard":
            negative = self._choose(self.neg_strategy, x, negative, _nearest, _farthest)
            positive = _farthest(x, positive & (x < masks.row_max(x, negative)[:, None]))
        elif self.neg_strategy == "semihard":
            positive = self._choose(self.pos_strategy, x, positive, _farthest, _nearest)
            negative = _nearest(x, negative & (x > masks.row_max(x, positive)[:, None]))
        else:
            # As in the paper's code, a range limits what is chosen, not "all".
            if self.pos_strategy == "all":
                positive = labels.positive
            if self.neg_strategy == "all":
                negative = labels.negative
            positive = self._choose(self.pos_strategy, x, positive, _farthest, _nearest)
            negative = self._choose(self.neg_strategy, x, negative, _nearest, _farthest)
        if "all" not in (self.pos_strategy, self.neg_strategy):
            both = (masks.row_any(positive) & masks.row_any(negative))[:, None]
            positive, negative = positive & both, negative & both
        return masks.Pairs(positive, negative)

    @staticmethod
    def _choose(strategy, x, mask, hard, easy):
        return {"hard": hard, "easy": easy, "all": lambda _, mask: mask}[strategy](x, mask)


def _within(x, limits):
    if limits is None:
        return tf.ones_like(x, tf.bool)
    return (x >= limits[0]) & (x <= limits[1])


@keras.saving.register_keras_serializable("tfembloss")
@dataclasses.dataclass(frozen=True)
class MultiSimilarityMiner(PairMiner):
    r"""Positives farther than the nearest negative, and negatives nearer than the farthest positive, up to epsilon.

    $$d(a, p) + \epsilon > \min_n d(a, n) \qquad d(a, n) - \epsilon < \max_p d(a, p)$$

    Args:
        epsilon: slack, a distance, >= 0.
        distance: see `tfembloss.distances`.

    Raises:
        ValueError: `epsilon` is negative or `distance` is unknown.

    Example:

    >>> line = [[0.0], [1.0], [1.2], [9.0]]
    >>> MultiSimilarityMiner(epsilon=0.5, distance="euclidean")(line, [0, 0, 1, 1]).positive
    array([[0, 1], [1, 0], [2, 3], [3, 2]])

    Reference:
        Wang et al., "Multi-Similarity Loss with General Pair Weighting for Deep Metric
        Learning", 2019, https://arxiv.org/abs/1904.06627

    Relations:
        Equal to pytorch-metric-learning's.
    """  # noqa: E501

    epsilon: float = 0.1
    distance: str | Callable = "cosine"

    def __post_init__(self):
        distances.get(self.distance)
        self._check("epsilon", lambda x: x >= 0, "at least 0")

    def select(self, candidates):
        """The informative pairs."""
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
    """Positives farther than one margin, and negatives nearer than another.

    d(a, p) > pos_margin and d(a, n) < neg_margin.

    Args:
        pos_margin, neg_margin: distances.
        distance: see `tfembloss.distances`.

    Raises:
        ValueError: a margin is not a number, or `distance` is unknown.

    Example:

    >>> line = [[0.0], [1.0], [1.5], [9.0]]
    >>> PairMarginMiner(distance="euclidean")(line, [0, 0, 1, 1]).negative
    array([[1, 2], [2, 1]])

    Relations:
        Equal to pytorch-metric-learning's; with its CosineSimilarity, a margin of s there
        is 1 - s here.
    """

    pos_margin: float = 0.2
    neg_margin: float = 0.8
    distance: str | Callable = "normalized_euclidean"

    def __post_init__(self):
        distances.get(self.distance)
        for name in ("pos_margin", "neg_margin"):
            self._check(name, math.isfinite, "a finite number")

    def select(self, candidates):
        """The pairs on the wrong side of their margin."""
        x, labels = candidates.distances, candidates.labels
        return masks.Pairs(
            labels.positive & (x > self.pos_margin), labels.negative & (x < self.neg_margin)
        )


@keras.saving.register_keras_serializable("tfembloss")
@dataclasses.dataclass(frozen=True)
class HDCMiner(PairMiner):
    """The hardest share of all positive and of all negative pairs of the batch.

    The ceil(filter_percentage * n) farthest of the n positive pairs, and as many of the
    nearest of the negative pairs; of equal distances, those of the first rows.

    Args:
        filter_percentage: share of the pairs, in (0, 1].
        distance: see `tfembloss.distances`.

    Raises:
        ValueError: `filter_percentage` is no share, or `distance` is unknown.

    Example:

    >>> line = [[0.0], [1.0], [3.0], [9.0]]
    >>> HDCMiner(distance="euclidean")(line, [0, 0, 1, 1]).positive
    array([[2, 3], [3, 2]])

    Reference:
        Yuan et al., "Hard-Aware Deeply Cascaded Embedding", 2017,
        https://arxiv.org/abs/1611.05720

    Relations:
        Equal to pytorch-metric-learning's, which leaves open which of equally hard pairs
        it takes.
    """

    filter_percentage: float = 0.5
    distance: str | Callable = "normalized_euclidean"
    needs_key_distances = True

    def __post_init__(self):
        distances.get(self.distance)
        self._check("filter_percentage", lambda x: 0 < x <= 1, "in (0, 1]")

    def select(self, candidates):
        """The hardest pairs of the whole batch, of which these rows are a part."""
        x, everyone = candidates.key_distances, candidates.labels.all_rows()
        rows = candidates.labels.rows
        return masks.Pairs(
            tf.gather(_smallest_share(-x, everyone.positive, self.filter_percentage), rows),
            tf.gather(_smallest_share(x, everyone.negative, self.filter_percentage), rows),
        )


def _smallest_share(x, mask, share):
    """The ceil(share * n) smallest of the n entries under the mask, as a mask."""
    count = tf.reduce_sum(tf.cast(mask, tf.int64))
    wanted = tf.cast(tf.math.ceil(share * tf.cast(count, tf.float64)), tf.int64)
    order = _ordered_bits(x)  # integers in the order of x
    limit = _smallest_reaching(order, mask, wanted)
    below = mask & (order < limit)
    equal = mask & (order == limit)
    missing = wanted - tf.reduce_sum(tf.cast(below, tf.int64))
    # The first of the equal ones, in the order of rows and columns.
    by_row = tf.reduce_sum(tf.cast(equal, tf.int64), axis=1)
    earlier = tf.cumsum(by_row, exclusive=True)[:, None]
    place = earlier + tf.cumsum(tf.cast(equal, tf.int64), axis=1, exclusive=True)
    return below | (equal & (place < missing))


def _ordered_bits(x):
    """Integers that are ordered as the floats are."""
    kind = tf.int32 if x.dtype == tf.float32 else tf.int64
    bits = tf.bitcast(x + 0, kind)  # -0 + 0 = +0
    return tf.where(bits < 0, bits ^ kind.max, bits)


def _smallest_reaching(order, mask, wanted):
    """The smallest integer that at least `wanted` entries do not exceed, by bisection.

    A pass over the entries for each of their bits: XLA on CPU sorts far slower.
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
    """Pairs of all distances alike: some at random from each bin of the distances.

    The distances of all positive pairs of the batch, from the smallest to the largest,
    are cut into bins of equal width; from each bin `pos_per_bin` pairs are drawn, all if
    it has no more. The same with the negative pairs.

    Args:
        num_bins: number of bins, at least 1.
        pos_per_bin, neg_per_bin: pairs from each bin, at least 1.
        seed: a non-negative integer; another seed draws other pairs.
        distance: see `tfembloss.distances`.

    Raises:
        ValueError: a number is out of range, or `distance` is unknown.

    Example:

    >>> line = [[0.0], [1.0], [3.0], [9.0]]
    >>> miner = UniformHistogramMiner(2, 1, 1, distance="euclidean")
    >>> len(miner(line, [0, 0, 1, 1]).positive)   # one with distance 1, one with 6
    2

    Reference:
        Wu et al., "Sampling Matters in Deep Embedding Learning", 2017,
        https://arxiv.org/abs/1706.07567, for why distances should be alike.

    Relations:
        The bins of pytorch-metric-learning's, which draws with replacement: the same pair
        may come twice there.
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
            self._check(name, lambda x: x >= 1 and x == int(x), "an integer >= 1")
        self._check("seed", _is_seed, "an integer >= 0, below 2**63")

    def select(self, candidates):
        """The drawn pairs of the whole batch, of which these rows are a part."""
        x, everyone = candidates.key_distances, candidates.labels.all_rows()
        bits = random_bits(tf.shape(x), _seed_of_batch(self.seed, everyone))
        rows = candidates.labels.rows
        return masks.Pairs(
            tf.gather(self._draw(x, everyone.positive, bits, self.pos_per_bin), rows),
            tf.gather(self._draw(x, everyone.negative, bits, self.neg_per_bin), rows),
        )

    def bins(self, x, mask):
        """Which bin each entry under the mask is in, from 0; `num_bins` elsewhere."""
        smallest = tf.reduce_min(tf.where(mask, x, x.dtype.max))
        largest = tf.reduce_max(tf.where(mask, x, x.dtype.min))
        width = tf.where(mask, largest - smallest, 1) / self.num_bins
        place = tf.where(mask, tf.math.divide_no_nan(x - smallest, width), 0)
        place = tf.clip_by_value(tf.cast(place, tf.int32), 0, self.num_bins - 1)
        return tf.where(mask, place, self.num_bins)

    def _draw(self, x, mask, bits, per_bin):
        place = self.bins(x, mask)
        # Sorted by bin, and at random in a bin: the last that is drawn is the limit.
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


@keras.saving.register_keras_serializable("tfembloss")
@dataclasses.dataclass(frozen=True)
class TripletMarginMiner(TripletMiner):
    r"""Triplets by the gap between their two distances.

    With the gap $d(a, n) - d(a, p)$: `"all"` that violate the margin, gap <= margin;
    of these the `"hard"`, gap <= 0, or the `"semihard"`, 0 < gap <= margin; or the
    `"easy"` ones that do not, gap > margin.

    Args:
        margin: a distance, >= 0.
        type_of_triplets: `"all"`, `"hard"`, `"semihard"` or `"easy"`.
        distance: see `tfembloss.distances`.

    Raises:
        ValueError: `margin` is negative, or a name is unknown.

    Example:

    >>> line = [[0.0], [1.0], [1.1], [9.0]]
    >>> miner = TripletMarginMiner(0.2, "semihard", distance="euclidean")
    >>> miner(line, [0, 0, 1, 1])
    array([[0, 1, 2], [3, 2, 1]])

    Reference:
        Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and
        Clustering", 2015, https://arxiv.org/abs/1503.03832

    Relations:
        Equal to pytorch-metric-learning's.
    """

    margin: float = 0.2
    type_of_triplets: str = "all"
    distance: str | Callable = "normalized_euclidean"

    def __post_init__(self):
        distances.get(self.distance)
        self._check("margin", lambda x: x >= 0, "at least 0")
        types = ("all", "hard", "semihard", "easy")
        self._check("type_of_triplets", lambda x: x in types, f"one of {types}")

    @property
    def gaps(self):
        """The gaps that are selected: above the first number, up to the second."""
        return {
            "all": (-math.inf, self.margin),
            "hard": (-math.inf, 0.0),
            "semihard": (0.0, self.margin),
            "easy": (self.margin, math.inf),
        }[self.type_of_triplets]

    def negatives(self, candidates, positive):
        """Negatives whose gap is in the interval."""
        x = candidates.distances
        above, up_to = self.gaps
        reach = positive.of(x)[:, None]
        return (x > reach + above) & (x <= reach + up_to)


@keras.saving.register_keras_serializable("tfembloss")
@dataclasses.dataclass(frozen=True)
class AngularMiner(TripletMiner):
    r"""Triplets in which the negative sees anchor and positive under a large angle.

    With the middle $c$ of anchor and positive, on the embeddings as they are:

    $$\arctan \frac{|a - p|}{2\,|n - c|} > angle$$

    Args:
        angle: in degrees, in (0, 90).

    Raises:
        ValueError: `angle` is out of range.

    Example:

    >>> points = [[0.0, 0.0], [2.0, 0.0], [1.0, 1.0], [1.0, 9.0]]
    >>> AngularMiner()(points, [0, 0, 1, 2])
    array([[0, 1, 2], [1, 0, 2]])

    Reference:
        Wang et al., "Deep Metric Learning with Angular Loss", 2017,
        https://arxiv.org/abs/1708.01682

    Relations:
        Equal to pytorch-metric-learning's.
    """

    angle: float = 20
    distance = "squared_euclidean"
    needs_key_distances = True

    def __post_init__(self):
        self._check("angle", lambda x: 0 < x < 90, "in degrees, in (0, 90)")

    def negatives(self, candidates, positive):
        """Negatives near enough to the middle of anchor and positive."""
        squares = candidates.distances
        base = positive.of(squares)[:, None]  # |a - p|^2
        opposite = tf.gather(candidates.key_distances, positive.column)  # |n - p|^2
        median = (squares + opposite) / 2 - base / 4  # |n - c|^2, by Apollonius
        return base > (2 * math.tan(math.radians(self.angle))) ** 2 * median


@keras.saving.register_keras_serializable("tfembloss")
@dataclasses.dataclass(frozen=True)
class DistanceWeightedMiner(TripletMiner):
    r"""For each anchor and positive a random negative, of any distance alike.

    Points on a sphere are mostly far from each other: drawn uniformly, negatives would be
    too easy. So a negative is drawn with a weight that is inverse to how many points have
    its distance, below a cutoff as at the cutoff:

    $$\log w(d) = (2 - D) \log d - \frac{D - 3}{2} \log\left(1 - \frac{d^2}{4}\right)$$

    Args:
        cutoff: distance below which weights do not grow, in (0, 2).
        nonzero_loss_cutoff: negatives from this distance on are never drawn, in (0, 2].
        seed: a non-negative integer; another seed draws other negatives.

    Raises:
        ValueError: a number is out of range.

    Example:

    >>> points = [[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]
    >>> DistanceWeightedMiner()(points, [0, 0, 1, 1, 2]).shape   # a negative for each
    (4, 3)

    Reference:
        Wu et al., "Sampling Matters in Deep Embedding Learning", 2017,
        https://arxiv.org/abs/1706.07567

    Relations:
        The weights of pytorch-metric-learning's, which draws as many triplets as the
        anchor has rows of its class, with random positives; here each positive gets one.
    """

    cutoff: float = 0.5
    nonzero_loss_cutoff: float = 1.4
    seed: int = 0
    distance = "normalized_euclidean"

    def __post_init__(self):
        self._check("cutoff", lambda x: 0 < x < 2, "in (0, 2)")
        self._check("nonzero_loss_cutoff", lambda x: 0 < x <= 2, "in (0, 2]")
        self._check("seed", _is_seed, "an integer >= 0, below 2**63")

    def probabilities(self, candidates):
        """How likely each negative is drawn `[B, N]`; rows of 0 where none can be."""
        x = tf.maximum(candidates.distances, self.cutoff)
        possible = candidates.labels.negative & (x < self.nonzero_loss_cutoff)
        # At the antipode the weight is infinite, and never drawn.
        x = tf.where(possible, x, tf.ones_like(x))
        log_weights = (2.0 - candidates.dim) * tf.math.log(x)
        log_weights -= (candidates.dim - 3) / 2 * tf.math.log(1 - x * x / 4)
        largest = masks.row_max(log_weights, possible)[:, None]
        weights = tf.where(possible, tf.exp(log_weights - largest), 0)
        total = tf.reduce_sum(weights, axis=1, keepdims=True)
        return tf.math.divide_no_nan(weights, total)

    def negatives(self, candidates, positive):
        """One negative for each row, drawn by its probability."""
        probabilities = self.probabilities(candidates)
        cumulative = tf.cumsum(probabilities, axis=1)
        labels = candidates.labels
        seed = _seed_of_batch(self.seed, labels, positive.number)
        shares = uniform(tf.shape(labels.key_ids), seed, cumulative.dtype)  # [N]
        drawn = tf.gather(shares, labels.rows)[:, None] * cumulative[:, -1:]
        # The first that exceeds the draw; a sum may grow by rounding where none is likely.
        return _first((cumulative > drawn) & (probabilities > 0))
