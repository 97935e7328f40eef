"""What the losses on labeled rows have in common."""

import inspect

import tensorflow as tf

from tfembloss import distances, masks, replicas
from tfembloss.checks import one_of
from tfembloss.kernels import compiled, differentiable
from tfembloss.losses import several_labels
from tfembloss.losses.base import Batch, InBatchLoss, keys_and_pairs, nan_where_not_finite
from tfembloss.losses.first_batch import ids_warning, labels_warning
from tfembloss.losses.inputs import check_ids, check_rows
from tfembloss.miners import base as mining


class LabelLoss(InBatchLoss):
    """Base of the losses on embeddings `[B, D]` of labeled rows.

    `y_true` are class ids `[B]`, integers or strings. Rows with equal ids are each other's
    positives, all others are negatives, on all replicas. Strings are compared by a 63-bit
    hash; in a stock Keras model with `jit_compile=True` ids must be integers.

    A subclass defines `sums_and_counts(batch)`: sums `[B]` and counts `[B]` of what each
    anchor contributes. The loss is the quotient of their totals over all replicas, and each
    anchor's value is its part of that, so that the mean of the values is the loss. A value
    that is not finite in any embedding makes the loss NaN.

    `NTXentLoss`, `SupConLoss` and `DecoupledContrastiveLoss` are computed in tiles; all
    others hold a matrix `[B, N]` for the B rows of this replica and the N rows of all
    replicas, and `AngularLoss`, and any with a miner that needs it, also one `[N, N]`.

    Args:
        distance: see `tfembloss.distances`.
        miner: a miner of `tfembloss.miners` for the subclasses that take one.
        tile_size: see `InBatchLoss`, for the subclasses that take one.
        multi_label: for the subclasses that take rows of several labels: `"multi_hot"` if
            `y_true` is `[B, C]`, 1 for each label that a row has and 0 elsewhere; `"ids"`
            if it is `[B, L]`, the ids of each row's labels, integers padded with -1 or
            strings padded with `""`, or a `tf.RaggedTensor` of them; None for one id of
            each row. Rows that share a label are positives, whose pair counts by the labels
            that they share of all labels that they have (the Jaccard index); all others are
            negatives, also of a row without labels. With `"ids"` and a memory, L must be
            known and the same in each step.
        reduction, name, dtype: see `EmbeddingLoss`.

    Raises:
        ValueError: if an argument, the ids or the embeddings are invalid.
    """

    tiled = False

    def __init__(
        self,
        distance,
        miner=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
        tile_size=None,
        multi_label=None,
    ):
        super().__init__(False, tile_size, reduction, name, dtype)
        self.distance = distance
        self.multi_label = one_of("multi_label", multi_label, several_labels.FORMS)
        self.miner = None if miner is None else mining.known(miner)
        distances.get(distance)
        if not isinstance(miner, mining.PairMiner | mining.TripletMiner | None):
            raise ValueError(
                "`miner` must be None or an instance of a miner of tfembloss.miners, as in "
                f"miner=BatchHardMiner(). Received: miner={miner!r}"
            )
        if tile_size is not None and self.mines_all_pairs:
            raise ValueError(
                f"{type(miner).__name__} looks at all pairs of the batch at once, which "
                "is not possible in tiles. Expected tile_size=None with it. "
                f"Received: tile_size={tile_size!r}"
            )

    @property
    def takes_memory(self):
        """Whether the loss takes a memory: not with a miner of distances between keys."""
        return not self.mines_all_pairs

    @property
    def mines_all_pairs(self):
        """Whether there is a miner that needs the distances between all keys."""
        return self.miner is not None and self.miner.needs_key_distances

    def batch(self, y_true, y_pred, memory):
        """Returns the rows `y_pred [B, D]` with ids `y_true [B]` as a `Batch`."""
        rows = check_rows(y_pred)  # [B, D]
        ids = self._ids(y_true, rows)  # [B], or labels [B, L]
        if self.multi_label is not None:
            ids, memory = several_labels.aligned(self.multi_label, ids, memory)
        keys, pairs, num_rows, first = keys_and_pairs(rows, ids, memory)  # [N, D]
        if self.multi_label is None:
            pairs = masks.LabelPairs(**pairs)
        else:
            pairs = several_labels.pairs_of(self.multi_label, **pairs)
        return Batch(rows, keys, pairs, num_rows, first)

    def _ids(self, y_true, rows):
        if self.multi_label is not None:
            return several_labels.check_labels(self.multi_label, y_true, rows)
        advice = "Give one id for each row."
        if "multi_label" in inspect.signature(type(self)).parameters:
            advice += (
                " For several labels of a row, make the loss with "
                'multi_label="multi_hot" or multi_label="ids".'
            )
        return check_ids(y_true, rows, advice)

    def values(self, batch):
        """Returns each anchor's part of the loss `[B]`."""
        values = parts_of_mean(*self.sums_and_counts(batch), batch.num_rows)
        return values + self._nan_where_miner_overflows(batch.keys)

    def sums_and_counts(self, batch):
        """Returns what each anchor contributes `[B]`, and the number of its terms `[B]`."""
        raise ValueError(
            f"{type(self).__name__} has no formula. Expected a method "
            "`sums_and_counts(batch)`; of a PairLoss, a static method `formula`."
        )

    def _nan_where_miner_overflows(self, keys):
        """0, or NaN where a miner's own distances may overflow, which only select."""
        if self.miner is None or not isinstance(self.miner.distance, str):
            return 0
        # No distance between keys exceeds that of the longest key to its opposite.
        of_opposites = distances.get(self.miner.distance).rowwise(keys, -keys)
        return nan_where_not_finite(of_opposites)

    def first_batch_warning(self, y_true, shape):
        """Returns a warning of a batch without positives or negatives, or None."""
        if self.multi_label is None:
            return ids_warning(y_true, positives=True)
        wrong_form = several_labels.form_warning(self.multi_label, y_true)
        return wrong_form or labels_warning(
            several_labels.as_multi_hot(self.multi_label, y_true)
        )

    def candidates(self, batch, x=None, key_distances=False):
        """Returns `miners.base.Candidates`: what a miner selects from, by this distance.

        Args:
            batch: `Batch`.
            x: the distances `[B, N]`, if they are known.
            key_distances: whether to add the distances between all keys.
        """
        if self.miner is not None and self.miner.distance == self.distance:
            key_distances = key_distances or self.miner.needs_key_distances
        rows, keys, pairs = batch.anchors, batch.keys, batch.pairs
        return mining.candidates(self.distance, rows, keys, pairs, key_distances, x)

    def miner_candidates(self, batch, candidates):
        """Returns the same candidates by the miner's distance."""
        if self.miner is None or self.miner.distance == self.distance:
            return candidates
        rows, keys, pairs = batch.anchors, batch.keys, batch.pairs
        return mining.candidates(
            self.miner.distance, rows, keys, pairs, self.miner.needs_key_distances
        )


