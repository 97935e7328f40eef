"""Miners that select triplets: the negatives for an anchor and a positive."""

import dataclasses
import math
from collections.abc import Callable

import keras
import tensorflow as tf

from tfembloss import distances, masks
from tfembloss.checks import integer, non_negative, number, one_of
from tfembloss.kernels import uniform
from tfembloss.miners.base import TripletMiner, nearest, seed_of_batch


def _first(mask):
    """Returns the first entry of each row under the mask, as a mask `[B, N]`."""
    return nearest(tf.zeros_like(mask, tf.float32), mask)


@keras.saving.register_keras_serializable("tfembloss")
@dataclasses.dataclass(frozen=True)
class TripletMarginMiner(TripletMiner):
    r"""Selects triplets by the gap between their two distances.

    With the gap $d(a, n) - d(a, p)$, these are `"all"` that violate the margin,
    gap <= margin; of these only the `"hard"`, gap <= 0, or the `"semihard"`,
    0 < gap <= margin; or the `"easy"` ones, which do not violate it, gap > margin.

    Args:
        margin: a distance, >= 0.
        type_of_triplets: `"all"`, `"hard"`, `"semihard"` or `"easy"`.
        distance: see `tfembloss.distances`.

    Raises:
        ValueError: if an argument is invalid.

    Example:

    >>> line = [[0.0], [1.0], [1.1], [9.0]]
    >>> miner = TripletMarginMiner(0.2, "semihard", distance="euclidean")
    >>> miner(line, [0, 0, 1, 1])
    array([[0, 1, 2], [3, 2, 1]])

    Reference:
        Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and
        Clustering", 2015, https://arxiv.org/abs/1503.03832

    Relations:
        Equal to pytorch-metric-learning's miner of the same name.
    """

    margin: float = 0.2
    type_of_triplets: str = "all"
    distance: str | Callable = "normalized_euclidean"

    def __post_init__(self):
        distances.get(self.distance)
        non_negative("margin", self.margin)
        types = ("all", "hard", "semihard", "easy")
        one_of("type_of_triplets", self.type_of_triplets, types)

    @property
    def gaps(self):
        """The selected gaps: above the first number, up to the second."""
        return {
            "all": (-math.inf, self.margin),
            "hard": (-math.inf, 0.0),
            "semihard": (0.0, self.margin),
            "easy": (self.margin, math.inf),
        }[self.type_of_triplets]

    def negatives(self, candidates, positive):
        """Returns negatives whose gap is in the interval."""
        x = candidates.distances
        above, up_to = self.gaps
        reach = positive.of(x)[:, None]
        return (x > reach + above) & (x <= reach + up_to)


@keras.saving.register_keras_serializable("tfembloss")
@dataclasses.dataclass(frozen=True)
class AngularMiner(TripletMiner):
    r"""Selects triplets with a large angle at the negative.

    With the midpoint $c$ of anchor and positive, on embeddings without normalization:

    $$\arctan \frac{|a - p|}{2\,|n - c|} > angle$$

    Args:
        angle: an angle in degrees, in (0, 90).

    Raises:
        ValueError: if `angle` is out of range.

    Example:

    >>> points = [[0.0, 0.0], [2.0, 0.0], [1.0, 1.0], [1.0, 9.0]]
    >>> AngularMiner()(points, [0, 0, 1, 2])
    array([[0, 1, 2], [1, 0, 2]])

    Reference:
        Wang et al., "Deep Metric Learning with Angular Loss", 2017,
        https://arxiv.org/abs/1708.01682

    Relations:
        Equal to pytorch-metric-learning's miner of the same name.
    """

    angle: float = 20
    distance = "squared_euclidean"
    needs_key_distances = True

    def __post_init__(self):
        number("angle", self.angle, "in degrees, in (0, 90)", lambda x: 0 < x < 90)

    def negatives(self, candidates, positive):
        """Returns negatives near enough to the midpoint of anchor and positive."""
        squares = candidates.distances
        base = positive.of(squares)[:, None]  # |a - p|^2
        opposite = tf.gather(candidates.key_distances, positive.column)  # |n - p|^2
        median = (squares + opposite) / 2 - base / 4  # |n - c|^2, by Apollonius
        return base > (2 * math.tan(math.radians(self.angle))) ** 2 * median


@keras.saving.register_keras_serializable("tfembloss")
@dataclasses.dataclass(frozen=True)
class DistanceWeightedMiner(TripletMiner):
    r"""Draws a negative for each positive pair, about uniformly over distances.

    Points on a sphere are mostly far from each other, so that uniformly drawn negatives
    would be too easy. So a negative is drawn with a weight inverse to the density of points
    at its distance; below a cutoff, the weight is that at the cutoff:

    $$\log w(d) = (2 - D) \log d - \frac{D - 3}{2} \log\left(1 - \frac{d^2}{4}\right)$$

    Args:
        cutoff: distance below which the weight is constant, in (0, 2).
        nonzero_loss_cutoff: negatives from this distance on are never drawn, in (0, 2].
        seed: a non-negative integer; another seed draws other negatives.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> points = [[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]
    >>> DistanceWeightedMiner()(points, [0, 0, 1, 1, 2]).shape   # one per positive pair
    (4, 3)

    Reference:
        Wu et al., "Sampling Matters in Deep Embedding Learning", 2017,
        https://arxiv.org/abs/1706.07567

    Relations:
        The weights are those of pytorch-metric-learning's miner of the same name. That
        draws as many triplets as the anchor's class has rows, with random positives; here,
        each positive gets one.
    """

    cutoff: float = 0.5
    nonzero_loss_cutoff: float = 1.4
    seed: int = 0
    distance = "normalized_euclidean"

    def __post_init__(self):
        number("cutoff", self.cutoff, "in (0, 2)", lambda x: 0 < x < 2)
        up_to = self.nonzero_loss_cutoff
        number("nonzero_loss_cutoff", up_to, "in (0, 2]", lambda x: 0 < x <= 2)
        integer("seed", self.seed, 0, 2**63 - 1)

    def probabilities(self, candidates):
        """Returns the probability of each negative `[B, N]`, all 0 if none is possible."""
        x = tf.maximum(candidates.distances, self.cutoff)
        possible = candidates.labels.negative & (x < self.nonzero_loss_cutoff)
        # At the antipode the weight would be infinite, but it is never drawn.
        x = tf.where(possible, x, tf.ones_like(x))
        log_weights = (2.0 - candidates.dim) * tf.math.log(x)
        log_weights -= (candidates.dim - 3) / 2 * tf.math.log(1 - x * x / 4)
        largest = masks.row_max(log_weights, possible)[:, None]
        weights = tf.where(possible, tf.exp(log_weights - largest), 0)
        total = tf.reduce_sum(weights, axis=1, keepdims=True)
        return tf.math.divide_no_nan(weights, total)

    def negatives(self, candidates, positive):
        """Returns one negative for each row, drawn by its probability."""
        probabilities = self.probabilities(candidates)
        cumulative = tf.cumsum(probabilities, axis=1)
        labels = candidates.labels
        seed = seed_of_batch(self.seed, labels, positive.number)
        shares = uniform(tf.shape(labels.key_ids)[:1], seed, cumulative.dtype)  # [N]
        drawn = tf.gather(shares, labels.positions)[:, None] * cumulative[:, -1:]
        # The first above the draw; rounding may increase the sum where probability is 0.
        return _first((cumulative > drawn) & (probabilities > 0))
