"""What every loss here has in common."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from tfembloss import distances, masks, replicas, tiling
from tfembloss.checks import integer
from tfembloss.config import Configurable
from tfembloss.kernels import differentiable
from tfembloss.losses import several_labels
from tfembloss.losses.first_batch import check_first_batch, in_batch_warning
from tfembloss.losses.inputs import (
    as_predictions,
    as_tensor,
    as_weights,
    check_columns,
    check_ids,
    check_ids_or_columns,
    no_targets,
)


class EmbeddingLoss(Configurable, keras.losses.Loss):
    """Base of the losses: one value per anchor, exact on any number of replicas.

    A subclass defines `call(y_true, y_pred)`. `y_pred` are this replica's embeddings in
    `dtype`, `[B, D]` or columns `[B, n, D]`. `y_true` keeps the caller's dtype, so that
    ids stay exact (Keras would cast them to float32). `call` returns the values `[B]` of
    this replica's anchors, computed against the gathered rows of all replicas.
    `sample_weight [B]` weights anchors.

    Args:
        reduction: `"sum_over_batch_size"` or `"mean"` (the mean over the anchors of all
            replicas), `"mean_with_sample_weight"` (divided by the sum of the weights
            instead), `"sum"`, or `None` for no reduction.
        name: name of the loss; by default that of the class, in snake case.
        dtype: `"float32"` (default) or `"float64"`: the precision of the loss, whatever
            the precision of the embeddings.

    Raises:
        ValueError: if `dtype` is neither of these.
    """

    targets_are_embeddings = False  # of the same dimensions as y_pred
    targets_are_ids = False  # or there are none
    takes_scores = False  # whether y_pred are scores [B, C] or [B, L], not embeddings
    takes_memory = False  # whether `call` has another argument, `memory`
    takes_named_targets = False  # whether y_true may be a dict
    counts_dimensions = True  # whether it may depend on how many dimensions are 0
    needs_predictor = False  # whether only a predictor keeps embeddings apart
    takes_layers = False  # whether y_pred may be those of all layers of an encoder
    multi_label = None  # or the form of rows of several labels, see `LabelLoss`
    scaled_by = None  # "scale" or "temperature", if the loss has one of similarities

    # Makes a kernel of the static method `formula` that subclasses of some bases define.
    _kernel_of, _kernel, _option_names = None, None, ()

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        formula = vars(cls).get("formula")
        if cls._kernel_of is None or formula is None:
            return
        if not isinstance(formula, staticmethod):
            raise ValueError(
                f"Expected {cls.__name__}.formula as a static method of distances and "
                "masks. Received one that takes `self`. Write @staticmethod above it, and "
                "the loss's attributes that it uses as keyword-only arguments."
            )
        parameters = inspect.signature(cls.formula).parameters.values()
        cls._option_names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        cls._kernel = staticmethod(cls._kernel_of(cls.formula))

    @property
    def options(self):
        """The formula's keyword arguments: this loss's attributes of the same names."""
        name = type(self).__name__
        if self._kernel is None:
            raise ValueError(
                f"{name} has no formula. Expected a static method `formula`, as its base "
                "class describes it."
            )
        missing = [option for option in self._option_names if not hasattr(self, option)]
        if missing:
            raise ValueError(
                f"{name}.formula has a keyword argument `{missing[0]}`: expected an "
                f"attribute of the loss with that name. Set self.{missing[0]} in the "
                "constructor."
            )
        return {option: getattr(self, option) for option in self._option_names}

    def __init__(self, reduction="sum_over_batch_size", name=None, dtype=None):
        if dtype is None:
            dtype = "float64" if keras.config.floatx() == "float64" else "float32"
        if dtype not in ("float32", "float64"):
            raise ValueError(
                "A loss computes in 'float32' or 'float64', also on embeddings of lower "
                f"precision. Received: dtype={dtype!r}"
            )
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self._first_batch_was_checked = False
        self._reduce = _Reduce(reduction=reduction, name=self.name, dtype=dtype)

    def __call__(self, y_true, y_pred, sample_weight=None, memory=None):
        """Computes the reduced loss.

        Args:
            y_true: the targets, or None.
            y_pred: the embeddings.
            sample_weight: weights of the anchors `[B]`, or None.
            memory: the contents of a `tfembloss.layers.CrossBatchMemory`, or of another
                memory that the loss takes; or None.
        """
        if memory is not None:
            memory = self._check_memory(memory)
        with keras.name_scope(self.name):
            embeddings = as_predictions(y_pred, self.dtype)
            if y_true is None:
                y_true = no_targets(embeddings)
            elif not self.takes_named_targets:
                y_true = as_tensor(self.dense_targets(y_true), "y_true")
            of_memory = () if memory is None else (memory,)
            values = self.call(y_true, embeddings, *of_memory)  # [B]
            if tf.executing_eagerly() and replicas.count() == 1 and memory is None:
                check_first_batch(self, y_true, embeddings.shape)
            return self.reduced(values, sample_weight)

    def dense_targets(self, y_true):
        """Returns `y_true`; ragged ids of labels are padded."""
        if self.multi_label == "ids" and isinstance(y_true, tf.RaggedTensor):
            return several_labels.padded(y_true)
        return y_true

    def memory_ids(self, y_true, y_pred):
        """Returns what a memory keeps of rows: ids `[B]`, or labels `[B, L]`, int64."""
        if self.multi_label is not None:
            labels = several_labels.check_labels(self.multi_label, y_true, y_pred)
            return tf.cast(labels, tf.int64)
        if y_true.dtype.is_floating:  # or none
            return tf.zeros(tf.shape(y_pred)[:1], tf.int64)
        advice = "A memory keeps one id of each row: leave it out, or give one for each."
        return check_ids(y_true, y_pred, advice)

    def reduced(self, values, sample_weight=None):
        """Returns values `[B]`, as `call` returns them, weighted and reduced."""
        weights = as_weights(sample_weight, values)
        values *= self._share_of_the_mean(values, weights)
        if self.reduction in ("none", None):
            return self._reduce(values, values, weights)
        if values.shape[0] == 0:  # which Keras does not reduce to a scalar
            return replicas.alike(tf.reduce_sum(values))
        # Keras weights the logged losses of replicas by their numbers of rows.
        return replicas.alike(self._reduce(values, values, weights))

    def first_batch_warning(self, y_true, shape):
        """Returns why a batch of these targets would teach the model little, or None.

        Args:
            y_true: numpy array, as `call` takes it; `[B, 0]` if there is none.
            shape: tuple, that of `y_pred`; None for an unknown dimension.
        """
        return None

    def _check_memory(self, memory):
        if self.takes_memory and isinstance(memory, masks.MemoryRows):
            return memory._replace(embeddings=tf.cast(memory.embeddings, self.dtype))
        name, layer = type(self).__name__, getattr(memory, "layer", type(memory).__name__)
        if self.takes_memory:
            raise ValueError(
                f"Expected as memory of {name} a tfembloss.layers.CrossBatchMemory. "
                f"Received: {layer}."
            )
        raise ValueError(
            f"{name} takes no memory of earlier batches. Received: {layer}. Leave it out, "
            "or train with a loss that takes it: a CrossBatchMemory with one that compares "
            "each row with all others, such as SupConLoss, TripletMarginLoss or "
            "MultipleNegativesRankingLoss, and no miner that needs the distances between "
            "all keys; a TripletHistogram with DynamicSoftMarginLoss, in no wrapper."
        )

    def of_unit_scale(self):
        """Returns this loss of dot products in place of cosines, with a scale of 1.

        A model that learns the scale gives it embeddings whose dot products are the scaled
        cosines.
        """
        copy = self.from_config(self.get_config())
        setattr(copy, self.scaled_by, 1.0)
        setattr(copy, "similarity" if hasattr(copy, "similarity") else "distance", "dot")
        return copy

    def truncate(self, y_pred, dim):
        """Returns the first `dim` dimensions of embeddings, normalized to length 1."""
        return distances.l2_normalize(first_dimensions(y_pred, dim))

    def num_dimensions(self, y_pred):
        """Returns the number of dimensions that `truncate` may keep; None if unknown."""
        return y_pred.shape[-1]

    def _share_of_the_mean(self, values, sample_weight):
        """Returns the factor from the mean of replicas' means to the mean over anchors.

        They differ where replicas hold different numbers of rows, as in the last batch of
        an epoch, or different sums of weights.
        """
        if replicas.count() == 1 or self.reduction in ("sum", "none", None):
            return 1
        if self.reduction == "mean_with_sample_weight" and sample_weight is not None:
            size = tf.reduce_sum(tf.cast(sample_weight, values.dtype))
        else:
            size = tf.cast(tf.size(values), values.dtype)
        return replicas.share(size)


class Batch(NamedTuple):
    """What an `InBatchLoss` compares.

    Args:
        anchors: those of this replica `[B, D]`.
        keys: those of all replicas, and of the memory if there is one, `[N, D]`, or
            `[N * m, D]` where each row has m documents.
        pairs: `masks.LabelPairs` or `masks.ColumnPairs`.
        num_rows: number of rows of all replicas, without the memory.
        first: position of this replica's first row among all rows.
    """

    anchors: tf.Tensor
    keys: tf.Tensor
    pairs: masks.LabelPairs | masks.ColumnPairs
    num_rows: tf.Tensor
    first: tf.Tensor


class InBatchLoss(EmbeddingLoss):
    """Base of the losses that compare each anchor with the rows of all replicas.

    `y_pred` are columns `[B, n, D]`: an anchor, its positive, and any negatives. The
    documents of all other rows are also an anchor's negatives. A subclass sets its
    `distance` and defines a static method, so that the loss reads as its formula:

        formula(distances, positive, negative, *, temperature) -> values [B]

    The arguments of the formula are the distances `[B, N]` of the anchors to the documents
    of all replicas, and of a memory, if there is one; masks `[B, N]` of the pairs of an
    anchor with its own positive, and with a negative; and by keyword the loss's attributes
    of the same names. The formula is one kernel, recomputed in the backward pass, and may
    be called on a tile of the anchors at a time. A value that is not finite in any
    embedding makes the loss NaN.

    Args:
        exclude_equal_ids: if true, `y_true` are ids (integers or strings), `[B]` or
            `[B, n]`. Of rows: the documents of another row with the same id are not used
            as negatives. Of each column: documents whose id is that of the anchor or of
            its positive are not, nor the positives of anchors with the same id. Strings
            are compared by a 63-bit hash; in a stock Keras model with `jit_compile=True`
            ids must be integers.
        tile_size: how many of the B anchors are compared with all documents at a time; see
            `MultipleNegativesRankingLoss`.
        reduction, name, dtype: see `EmbeddingLoss`.
    """

    distance: str | Callable = "cosine"
    num_columns = (2, None)  # at least, at most
    tiled = True  # or all anchors at once
    miner, mines_all_pairs = None, False  # of the losses on labels

    targets_are_ids = True
    takes_memory = True

    @property
    def counts_dimensions(self):
        """Whether the loss may depend on how many dimensions are 0, as its distance."""
        return not isinstance(self.distance, str) or self.distance == "snr"

    @staticmethod
    def _kernel_of(formula):
        # The kernel makes the masks itself, so that they are never stored.
        def of_pairs(x, pairs, **options):
            return formula(x, pairs.positive, pairs.negative, **options)

        return differentiable(of_pairs)

    def __init__(
        self,
        exclude_equal_ids=False,
        tile_size=None,
        reduction="sum_over_batch_size",
        name=None,
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.exclude_equal_ids = exclude_equal_ids
        self.tile_size = tile_size
        if tile_size is not None:
            self.tile_size = integer("tile_size", tile_size, 1, hint=", or None")

    def call(self, y_true, y_pred, memory=None):
        """Returns values `[B]` of this replica's anchors."""
        batch = self.batch(y_true, y_pred, memory)
        # A mask would hide what is not finite.
        return self.values(batch) + nan_where_not_finite(batch.keys)

    def batch(self, y_true, y_pred, memory):
        """Returns the columns `y_pred [B, n, D]` as a `Batch`."""
        columns = check_columns(y_pred, *self.num_columns)  # [B, n, D]
        ids, by_column = None, False
        if self.exclude_equal_ids:
            ids = check_ids_or_columns(y_true, columns)  # [B] or [B, n]
            by_column = ids.shape.rank == 2
        anchors, documents = _anchors_and_documents(columns)
        if memory is not None:
            if by_column:
                raise ValueError(
                    "With a memory, which keeps one id of each row, expected ids y_true of "
                    f"shape [B]. Received: y_true.shape={tuple(ids.shape)}. Leave the "
                    "memory out, or give one id for each row."
                )
            _, of_memory = _anchors_and_documents(memory.embeddings)
            memory = memory._replace(embeddings=of_memory)
        keys, pairs, num_rows, first = keys_and_pairs(documents, ids, memory)
        num_keys, num_documents, dim = tf.unstack(tf.shape(keys))
        num_documents = keys.shape[1] or num_documents
        kind = masks.ColumnPairsByColumn if by_column else masks.ColumnPairs
        pairs = kind(**pairs, num_documents=num_documents, num_keys=num_keys)
        keys = tf.reshape(keys, [-1, keys.shape[2] or dim])  # [N * m, D]
        return Batch(tf.squeeze(anchors, axis=1), keys, pairs, num_rows, first)

    def values(self, batch):
        """Returns the formula's values `[B]`."""
        return self.by_tiles(batch)

    def by_tiles(self, batch, compare=None, log_sums=False):
        """Returns what the formula does, in tiles of anchors if there are many.

        Args:
            batch: `Batch`.
            compare: function like the method of this name, which is the default.
            log_sums: see `tiling.by_tiles`.
        """
        compare = compare or self.compare
        prepare = distances.get(self.distance).prepare
        keys = prepare(batch.keys)
        anchors = keys if batch.anchors is batch.keys else prepare(batch.anchors)
        of_rows = batch.pairs.of_each_row()
        # A miner's own distance may prepare the anchors in another way.
        unprepared = None if self.miner is None else batch.anchors

        def of_tile(anchors, keys, unprepared, *of_tile_rows):
            in_tile = dict(zip(of_rows, of_tile_rows, strict=True))
            pairs = batch.pairs._replace(**in_tile)
            tile = batch._replace(anchors=unprepared, pairs=pairs)
            return compare(anchors, keys, tile)

        constants = [unprepared, *of_rows.values()]
        if not self.tiled or self.mines_all_pairs:
            return of_tile(anchors, keys, *constants)
        return tiling.by_tiles(of_tile, anchors, keys, constants, self.tile_size, log_sums)

    def compare(self, anchors, keys, batch, **changed):
        """Applies the formula to prepared anchors and keys, and the pairs of a `Batch`.

        Args:
            anchors: `[B, ...]`.
            keys: `[N, ...]`.
            batch: `Batch`.
            **changed: the formula's arguments that are not the loss's attributes.
        """
        x = distances.get(self.distance).of_prepared(anchors, keys)  # [B, N]
        options = {**self.options, **changed}
        return self._kernel(x, self.selected_pairs(batch, x), **options)

    def selected_pairs(self, batch, x):
        """Returns the pairs that count in a `Batch` with distances x `[B, N]`."""
        return batch.pairs

    def first_batch_warning(self, y_true, shape):
        """Returns a warning of a batch without negatives, or None."""
        return in_batch_warning(y_true if self.exclude_equal_ids else None, shape)


