"""Losses by their names: `model.compile(loss="SupConLoss")`."""

import re
import sys

import keras

_WORDS = re.compile("(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def make_known(losses):
    """So that `keras.losses.get`, and with it `compile`, finds losses by their names.

    Also in snake case. Keras looks names up in a table of its own losses (3.15), and not
    among what is registered; names of its own stay what they are.

    Args:
        losses: classes of losses by name.
    """
    table = getattr(sys.modules[keras.losses.get.__module__], "ALL_OBJECTS_DICT", {})
    for name, loss in losses.items():
        table.setdefault(name, loss)
        table.setdefault(_WORDS.sub("_", name).lower(), loss)