class PairLoss(LabelLoss):
    """Base of the losses whose formula is one kernel on distances and pair weights.

    A subclass defines a static method, see `InBatchLoss`:

        formula(distances, positive, negative, *, temperature) -> sums [B], counts [B]

    of the distances `[B, N]` and the weights `[B, N]` of the positive and the negative
    pairs, 0 where a pair does not count. A miner changes only the weights. Where a formula
    needs a similarity, it is the negative distance.
    """

    # Whether a pair counts once for each mined triplet in which it occurs; and whether all
    # pairs do so, also those of no miner or of a miner of pairs.
    counts_repeats, counts_triplets = False, False
    num_parts = 2  # that the formula returns

    @staticmethod
    def _kernel_of(formula):
        def of_pairs(x, pairs, **options):
            dtype = tf.nest.flatten(x)[0].dtype
            positive = tf.cast(pairs.positive, dtype)  # [B, N]
            negative = tf.cast(pairs.negative, dtype)  # [B, N]
            return tf.stack(formula(x, positive, negative, **options), axis=1)

        return differentiable(of_pairs)

    def sums_and_counts(self, batch):
        """Returns the formula's sums `[B]` and counts `[B]`."""
        return tf.unstack(self.by_tiles(batch), self.num_parts, axis=1)

    def selected_pairs(self, batch, x):
        """Returns `masks.LabelPairs` for all pairs, or `masks.Pairs` of weights."""
        pairs = self._mined_pairs(batch, x)
        if self.multi_label is None:
            return pairs
        weights = several_labels.weighted(batch.pairs, x)
        if pairs is batch.pairs:
            return weights
        return pairs._replace(positive=pairs.positive * weights.positive)

    def _mined_pairs(self, batch, x):
        if self.miner is None and not self.counts_triplets:
            return batch.pairs
        candidates = self.miner_candidates(batch, self.candidates(batch, x))
        constant = mining.without_gradient(candidates)
        counts = self.counts_repeats, self.counts_triplets
        pairs = _mined_pairs(self.miner, constant, *counts)
        return tf.nest.map_structure(tf.stop_gradient, pairs)


class PairMeansLoss(PairLoss):
    """Base of the losses that add a mean over positive and one over negative pairs.

    A subclass defines a static method, see `PairLoss`:

        formula(distances, positive, negative, *, margin)
            -> sums [B], counts [B] of the positive pairs, and of the negative ones
    """

    num_parts = 4

    def values(self, batch):
        """Returns each anchor's part of the loss `[B]`."""
        sums, counts, of_negatives, num_negatives = self.sums_and_counts(batch)
        values = parts_of_mean(sums, counts, batch.num_rows)
        values += parts_of_mean(of_negatives, num_negatives, batch.num_rows)
        return values + self._nan_where_miner_overflows(batch.keys)


def parts_of_mean(sums, counts, num_rows):
    """Returns each anchor's part `[B]` of a mean over the terms of all replicas' anchors.

    Args:
        sums: of each anchor's terms `[B]`.
        counts: number of each anchor's terms `[B]`.
        num_rows: of all replicas, over which Keras averages the parts.
    """
    return sums * num_rows / tf.maximum(replicas.total(tf.reduce_sum(counts)), 1)


@compiled
def _mined_pairs(miner, candidates, counts_repeats, counts_triplets):
    pairs = mining.pairs_of(miner, candidates, from_triplets=counts_triplets)
    if counts_repeats or counts_triplets:
        return pairs
    return masks.Pairs(*map(tf.sign, pairs))
