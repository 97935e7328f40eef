"""The scale of similarities as a variable of a model, learned with its weights."""

import math

import keras

from tfembloss import checks
from tfembloss.losses.base import EmbeddingLoss

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
    """Raises ValueError if a loss has no scale of cosines to learn."""
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
    miner = getattr(loss, "miner", None)
    distance = getattr(miner, "distance", "cosine")
    if distance not in ("cosine", "normalized_euclidean"):
        raise ValueError(
            "With `learn_scale`, expected a miner of directions, by the distance 'cosine' "
            "or 'normalized_euclidean', as the scale is in the lengths. Received: "
            f"{type(miner).__name__} by {distance!r}."
        )


def own_scale(loss):
    """Returns the scale that a loss was given. Raises ValueError if it is out of range."""
    value = getattr(loss, loss.scaled_by)
    scale = 1 / value if loss.scaled_by == "temperature" else value
    if not 1 <= scale <= LARGEST_SCALE:
        raise ValueError(
            f"A learned scale is between 1 and {LARGEST_SCALE:g}: expected a loss with "
            f"such a scale, or `initial_scale`. Received: {type(loss).__name__} with "
            f"{loss.scaled_by}={value:g}, a scale of {scale:g}."
        )
    return scale