def _anchors_and_documents(columns):
    # Split, not sliced: the gradient of each slice would be a whole [B, n, D].
    return tf.split(columns, [1, tf.shape(columns)[1] - 1], axis=1)


def keys_and_pairs(rows, ids, memory=None):
    """Returns the rows of all replicas and of the memory, and what defines their pairs.

    Args:
        rows: tensor `[B, ...]` of this replica's rows.
        ids: ids of this replica's rows `[B]` or `[B, n]`, as `check_ids_or_columns`
            returns them, or None.
        memory: `masks.MemoryRows` with embeddings in the form of the rows; or None.

    Returns:
        keys `[N, ...]`; a dict of `ids`, `key_ids`, `positions` and `present`, see
        `masks.LabelPairs`; the number of rows of all replicas; the position of this
        replica's first row among them.
    """
    keys, first = replicas.gather(rows), replicas.first_row(rows)
    num_rows, present = tf.cast(tf.shape(keys)[0], rows.dtype), None
    key_ids = None if ids is None else replicas.gather(ids)
    if memory is not None:
        present = tf.concat([tf.fill(tf.shape(keys)[:1], True), memory.present], axis=0)
        keys = tf.concat([keys, memory.embeddings], axis=0)
        key_ids = None if ids is None else tf.concat([key_ids, memory.ids], axis=0)
    positions = first + tf.range(tf.shape(rows)[0])  # [B]
    pairs = {"ids": ids, "key_ids": key_ids, "positions": positions, "present": present}
    return keys, pairs, num_rows, first


