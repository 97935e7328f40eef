"""Sums over all triplets of a batch, without building the triplets.

A triplet is an anchor, a positive and a negative; its violation is
`distance(a, p) + margin - distance(a, n)`. A batch of B rows in few classes has about B^3
of them, but none of the functions here holds more than a few matrices `[B, N]` at a time.

`hinge` sums the positive parts of the violations. That needs only two counts: with c(p)
the number of negatives nearer than `d(a, p) + margin`, and c(n) the number of positives
p with `d(a, p) + margin` above d(a, n),

    sum over (p, n) of max(0, violation)
        = sum_p c(p) (d(a, p) + margin) - sum_n c(n) d(a, n)

and as counts have no gradient, these weights are also the gradient. Where the rows have
few positives, as in balanced batches, triplets are counted one positive at a time, each in
a pass over `[B, N]`; where they have many, by sorting each row.

`violations` sums any function of the violations, also of swapped triplets, one positive at
a time.

The sums that are counted are accurate to the precision of the distances, not of the
violations, which may be much smaller.
"""

import math

import tensorflow as tf

from tfembloss import masks
from tfembloss.kernels import compiled, differentiable
from tfembloss.miners import BatchHardMiner, TripletMarginMiner
from tfembloss.miners.base import (
    most_positives,
    over_positives,
    pairs_of,
    triplets_of,
    without_gradient,
)

# Up to this many positives in a row, passes over [B, N] are faster than sorting it.
_FEW = 32


def hinge(candidates, margin, miner, miners_own):
    """Returns the sum of each anchor's positive violations, and their number.

    Args:
        candidates: `miners.base.Candidates` in the loss's distance.
        margin: a distance.
        miner: a miner, or None for all triplets.
        miners_own: the same candidates in the miner's distance; `candidates` itself if
            that is the loss's distance, or if there is no miner.

    Returns:
        sums `[B]`, with gradient in the distances; counts `[B]` of the positive ones.
    """
    constant = without_gradient(candidates)

    def by_positive():
        others = constant if miners_own is candidates else without_gradient(miners_own)
        return _count_by_positive(constant, others, margin, miner)

    # Not for a subclass, which may select by something other than the gap.
    by_gap = type(miner) is TripletMarginMiner and miners_own is candidates
    if miner is None or by_gap:
        weights, counts = tf.cond(
            most_positives(candidates.labels) <= _FEW,
            by_positive,
            lambda: _count_by_sorting(constant, margin, miner),
        )
    else:
        weights, counts = by_positive()
    counts = tf.stop_gradient(counts)
    return weighted_sum(candidates.distances, weights) + margin * counts, counts


def numbers(miner, candidates):
    """Returns the number of each anchor's triplets `[B]`, violated or not.

    Args:
        miner: a miner, or None for all triplets.
        candidates: `miners.base.Candidates` in the miner's distance.
    """
    return tf.stop_gradient(_numbers(miner, without_gradient(candidates)))


@compiled
def _numbers(miner, candidates):
    pairs = pairs_of(miner, candidates, from_triplets=True)
    return tf.reduce_sum(pairs.positive, axis=1)


def semihard(candidates, margin):
    """Returns violations of each positive pair with its semi-hard negative, and counts.

    That is the nearest negative that is farther than the positive; if there is none, the
    farthest.

    Returns:
        sums `[B]` of the positive violations, with gradient in the distances; counts
        `[B]` of all positives of the anchors that have a negative.
    """
    constant = without_gradient(candidates)
    weights, violated, counts = tf.cond(
        most_positives(candidates.labels) <= _FEW,
        lambda: _semihard_by_positive(constant, margin),
        lambda: _semihard_by_sorting(constant, margin),
    )
    violated, counts = tf.stop_gradient(violated), tf.stop_gradient(counts)
    return weighted_sum(candidates.distances, weights) + margin * violated, counts


@compiled
def hardest(candidates):
    """Returns each anchor's farthest positive and nearest negative; of ties, the first.

    Returns:
        weights `[B, N]`: 1 at the positive, -1 at the negative, 0 in rows that lack one;
        whether a row has both, 1 or 0 `[B]`, or NaN where any distance is not finite.
    """
    pairs = BatchHardMiner().select(candidates)
    signed = tf.where(pairs.positive, 1, tf.where(pairs.negative, -1, 0))
    x = candidates.distances
    valid = tf.cast(masks.row_any(pairs.positive), x.dtype)
    return tf.cast(signed, x.dtype), valid + 0 * tf.reduce_sum(0 * x, axis=1)


def weighted_sum(distances, weights):
    """Returns weighted row sums `[B]` of the distances; the weights are constant."""
    # Stopped here: an outer tape would go through the kernel into the weights' loop.
    return _weighted_sum(distances, tf.stop_gradient(weights))


@differentiable
def _weighted_sum(distances, weights):
    return tf.reduce_sum(weights * distances, axis=1)


def _zeros_of_rows(labels, distances):
    # Not distances[:, 0], since an empty batch has no such column.
    return tf.zeros_like(labels.positions, distances.dtype)  # [B]


