"""Checks of plain arguments, each of which returns the value or raises a ValueError."""

import inspect
import math
import numbers
import operator
from collections.abc import Mapping

import numpy as np
import tensorflow as tf


def number(name, value, expected="a finite number", right=lambda value: True):
    """A finite number, as a float.

    Args:
        name: the argument's name, for the error.
        value: what was given.
        expected: what is expected, for the error.
        right: function of a finite number that says whether it is as expected.
    """
    # Also of numpy's numbers, which the kernels would take for tensors.
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and right(value):
        return float(value)
    raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")


def positive(name, value):
    """A number above 0."""
    return number(name, value, "a number > 0", lambda x: x > 0)


def non_negative(name, value):
    """A number of at least 0."""
    return number(name, value, "a number >= 0", lambda x: x >= 0)


def fraction(name, value):
    """A number from 0 to 1."""
    return number(name, value, "a number from 0 to 1", lambda x: 0 <= x <= 1)


def integer(name, value, at_least=None, at_most=None, hint=""):
    """An integer between two bounds, where there are any; not a bool.

    Args:
        name: the argument's name, for the error.
        value: what was given.
        at_least: the smallest that is allowed, or None.
        at_most: the largest that is allowed, or None.
        hint: what else to say of it in the error.
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
    """One of some values."""
    if any(value is option or value == option for option in options):
        return value
    expected = ", ".join(map(repr, options))
    raise ValueError(f"`{name}` must be one of {expected}. Received: {name}={value!r}")


def flag(name, value):
    """True or False, of Python or of numpy."""
    if value is True or value is False or type(value).__name__ in ("bool_", "bool"):
        return bool(value)
    raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}")


def is_function_of(function, num_arguments):
    """Whether this can be called with n arguments, as far as its signature says."""
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
    """The keys of a dict to a grade whose grade is above 0."""
    for grade in grades.values():
        if not isinstance(grade, numbers.Real) or math.isnan(grade):
            raise ValueError(
                "Expected a dict to grades, numbers. Received: "
                f"{shown(grades)} {place}, with {shown(grade)}."
            )
    return [key for key, grade in grades.items() if grade > 0]


def as_list(values, expected, place=""):
    """A list of the values, where they are several, in an order, and not one text."""
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
    """A value for an error, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
