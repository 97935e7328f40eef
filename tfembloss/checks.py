"""Checks of arguments that several modules share."""

import operator


def check_count(value, name, at_least):
    """A whole number of at least so much."""
    try:
        number = at_least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = at_least - 1
    if number < at_least:
        raise ValueError(
            f"Expected a whole number {name} >= {at_least}. Received: {value!r}"
        )
    return number
