"""Checks of arguments that several modules share."""

import inspect
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


def is_function_of(function, num_arguments):
    """Whether this can be called with so many arguments, as far as it says."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*[None] * num_arguments)
    except TypeError:
        return False
    except ValueError:  # a function without a Python signature
        pass
    return True
