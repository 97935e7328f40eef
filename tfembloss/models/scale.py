"""The scale of similarities as a variable of a model, learned with its weights."""

import math

import keras
import tensorflow as tf

from tfembloss import checks
from tfembloss.distances import directions
from tfembloss.losses.base import EmbeddingLoss
from tfembloss.losses.inputs import check_columns
from tfembloss.losses.wrappers import WeightedSum, is_wrapper, single_losses

LARGEST_SCALE = 100.0  # CLIP's; above it training becomes unstable


def check_scale(initial_scale):
    """Returns a scale as a float. Raises ValueError if it is out of range."""
    return checks.number(
        "initial_scale",
        initial_scale,
        f"a number from 1 to {LARGEST_SCALE:g}",
        lambda scale: 1 <= scale <= LARGEST_SCALE,
    )


def add_number(model, value, name, trainable=True, constraint=None):
    """Returns a new scalar variable of a model, in float32."""
    return model.add_weight(
        shape=(),
        initializer=keras.initializers.Constant(value),
        trainable=trainable,
        constraint=constraint,
        name=name,
        dtype="float32",
        autocast=False,
    )


def add_log_scale(model, scale, trainable=True):
    """Returns a new variable of a model, the logarithm of a scale, which stays in range."""
    return add_number(model, math.log(scale), "log_scale", trainable, _in_range)


def _in_range(log_scale):
    return keras.ops.clip(log_scale, 0.0, math.log(LARGEST_SCALE))


