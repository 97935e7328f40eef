"""Errors of a step with their original message, without a graph's trace."""

import contextlib
import re

import tensorflow as tf

from tfembloss import replicas

_ASSERTION = re.compile(r"assertion failed: \[(.*?)\](?=\n|\s*\[\[|\s*\[Op:|$)", re.DOTALL)
_IN_TF_DATA = re.compile(r"ValueError: (Expected .*?)\nTraceback \(most", re.DOTALL)
_KERAS_CALL = re.compile(r"Exception encountered when calling (\w+)\.call\(\)\.\s+")
_OF_WORKERS = (
    tf.errors.UnavailableError,
    tf.errors.InternalError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
)
_BOLD = re.compile(r"\x1b\[1m(.*?)\x1b\[0m", re.DOTALL)
_IN_USER_CODE = re.compile(r"in user code:\n.*\n    \w+: (.*)", re.DOTALL)


def said(error):
    """Returns an error's message, without what Keras and AutoGraph add around it."""
    text = str(error)
    if bold := _BOLD.findall(text):
        return bold[-1].strip()
    found = _IN_USER_CODE.match(text)
    return (found[1] if found else text).strip()


class InvalidValueError(tf.errors.InvalidArgumentError, ValueError):
    """An invalid value, found in a graph."""


@contextlib.contextmanager
def explained(model):
    """Runs steps of a model, and resets its step functions if they fail.

    A step that fails while it is traced would stay half traced, and the next, corrected
    call would fail as well.
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
    """Returns the error with its message first, or None if it is not from this package."""
    if isinstance(error, tf.errors.InvalidArgumentError):
        message = error.message
        if found := _ASSERTION.search(message) or _IN_TF_DATA.search(message):
            message = found[1].replace("\\'", "'").replace('\\"', '"')
            return InvalidValueError(error.node_def, error.op, message)
    elif (
        isinstance(error, _OF_WORKERS)
        and "ollective" in error.message
        and replicas.has_several_workers(model.distribute_strategy)
    ):
        message = (
            "Expected all workers to take the same steps. Received: a step in which one "
            "is missing. It has failed or was stopped (see its own output), or its data "
            "have another number of batches: give every worker as many, as "
            "dataset.take(n) or steps_per_epoch=n does. TensorFlow says: "
            f"{error.message}"
        )
        return type(error)(error.node_def, error.op, message)
    elif isinstance(error, ValueError):
        call = _KERAS_CALL.match(str(error))
        ours = (type(model).__name__, "EmbeddingModel", "_Caller")
        if (call and call[1] in ours) or _IN_USER_CODE.match(str(error)):  # in tf.data
            return ValueError(said(error))
    return None
