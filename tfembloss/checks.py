"""Checks of plain arguments. Each returns the value or raises a ValueError."""

import inspect
import math
import numbers
import operator
from collections.abc import Mapping

import numpy as np
import tensorflow as tf


def number(name, value, expected="a finite number", right=lambda value: True):
    """Returns a finite number as a float.

    Args:
        name: name of the argument, for the error message.
        value: the given value.
        expected: what is expected, for the error message.
        right: function of a finite number to whether it is as expected.
    """
    # A float also for numpy's numbers, which the kernels would take for tensors.
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and right(value):
        return float(value)
    raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")


def positive(name, value):
    """Returns a number above 0."""
    return number(name, value, "a number > 0", lambda x: x > 0)


def non_negative(name, value):
    """Returns a number of at least 0."""
    return number(name, value, "a number >= 0", lambda x: x >= 0)


def fraction(name, value):
    """Returns a number from 0 to 1."""
    return number(name, value, "a number from 0 to 1", lambda x: 0 <= x <= 1)


def integer(name, value, at_least=None, at_most=None, hint=""):
    """Returns an integer within bounds; a bool is refused.

    Args:
        name: name of the argument, for the error message.
        value: the given value.
        at_least: the smallest allowed integer, or None.
        at_most: the largest allowed integer, or None.
        hint: further words about the argument, for the error message.
    """
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = None
    too_small = found is None or (at_least is not None and found < at_least)
    if not too_small and (at_most is None or found <= at_most):
        return found
    if None not in (at_least, at_most):
        bounds = f" from {at_least} to {at_most}"
    else:
        bounds = "" if at_least is None else f" >= {at_least}"
    raise ValueError(
        f"`{name}` must be an integer{bounds}{hint}. Received: {name}={value!r:.80}"
    )


def one_of(name, value, options):
    """Returns a value that is one of the options."""
    if any(value is option or value == option for option in options):
        return value
    expected = ", ".join(map(repr, options))
    raise ValueError(f"`{name}` must be one of {expected}. Received: {name}={value!r}")


def flag(name, value):
    """Returns True or False, from a bool of Python or numpy."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}")


def is_function_of(function, num_arguments):
    """Whether a function can be called with n arguments, according to its signature."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*[None] * num_arguments)
    except TypeError:
        return False
    except ValueError:  # a function without a Python signature
        pass
    return True


def with_grade(grades, place):
    """Returns the keys of a dict of grades whose grade is above 0."""
    for grade in grades.values():
        if not isinstance(grade, numbers.Real) or math.isnan(grade):
            raise ValueError(
                "Expected a dict to grades, numbers. Received: "
                f"{shown(grades)} {place}, with {shown(grade)}."
            )
    return [key for key, grade in grades.items() if grade > 0]


def as_list(values, expected, place=""):
    """Returns a list of values. Raises ValueError if they have no order or are a text."""
    mend = ""
    if isinstance(values, set | frozenset):
        mend = " A set has no order: give sorted(...)."
    elif hasattr(values, "columns"):
        mend = " Give one of its columns."
    elif isinstance(values, tf.data.Dataset):
        mend = " Give [text.decode() for text in dataset.as_numpy_iterator()]."
    elif isinstance(values, Mapping):
        mend = " A dict is taken where its keys are known."
    elif not isinstance(values, str | bytes):
        try:
            if isinstance(values, np.ndarray) and values.dtype.kind in "US":
                return values.tolist()  # str, not np.str_
            return list(values)
        except TypeError:
            pass
    raise ValueError(
        f"Expected {expected}. Received: {shown(values)} of type "
        f"{type(values).__name__}{place}.{mend}"
    )


def shown(value):
    """Returns the repr of a value for an error message, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