@compiled
def _count_by_positive(candidates, miners_own, margin, miner):
    """Weights `[B, N]`: c(p) at the positives, -c(n) at the negatives; their sums `[B]`."""
    distances = candidates.distances
    num_keys = tf.shape(distances)[1]
    triplets = triplets_of(miner, miners_own)

    def step(positive, state):
        weights, counts = state
        reach = positive.of(distances)[:, None] + margin
        violated = positive.found[:, None] & (distances < reach)
        hits = tf.where(violated, triplets(positive), 0)  # [B, N]
        count = tf.reduce_sum(hits, axis=1)  # [B]
        at_positive = positive.mask(num_keys)
        return tf.where(at_positive, count[:, None], weights - hits), counts + count

    start = tf.zeros_like(distances), _zeros_of_rows(candidates.labels, distances)
    return over_positives(candidates.labels, step, start)


def _count_by_sorting(candidates, margin, miner):
    """The same, of all triplets or those of a TripletMarginMiner."""
    if miner is None:
        return _count_nearer(candidates, margin, False)
    above, up_to = miner.gaps
    if above >= margin:  # none of them is violated
        x = candidates.distances
        return tf.zeros_like(x), _zeros_of_rows(candidates.labels, x)
    weights, counts = _count_nearer(candidates, min(margin, up_to), up_to < margin)
    if above > -math.inf:
        nearer = _count_nearer(candidates, above, True)
        weights, counts = weights - nearer[0], counts - nearer[1]
    return weights, counts


def _count_nearer(candidates, margin, or_equal):
    """Counts of the triplets with d(a, n) < d(a, p) + margin, or <= with `or_equal`."""
    distances, labels = candidates.distances, candidates.labels
    reach, keys, infinity = _reaches(distances, labels, margin)
    in_order = tf.sort(reach, axis=1, direction="DESCENDING")  # [B, N]
    negative = labels.negative
    # A negative's rank is c(n): how many reaches are above it.
    rank = _rank(in_order, keys, negative if or_equal else tf.zeros_like(negative))
    at_negative = tf.where(negative, rank, 0)
    num_keys = tf.shape(distances)[1]
    of_rank = _histogram(at_negative, tf.constant([], tf.int32), num_keys + 1)
    # The reach in place k is above the negatives of rank k + 1 and more.
    below = num_keys - tf.cumsum(of_rank, axis=1)  # [B, N + 1]
    return _signed(labels, tf.gather(below, rank, batch_dims=1), at_negative, infinity)


def _histogram(x, weights, size):
    # Not tf.math.bincount: its size would depend on the data, which XLA refuses.
    counts = tf.raw_ops.DenseBincount(input=x, size=size, weights=weights)
    shape = tf.stack([tf.shape(x)[0], size])
    # XLA returns one row where there are none.
    return tf.reshape(tf.reshape(counts, [-1])[: tf.reduce_prod(shape)], shape)


@compiled
def _reaches(distances, labels, margin):
    infinity = tf.constant(math.inf, distances.dtype)
    reach = tf.where(labels.positive, distances + margin, -infinity)
    return reach, tf.where(labels.positive, reach, distances), infinity


@compiled
def _signed(labels, at_positive, at_negative, infinity):
    counts = tf.cast(at_negative, infinity.dtype)
    at_positive = tf.cast(at_positive, infinity.dtype)
    weights = tf.where(labels.positive, at_positive, -counts)
    return weights, tf.reduce_sum(counts, axis=1)


@compiled
def _rank(in_order, keys, or_equal):
    """How many of a row's descending values exceed each key (or equal it): `[B, N]`.

    By bisection of the values that are finite. TensorFlow's searchsorted would take
    `[B, N, N]` under XLA.
    """
    size = tf.shape(in_order)[1]
    finite = tf.reduce_sum(tf.cast(in_order > -math.inf, tf.int32), axis=1)  # [B]

    def body(step, low, high):
        middle = (low + high) // 2
        value = tf.gather(in_order, tf.minimum(middle, size - 1), batch_dims=1)
        exceeds = (value > keys) | (or_equal & (value == keys))
        unsure = low < high
        return (
            step // 2,
            tf.where(unsure & exceeds, middle + 1, low),
            tf.where(unsure & ~exceeds, middle, high),
        )

    low = tf.zeros_like(keys, tf.int32)
    start = tf.reduce_max(finite), low, low + finite[:, None]
    return tf.while_loop(lambda step, *_: step > 0, body, start)[1]