def first_dimensions(x, dim):
    """Returns the first `dim` dimensions; if that is a tensor, all, and the others 0."""
    if not tf.is_tensor(dim):
        return x[..., :dim]
    return tf.where(tf.range(tf.shape(x)[-1]) < dim, x, tf.zeros_like(x))


class _Reduce(keras.losses.Loss):
    """Keras's weighting and reduction, applied to values that are computed already."""

    def call(self, y_true, y_pred):
        return y_pred


def nan_where_not_finite(x, dtype=None):
    """Returns 0, or NaN if any entry of x is not finite, which a mask must not hide."""
    x = tf.cast(tf.stop_gradient(x), dtype or x.dtype)
    return 0 * tf.reduce_sum(0 * x)


def parts_of_log_sum(log_terms, log_sum):
    """Returns each term's part of log(1 + sum of terms): the parts add up to it.

    So do their gradients: the weight of a part weights its term's part of the gradient.

    Args:
        log_terms: logarithms of terms, -inf for none; of any shape.
        log_sum: logarithm of the sum of all terms, these and others, that broadcasts.
    """
    none = log_terms == float("-inf")
    log_terms = tf.where(none, tf.zeros_like(log_terms), log_terms)
    constant, log_sum = tf.stop_gradient(log_terms), tf.stop_gradient(log_sum)
    fraction = tf.where(none, tf.zeros_like(constant), tf.exp(constant - log_sum))
    # Of log(1 + sum) with respect to the logarithm of a term.
    gradient = fraction * tf.sigmoid(log_sum)
    return fraction * tf.nn.softplus(log_sum) + gradient * (log_terms - constant)
