"""A loss on labeled rows that also compares with pairs of two other classes."""

import keras
import tensorflow as tf

from tfembloss import replicas
from tfembloss.checks import non_negative
from tfembloss.kernels import compiled, differentiable
from tfembloss.losses.labeled import triplet_sums
from tfembloss.losses.labeled.base import LabelLoss


def _classes(pairs):
    """Returns the ids of rows and keys; of views of unlabeled rows, their positions."""
    if pairs.ids is None:
        return pairs.positions, tf.range(pairs.num_keys)
    return pairs.ids, pairs.key_ids


@compiled
def _nearest_classes(distances, pairs):
    """Returns the smallest distance of two classes `[1]`, and their ids `[1, 2]`."""
    x = tf.where(pairs.negative, distances, float("inf"))  # [B, N]
    # One more row and column, since argmin needs at least one.
    x = tf.pad(x, [[0, 1], [0, 1]], constant_values=float("inf"))
    ids, key_ids = (tf.pad(of, [[0, 1]]) for of in _classes(pairs))
    place, width = tf.argmin(tf.reshape(x, [-1])), tf.shape(x, tf.int64)[1]
    both = tf.gather(ids, place // width), tf.gather(key_ids, place % width)
    return tf.reduce_min(x)[None], tf.stack(both)[None]


@differentiable
def _nearest_without(distances, pairs, classes):
    """Returns the smallest distance of two classes `[3]`: of all, without each of two."""
    infinity = tf.constant(float("inf"), distances.dtype)
    x = tf.where(pairs.negative, distances, infinity)  # [B, N]
    ids, key_ids = _classes(pairs)
    found = [tf.reduce_min(x)]
    for left_out in tf.unstack(classes, 2):
        other = (ids != left_out)[:, None] & (key_ids != left_out)[None, :]
        found.append(tf.reduce_min(tf.where(other, x, infinity)))
    return tf.stack(found)


@keras.saving.register_keras_serializable("tfembloss")
class QuadrupletLoss(LabelLoss):
    r"""Triplet loss that also sets positive pairs against pairs of two other classes.

    With an anchor's farthest positive p and nearest negative n, and the nearest two rows
    k, l of different classes, both other than the anchor's, in the whole batch:

    $$L = \mathrm{mean}_a \max(0,\; d(a,p) - d(a,n) + m_1) +
          \max(0,\; d(a,p) - d(k,l) + m_2)$$

    The mean is over the anchors with a positive and a negative; without such a pair k, l
    the second term is 0. It makes classes more compact than the first term alone.

    Call arguments: `y_pred [B, D]`; `y_true` class ids `[B]`, integers or strings.

    Args:
        margin: $m_1$, a distance, >= 0.
        other_margin: $m_2$, a distance, >= 0; it should be smaller.
        distance: see `tfembloss.distances`.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument or the ids are invalid.

    Example:

    >>> import tensorflow as tf
    >>> embeddings = tf.constant([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    >>> loss = QuadrupletLoss(margin=0.2, other_margin=0.1)
    >>> round(float(loss(tf.constant([0, 0, 1, 2]), embeddings)), 4)
    0.7368

    Reference:
        Chen et al., "Beyond Triplet Loss: A Deep Quadruplet Network for Person
        Re-Identification", 2017, https://arxiv.org/abs/1704.01719

    Relations:
        The paper sums over all quadruplets and mines hard ones; these are the hardest of
        each anchor. The first term is `BatchHardTripletLoss`.
    """

    takes_memory = False  # among whose rows there are pairs, too

    def __init__(
        self,
        margin=1.0,
        other_margin=0.5,
        distance="normalized_euclidean",
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(distance, None, reduction, name, dtype)
        self.margin = non_negative("margin", margin)
        self.other_margin = non_negative("other_margin", other_margin)

    def sums_and_counts(self, batch):
        """Returns both terms of each anchor, and whether it has them."""
        found = self.candidates(batch)
        hardest, valid = triplet_sums.hardest(found)
        gap = triplet_sums.weighted_sum(found.distances, hardest)  # [B]
        far = triplet_sums.weighted_sum(found.distances, tf.nn.relu(hardest))
        of_others = self._nearest_of_others(found.distances, batch.pairs)
        values = tf.nn.relu(gap + self.margin)
        values += tf.nn.relu(far - of_others + self.other_margin)
        valid = tf.stop_gradient(valid)
        return tf.where(valid > 0, values, 0), valid

    def _nearest_of_others(self, x, pairs):
        """Returns the distance of the nearest rows of two classes but the anchor's `[B]`.

        The nearest of all serve every class but their own two.
        """
        of_replicas = _nearest_classes(tf.stop_gradient(x), pairs)
        nearest, ids = map(replicas.gather, of_replicas)  # [R], [R, 2]
        # By `ids[...]`, XLA would compile for each value of the index.
        classes = tf.gather(ids, tf.argmin(nearest))  # [2]
        here = _nearest_without(x, pairs, classes)  # [3]
        of_all, *without = tf.unstack(tf.reduce_min(replicas.gather(here[None]), axis=0))
        for left_out, other in zip(tf.unstack(classes), without, strict=True):
            of_all = tf.where(_classes(pairs)[0] == left_out, other, of_all)
        return of_all