@compiled
def _semihard_by_positive(candidates, margin):
    """Weights `[B, N]`, the number of violations `[B]` and of positives `[B]`."""
    distances, labels = candidates.distances, candidates.labels
    negative = labels.negative
    num_keys = tf.shape(distances)[1]
    has_negative = masks.row_any(negative)
    farthest = masks.row_max(distances, negative)  # [B]

    def step(positive, state):
        weights, violated, counts = state
        reach = positive.of(distances)  # [B]
        nearest = masks.row_min(distances, negative & (distances > reach[:, None]))
        chosen = tf.where(tf.math.is_inf(nearest), farthest, nearest)  # [B]
        valid = positive.found & has_negative
        violates = tf.cast(valid & (chosen < reach + margin), distances.dtype)
        same = tf.where(negative & (distances == chosen[:, None]), columns, num_keys)
        at_chosen = columns == tf.reduce_min(same, axis=1)[:, None]
        weights += tf.where(positive.mask(num_keys), violates[:, None], 0)
        weights -= tf.where(at_chosen, violates[:, None], 0)
        return weights, violated + violates, counts + tf.cast(valid, distances.dtype)

    columns = tf.range(num_keys)[None, :]
    zeros = _zeros_of_rows(labels, distances)
    return over_positives(labels, step, (tf.zeros_like(distances), zeros, zeros))


def _semihard_by_sorting(candidates, margin):
    distances, labels = candidates.distances, candidates.labels
    reach, _, infinity = _reaches(distances, labels, 0.0)
    negatives = tf.where(labels.negative, distances, -infinity)
    in_order, columns = tf.math.top_k(negatives, tf.shape(distances)[1])
    farther = _rank(in_order, reach, tf.zeros_like(labels.negative))
    place = tf.maximum(farther - 1, 0)  # the last that is farther, or else the farthest
    chosen = tf.gather(in_order, place, batch_dims=1)  # [B, N]
    valid = labels.positive & masks.row_any(labels.negative)[:, None]
    violates = tf.cast(valid & (chosen < reach + margin), distances.dtype)
    num_keys = tf.shape(distances)[1]
    taken = _histogram(tf.gather(columns, place, batch_dims=1), violates, num_keys)
    counts = tf.reduce_sum(tf.cast(valid, distances.dtype), axis=1)
    return violates - taken, tf.reduce_sum(violates, axis=1), counts


def violations(candidates, margin, smooth, swap, miner, miners_own):
    """Sum over each anchor's triplets of a function of the violation, and their number.

    Args:
        candidates: `miners.base.Candidates` in the loss's distance; with key_distances if
            `swap`.
        margin: a distance.
        smooth: softplus of the violation, of all triplets, instead of its positive part.
        swap: violations by the nearer of d(a, n) and d(p, n).
        miner: a miner, or None for all triplets.
        miners_own: as in `hinge`.

    Returns:
        sums `[B]`, with gradient in the distances; counts `[B]` of the triplets that are
        not 0.
    """
    x = (
        (candidates.distances, candidates.key_distances)
        if swap
        else (candidates.distances,)
    )
    constant = without_gradient(miners_own)
    return _differentiable_sum(x, candidates.labels, constant, margin, smooth, miner)


def _violations(x, positive, margin):
    """Violations `[B, N]` with one positive of each row; where they are by d(a, n)."""
    distances, *key_distances = x
    reach = positive.of(distances)[:, None] + margin
    if not key_distances:
        return reach - distances, tf.ones_like(distances, tf.bool)
    swapped = tf.gather(key_distances[0], positive.column)  # d(p, n), [B, N]
    return reach - tf.minimum(distances, swapped), distances <= swapped


def _forward(x, labels, miners_own, margin, smooth, miner):
    triplets = triplets_of(miner, miners_own)

    def step(positive, state):
        violation, _ = _violations(x, positive, margin)
        weights = tf.where(positive.found[:, None], triplets(positive), 0)
        value = tf.nn.softplus(violation) if smooth else tf.nn.relu(violation)
        counted = weights if smooth else tf.where(violation > 0, weights, 0)
        sums = tf.reduce_sum(tf.where(weights > 0, weights * value, 0), axis=1)
        return state[0] + sums, state[1] + tf.reduce_sum(counted, axis=1)

    zeros = _zeros_of_rows(labels, x[0])
    return over_positives(labels, step, (zeros, zeros))


def _backward(upstreams, result, x, labels, miners_own, margin, smooth, miner):
    upstream, _ = upstreams  # of the sums, and of the counts
    triplets = triplets_of(miner, miners_own)
    num_keys = tf.shape(x[0])[1]

    def step(positive, slopes):
        violation, by_anchor = _violations(x, positive, margin)
        weights = tf.where(positive.found[:, None], triplets(positive), 0)
        slope = tf.nn.sigmoid(violation) if smooth else tf.cast(violation > 0, x[0].dtype)
        slope *= weights * upstream[:, None]  # [B, N]
        at_positive = tf.reduce_sum(slope, axis=1, keepdims=True)
        by_distance = slopes[0] - tf.where(by_anchor, slope, 0)
        by_distance += tf.where(positive.mask(num_keys), at_positive, 0)
        if len(x) == 1:
            return (by_distance,)
        swapped = tf.where(~by_anchor, slope, 0)
        return by_distance, tf.tensor_scatter_nd_sub(
            slopes[1], positive.column[:, None], swapped
        )

    return over_positives(labels, step, tuple(map(tf.zeros_like, x)))


_differentiable_sum = differentiable(_forward, _backward)