def exclude_from_weight_decay(optimizer, variables):
    """Lets a model's optimizer leave variables alone in weight decay."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if optimizer.built:
        return  # compiled before: Keras no longer takes exclusions
    for part in getattr(optimizer, "parts", [optimizer]):  # of a MultiOptimizer
        before = getattr(part, "_exclude_from_weight_decay", set())
        names = getattr(part, "_exclude_from_weight_decay_names", None)
        part.exclude_from_weight_decay(var_list=variables, var_names=names)
        part._exclude_from_weight_decay |= before  # which Keras overwrites


def check_has_scale(loss):
    """Raises ValueError if no part of a loss has a scale of cosines to learn."""
    for part in _parts_with_scale(loss) or [loss]:
        _check_scale_of_cosines(part)


def _parts_with_scale(loss):
    parts = single_losses(loss)
    return [x for x in parts if isinstance(x, EmbeddingLoss) and x.scaled_by is not None]


def _check_scale_of_cosines(loss):
    is_ours = isinstance(loss, EmbeddingLoss) and loss.scaled_by is not None
    compares_by = getattr(loss, "similarity", getattr(loss, "distance", None))
    is_chosen = is_ours and {"similarity", "distance"} & set(loss.get_config())
    # Those of two modalities are always of dot products, of embeddings of length 1.
    if not is_ours or (is_chosen and compares_by != "cosine"):
        of = f" of {compares_by!r}" if is_ours else ""
        raise ValueError(
            "With `learn_scale`, expected a loss with a scale or a temperature of cosines, "
            "such as MultipleNegativesRankingLoss, NTXentLoss, SupConLoss, GISTEmbedLoss "
            f"or CoSENTLoss. Received: {type(loss).__name__}{of}."
        )
    if getattr(loss, "absolute_margin", None) is not None:
        raise ValueError(
            "With `learn_scale`, expected a relative_margin, which does not depend on the "
            f"scale. Received: absolute_margin={loss.absolute_margin}."
        )
    if getattr(loss, "hardness", None) is not None:
        raise ValueError(
            "With `learn_scale`, expected a loss without hardness, which is a multiple of "
            f"the cosines themselves. Received: hardness={loss.hardness!r}."
        )
    miner = getattr(loss, "miner", None)
    distance = getattr(miner, "distance", "cosine")
    if distance not in ("cosine", "normalized_euclidean"):
        raise ValueError(
            "With `learn_scale`, expected a miner of directions, by the distance 'cosine' "
            "or 'normalized_euclidean', as the scale is in the lengths. Received: "
            f"{type(miner).__name__} by {distance!r}."
        )


def own_scale(loss):
    """Returns the scale that a loss was given. Raises ValueError if it is out of range.

    Also if parts of the loss have different scales.
    """
    scales = {}
    for part in _parts_with_scale(loss):
        value = getattr(part, part.scaled_by)
        scale = 1 / value if part.scaled_by == "temperature" else value
        scales[f"{type(part).__name__} with {part.scaled_by}={value:g}"] = scale
    largest, smallest = max(scales.values()), min(scales.values())
    if not math.isclose(largest, smallest):
        raise ValueError(
            "One scale is learned for all parts of a loss: expected parts of the same "
            f"scale, or `initial_scale`. Received: {', '.join(scales)}."
        )
    described, scale = next(iter(scales.items()))
    if not 1 <= scale <= LARGEST_SCALE:
        raise ValueError(
            f"A learned scale is between 1 and {LARGEST_SCALE:g}: expected a loss with "
            f"such a scale, or `initial_scale`. Received: {described}, a scale of "
            f"{scale:g}."
        )
    return scale


def with_learned_scale(loss, log_scale, bias=None):
    """Returns a loss like this, whose parts with a scale take it from a variable.

    So do those with a bias, if there is a variable for it.
    """

    def learned(part):
        return with_learned_scale(part, log_scale, bias)

    if is_wrapper(loss):
        return _changed(loss, loss=learned(loss.loss))
    if isinstance(loss, WeightedSum):
        return _changed(loss, losses={x: learned(loss.losses[x]) for x in loss.losses})
    return loss if loss.scaled_by is None else _LearnedScale(loss, log_scale, bias)


def _changed(loss, /, **arguments):
    return loss.from_config({**loss.get_config(), **arguments})


class _LearnedScale(EmbeddingLoss):
    """A loss of cosines whose scale, and bias, are variables of a model.

    They are put into the embeddings of a loss of dot products: with the root of the scale s
    as their length, and a dimension for the bias t, [sqrt(s) x; t] and [sqrt(s) y; 1] have
    the product s cos(x, y) + t.
    """

    def __init__(self, loss, log_scale, bias=None):
        super().__init__(reduction=loss.reduction, name=loss.name, dtype=loss.dtype)
        self.loss, self.log_scale = loss.of_unit_scale(), log_scale
        self.bias = bias if has_bias(loss) else None
        if self.bias is not None:
            self.loss.bias = 0.0

    @property
    def takes_memory(self):
        """Whether the loss takes a memory."""
        return self.loss.takes_memory

    @property
    def counts_dimensions(self):
        """Whether the loss may depend on how many dimensions are 0."""
        return self.loss.counts_dimensions

    def _check_memory(self, memory):
        return self.loss._check_memory(memory)

    @property
    def multi_label(self):
        """The form of rows of several labels that the loss takes, or None."""
        return self.loss.multi_label

    def call(self, y_true, y_pred, memory=None):
        """Returns values `[B]` of the loss of embeddings of any length."""
        of_memory = ()
        if memory is not None:
            of_memory = (memory._replace(embeddings=self._scaled(memory.embeddings)),)
        return self.loss.call(y_true, self._scaled(y_pred), *of_memory)

    def _scaled(self, embeddings):
        root = tf.cast(tf.exp(self.log_scale / 2), embeddings.dtype)
        rows = directions(embeddings) * root
        if self.bias is None:
            return rows
        rows = check_columns(rows, *self.loss.num_columns)  # [B, 2, D]
        bias = tf.cast(self.bias, rows.dtype) * tf.ones_like(rows[:, :1, :1])
        column = tf.concat([bias, tf.ones_like(bias)], axis=1)  # [B, 2, 1]
        return tf.concat([rows, column], axis=2)


def has_bias(loss):
    """Whether a loss has a bias beside its scale."""
    return getattr(loss, "bias", None) is not None
