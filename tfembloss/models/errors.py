"""Errors of a step in the words of what raised them, without a graph's trace."""

import contextlib
import re

import tensorflow as tf

_ASSERTION = re.compile(r"assertion failed: \[(.*?)\](?=\n|\s*\[\[|\s*\[Op:|$)", re.DOTALL)
_KERAS_CALL = re.compile(r"Exception encountered when calling (\w+)\.call\(\)\.\s+"
                         r"\x1b\[1m(.*?)\x1b\[0m", re.DOTALL)  # fmt: skip

_IN_USER_CODE = re.compile(r"in user code:\n.*\n    ValueError: (.*)", re.DOTALL)


class InvalidValueError(tf.errors.InvalidArgumentError, ValueError):
    """A condition on values that does not hold, found in a graph."""


@contextlib.contextmanager
def explained(model):
    """Runs steps of a model; where they fail, the next call begins afresh.

    A step that failed while it was traced would stay half traced, and the corrected call
    would fail in its place.
    """
    try:
        yield
    except Exception as error:
        model.train_function = model.test_function = model.predict_function = None
        better = _explanation(error, model)
        if better is None:
            raise
        raise better from error


def _explanation(error, model):
    """The same error with its message first, or None where there is none of ours."""
    if isinstance(error, tf.errors.InvalidArgumentError):
        if found := _ASSERTION.search(error.message):
            message = found[1].replace("\\'", "'").replace('\\"', '"')
            return InvalidValueError(error.node_def, error.op, message)
    elif isinstance(error, ValueError):
        if found := _IN_USER_CODE.match(str(error)):  # of a function in tf.data
            inner = re.search(r"\x1b\[1m(.*?)\x1b\[0m", found[1], re.DOTALL)
            return ValueError((inner or found)[1].strip())
        found = _KERAS_CALL.match(str(error))
        if found and found[1] in (type(model).__name__, "EmbeddingModel", "_Caller"):
            return ValueError(found[2])
    return None
