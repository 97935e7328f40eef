"""Losses by their names: `model.compile(loss="SupConLoss")`."""

import re
import sys

import keras

from tfembloss.losses.base import EmbeddingLoss

_WORDS = re.compile("(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def make_known(losses):
    """Lets `keras.losses.get`, and with it `compile`, find losses by their names.

    Also in snake case. Keras (3.15) looks names up in a table of its own losses, and not
    among registered classes; its own names are not replaced.

    Args:
        losses: classes of losses by name.
    """
    table = getattr(sys.modules[keras.losses.get.__module__], "ALL_OBJECTS_DICT", {})
    for name, loss in losses.items():
        table.setdefault(name, loss)
        table.setdefault(_WORDS.sub("_", name).lower(), loss)


def one_of_ours(loss):
    """Returns an instance of the loss of this package with this name or class.

    Anything else is returned unchanged, since Keras has names of its own.
    """
    if isinstance(loss, type) and issubclass(loss, keras.losses.Loss):
        return loss()
    if not isinstance(loss, str):
        return loss
    try:
        found = keras.losses.get(loss)
    except ValueError:
        return loss
    return found if isinstance(found, EmbeddingLoss) else loss
